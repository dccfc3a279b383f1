//! The opening handshake of RFC 6455, at the server's end.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::stream::http::{Refusal, list};

/// What the standard appends to a key (section 1.3).
const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The chosen subprotocol, and the answer's head. No extension is offered or taken.
pub(in crate::stream) fn accept<B>(
    request: &Request<B>,
    ours: &'static [&'static str],
) -> Result<(&'static str, HeaderMap), Refusal> {
    let headers = request.headers();
    let bad = |why: &str| Refusal::new(StatusCode::BAD_REQUEST, why);
    if *request.method() != Method::GET {
        let why = "a WebSocket is opened by GET";
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, why));
    }
    if list(headers, header::SEC_WEBSOCKET_VERSION).next() != Some("13") {
        return Err(bad("the version of WebSocket is not 13"));
    }
    let key = list(headers, header::SEC_WEBSOCKET_KEY).next();
    let key = key.filter(|k| STANDARD.decode(k).is_ok_and(|k| k.len() == 16));
    let key = key.ok_or_else(|| bad("Sec-WebSocket-Key is not 16 bytes in base64"))?;
    let protocol = choose(headers, ours)?;
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(value) = HeaderValue::from_str(&accept_key(key)) {
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    if !protocol.is_empty() {
        let protocol = HeaderValue::from_static(protocol);
        answer.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok((protocol, answer))
}

/// The first of the client's protocols that is ours; a client that names none gets the nameless one.
fn choose(headers: &HeaderMap, ours: &'static [&'static str]) -> Result<&'static str, Refusal> {
    let mut asked = list(headers, header::SEC_WEBSOCKET_PROTOCOL).peekable();
    let nameless = asked.peek().is_none().then_some("");
    let mut all = nameless.into_iter().chain(asked);
    let common = all.find_map(|a| ours.iter().find(|o| **o == a));
    common.copied().ok_or_else(|| {
        let why = format!("none of the client's protocols is one of {ours:?}");
        Refusal::new(StatusCode::FORBIDDEN, why)
    })
}

pub(in crate::stream) fn accept_key(key: &str) -> String {
    let text = format!("{key}{SUFFIX}");
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &[&str] = &["", "v5.channel.k8s.io", "v4.channel.k8s.io"];

    fn asked(
        change: &[(&'static str, &'static str)],
    ) -> Result<(&'static str, HeaderMap), Refusal> {
        let mut request = Request::new(());
        let usual = [
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-version", "13"),
        ];
        for (name, value) in usual.iter().chain(change) {
            let value = HeaderValue::from_static(value);
            request.headers_mut().insert(*name, value);
        }
        accept(&request, OURS)
    }

    /// The key and its answer are the standard's example.
    #[test]
    fn the_standards_example_is_answered() {
        let (protocol, answer) = asked(&[]).unwrap();
        assert_eq!(protocol, "");
        let accept = &answer[header::SEC_WEBSOCKET_ACCEPT];
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!answer.contains_key(header::SEC_WEBSOCKET_PROTOCOL));
    }

    #[test]
    fn the_clients_first_common_protocol_is_taken() {
        let several = [(
            "sec-websocket-protocol",
            "v9.x, v4.channel.k8s.io,v5.channel.k8s.io",
        )];
        let (protocol, answer) = asked(&several).unwrap();
        assert_eq!(protocol, "v4.channel.k8s.io");
        assert_eq!(answer[header::SEC_WEBSOCKET_PROTOCOL], protocol);
        let none = asked(&[("sec-websocket-protocol", "v9.x")]).unwrap_err();
        assert_eq!(none.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn what_is_no_handshake_is_refused() {
        for change in [
            ("sec-websocket-version", "12"),
            ("sec-websocket-key", "short"),
            ("sec-websocket-key", ""),
        ] {
            let refused = asked(&[change]).unwrap_err();
            assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{change:?}");
        }
        let post = Request::builder().method(Method::POST).body(()).unwrap();
        let post = accept(&post, OURS).unwrap_err();
        assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
    }
}
