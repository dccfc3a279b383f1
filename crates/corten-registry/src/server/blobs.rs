//! Blobs: read whole and in parts, uploaded in one piece, in chunks, or by mounting another repository's.

use std::sync::Arc;
use std::time::Duration;

use corten_spec::Digest;
use corten_spec::reference::is_repository;
use http::StatusCode;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_RANGE, LOCATION, RANGE,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::State;
use super::reply::{Failure, Reply, blocking, refuse, refuse_with};
use super::route::Given;
use super::storage::{Of, Storage};
use super::upload::{Broken, Upload};
use crate::protocol::error_body::Code;
use crate::protocol::header::{
    DOCKER_CONTENT_DIGEST, DOCKER_UPLOAD_UUID, Span, Wanted, range, upload_range,
};

/// How long a request waits for another one on the same upload: a client that was cut off may come back before we have noticed.
const TAKEOVER: Duration = Duration::from_secs(5);

pub(super) async fn get(
    state: &State,
    name: &str,
    digest: &Digest,
    given: &Given,
    is_head: bool,
) -> Result<Reply, Failure> {
    let range = asked_range(given, digest);
    if let Some(cache) = &state.cache {
        return cache.blob(name, digest, range, is_head).await;
    }
    let found = local(&state.storage, name, digest, range).await?;
    found.ok_or_else(|| unknown(digest))
}

/// The range that is asked for, unless it was meant for another content (`If-Range`, RFC 9110 §13.1.5).
fn asked_range<'a>(given: &'a Given, digest: &Digest) -> Option<&'a str> {
    let meant = given
        .header(IF_RANGE)
        .is_none_or(|tag| tag.trim() == format!("\"{digest}\""));
    given.header(RANGE).filter(|_| meant)
}

/// A blob that the repository has here, or the part of it that is asked for.
pub(super) async fn local(
    storage: &Arc<Storage>,
    name: &str,
    digest: &Digest,
    range: Option<&str>,
) -> Result<Option<Reply>, Failure> {
    let (own, repository, wanted) = (storage.clone(), name.to_owned(), digest.clone());
    let opened = blocking(move || match own.used(&repository, Of::Blob, &wanted)? {
        Some(_) => own.open_content(&wanted),
        None => Ok(None),
    });
    let Some((file, size)) = opened.await? else {
        return Ok(None);
    };
    let file = tokio::fs::File::from_std(file);
    part(digest, size, range, |reply, span| reply.file(file, span)).map(Some)
}

/// The headers of a whole blob, and where its body comes from.
fn described(digest: &Digest, status: StatusCode) -> Reply {
    Reply::new(status)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
        .header(ETAG, format!("\"{digest}\""))
        .named(DOCKER_CONTENT_DIGEST, digest.to_string())
}

/// The answer to a HEAD for a blob that is not here.
pub(super) fn head(digest: &Digest, size: u64) -> Reply {
    described(digest, StatusCode::OK).sized(size)
}

/// A blob of `size` bytes, or the part that `range` asks for; `body` adds the bytes.
pub(super) fn part(
    digest: &Digest,
    size: u64,
    wanted: Option<&str>,
    body: impl FnOnce(Reply, Span) -> Reply,
) -> Result<Reply, Failure> {
    match range(wanted, size) {
        Wanted::All => {
            let whole = Span {
                start: 0,
                end: size,
            };
            Ok(body(described(digest, StatusCode::OK), whole))
        }
        Wanted::Part(span) => {
            let place = format!("bytes {}-{}/{size}", span.start, span.end - 1);
            let reply = described(digest, StatusCode::PARTIAL_CONTENT);
            Ok(body(reply.header(CONTENT_RANGE, place), span))
        }
        Wanted::Unsatisfiable => Err(refuse_with(
            StatusCode::RANGE_NOT_SATISFIABLE,
            Code::RangeInvalid,
            format!("the blob has {size} bytes"),
            |r| r.header(CONTENT_RANGE, format!("bytes */{size}")),
        )),
    }
}

