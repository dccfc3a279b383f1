//! A request to an endpoint as a registry wants it: authenticated when asked to be, redirects
//! followed, TLS or not on loopback found out.
//!
//! ```text
//!  ask ──► send ──► 2xx, 4xx, 5xx ──► answer
//!           ▲ │ 401 (once)
//!           │ └─► login: challenge ──► credentials ──► token ──┐
//!           └──────────────────────────────────────────────────┘
//! ```
//!
//! What an endpoint is owed (credentials, its headers, its TLS profile) goes to its own origin only, whatever
//! a redirect or an upload's `Location` says.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderName, HeaderValue, LOCATION,
    USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, StatusCode};

use super::endpoint::Endpoint;
use super::login::{Login, header_value};
use super::outgoing::Content;
use super::place::Place;
use super::transport::{Answer, Message, Transport};
use super::{ClientConfig, Error, status};
use crate::auth::Secret;
use crate::auth::challenge::{self, Challenge, Demand};

/// Redirects in a row; real registries make one or two.
const REDIRECTS_MAX: u32 = 5;

/// What is asked of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub method: Method,
    /// Below the endpoint's prefix.
    pub path: String,
    /// Where an upload goes on instead; the registry named it.
    pub at: Option<Place>,
    pub headers: HeaderMap,
    pub body: Content,
    pub access: Access,
}

/// What an [`Ask`] needs to be let do, in the words of the token protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// That somebody is there.
    Nothing,
    Pull(String),
    Push(String),
    /// Push, and read a blob of another repository.
    Mount {
        to: String,
        from: String,
    },
    Delete(String),
    Catalog,
}

impl Access {
    fn scope(&self) -> String {
        match self {
            Self::Nothing => String::new(),
            Self::Pull(name) => format!("repository:{name}:pull"),
            Self::Push(name) => format!("repository:{name}:pull,push"),
            Self::Mount { to, from } => {
                format!("repository:{to}:pull,push repository:{from}:pull")
            }
            Self::Delete(name) => format!("repository:{name}:delete,pull,push"),
            Self::Catalog => "registry:catalog:*".into(),
        }
    }
}

/// Connections, and what they have been let in with.
pub(super) struct Session {
    config: Arc<ClientConfig>,
    transport: Arc<Transport>,
    login: Login,
}

impl Ask {
    pub fn new(method: Method, path: String, access: Access) -> Self {
        Self {
            method,
            path,
            at: None,
            headers: HeaderMap::new(),
            body: Content::Bytes(Bytes::new()),
            access,
        }
    }

    pub fn get(repository: &str, path: String) -> Self {
        Self::new(Method::GET, path, Access::Pull(repository.to_owned()))
    }

    /// Values that are no header values (there are none in what we write) are left out.
    pub fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    fn start(&self, endpoint: &Endpoint) -> Place {
        let usual = || endpoint.place(&self.path);
        self.at.clone().unwrap_or_else(usual)
    }
}

