//! A request to an endpoint as a registry wants it: authenticated when asked to be, redirects
//! followed, TLS or not on loopback found out.
//!
//! ```text
//!  ask ──► send ──► 2xx, 4xx, 5xx ──► answer
//!           ▲ │ 401 (once)
//!           │ └─► challenge ──► credentials ──► token ──┐
//!           └────────────────────────────────────────── ┘
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Method, StatusCode};

use super::endpoint::Endpoint;
use super::place::Place;
use super::tls::TlsProfile;
use super::transport::{Answer, Message, Transport};
use super::{ClientConfig, Error, status};
use crate::auth::challenge::{self, Demand};
use crate::auth::docker_config::{CONFIG_MAX, DockerConfig, Reason};
use crate::auth::token::{Token, TokenRequest};
use crate::auth::{Credentials, Secret};
use crate::protocol::ERROR_BODY_MAX;
use crate::protocol::error_body::Said;

/// Redirects in a row; real registries make one or two.
const REDIRECTS_MAX: u32 = 5;
/// The largest answer of a token server, in bytes.
const TOKEN_MAX: usize = 1 << 20;

/// What is asked of an endpoint.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub method: Method,
    /// Below the endpoint's prefix.
    pub path: String,
    /// Where an upload goes on instead; the registry named it.
    pub at: Option<Place>,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub repository: String,
    pub push: bool,
}

struct Granted {
    header: Secret,
    until: Option<Instant>,
}

/// Connections, and what they have been let in with.
pub(super) struct Session {
    config: ClientConfig,
    transport: Arc<Transport>,
    /// By account and scope. Basic has no scope.
    granted: Mutex<HashMap<(String, String), Granted>>,
    /// A refresh token that a token server has replaced, by account.
    refreshed: Mutex<HashMap<String, Secret>>,
    elsewhere: Arc<TlsProfile>,
}

impl Ask {
    pub fn get(repository: &str, path: String) -> Self {
        Self {
            method: Method::GET,
            path,
            at: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            repository: repository.to_owned(),
            push: false,
        }
    }

    fn scope(&self) -> String {
        let actions = if self.push { "pull,push" } else { "pull" };
        match self.repository.is_empty() {
            true => String::new(),
            false => format!("repository:{}:{actions}", self.repository),
        }
    }
}

