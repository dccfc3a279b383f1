//! `policy.toml`, from text to rules. Keys are read at once: a rule whose key is lost must not wait for its first image
//! to say so.

use std::path::{Path, PathBuf};

use corten_spec::Reference;
use serde::Deserialize;

use super::claim::Identity;
use super::key::PublicKey;
use super::openpgp::KeyRing;
use super::pattern::Pattern;
use super::{Action, Lookaside, Policy, PolicyError, Requirement, Rule, read};

/// More is a mistake, or an attack on whoever reads it.
const FILE_MAX: u64 = 1 << 20;
const KEY_MAX: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Word,
    #[serde(default)]
    archives: Option<Word>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Word {
    Accept,
    Reject,
    Require,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RawRule {
    names: Vec<String>,
    action: Word,
    #[serde(default)]
    keys: Vec<PathBuf>,
    #[serde(default)]
    gpg_keys: Vec<PathBuf>,
    lookaside: Option<String>,
    #[serde(default)]
    identity: Option<Identity>,
    signed_as: Option<String>,
}

pub(super) fn load(path: &Path) -> Result<Policy, PolicyError> {
    let wrong = |why: String| PolicyError::Rule {
        path: path.into(),
        why,
    };
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) => {
            return Ok(Policy {
                default: Action::Accept,
                archives: Action::Accept,
                rules: Vec::new(),
            });
        }
        Err(e) => return Err(wrong(e.to_string())),
    }
    let bytes = read(path, FILE_MAX).map_err(wrong)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("it is no UTF-8".into()))?;
    let file: File = toml::from_str(&text).map_err(|source| PolicyError::Syntax {
        path: path.into(),
        source: Box::new(source),
    })?;
    let bare = |word: Word, key: &str| match word {
        Word::Accept => Ok(Action::Accept),
        Word::Reject => Ok(Action::Reject),
        Word::Require => Err(wrong(format!(
            "{key} is accept or reject; what requires a signature is a rule"
        ))),
    };
    let default = bare(file.default, "default")?;
    let archives = match file.archives {
        Some(word) => bare(word, "archives")?,
        // Who rejects what no rule names does not mean to let it in by another door.
        None => bare(file.default, "archives")?,
    };
    let rules = file.rule.into_iter().map(|r| rule(path, r));
    Ok(Policy {
        default,
        archives,
        rules: rules.collect::<Result<_, _>>()?,
    })
}

/// The text alone, and its patterns: no key is read.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) {
    let Ok(file) = toml::from_str::<File>(text) else {
        return;
    };
    for name in file.rule.iter().flat_map(|r| &r.names) {
        if let Ok(pattern) = Pattern::parse(name) {
            let _ = (pattern.literal(), pattern.weight());
            for known in ["a.b/c:1", "busybox"] {
                if let Ok(reference) = known.parse() {
                    let _ = pattern.fits(&reference);
                }
            }
        }
    }
}

fn rule(path: &Path, raw: RawRule) -> Result<Rule, PolicyError> {
    let wrong = |why: String| PolicyError::Rule {
        path: path.into(),
        why,
    };
    if raw.names.is_empty() {
        return Err(wrong("a rule has no names".into()));
    }
    let patterns = raw.names.iter().map(|n| Pattern::parse(n).map_err(wrong));
    let patterns = patterns.collect::<Result<Vec<_>, _>>()?;
    let of = raw.names.join(", ");
    let has_keys = !(raw.keys.is_empty() && raw.gpg_keys.is_empty());
    let idle =
        has_keys || raw.lookaside.is_some() || raw.identity.is_some() || raw.signed_as.is_some();
    let action = match raw.action {
        Word::Accept | Word::Reject if idle => {
            return Err(wrong(format!(
                "the rule for {of} has keys, and does not require a signature"
            )));
        }
        Word::Accept => Action::Accept,
        Word::Reject => Action::Reject,
        Word::Require if !has_keys => {
            return Err(wrong(format!(
                "the rule for {of} requires a signature, and names no key"
            )));
        }
        Word::Require => Action::Require(Box::new(requirement(path, raw, &patterns)?)),
    };
    Ok(Rule { patterns, action })
}

