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
use crate::protocol::{path, query};

/// The page where the client names no size, and the largest that it gets.
const PAGE_MAX: usize = 10_000;
/// What a page of referrers holds at most, in bytes: clients read no index that is larger than a manifest may be.
const REFERRERS_BYTES_MAX: usize = 3 << 20;

pub(super) async fn tags(state: &State, name: &str, given: &Given) -> Result<Reply, Failure> {
    let tags = match &state.cache {
        Some(cache) => cache.tags(name).await?,
        None => {
            let (storage, repository) = (state.storage.clone(), name.to_owned());
            blocking(move || storage.tags(&repository)).await?
        }
    };
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

/// Repositories whose names contain a word, in the words of the old index's search; there are no descriptions.
pub(super) async fn search(state: &State, given: &Given) -> Result<Reply, Failure> {
    let word = given.parameter("q").unwrap_or_default().to_lowercase();
    let storage = state.storage.clone();
    let mut names = blocking(move || storage.repositories()).await?;
    names.retain(|name| name.contains(&word));
    let count = names.len();
    names.truncate(page_size(given)?);
    let rows: Vec<Value> = names
        .iter()
        .map(|name| json!({ "name": name, "description": "", "star_count": 0, "is_official": false }))
        .collect();
    Ok(Reply::new(StatusCode::OK).json(&json!({
        "query": word, "num_results": count, "results": rows,
    })))
}

fn page_size(given: &Given) -> Result<usize, Failure> {
    let Some(n) = given.parameter("n") else {
        return Ok(PAGE_MAX);
    };
    let n = n.parse::<usize>().map_err(|_| {
        let message = format!("{n:?} is no page size");
        let status = StatusCode::BAD_REQUEST;
        refuse(status, Code::PaginationNumberInvalid, message)
    })?;
    Ok(n.min(PAGE_MAX))
}

/// At most `n` names after `last`, and a link to the rest.
fn page(
    mut names: Vec<String>,
    given: &Given,
    path: &str,
    body: impl FnOnce(&[String]) -> Value,
) -> Result<Reply, Failure> {
    let n = page_size(given)?;
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

/// The manifests whose `subject` is this one; an unknown subject has none. In pages, of as many as fit into a manifest.
pub(super) async fn referrers(
    state: &State,
    name: &str,
    subject: &Digest,
    given: &Given,
) -> Result<Reply, Failure> {
    let mut list = all_referrers(state, name, subject).await?;
    let wanted = given.parameter("artifactType").filter(|t| !t.is_empty());
    if let Some(wanted) = &wanted {
        list.retain(|d| d["artifactType"] == json!(wanted));
    }
    if let Some(last) = given.parameter("last") {
        list.retain(|d| {
            d["digest"]
                .as_str()
                .is_some_and(|digest| digest > last.as_str())
        });
    }
    let n = page_size(given)?;
    let mut size = 0;
    let fits = |d: &&Value| {
        size += d.to_string().len() + 1;
        size < REFERRERS_BYTES_MAX
    };
    // One that fills a page by itself is a page.
    let count = list.iter().take_while(fits).count().clamp(1, n.max(1));
    let more = list.len() > count;
    list.truncate(count);
    let last = list
        .last()
        .and_then(|d| d["digest"].as_str())
        .map(str::to_owned);
    let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": list });
    let mut reply = Reply::new(StatusCode::OK).bytes(media::OCI_INDEX, index.to_string());
    if let Some(last) = last.filter(|_| more) {
        let path = format!("/v2{}", path::referrers(name, subject));
        let mut next = query::append(&path, &[("n", &n.to_string()), ("last", &last)]);
        if let Some(wanted) = &wanted {
            next = query::append(&next, &[("artifactType", wanted)]);
        }
        reply = reply.header(LINK, format!("<{next}>; rel=\"next\""));
    }
    Ok(match wanted {
        Some(_) => reply.named(OCI_FILTERS, "artifactType"),
        None => reply,
    })
}

/// Descriptors, sorted by digest.
async fn all_referrers(state: &State, name: &str, subject: &Digest) -> Result<Vec<Value>, Failure> {
    if let Some(cache) = &state.cache
        && let Some(mut list) = cache.referrers(name, subject).await?
    {
        list.sort_by_key(|r| r.digest.to_string());
        return Ok(list.iter().map(|r| json!(r)).collect());
    }
    let (storage, repository, subject) = (state.storage.clone(), name.to_owned(), subject.clone());
    let stored = blocking(move || storage.referrers(&repository, &subject)).await?;
    let parsed = stored
        .iter()
        .filter_map(|d| serde_json::from_slice::<Value>(d).ok());
    Ok(parsed.collect())
}
