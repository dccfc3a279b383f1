//! What a request asks for: decided from its head alone.
//!
//! Statuses are those of Kubernetes' own server, which its clients know: 404 for a token that is unknown, used or old; 405 for
//! a method; 400 for a head that is no upgrade; 403 where no protocol is common to both.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;

use super::websocket::handshake;

pub(super) const VERSIONS: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// What a URL is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Exec,
    Attach,
    PortForward,
}

impl Verb {
    pub fn path(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }
}

/// A request that is not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub why: String,
    /// The protocols that would do.
    pub accepted: &'static [&'static str],
}

impl Refusal {
    pub fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self {
            status,
            why: why.into(),
            accepted: &[],
        }
    }

    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "404 page not found")
    }

    pub fn response(&self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::from(format!("{}\n", self.why)));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        for protocol in self.accepted {
            headers.append(ACCEPTED, HeaderValue::from_static(protocol));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            let methods = HeaderValue::from_static("GET, POST");
            headers.insert(header::ALLOW, methods);
        }
        response
    }
}

/// The verb and the token of a path.
pub(super) fn route<'a>(method: &Method, path: &'a str) -> Result<(Verb, &'a str), Refusal> {
    let parts = path.strip_prefix('/').and_then(|p| p.split_once('/'));
    let (verb, token) = parts.ok_or_else(Refusal::not_found)?;
    let all = [Verb::Exec, Verb::Attach, Verb::PortForward];
    let verb = all.into_iter().find(|v| v.path() == verb);
    let verb = verb.ok_or_else(Refusal::not_found)?;
    if token.is_empty() || token.contains('/') {
        return Err(Refusal::not_found());
    }
    match *method {
        Method::GET | Method::POST => Ok((verb, token)),
        _ => Err(Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{method} opens no stream"),
        )),
    }
}

/// What the connection becomes, and the answer's head.
#[derive(Debug)]
pub(super) struct Upgrade {
    pub to: Protocol,
    pub answer: HeaderMap,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// With the version of the protocol that streams follow.
    Spdy(&'static str),
    /// With the chosen subprotocol; empty: the client has asked for none.
    WebSocket(&'static str),
}

/// The protocols of a verb, in SPDY and in WebSocket.
pub(super) struct Supported {
    pub spdy: &'static [&'static str],
    pub websocket: &'static [&'static str],
}

/// Decides on the upgrade that a request asks for.
pub(super) fn upgrade<B>(request: &Request<B>, can: &Supported) -> Result<Upgrade, Refusal> {
    let headers = request.headers();
    let upgrades = list(headers, header::CONNECTION).any(|c| c.eq_ignore_ascii_case("upgrade"));
    let wanted = |name: &str| {
        upgrades && list(headers, header::UPGRADE).any(|u| u.eq_ignore_ascii_case(name))
    };
    if wanted("websocket") {
        let (protocol, answer) = handshake::accept(request, can.websocket)?;
        let to = Protocol::WebSocket(protocol);
        return Ok(Upgrade { to, answer });
    }
    let version = spdy_version(headers, can.spdy)?;
    if !wanted(SPDY) {
        let why = "unable to upgrade: neither SPDY/3.1 nor websocket is asked for";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
    }
    let mut answer = HeaderMap::new();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    answer.insert(VERSIONS, HeaderValue::from_static(version));
    let to = Protocol::Spdy(version);
    Ok(Upgrade { to, answer })
}

/// The first of the client's versions that is ours.
fn spdy_version(
    headers: &HeaderMap,
    ours: &'static [&'static str],
) -> Result<&'static str, Refusal> {
    let mut asked = list(headers, VERSIONS).peekable();
    if asked.peek().is_none() {
        let why = format!("unable to upgrade: header {VERSIONS} names no protocol");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
    }
    let common = asked.find_map(|a| ours.iter().find(|o| **o == a));
    common.copied().ok_or_else(|| Refusal {
        status: StatusCode::FORBIDDEN,
        why: format!("unable to upgrade: none of the client's protocols is one of {ours:?}"),
        accepted: ours,
    })
}

/// The values of a header that is a list, however many lines it has.
pub(super) fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter();
    let lines = lines.filter_map(|line| line.to_str().ok());
    lines
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAN: Supported = Supported {
        spdy: &["v4.channel.k8s.io", "channel.k8s.io"],
        websocket: &[""],
    };

    fn request(headers: &[(&'static str, &'static str)]) -> Request<()> {
        let mut request = Request::new(());
        for (name, value) in headers {
            let value = HeaderValue::from_static(value);
            request
                .headers_mut()
                .append(HeaderName::from_static(name), value);
        }
        request
    }

    #[test]
    fn paths_name_a_verb_and_a_token() {
        let get = |path| route(&Method::GET, path);
        assert_eq!(get("/exec/abc"), Ok((Verb::Exec, "abc")));
        assert_eq!(get("/attach/abc"), Ok((Verb::Attach, "abc")));
        assert_eq!(
            route(&Method::POST, "/portforward/x"),
            Ok((Verb::PortForward, "x"))
        );
        for path in [
            "/",
            "",
            "/exec",
            "/exec/",
            "/exec/a/b",
            "/run/abc",
            "//exec/a",
            "*",
        ] {
            assert_eq!(get(path), Err(Refusal::not_found()), "{path}");
        }
        let put = route(&Method::PUT, "/exec/abc").unwrap_err();
        assert_eq!(put.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(put.response().headers()[header::ALLOW], "GET, POST");
    }

    #[test]
    fn the_clients_first_common_version_is_taken() {
        let version = "x-stream-protocol-version";
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let with = |more: &[_]| upgrade(&request(&[&spdy[..], more].concat()), &CAN);
        let chosen = with(&[
            (version, "v9.channel.k8s.io"),
            (version, "channel.k8s.io, v4.channel.k8s.io"),
        ]);
        let chosen = chosen.unwrap();
        assert_eq!(chosen.to, Protocol::Spdy("channel.k8s.io"));
        assert_eq!(chosen.answer[VERSIONS], "channel.k8s.io");
        assert_eq!(chosen.answer[header::UPGRADE], "SPDY/3.1");
        let none = with(&[]).unwrap_err();
        assert_eq!(none.status, StatusCode::BAD_REQUEST);
        let empty = with(&[(version, " ,")]).unwrap_err();
        assert_eq!(empty.status, StatusCode::BAD_REQUEST);
        let other = with(&[(version, "v9.channel.k8s.io")]).unwrap_err();
        assert_eq!(other.status, StatusCode::FORBIDDEN);
        let response = other.response();
        let accepted: Vec<_> = response.headers().get_all(ACCEPTED).iter().collect();
        assert_eq!(accepted, CAN.spdy);
        let plain = request(&[(version, "channel.k8s.io")]);
        let plain = upgrade(&plain, &CAN).unwrap_err();
        assert_eq!(plain.status, StatusCode::BAD_REQUEST);
    }
}