fn requirement(
    path: &Path,
    raw: RawRule,
    patterns: &[Pattern],
) -> Result<Requirement, PolicyError> {
    let wrong = |why: String| PolicyError::Rule {
        path: path.into(),
        why,
    };
    let lookaside = raw.lookaside.as_deref().map(|text| {
        let folder = text.strip_prefix("file://").unwrap_or(text);
        match text.split_once("://") {
            Some(("http" | "https", rest)) if !rest.is_empty() => {
                Ok(Lookaside::Url(text.trim_end_matches('/').to_owned()))
            }
            _ if folder.starts_with('/') => Ok(Lookaside::Folder(folder.into())),
            _ => Err(wrong(format!(
                "lookaside {text:?} is neither an absolute folder nor an http(s) URL"
            ))),
        }
    });
    let lookaside = lookaside.transpose()?;
    if raw.gpg_keys.is_empty() != lookaside.is_none() {
        return Err(wrong("gpg-keys and lookaside need each other".into()));
    }
    let signed_as = match (raw.signed_as, patterns) {
        (None, _) => None,
        (Some(to), [pattern]) => {
            let from = pattern.literal().ok_or_else(|| {
                wrong("signed-as goes with a name whose wildcards begin at a component, and without a tag".into())
            })?;
            if format!("{to}/x").parse::<Reference>().is_err() {
                return Err(wrong(format!("signed-as {to:?} is no beginning of a name")));
            }
            Some((from.to_owned(), to))
        }
        (Some(_), _) => return Err(wrong("signed-as goes with one name only".into())),
    };
    let mut keys = Vec::new();
    for file in &raw.keys {
        keys.extend(key(path, file, |bytes| PublicKey::parse_all(bytes, file))?);
    }
    let mut rings = Vec::new();
    for file in &raw.gpg_keys {
        rings.push(key(path, file, KeyRing::parse)?);
    }
    Ok(Requirement {
        keys,
        rings,
        lookaside,
        identity: raw.identity.unwrap_or_default(),
        signed_as,
    })
}

/// A relative path is relative to the policy's own folder.
fn key<T>(
    policy: &Path,
    file: &Path,
    parse: impl FnOnce(&[u8]) -> Result<T, String>,
) -> Result<T, PolicyError> {
    let path = policy.parent().unwrap_or(Path::new("/")).join(file);
    let parsed = read(&path, KEY_MAX).and_then(|bytes| parse(&bytes));
    parsed.map_err(|why| PolicyError::Key { path, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Policy, PolicyError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, text).unwrap();
        std::fs::write(folder.path().join("garbage.pub"), "not a key").unwrap();
        load(&path)
    }

    fn decided(policy: &Policy, name: &str) -> String {
        let (action, rule) = policy.decide(&name.parse().unwrap());
        let word = match action {
            Action::Accept => "accept",
            Action::Reject => "reject",
            Action::Require(_) => "require",
        };
        format!("{word} by {rule}")
    }

    #[test]
    fn the_most_specific_rule_decides() {
        let policy = load_text(
            r#"
            default = "reject"
            [[rule]]
            names = ["docker.io/**"]
            action = "accept"
            [[rule]]
            names = ["docker.io/library/*", "quay.io/a/b"]
            action = "reject"
            [[rule]]
            names = ["docker.io/library/busybox:1.*"]
            action = "accept"
            [[rule]]
            names = ["localhost:5000/**"]
            action = "accept"
            [[rule]]
            names = ["localhost:5000/**"]
            action = "reject"
            "#,
        )
        .unwrap();
        for (name, expected) in [
            ("busybox:1.36", "accept by docker.io/library/busybox:1.*"),
            ("busybox:2", "reject by docker.io/library/*"),
            ("someone/thing", "accept by docker.io/**"),
            ("quay.io/a/b:x", "reject by quay.io/a/b"),
            ("quay.io/a/c", "reject by default"),
            ("localhost:5000/x", "reject by localhost:5000/**"),
        ] {
            assert_eq!(decided(&policy, name), expected, "{name}");
        }
        assert!(matches!(policy.archives, Action::Reject));
    }

    #[test]
    fn what_is_wrong_stops_everything() {
        for (text, word) in [
            ("", "default"),
            ("default = \"maybe\"", "maybe"),
            ("default = \"accept\"\ncolour = 1", "colour"),
            ("default = \"require\"", "rule"),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"a.b/c\"]\naction = \"accept\"\nkey = []",
                "key",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = []\naction = \"accept\"",
                "no names",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"busybox\"]\naction = \"accept\"",
                "busybox",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"a.b/c\"]\naction = \"require\"",
                "no key",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"a.b/c\"]\naction = \"require\"\nkeys = [\"no.pub\"]",
                "no.pub",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"a.b/c\"]\naction = \"require\"\nkeys = [\"garbage.pub\"]",
                "garbage.pub",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"a.b/c\"]\naction = \"accept\"\nkeys = [\"no.pub\"]",
                "not require",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"a.b/c\"]\naction = \"require\"\nkeys = [\"no.pub\"]\nlookaside = \"/x\"",
                "each other",
            ),
            (
                "default = \"accept\"\n[[rule]]\nnames = [\"a.b/c\"]\naction = \"require\"\ngpg-keys = [\"k\"]\nlookaside = \"ftp://x\"",
                "ftp://x",
            ),
        ] {
            let error = load_text(text).expect_err(text);
            let whole = match &error {
                PolicyError::Syntax { source, .. } => format!("{error}: {source}"),
                _ => error.to_string(),
            };
            assert!(whole.contains(word), "{text}: {whole}");
        }
    }
}