impl Session {
    pub fn new(config: ClientConfig) -> Self {
        Self {
            transport: Arc::new(Transport::new(config.timeouts, config.proxy.clone())),
            config,
            granted: Mutex::new(HashMap::new()),
            refreshed: Mutex::new(HashMap::new()),
            elsewhere: Arc::new(TlsProfile::new(Vec::new(), Vec::new(), false)),
        }
    }

    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// One request with all that belongs to it. Any status but 401 and redirects is the caller's to judge.
    pub async fn ask(&self, endpoint: &Endpoint, ask: &Ask) -> Result<Answer, Error> {
        let scope = ask.scope();
        let known = self.known(&endpoint.account, &scope);
        let answer = self.send(endpoint, ask, known.as_ref()).await?;
        if answer.status != StatusCode::UNAUTHORIZED
            || !answer.place.same_origin(&self.start(endpoint, ask))
        {
            return Ok(answer);
        }
        let host = answer.place.authority();
        let headers = answer.headers.get_all(WWW_AUTHENTICATE).iter();
        let challenges: Vec<_> = headers
            .filter_map(|v| v.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let demand = challenge::demand(&challenges);
        let said = status::said(answer).await;
        let demand = demand.ok_or_else(|| Error::Challenge {
            host: host.clone(),
            why: match challenges.as_slice() {
                [] => "it names no scheme".into(),
                list => {
                    let names: Vec<&str> = list.iter().map(|c| c.scheme.as_str()).collect();
                    format!("of the schemes {} none is known", names.join(", "))
                }
            },
        })?;
        let credentials = self.credentials(&endpoint.account).await?;
        let header = self
            .grant(endpoint, &demand, &scope, credentials.as_ref(), said, &host)
            .await?;
        let answer = self.send(endpoint, ask, Some(&header)).await?;
        if answer.status == StatusCode::UNAUTHORIZED
            && answer.place.same_origin(&self.start(endpoint, ask))
        {
            self.forget(&endpoint.account);
            return Err(Error::Unauthorized {
                host,
                user: credentials.map(|c| c.user().to_owned()),
                said: status::said(answer).await,
            });
        }
        Ok(answer)
    }

    fn start(&self, endpoint: &Endpoint, ask: &Ask) -> Place {
        ask.at.clone().unwrap_or_else(|| endpoint.place(&ask.path))
    }

    /// Sends and follows redirects. Only the endpoint itself gets its credentials and headers.
    async fn send(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        auth: Option<&Secret>,
    ) -> Result<Answer, Error> {
        let mut answer = self.first(endpoint, ask, auth).await?;
        let home = answer.place.clone();
        let mut hops = 0;
        while answer.status.is_redirection() && answer.status != StatusCode::NOT_MODIFIED {
            let to = answer.header(LOCATION).unwrap_or_default().to_owned();
            let refuse = |why| Error::Redirect {
                host: home.authority(),
                to: to.split('?').next().unwrap_or_default().to_owned(),
                why,
            };
            hops += 1;
            if hops > REDIRECTS_MAX {
                return Err(refuse("too many redirects in a row"));
            }
            if !ask.method.is_safe() {
                return Err(refuse("only reading follows redirects"));
            }
            let place = answer
                .place
                .join(&to)
                .ok_or_else(|| refuse("no http(s) URL"))?;
            if answer.place.tls && !place.tls {
                return Err(refuse("it leaves TLS"));
            }
            let same = place.same_origin(&home);
            let tls = if same { &endpoint.tls } else { &self.elsewhere };
            let message = self.message(endpoint, ask, place, auth, same)?;
            answer.discard().await;
            answer = self
                .transport
                .send(&message, tls, endpoint.dial_timeout)
                .await?;
        }
        Ok(answer)
    }

    /// The first request; on a loopback endpoint TLS is tried first, and plain HTTP if nothing there speaks TLS.
    async fn first(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        auth: Option<&Secret>,
    ) -> Result<Answer, Error> {
        let undecided = endpoint.undecided() && ask.at.is_none();
        let message = self.message(endpoint, ask, self.start(endpoint, ask), auth, true)?;
        let sent = self
            .transport
            .send(&message, &endpoint.tls, endpoint.dial_timeout)
            .await;
        if !undecided {
            return sent;
        }
        match sent {
            Err(first @ (Error::Tls { plain: true, .. } | Error::Connect { .. })) => {
                endpoint.decide(false);
                let message = self.message(endpoint, ask, self.start(endpoint, ask), auth, true)?;
                let sent = self
                    .transport
                    .send(&message, &endpoint.tls, endpoint.dial_timeout)
                    .await;
                if matches!(sent, Err(Error::Connect { .. })) {
                    endpoint.decide(true);
                    return Err(first);
                }
                sent
            }
            other => {
                if other.is_ok() {
                    endpoint.decide(true);
                }
                other
            }
        }
    }

    fn message(
        &self,
        endpoint: &Endpoint,
        ask: &Ask,
        place: Place,
        auth: Option<&Secret>,
        home: bool,
    ) -> Result<Message, Error> {
        let mut headers = ask.headers.clone();
        if let Ok(agent) = HeaderValue::from_str(&self.config.user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        if home {
            headers.extend(endpoint.headers.clone());
            if let Some(auth) = auth {
                headers.insert(AUTHORIZATION, header_value(auth, &place)?);
            }
        }
        Ok(Message {
            method: ask.method.clone(),
            place,
            headers,
            body: ask.body.clone(),
        })
    }

    fn known(&self, account: &str, scope: &str) -> Option<Secret> {
        let granted = self.granted.lock().unwrap_or_else(|p| p.into_inner());
        let fresh = |g: &&Granted| g.until.is_none_or(|t| t > Instant::now());
        let get = |s: &str| {
            granted
                .get(&(account.to_owned(), s.to_owned()))
                .filter(fresh)
        };
        get(scope).or_else(|| get("")).map(|g| g.header.clone())
    }

    fn forget(&self, account: &str) {
        let mut granted = self.granted.lock().unwrap_or_else(|p| p.into_inner());
        granted.retain(|(a, _), _| a != account);
    }

    /// Meets a demand: an `Authorization` value, remembered for the next requests.
    async fn grant(
        &self,
        endpoint: &Endpoint,
        demand: &Demand,
        scope: &str,
        credentials: Option<&Credentials>,
        said: Said,
        host: &str,
    ) -> Result<Secret, Error> {
        let (header, key, until) = match (demand, credentials) {
            (_, Some(Credentials::Registry(token))) => (
                Secret::new(format!("Bearer {}", token.expose())),
                scope,
                None,
            ),
            (Demand::Basic, credentials) => {
                let basic = credentials.and_then(Credentials::basic);
                let basic = basic.ok_or_else(|| Error::Unauthorized {
                    host: host.to_owned(),
                    user: credentials.map(|c| c.user().to_owned()),
                    said,
                })?;
                (basic, "", None)
            }
            (
                Demand::Bearer {
                    realm,
                    service,
                    scope: wanted,
                },
                credentials,
            ) => {
                // The registry knows best what a request needs; before the first one it is our guess.
                let asked = wanted.as_deref().unwrap_or(scope);
                let token = self
                    .token(endpoint, realm, service.as_deref(), asked, credentials)
                    .await?;
                // Half of its life, so that it does not run out on the way.
                let until = Instant::now() + (token.lives / 2).max(Duration::from_secs(1));
                (
                    Secret::new(format!("Bearer {}", token.bearer.expose())),
                    scope,
                    Some(until),
                )
            }
        };
        let granted = Granted {
            header: header.clone(),
            until,
        };
        let key = (endpoint.account.clone(), key.to_owned());
        self.granted
            .lock()
            .unwrap_or_else(|p| p.into_inner())
            .insert(key, granted);
        Ok(header)
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Token, Error> {
        let home = endpoint.place("");
        let bad = |why: &str| Error::Challenge {
            host: home.authority(),
            why: format!(
                "token realm {:?}: {why}",
                realm.chars().take(200).collect::<String>()
            ),
        };
        let place = Place::parse(realm).ok_or_else(|| bad("no http(s) URL"))?;
        if !place.tls && (home.tls || credentials.is_some()) && !place.is_loopback() {
            return Err(bad("plain HTTP would show the credentials to the network"));
        }
        let account = &endpoint.account;
        let newer = self
            .refreshed
            .lock()
            .unwrap_or_else(|p| p.into_inner())
            .get(account)
            .cloned();
        let newer = newer.map(Credentials::Identity);
        let credentials = newer.as_ref().or(credentials);
        let request = TokenRequest::new(realm, service, scope, credentials);
        let place = Place::parse(&request.url).ok_or_else(|| bad("no http(s) URL"))?;
        let mut headers = HeaderMap::new();
        if let Some(a) = &request.authorization {
            headers.insert(AUTHORIZATION, header_value(a, &place)?);
        }
        if request.form.is_some() {
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("application/x-www-form-urlencoded"),
            );
        }
        if let Ok(agent) = HeaderValue::from_str(&self.config.user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        let tls = if place.same_origin(&home) {
            &endpoint.tls
        } else {
            &self.elsewhere
        };
        let message = Message {
            method: if request.form.is_some() {
                Method::POST
            } else {
                Method::GET
            },
            place,
            headers,
            body: request
                .form
                .map_or_else(Bytes::new, |f| Bytes::from(f.expose().to_owned())),
        };
        let mut answer = self
            .transport
            .send(&message, tls, endpoint.dial_timeout)
            .await?;
        let host = answer.place.authority();
        match answer.status {
            StatusCode::OK => {}
            // OAuth2 servers answer 400 (invalid_grant) to a bad refresh token.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(Error::Unauthorized {
                    host: account.clone(),
                    user: credentials.map(|c| c.user().to_owned()),
                    said: status::said(answer).await,
                });
            }
            _ => return Err(status::other(answer, "a token request").await),
        }
        let bytes = answer.bytes("a token", TOKEN_MAX).await?;
        let token = Token::parse(&bytes).ok_or_else(|| Error::NotARegistry {
            host,
            why: "its token server's answer holds no token".into(),
        })?;
        if let Some(refresh) = &token.refresh
            && matches!(credentials, Some(Credentials::Identity(_)))
        {
            let mut map = self.refreshed.lock().unwrap_or_else(|p| p.into_inner());
            map.insert(account.clone(), refresh.clone());
        }
        Ok(token)
    }

