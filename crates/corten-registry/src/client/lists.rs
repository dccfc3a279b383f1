//! Tags and repositories, page after page, and search where a registry knows it.

use std::collections::HashSet;

use corten_spec::reference::{is_repository, is_tag};
use http::header::{CONTENT_TYPE, LINK};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Error;
use super::endpoint::Endpoint;
use super::manifests::asked;
use super::place::Place;
use super::session::{Access, Ask, Session};
use super::status::{self, Subject};
use super::transport::Answer;
use crate::auth::docker_config::is_hub;
use crate::protocol::{link, path, query};

/// What a page is asked to hold; registries may make it less.
const PER_PAGE: usize = 1000;
/// The largest page, in bytes.
const PAGE_MAX: usize = 16 << 20;
/// Names over all pages: more than any registry has, and what is held in memory at most.
const NAMES_MAX: usize = 1_000_000;
/// Where Docker Hub searches.
const HUB_INDEX: &str = "https://index.docker.io";

/// One repository that a search has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// As the registry names it, without its host.
    pub name: String,
    /// Empty where the registry has only names.
    pub description: String,
    pub stars: u64,
    pub official: bool,
}

/// A walk through the pages of a list.
pub(super) struct Pages<'a> {
    session: &'a Session,
    endpoint: &'a Endpoint,
    repository: &'a str,
    next: Option<Ask>,
    /// The pages that were asked for: a list that leads back into itself has no end.
    seen: HashSet<String>,
}

impl<'a> Pages<'a> {
    pub fn new(
        session: &'a Session,
        endpoint: &'a Endpoint,
        repository: &'a str,
        first: Ask,
    ) -> Self {
        Self {
            session,
            endpoint,
            repository,
            next: Some(first),
            seen: HashSet::new(),
        }
    }

    /// The next page as it was answered; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Answer>, Error> {
        let Some(ask) = self.next.take() else {
            return Ok(None);
        };
        let answer = asked(self.session, self.endpoint, &ask).await?;
        let more = answer.headers.get_all(LINK).iter();
        let more = more.filter_map(|l| l.to_str().ok()).find_map(link::next);
        if let Some(target) = more {
            let place = self.follow(&answer, target)?;
            self.next = Some(Ask {
                at: Some(place),
                ..ask
            });
        }
        Ok(Some(answer))
    }

    /// Where the next page is: on the endpoint itself, whatever host a registry behind a proxy takes itself for.
    fn follow(&mut self, answer: &Answer, target: &str) -> Result<Place, Error> {
        let odd = |why: &str| Error::NotARegistry {
            host: answer.place.authority(),
            why: why.to_owned(),
        };
        let named = answer.place.join(target);
        let named = named.ok_or_else(|| odd("its list's link to more is no URL"))?;
        let place = self.endpoint.own(named.path);
        match self.seen.insert(place.path.clone()) {
            true => Ok(place),
            false => Err(odd("its list leads back into itself")),
        }
    }

    /// The next page's document.
    pub async fn document<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let Some(mut answer) = self.next().await? else {
            return Ok(None);
        };
        if answer.status != StatusCode::OK {
            return Err(status::refusal(answer, Subject::List, self.repository).await);
        }
        let bytes = answer.bytes("a list", PAGE_MAX).await?;
        let parsed = serde_json::from_slice(&bytes).map_err(|e| Error::NotARegistry {
            host: answer.place.authority(),
            why: format!("its list is not what it should be ({e})"),
        })?;
        Ok(Some(parsed))
    }

    pub fn bounded(&self, count: usize) -> Result<(), Error> {
        match count > NAMES_MAX {
            true => Err(Error::NotARegistry {
                host: self.endpoint.place("").authority(),
                why: format!("its list has more than {NAMES_MAX} names"),
            }),
            false => Ok(()),
        }
    }
}

/// All tags of a repository, in the registry's order.
pub(super) async fn tags(
    session: &Session,
    endpoint: &Endpoint,
    repository: &str,
) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Page {
        tags: Option<Vec<String>>,
    }
    let path = query::append(&path::tags(repository), &[("n", &PER_PAGE.to_string())]);
    let mut pages = Pages::new(session, endpoint, repository, Ask::get(repository, path));
    let mut out = Vec::new();
    while let Some(page) = pages.document::<Page>().await? {
        // What is no tag can be neither asked for nor shown on a terminal.
        out.extend(
            page.tags
                .unwrap_or_default()
                .into_iter()
                .filter(|t| is_tag(t)),
        );
        pages.bounded(out.len())?;
    }
    Ok(out)
}