impl Session {
    pub fn new(config: ClientConfig) -> Self {
        let transport = Arc::new(Transport::new(config.timeouts, config.proxy.clone()));
        let config = Arc::new(config);
        Self {
            login: Login::new(config.clone(), transport.clone()),
            transport,
            config,
        }
    }

    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// One request with all that belongs to it. Any status but 401 and redirects is the caller's to judge.
    pub async fn ask(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Answer, Error> {
        let scope = ask.access.scope();
        let refused = |a: &Answer| a.status == StatusCode::UNAUTHORIZED && endpoint.owns(&a.place);
        let known = self.login.known(&endpoint.account, &scope);
        let answer = self.send(endpoint, ask, known.as_ref()).await?;
        if !refused(&answer) {
            return Ok(answer);
        }
        let demand = demand(&answer)?;
        let said = status::said(answer).await;
        let pass = self.login.pass(endpoint, &demand, &scope, said).await?;
        let answer = self.send(endpoint, ask, Some(&pass.header)).await?;
        if !refused(&answer) {
            return Ok(answer);
        }
        self.login.forget(&endpoint.account);
        Err(Error::Unauthorized {
            host: answer.place.authority(),
            user: pass.user,
            said: status::said(answer).await,
        })
    }

    /// Sends, and follows redirects.
    async fn send(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        auth: Option<&Secret>,
    ) -> Result<Answer, Error> {
        let mut answer = self.first(endpoint, ask, auth).await?;
        let mut hops = 0;
        while answer.status.is_redirection() && answer.status != StatusCode::NOT_MODIFIED {
            hops += 1;
            let place = target(&answer, ask, hops)?;
            answer.discard().await;
            answer = self.deliver(endpoint, ask, place, auth).await?;
        }
        match answer.header(CONTENT_ENCODING) {
            Some(coding) if !plain(coding) && answer.status.is_success() => {
                let coding: String = coding.chars().take(20).collect();
                Err(Error::NotARegistry {
                    host: answer.place.authority(),
                    why: format!("its answer is packed ({coding}), which nobody asked for"),
                })
            }
            _ => Ok(answer),
        }
    }

    /// The first request; on a loopback endpoint TLS is tried first, and plain HTTP if nothing there speaks TLS.
    async fn first(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        auth: Option<&Secret>,
    ) -> Result<Answer, Error> {
        let undecided = endpoint.undecided() && ask.at.is_none();
        let sent = self.deliver(endpoint, ask, ask.start(endpoint), auth).await;
        if !undecided {
            return sent;
        }
        match sent {
            Err(first @ (Error::Tls { plain: true, .. } | Error::Connect { .. })) => {
                endpoint.decide(false);
                let sent = self.deliver(endpoint, ask, ask.start(endpoint), auth).await;
                match sent {
                    // Nothing listens on either port: HTTPS is what was meant.
                    Err(Error::Connect { .. }) => {
                        endpoint.undecide();
                        Err(first)
                    }
                    sent => sent,
                }
            }
            Ok(answer) => {
                endpoint.decide(true);
                Ok(answer)
            }
            Err(e) => Err(e),
        }
    }

    async fn deliver(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        place: Place,
        auth: Option<&Secret>,
    ) -> Result<Answer, Error> {
        let mut headers = ask.headers.clone();
        // Content is its bytes as pushed: a compression on the way would change them.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Ok(agent) = HeaderValue::from_str(&self.config.user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        if endpoint.owns(&place) {
            headers.extend(endpoint.headers.clone());
            if let Some(auth) = auth {
                headers.insert(AUTHORIZATION, header_value(auth, &place)?);
            }
        }
        let message = Message {
            method: ask.method.clone(),
            headers,
            body: ask.body.clone(),
            place,
        };
        let tls = endpoint.tls_for(&message.place);
        let dial = endpoint.dial_timeout;
        self.transport.send(&message, &tls, dial).await
    }
}

fn plain(coding: &str) -> bool {
    coding.is_empty() || coding.eq_ignore_ascii_case("identity")
}

/// Where a redirect leads, if it may be followed.
fn target(answer: &Answer, ask: &Ask, hops: u32) -> Result<Place, Error> {
    let to = answer.header(LOCATION).unwrap_or_default();
    let refuse = |why| Error::Redirect {
        host: answer.place.authority(),
        // A query may hold a signature, which is a credential.
        to: to.split('?').next().unwrap_or_default().to_owned(),
        why,
    };
    if hops > REDIRECTS_MAX {
        return Err(refuse("too many redirects in a row"));
    }
    if !ask.method.is_safe() {
        return Err(refuse("only reading follows redirects"));
    }
    let place = answer.place.join(to);
    let place = place.ok_or_else(|| refuse("no http(s) URL"))?;
    match answer.place.tls && !place.tls {
        true => Err(refuse("it leaves TLS")),
        false => Ok(place),
    }
}

fn demand(answer: &Answer) -> Result<Demand, Error> {
    let values = answer.headers.get_all(WWW_AUTHENTICATE).iter();
    let texts = values.filter_map(|v| v.to_str().ok());
    let challenges: Vec<Challenge> = texts.flat_map(challenge::parse).collect();
    challenge::demand(&challenges).ok_or_else(|| {
        let names: Vec<&str> = challenges.iter().map(|c| c.scheme.as_str()).collect();
        Error::Challenge {
            host: answer.place.authority(),
            why: match names.as_slice() {
                [] => "it names no scheme".into(),
                names => format!("of the schemes {} none is known", names.join(", ")),
            },
        }
    })
}
