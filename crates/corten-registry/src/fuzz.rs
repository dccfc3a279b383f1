//! Entrances for the fuzzer, and the same entrances tried with its corpus by an ordinary test.
//!
//! One function for each kind of foreign bytes. None may panic, whatever it is given; where the answer has a promise to
//! keep, that is asserted too. Not part of the library: compiled with `--cfg fuzzing` and for the tests only.

use std::path::Path;
use std::time::SystemTime;

use corten_spec::Platform;

use crate::auth::docker_config::DockerConfig;
use crate::auth::token::{Token, TokenRequest};
use crate::auth::{Credentials, challenge};
use crate::client;
use crate::protocol::error_body::Said;
use crate::protocol::header::{self, Wanted};
use crate::protocol::manifest::{self, Document};
use crate::protocol::path::{self, Route};
use crate::protocol::{link, query};
use crate::server;

/// An entrance, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 7] = [
    ("manifest", manifest_document),
    ("index", index),
    ("hosts_toml", hosts_toml),
    ("www_authenticate", www_authenticate),
    ("registry_header", registry_header),
    ("htpasswd", htpasswd),
    ("docker_config", docker_config),
];

/// A header's value and a document: `HEADER` newline `BYTES`; without the newline only the document.
fn split(bytes: &[u8]) -> (Option<&str>, &[u8]) {
    match bytes.iter().position(|b| *b == b'\n') {
        Some(end) => (std::str::from_utf8(&bytes[..end]).ok(), &bytes[end + 1..]),
        None => (None, bytes),
    }
}

/// What a registry serves as a manifest, with its content type.
pub fn manifest_document(bytes: &[u8]) {
    let (content_type, document) = split(bytes);
    let kind = manifest::type_of(document, content_type);
    let _ = manifest::relation(document);
    match manifest::parse(document, content_type) {
        Ok(Document::Manifest(parsed)) => {
            // What is read strictly is read loosely as the same, and is not an index to anybody.
            assert_eq!(kind.ok().as_ref(), Some(&parsed.media_type));
            let index = manifest::parse(document, Some(corten_spec::media::OCI_INDEX));
            assert!(index.is_err());
        }
        Ok(Document::Index(parsed)) => assert_eq!(kind.ok().as_ref(), Some(&parsed.media_type)),
        Err(error) => drop(error.to_string()),
    }
}

/// An index: the choice from it is one of its entries, and accepts what was wanted.
pub fn index(bytes: &[u8]) {
    let (platform, document) = split(bytes);
    let _ = manifest::referrers(document);
    let Ok(Document::Index(index)) = manifest::parse(document, None) else {
        return;
    };
    let _ = index.platforms();
    let wanted = platform.and_then(|p| p.parse::<Platform>().ok());
    let wanted = wanted.unwrap_or_else(Platform::host);
    if let Some(chosen) = index.choose(&wanted) {
        let fits = |p: &corten_spec::oci::image::Platform| wanted.accepts(p);
        assert!(chosen.platform.as_ref().is_none_or(fits));
        assert!(chosen.platform.is_some() || index.entries.len() == 1);
    }
}

/// `hosts.toml`, as an operator or a tool has left it.
pub fn hosts_toml(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        client::fuzz_hosts(text);
    }
}

/// `WWW-Authenticate`, and the token server's answer behind a newline.
pub fn www_authenticate(bytes: &[u8]) {
    let (header, answer) = split(bytes);
    let demand = challenge::demand(&challenge::parse(header.unwrap_or_default()));
    if let Some(challenge::Demand::Bearer {
        realm,
        service,
        scope,
    }) = demand
    {
        let me = Credentials::password("me", "secret-word");
        let scope = scope.as_deref().unwrap_or("repository:a:pull");
        let request = TokenRequest::new(&realm, service.as_deref(), scope, Some(&me));
        // The password is in no URL that did not have it before, and no text shows it.
        let known = header.is_some_and(|h| h.contains("secret-word"));
        assert!(known || !request.url.contains("secret-word"));
        assert!(!format!("{:?}", request.authorization).contains("secret-word"));
    }
    if let Some(token) = Token::parse(answer) {
        assert!(token.lives.as_secs() >= 60);
        assert!(http::HeaderValue::from_str(token.bearer.expose()).is_ok());
    }
}

/// Ranges, links, dates, queries, paths and error bodies.
pub fn registry_header(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for size in [0, 1, 1000, u64::MAX] {
        if let Wanted::Part(span) = header::range(Some(text), size) {
            assert!(span.start < span.end && span.end <= size);
        }
    }
    if let Some((span, total)) = header::content_range(text) {
        assert!(span.start < span.end && total.is_none_or(|t| span.end <= t));
    }
    if let Some(span) = header::upload_range(text) {
        assert!(span.start < span.end);
    }
    let _ = header::retry_after(text, SystemTime::now());
    if let Some(target) = link::next(text) {
        assert!(text.contains(target));
        client::fuzz_place(target);
    }
    client::fuzz_place(text);
    let _ = query::all(Some(text), "tag").count();
    if let Some(decoded) = query::decode_path(text)
        && let Ok(Route::Tags { name } | Route::Uploads { name } | Route::Upload { name, .. }) =
            path::parse(&decoded)
    {
        // A name becomes a folder.
        let leads_away = Path::new(&name)
            .components()
            .any(|c| !matches!(c, std::path::Component::Normal(_)));
        assert!(!leads_away, "{name}");
    }
    let said = Said::parse(bytes).to_string();
    assert!(!said.chars().any(char::is_control));
}

/// A file of accounts.
pub fn htpasswd(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        server::fuzz_users(text);
    }
}

/// Docker's `config.json`, asked for the host on its first line.
pub fn docker_config(bytes: &[u8]) {
    let (host, document) = split(bytes);
    let Ok(config) = DockerConfig::parse(document) else {
        return;
    };
    for host in [host.unwrap_or_default(), "docker.io", "127.0.0.1:5000"] {
        let _ = config.helper(host);
        if let Ok(Some(found)) = config.stored(host) {
            let _ = (found.basic(), format!("{found:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every input that has ever shown something new, or broken something.
    #[test]
    fn the_corpus_is_survived() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let folder = folder.join(name);
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{folder:?} is empty");
        }
    }
}