pub(super) async fn delete(state: &State, name: &str, digest: &Digest) -> Result<Reply, Failure> {
    let (storage, repository, gone) = (state.storage.clone(), name.to_owned(), digest.clone());
    match blocking(move || storage.unlink(&storage.order()?, &repository, Of::Blob, &gone)).await? {
        true => Ok(Reply::new(StatusCode::ACCEPTED)),
        false => Err(unknown(digest)),
    }
}

/// POST: mounts, takes a blob whole, or begins an upload.
pub(super) async fn begin(state: &State, name: &str, given: Given) -> Result<Reply, Failure> {
    if let Some(mount) = given.parameter("mount")
        && let Some(reply) = mount_blob(state, name, &mount, given.parameter("from")).await?
    {
        return Ok(reply);
    }
    let digest = given
        .parameter("digest")
        .map(|d| parse_digest(&d))
        .transpose()?;
    let (id, upload) = state.uploads.begin(name).await?;
    match digest {
        None => Ok(standing(StatusCode::ACCEPTED, name, &id, 0)),
        Some(digest) => {
            let mut upload = lock(upload).await?;
            // Whatever comes of it, nobody can come back to it.
            state.uploads.end(name, &id).await?;
            let limit = length(&given)?;
            take(&mut upload, given, limit).await?;
            seal(name, &mut upload, &digest).await
        }
    }
}

/// `None`: it cannot be mounted, so an upload begins instead ("Mounting a blob from another repository").
async fn mount_blob(
    state: &State,
    name: &str,
    digest: &str,
    from: Option<String>,
) -> Result<Option<Reply>, Failure> {
    let digest = parse_digest(digest)?;
    if from.as_ref().is_some_and(|f| !is_repository(f)) {
        return Ok(None);
    }
    let (storage, to, what) = (state.storage.clone(), name.to_owned(), digest.clone());
    let mounted = blocking(move || {
        // Without a source any repository's will do: whoever may push here may read everything.
        let there = match &from {
            Some(from) => storage.linked(from, Of::Blob, &what)?.is_some(),
            None => true,
        };
        Ok(there && storage.link(&storage.order()?, &to, &what)?)
    })
    .await?;
    Ok(mounted.then(|| created(name, &digest)))
}

/// GET: how far an upload is.
pub(super) async fn progress(state: &State, name: &str, id: &str) -> Result<Reply, Failure> {
    let upload = lock(find(state, name, id).await?).await?;
    Ok(standing(StatusCode::NO_CONTENT, name, id, upload.offset))
}

/// PATCH: a chunk, or a stream of unknown length.
pub(super) async fn append(
    state: &State,
    name: &str,
    id: &str,
    given: Given,
) -> Result<Reply, Failure> {
    let mut upload = lock(find(state, name, id).await?).await?;
    let limit = expected(&given, &upload, name, id)?;
    take(&mut upload, given, limit).await?;
    Ok(standing(StatusCode::ACCEPTED, name, id, upload.offset))
}

/// PUT: the last chunk, if any, and the digest of it all.
pub(super) async fn finish(
    state: &State,
    name: &str,
    id: &str,
    given: Given,
) -> Result<Reply, Failure> {
    let mut upload = lock(find(state, name, id).await?).await?;
    let digest = given.parameter("digest").ok_or_else(|| {
        refuse(
            StatusCode::BAD_REQUEST,
            Code::DigestInvalid,
            "the digest parameter is missing",
        )
    })?;
    let digest = parse_digest(&digest)?;
    let limit = expected(&given, &upload, name, id)?;
    // A connection cut here leaves the upload to be continued; a wrong digest ends it.
    take(&mut upload, given, limit).await?;
    state.uploads.end(name, id).await?;
    seal(name, &mut upload, &digest).await
}

pub(super) async fn cancel(state: &State, name: &str, id: &str) -> Result<Reply, Failure> {
    match state.uploads.end(name, id).await? {
        true => Ok(Reply::new(StatusCode::NO_CONTENT)),
        false => Err(unknown_upload()),
    }
}

async fn seal(name: &str, upload: &mut Upload, digest: &Digest) -> Result<Reply, Failure> {
    match upload.commit(name, Of::Blob, digest, b"").await? {
        true => Ok(created(name, digest)),
        false => Err(refuse(
            StatusCode::BAD_REQUEST,
            Code::DigestInvalid,
            format!("what was uploaded is not {digest}"),
        )),
    }
}