/// All repositories that the registry tells of, in its order.
pub(super) async fn catalog(session: &Session, endpoint: &Endpoint) -> Result<Vec<String>, Error> {
    #[derive(Deserialize)]
    struct Page {
        repositories: Option<Vec<String>>,
    }
    let path = query::append("/_catalog", &[("n", &PER_PAGE.to_string())]);
    let first = Ask::new(Method::GET, path, Access::Catalog);
    let mut pages = Pages::new(session, endpoint, "", first);
    let mut out = Vec::new();
    while let Some(page) = pages.document::<Page>().await? {
        let names = page.repositories.unwrap_or_default();
        out.extend(names.into_iter().filter(|n| is_repository(n)));
        pages.bounded(out.len())?;
    }
    Ok(out)
}

/// The version check, which a registry that wants an account refuses to those without.
pub(super) async fn ping(session: &Session, endpoint: &Endpoint) -> Result<(), Error> {
    let ping = Ask::new(Method::GET, "/".into(), Access::Nothing);
    let answer = asked(session, endpoint, &ping).await?;
    let (host, status) = (answer.place.authority(), answer.status);
    answer.discard().await;
    match status {
        StatusCode::OK => Ok(()),
        _ => Err(Error::NotARegistry {
            host,
            why: format!("status {} to the version check", status.as_u16()),
        }),
    }
}

/// Repositories by a word: by the registry's own search, else by its catalog's names.
pub(super) async fn search(
    session: &Session,
    endpoint: &Endpoint,
    registry: &str,
    word: &str,
    limit: usize,
) -> Result<Vec<Found>, Error> {
    let searched = match is_hub(registry) {
        true => searched(session, endpoint, Place::parse(HUB_INDEX), word, limit).await?,
        false => {
            // Whether loopback speaks TLS is found out by a request to the registry proper.
            let ping = Ask::new(Method::GET, "/".into(), Access::Nothing);
            asked(session, endpoint, &ping).await?.discard().await;
            searched(session, endpoint, Some(endpoint.place("")), word, limit).await?
        }
    };
    if let Some(found) = searched {
        return Ok(found);
    }
    let word = word.to_lowercase();
    let names = catalog(session, endpoint).await?;
    let matching = names.into_iter().filter(|n| n.contains(&word));
    let found = matching.take(limit).map(|name| Found {
        name,
        description: String::new(),
        stars: 0,
        official: false,
    });
    Ok(found.collect())
}

/// The old index's search, which Docker Hub and a few others still answer; `None` where there is none.
async fn searched(
    session: &Session,
    endpoint: &Endpoint,
    home: Option<Place>,
    word: &str,
    limit: usize,
) -> Result<Option<Vec<Found>>, Error> {
    #[derive(Deserialize)]
    struct Page {
        results: Vec<Row>,
    }
    #[derive(Deserialize)]
    struct Row {
        name: String,
        description: Option<String>,
        star_count: Option<i64>,
        is_official: Option<bool>,
    }
    let parameters = [("q", word), ("n", &limit.to_string())];
    let mut ask = Ask::new(Method::GET, String::new(), Access::Catalog);
    ask.at = home.map(|home| Place {
        path: query::append("/v1/search", &parameters),
        ..home
    });
    let mut answer = asked(session, endpoint, &ask).await?;
    let json = answer
        .header(CONTENT_TYPE)
        .is_some_and(|t| t.contains("json"));
    if answer.status != StatusCode::OK || !json {
        answer.discard().await;
        return Ok(None);
    }
    let bytes = answer.bytes("a search's result", PAGE_MAX).await?;
    let Ok(page) = serde_json::from_slice::<Page>(&bytes) else {
        return Ok(None);
    };
    let clean = |text: String| -> String {
        // A stranger's text goes to a terminal.
        text.chars()
            .filter(|c| !c.is_control())
            .take(1000)
            .collect()
    };
    let rows = page.results.into_iter().filter(|r| is_repository(&r.name));
    let found = rows.take(limit).map(|row| Found {
        name: row.name,
        description: clean(row.description.unwrap_or_default()),
        stars: row.star_count.and_then(|n| n.try_into().ok()).unwrap_or(0),
        official: row.is_official.unwrap_or(false),
    });
    Ok(Some(found.collect()))
}
