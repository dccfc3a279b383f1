//! A document that lies beside a registry: a signature in a lookaside, by its URL.

use bytes::Bytes;
use http::{Method, StatusCode};

use super::Error;
use super::endpoint::Endpoint;
use super::manifests::asked;
use super::place::Place;
use super::session::{Access, Ask, Session};

/// Gets at most `max` bytes; `None` where there is nothing. What the endpoint is owed goes to its own origin only.
pub(super) async fn get(
    session: &Session,
    endpoint: &Endpoint,
    url: &str,
    max: usize,
) -> Result<Option<Bytes>, Error> {
    let place = Place::parse(url).ok_or_else(|| Error::NotARegistry {
        host: url.chars().take(80).collect(),
        why: "that is no http(s) URL".into(),
    })?;
    let host = place.authority();
    let mut ask = Ask::new(Method::GET, String::new(), Access::Nothing);
    ask.at = Some(place);
    let mut answer = asked(session, endpoint, &ask).await?;
    match answer.status {
        StatusCode::OK => answer.bytes(url, max).await.map(Some),
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN | StatusCode::GONE => {
            answer.discard().await;
            Ok(None)
        }
        status => {
            answer.discard().await;
            Err(Error::NotARegistry {
                host,
                why: format!("status {} to {url}", status.as_u16()),
            })
        }
    }
}
