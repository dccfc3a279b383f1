//! From a failed answer to the error that it means.

use std::time::{Duration, SystemTime};

use corten_spec::Digest;
use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER};

use super::Error;
use super::transport::Answer;
use crate::protocol::ERROR_BODY_MAX;
use crate::protocol::error_body::Said;
use crate::protocol::header;

/// What a request was about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    Manifest(&'a str),
    Blob(&'a Digest),
    Upload,
    Deletion,
    List,
}

/// The error body, if there is one that can be read.
pub(super) async fn said(mut answer: Answer) -> Said {
    match answer.bytes("an error", ERROR_BODY_MAX).await {
        Ok(bytes) => Said::parse(&bytes),
        Err(_) => Said::default(),
    }
}

pub(super) fn retry_after(answer: &Answer) -> Option<Duration> {
    header::retry_after(answer.header(RETRY_AFTER)?, SystemTime::now())
}

/// For statuses that mean the same whatever was asked.
pub(super) async fn other(answer: Answer, what: &str) -> Error {
    let host = answer.place.authority();
    let status = answer.status;
    let retry_after = retry_after(&answer);
    let html = answer
        .header(CONTENT_TYPE)
        .is_some_and(|t| t.starts_with("text/html"));
    let said = said(answer).await;
    match status {
        StatusCode::TOO_MANY_REQUESTS => Error::RateLimited {
            host,
            retry_after,
            said,
        },
        s if s.is_success() || (html && s.is_client_error() && said.is_empty()) => {
            Error::NotARegistry {
                host,
                why: format!("status {} to {what}", s.as_u16()),
            }
        }
        s => Error::Status {
            host,
            what: what.into(),
            status: s.as_u16(),
            said,
        },
    }
}

/// For an answer that is no success.
pub(super) async fn refusal(answer: Answer, subject: Subject<'_>, repository: &str) -> Error {
    let host = answer.place.authority();
    match (answer.status, subject) {
        (StatusCode::UNAUTHORIZED, _) => Error::Unauthorized {
            host,
            user: None,
            said: said(answer).await,
        },
        (StatusCode::FORBIDDEN, _) => Error::Denied {
            host,
            repository: repository.into(),
            said: said(answer).await,
        },
        (StatusCode::NOT_FOUND, Subject::Manifest(reference)) => Error::UnknownManifest {
            reference: reference.into(),
            host,
            said: said(answer).await,
        },
        (StatusCode::NOT_FOUND, Subject::Blob(digest)) => Error::UnknownBlob {
            digest: digest.clone(),
            repository: repository.into(),
            host,
            said: said(answer).await,
        },
        (_, Subject::Manifest(_)) => other(answer, "a request for a manifest").await,
        (_, Subject::Blob(_)) => other(answer, "a request for a blob").await,
        (_, Subject::Upload) => other(answer, "an upload").await,
        (_, Subject::Deletion) => other(answer, "a deletion").await,
        (_, Subject::List) => other(answer, "a request for a list").await,
    }
}