    /// Explicit credentials, a helper's, or those of Docker's file.
    async fn credentials(&self, account: &str) -> Result<Option<Credentials>, Error> {
        if let Some(c) = self.config.credentials.get(account) {
            return Ok(Some(c.clone()));
        }
        let Some(path) = self.config.docker_config.clone() else {
            return Ok(None);
        };
        let account = account.to_owned();
        let found = tokio::task::spawn_blocking(move || from_docker(path, &account)).await;
        // The task cannot be cancelled, and a panic in it is a bug to be passed on.
        found.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }
}

fn header_value(secret: &Secret, place: &Place) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| Error::Challenge {
        host: place.authority(),
        why: "the credentials hold what no header may".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn from_docker(path: PathBuf, account: &str) -> Result<Option<Credentials>, Error> {
    use std::io::Read as _;
    let config = |why: String, source| Error::Config {
        path: path.clone(),
        why,
        source,
    };
    let mut bytes = Vec::with_capacity(ERROR_BODY_MAX);
    match std::fs::File::open(&path) {
        Ok(file) => {
            let read = file.take(CONFIG_MAX).read_to_end(&mut bytes);
            read.map_err(|e| config("cannot read it".into(), Some(e)))?;
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(config("cannot read it".into(), Some(e))),
    }
    let of_file = |Reason(why)| config(why, None);
    let docker = DockerConfig::parse(&bytes).map_err(of_file)?;
    if let Some(helper) = docker.helper(account).map_err(of_file)? {
        let found = helper
            .get()
            .map_err(|Reason(why)| Error::CredentialHelper {
                program: helper.program.clone(),
                server: helper.server.clone(),
                why,
            })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    docker.stored(account).map_err(of_file)
}
