//! From a request to the handler of its path and method.

use std::sync::Arc;

use http::header::{AUTHORIZATION, IF_NONE_MATCH, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::reply::{Failure, Reply, ReplyBody, refuse, refuse_with};
use super::{State, blobs, lists, manifests};
use crate::protocol::error_body::Code;
use crate::protocol::header::API_VERSION;
use crate::protocol::path::{self, PathError, Route};
use crate::protocol::query;

/// What handlers need of a request beside its path.
pub(super) struct Given {
    pub headers: HeaderMap,
    pub query: Option<String>,
    pub body: Incoming,
}

impl Given {
    pub fn parameter(&self, key: &str) -> Option<String> {
        query::get(self.query.as_deref(), key)
    }

    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// Answers any request; never fails.
pub(super) async fn answer(state: Arc<State>, request: Request<Incoming>) -> Response<ReplyBody> {
    let (parts, body) = request.into_parts();
    let head = parts.method == Method::HEAD;
    let given = Given {
        headers: parts.headers,
        query: parts.uri.query().map(str::to_owned),
        body,
    };
    let method = parts.method;
    let target = parts.uri.path().to_owned();
    let known = given.header(IF_NONE_MATCH).map(str::to_owned);
    let reply = match admitted(state, &method, &target, given).await {
        Ok(reply) => reply.unless_known(known.as_deref()),
        Err(Failure::Refused(reply)) => *reply,
        Err(Failure::Internal(error)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            tracing::error!(%error, cause, %method, target, "cannot serve a request");
            // Paths of the server are none of a client's business.
            let message = "the registry failed; its log says why";
            let body = crate::protocol::error_body::render(
                Code::Unknown,
                message,
                serde_json::Value::Null,
            );
            Reply::new(StatusCode::INTERNAL_SERVER_ERROR).bytes("application/json", body)
        }
    };
    reply.named(API_VERSION, "registry/2.0").into_response(head)
}

/// Lets in who may come in.
async fn admitted(
    state: Arc<State>,
    method: &Method,
    target: &str,
    given: Given,
) -> Result<Reply, Failure> {
    if let Some(accounts) = &state.accounts
        && accounts.user(given.header(AUTHORIZATION)).await.is_none()
    {
        return Err(refuse_with(
            StatusCode::UNAUTHORIZED,
            Code::Unauthorized,
            "a user and a password are needed",
            |r| {
                r.header(
                    WWW_AUTHENTICATE,
                    "Basic realm=\"corten registry\", charset=\"UTF-8\"",
                )
            },
        ));
    }
    dispatch(state, method, target, given).await
}

async fn dispatch(
    state: Arc<State>,
    method: &Method,
    target: &str,
    given: Given,
) -> Result<Reply, Failure> {
    let decoded =
        query::decode_path(target).ok_or_else(|| not_found("the path has a bad escape"))?;
    let route = path::parse(&decoded).map_err(refuse_path)?;
    let writing = !matches!(method.as_str(), "GET" | "HEAD");
    if let Some(cache) = state.cache.as_ref().filter(|_| writing) {
        let upstream = cache.upstream();
        return Err(not_allowed(&format!(
            "this is a cache of {upstream}: push there"
        )));
    }
    if writing && state.read_only {
        return Err(not_allowed("this registry is read-only"));
    }
    let deleting = method == Method::DELETE && !matches!(route, Route::Upload { .. });
    if deleting && !state.delete {
        return Err(not_allowed("deletion is switched off"));
    }
    let read = method == Method::GET || method == Method::HEAD;
    match route {
        Route::Version if read => Ok(Reply::new(StatusCode::OK).json(&serde_json::json!({}))),
        Route::OldPing if read => Ok(Reply::new(StatusCode::OK).json(&serde_json::json!(true))),
        Route::Search if read => lists::search(&state, &given).await,
        Route::Catalog if read => lists::catalog(&state, &given).await,
        Route::Tags { name } if read => lists::tags(&state, &name, &given).await,
        Route::Referrers { name, digest } if read => {
            lists::referrers(&state, &name, &digest, &given).await
        }
        Route::Blob { name, digest } if read => {
            let is_head = method == Method::HEAD;
            blobs::get(&state, &name, &digest, &given, is_head).await
        }
        Route::Blob { name, digest } if deleting => blobs::delete(&state, &name, &digest).await,
        Route::Manifest { name, key } if read => manifests::get(&state, &name, key).await,
        Route::Manifest { name, key } if method == Method::PUT => {
            manifests::put(&state, &name, key, given).await
        }
        Route::Manifest { name, key } if deleting => manifests::delete(&state, &name, key).await,
        Route::Uploads { name } if method == Method::POST => {
            blobs::begin(&state, &name, given).await
        }
        Route::Upload { name, id } => match method.as_str() {
            "GET" | "HEAD" => blobs::progress(&state, &name, &id).await,
            "PATCH" => blobs::append(&state, &name, &id, given).await,
            "PUT" => blobs::finish(&state, &name, &id, given).await,
            "DELETE" => blobs::cancel(&state, &name, &id).await,
            _ => Err(not_allowed("an upload knows GET, PATCH, PUT and DELETE")),
        },
        _ => Err(not_allowed("this path does not know this method")),
    }
}

fn not_found(message: &str) -> Failure {
    refuse(StatusCode::NOT_FOUND, Code::Unsupported, message)
}

fn not_allowed(message: &str) -> Failure {
    refuse(StatusCode::METHOD_NOT_ALLOWED, Code::Unsupported, message)
}

fn refuse_path(error: PathError) -> Failure {
    let message = error.to_string();
    match error {
        PathError::Unknown => not_found(&message),
        PathError::Name(_) => refuse(StatusCode::BAD_REQUEST, Code::NameInvalid, message),
        PathError::Tag(_) => refuse(StatusCode::BAD_REQUEST, Code::TagInvalid, message),
        PathError::Digest(_) => refuse(StatusCode::BAD_REQUEST, Code::DigestInvalid, message),
    }
}