async fn take(upload: &mut Upload, given: Given, limit: Option<u64>) -> Result<(), Failure> {
    let bad = |code, message| Err(refuse(StatusCode::BAD_REQUEST, code, message));
    match upload.append(given.body, limit).await {
        Ok(()) => Ok(()),
        Err(Broken::Body) => bad(Code::BlobUploadInvalid, "the body broke off"),
        Err(Broken::Overrun) => bad(
            Code::SizeInvalid,
            "the body is longer than its Content-Range",
        ),
        Err(Broken::Disk(error)) => Err(Failure::Internal(error)),
    }
}

fn length(given: &Given) -> Result<Option<u64>, Failure> {
    let parse = |v: &str| {
        v.trim().parse().map_err(|_| {
            refuse(
                StatusCode::BAD_REQUEST,
                Code::SizeInvalid,
                "bad Content-Length",
            )
        })
    };
    given.header(CONTENT_LENGTH).map(parse).transpose()
}

/// Checks a chunk's place: it must start where the upload stands, and be as long as it says.
fn expected(given: &Given, upload: &Upload, name: &str, id: &str) -> Result<Option<u64>, Failure> {
    let length = length(given)?;
    let Some(value) = given.header(CONTENT_RANGE) else {
        return Ok(length);
    };
    let out_of_order = |message: &str| {
        refuse_with(
            StatusCode::RANGE_NOT_SATISFIABLE,
            Code::RangeInvalid,
            message,
            |r| place(r, name, id, upload.offset),
        )
    };
    let span = upload_range(value).ok_or_else(|| out_of_order("the Content-Range is malformed"))?;
    if span.start != upload.offset {
        return Err(out_of_order(
            "the chunk does not start where the upload stands",
        ));
    }
    let long = span.end - span.start;
    match length {
        Some(n) if n != long => Err(refuse(
            StatusCode::BAD_REQUEST,
            Code::SizeInvalid,
            "Content-Length and Content-Range disagree",
        )),
        _ => Ok(Some(long)),
    }
}

async fn find(state: &State, name: &str, id: &str) -> Result<Arc<Mutex<Upload>>, Failure> {
    let found = state.uploads.get(name, id).await?;
    found.ok_or_else(unknown_upload)
}

async fn lock(upload: Arc<Mutex<Upload>>) -> Result<OwnedMutexGuard<Upload>, Failure> {
    let locked = tokio::time::timeout(TAKEOVER, upload.lock_owned()).await;
    locked.map_err(|_| {
        let message = "another request is still writing to this upload";
        refuse(StatusCode::CONFLICT, Code::BlobUploadInvalid, message)
    })
}

pub(super) fn parse_digest(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|e: corten_spec::DigestError| {
        refuse(StatusCode::BAD_REQUEST, Code::DigestInvalid, e.to_string())
    })
}

/// An answer that says where an upload is and how far. `0-0` stands for nothing and for one byte
/// alike: the header cannot say "none".
fn standing(status: StatusCode, name: &str, id: &str, offset: u64) -> Reply {
    place(Reply::new(status), name, id, offset)
}

fn place(reply: Reply, name: &str, id: &str, offset: u64) -> Reply {
    reply
        .header(LOCATION, format!("/v2/{name}/blobs/uploads/{id}"))
        .header(RANGE, format!("0-{}", offset.saturating_sub(1)))
        .named(DOCKER_UPLOAD_UUID, id)
}

fn created(name: &str, digest: &Digest) -> Reply {
    Reply::new(StatusCode::CREATED)
        .header(LOCATION, format!("/v2/{name}/blobs/{digest}"))
        .named(DOCKER_CONTENT_DIGEST, digest.to_string())
}

pub(super) fn unknown(digest: &Digest) -> Failure {
    refuse(
        StatusCode::NOT_FOUND,
        Code::BlobUnknown,
        format!("no blob {digest} here"),
    )
}

fn unknown_upload() -> Failure {
    refuse(
        StatusCode::NOT_FOUND,
        Code::BlobUploadUnknown,
        "no such upload",
    )
}
