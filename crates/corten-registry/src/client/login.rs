//! Being let in: from a registry's demand to an `Authorization` value, which is then remembered.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, StatusCode};

use super::endpoint::Endpoint;
use super::outgoing::Content;
use super::place::Place;
use super::transport::{Answer, Message, Transport};
use super::{ClientConfig, Error, status};
use crate::auth::challenge::Demand;
use crate::auth::docker_config::{CONFIG_MAX, DockerConfig, Reason};
use crate::auth::token::{Token, TokenRequest};
use crate::auth::{Credentials, Secret};
use crate::protocol::error_body::Said;

/// The largest answer of a token server, in bytes.
const TOKEN_MAX: usize = 1 << 20;

/// What we have been given so far.
pub(super) struct Login {
    config: Arc<ClientConfig>,
    transport: Arc<Transport>,
    /// By account and scope. Basic has no scope.
    granted: Mutex<HashMap<(String, String), Granted>>,
    /// Refresh tokens that a token server has put in the place of those we came with, by account.
    refreshed: Mutex<HashMap<String, Secret>>,
}

struct Granted {
    header: Secret,
    until: Option<Instant>,
}

/// A way in.
pub(super) struct Pass {
    /// An `Authorization` value.
    pub header: Secret,
    /// Whom it is for; `None` for nobody in particular.
    pub user: Option<String>,
}

impl Login {
    pub fn new(config: Arc<ClientConfig>, transport: Arc<Transport>) -> Self {
        Self {
            config,
            transport,
            granted: Mutex::new(HashMap::new()),
            refreshed: Mutex::new(HashMap::new()),
        }
    }

    /// What was granted before and still holds.
    pub fn known(&self, account: &str, scope: &str) -> Option<Secret> {
        let granted = self.granted.lock().unwrap_or_else(|p| p.into_inner());
        let get = |scope: &str| {
            let found = granted.get(&(account.to_owned(), scope.to_owned()))?;
            let fresh = found.until.is_none_or(|t| t > Instant::now());
            fresh.then(|| found.header.clone())
        };
        get(scope).or_else(|| get(""))
    }

    pub fn forget(&self, account: &str) {
        let mut granted = self.granted.lock().unwrap_or_else(|p| p.into_inner());
        granted.retain(|(a, _), _| a != account);
    }

