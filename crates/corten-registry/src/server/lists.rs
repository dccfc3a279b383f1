//! Tags, repositories and referrers, the first two in pages.

use corten_spec::{Digest, media};
use http::StatusCode;
use http::header::LINK;
use serde_json::{Value, json};

use super::State;
use super::reply::{Failure, Reply, blocking, refuse};
use super::route::Given;
use crate::protocol::error_body::Code;
use crate::protocol::header::OCI_FILTERS;
use crate::protocol::query;

/// The page where the client names no size, and the largest that it gets.
const PAGE_MAX: usize = 10_000;

pub(super) async fn tags(state: &State, name: &str, given: &Given) -> Result<Reply, Failure> {
    let (storage, repository) = (state.storage.clone(), name.to_owned());
    let tags = blocking(move || storage.tags(&repository)).await?;
    let tags = tags.ok_or_else(|| {
        refuse(
            StatusCode::NOT_FOUND,
            Code::NameUnknown,
            format!("no repository {name}"),
        )
    })?;
    page(
        tags,
        given,
        &format!("/v2/{name}/tags/list"),
        |tags| json!({ "name": name, "tags": tags }),
    )
}

pub(super) async fn catalog(state: &State, given: &Given) -> Result<Reply, Failure> {
    let storage = state.storage.clone();
    let names = blocking(move || storage.repositories()).await?;
    page(
        names,
        given,
        "/v2/_catalog",
        |names| json!({ "repositories": names }),
    )
}

/// At most `n` names after `last`, and a link to the rest.
fn page(
    mut names: Vec<String>,
    given: &Given,
    path: &str,
    body: impl FnOnce(&[String]) -> Value,
) -> Result<Reply, Failure> {
    let n = match given.parameter("n") {
        None => PAGE_MAX,
        Some(n) => n.parse::<usize>().map_err(|_| {
            let message = format!("{n:?} is no page size");
            refuse(
                StatusCode::BAD_REQUEST,
                Code::PaginationNumberInvalid,
                message,
            )
        })?,
    };
    let n = n.min(PAGE_MAX);
    if let Some(last) = given.parameter("last") {
        names.retain(|name| *name > last);
    }
    let more = names.len() > n;
    names.truncate(n);
    let reply = Reply::new(StatusCode::OK).json(&body(&names));
    Ok(match names.last().filter(|_| more) {
        None => reply,
        Some(last) => {
            let next = query::append(path, &[("n", &n.to_string()), ("last", last)]);
            reply.header(LINK, format!("<{next}>; rel=\"next\""))
        }
    })
}

/// The manifests whose `subject` is this one; an unknown subject has none.
pub(super) async fn referrers(
    state: &State,
    name: &str,
    subject: &Digest,
    given: &Given,
) -> Result<Reply, Failure> {
    let (storage, repository, subject) = (state.storage.clone(), name.to_owned(), subject.clone());
    let stored = blocking(move || storage.referrers(&repository, &subject)).await?;
    let wanted = given.parameter("artifactType").filter(|t| !t.is_empty());
    let parsed = stored
        .iter()
        .filter_map(|d| serde_json::from_slice::<Value>(d).ok());
    let fits = |d: &Value| {
        wanted
            .as_ref()
            .is_none_or(|w| d["artifactType"] == json!(w))
    };
    let manifests: Vec<Value> = parsed.filter(fits).collect();
    let index =
        json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests });
    let reply = Reply::new(StatusCode::OK).bytes(media::OCI_INDEX, index.to_string());
    Ok(match wanted {
        Some(_) => reply.named(OCI_FILTERS, "artifactType"),
        None => reply,
    })
}