    /// Meets a demand. `said` is what came with it, in case there is nothing to meet it with.
    pub async fn pass(
        &self,
        endpoint: &Endpoint,
        demand: &Demand,
        scope: &str,
        said: Said,
    ) -> Result<Pass, Error> {
        let account = &endpoint.account;
        let credentials = self.credentials(account).await?;
        let user = credentials.as_ref().map(|c| c.user().to_owned());
        let bearer = |token: &Secret| Secret::new(format!("Bearer {}", token.expose()));
        let (header, key, until) = match (demand, &credentials) {
            (_, Some(Credentials::Registry(token))) => (bearer(token), scope, None),
            (Demand::Basic, credentials) => {
                let basic = credentials.as_ref().and_then(Credentials::basic);
                let basic = basic.ok_or_else(|| Error::Unauthorized {
                    host: endpoint.place("").authority(),
                    user: user.clone(),
                    said,
                })?;
                (basic, "", None)
            }
            (Demand::Bearer { .. }, credentials) => {
                let credentials = credentials.as_ref();
                let token = self.token(endpoint, demand, scope, credentials).await?;
                // Half of its life, so that it does not run out on the way. It is a minute at least.
                let until = Instant::now() + token.lives / 2;
                (bearer(&token.bearer), scope, Some(until))
            }
        };
        let granted = Granted {
            header: header.clone(),
            until,
        };
        let mut map = self.granted.lock().unwrap_or_else(|p| p.into_inner());
        map.insert((account.clone(), key.to_owned()), granted);
        Ok(Pass { header, user })
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        demand: &Demand,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Token, Error> {
        let account = &endpoint.account;
        let newer = self.newer_refresh_token(account);
        let credentials = newer.as_ref().or(credentials);
        let message = self.token_message(endpoint, demand, scope, credentials)?;
        let tls = endpoint.tls_for(&message.place);
        let sent = self.transport.send(&message, &tls, endpoint.dial_timeout);
        let mut answer = sent.await?;
        if answer.status != StatusCode::OK {
            return Err(refused_token(answer, endpoint, credentials, scope).await);
        }
        let bytes = answer.bytes("a token", TOKEN_MAX).await?;
        let token = Token::parse(&bytes).ok_or_else(|| Error::NotARegistry {
            host: answer.place.authority(),
            why: "its token server's answer holds no token".into(),
        })?;
        if let (Some(refresh), Some(Credentials::Identity(_))) = (&token.refresh, credentials) {
            let mut map = self.refreshed.lock().unwrap_or_else(|p| p.into_inner());
            map.insert(account.clone(), refresh.clone());
        }
        Ok(token)
    }

    fn newer_refresh_token(&self, account: &str) -> Option<Credentials> {
        let map = self.refreshed.lock().unwrap_or_else(|p| p.into_inner());
        map.get(account).cloned().map(Credentials::Identity)
    }

    fn token_message(
        &self,
        endpoint: &Endpoint,
        demand: &Demand,
        scope: &str,
        credentials: Option<&Credentials>,
    ) -> Result<Message, Error> {
        let home = endpoint.place("");
        let Demand::Bearer {
            realm,
            service,
            scope: wanted,
        } = demand
        else {
            return Err(bad_realm(&home, "", "none is named"));
        };
        // The registry knows best what its request needs.
        let scope = wanted.as_deref().unwrap_or(scope);
        let request = TokenRequest::new(realm, service.as_deref(), scope, credentials);
        let place = Place::parse(&request.url);
        let place = place.ok_or_else(|| bad_realm(&home, realm, "no http(s) URL"))?;
        if !place.tls && (home.tls || credentials.is_some()) && !place.is_loopback() {
            let why = "plain HTTP would show the credentials to the network";
            return Err(bad_realm(&home, realm, why));
        }
        let mut headers = HeaderMap::new();
        if let Ok(agent) = HeaderValue::from_str(&self.config.user_agent) {
            headers.insert(USER_AGENT, agent);
        }
        if let Some(a) = &request.authorization {
            headers.insert(AUTHORIZATION, header_value(a, &place)?);
        }
        let (method, body) = match &request.form {
            None => (Method::GET, Bytes::new()),
            Some(form) => {
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(CONTENT_TYPE, form_type);
                (Method::POST, Bytes::from(form.expose().to_owned()))
            }
        };
        Ok(Message {
            method,
            place,
            headers,
            body: Content::Bytes(body),
        })
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
        // The task is never cancelled, and a panic in it is a bug to be passed on.
        found.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))
    }
}

async fn refused_token(
    answer: Answer,
    endpoint: &Endpoint,
    credentials: Option<&Credentials>,
    scope: &str,
) -> Error {
    let host = endpoint.place("").authority();
    match answer.status {
        // OAuth2 servers answer 400 (invalid_grant) to a bad refresh token.
        StatusCode::UNAUTHORIZED | StatusCode::BAD_REQUEST => Error::Unauthorized {
            host,
            user: credentials.map(|c| c.user().to_owned()),
            said: status::said(answer).await,
        },
        StatusCode::FORBIDDEN => Error::Denied {
            host,
            repository: scope.split(':').nth(1).unwrap_or(scope).to_owned(),
            said: status::said(answer).await,
        },
        _ => status::other(answer, "a token request").await,
    }
}

fn bad_realm(home: &Place, realm: &str, why: &str) -> Error {
    let realm: String = realm.chars().take(200).collect();
    Error::Challenge {
        host: home.authority(),
        why: format!("token realm {realm:?}: {why}"),
    }
}

pub(super) fn header_value(secret: &Secret, place: &Place) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(secret.expose()).map_err(|_| Error::Challenge {
        host: place.authority(),
        why: "the credentials hold what no header may".into(),
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn from_docker(path: PathBuf, account: &str) -> Result<Option<Credentials>, Error> {
    let config = |why: String, source| Error::Config {
        path: path.clone(),
        why,
        source,
    };
    let mut bytes = Vec::new();
    let file = match std::fs::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(config("cannot read it".into(), Some(e))),
    };
    let read = io::Read::read_to_end(&mut io::Read::take(file, CONFIG_MAX), &mut bytes);
    read.map_err(|e| config("cannot read it".into(), Some(e)))?;
    let of_file = |Reason(why)| config(why, None);
    let docker = DockerConfig::parse(&bytes).map_err(of_file)?;
    if let Some(helper) = docker.helper(account).map_err(of_file)? {
        let found = helper.get();
        let found = found.map_err(|Reason(why)| Error::CredentialHelper {
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
