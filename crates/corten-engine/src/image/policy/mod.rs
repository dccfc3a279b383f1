//! Whose images come in: `policy.toml`, and the proof of a signature.
//!
//! ```text
//!  name ── the most specific rule ──► accept
//!                                 ├─► reject
//!                                 └─► require ── signatures from registry and lookaside ── key, payload, name ──► digest, or a refusal
//! ```
//! The question is asked between resolving a name and fetching what it names; what was proven is a digest, and that digest
//! is what is stored. [`file`] reads, [`evidence`] fetches, [`cosign`], [`simple`] and [`openpgp`] prove. A file that cannot be
//! read, or that has a word too many, refuses everything: a misspelt rule must not be one that does not apply.

mod claim;
mod cosign;
mod evidence;
mod file;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod key;
mod openpgp;
mod pattern;
mod simple;

use std::path::{Path, PathBuf};

use corten_registry::client::Client;
use corten_spec::{Digest, Kind, Reference};

use crate::error::Error as EngineError;
use crate::{Engine, Paths};
use claim::Identity;
use key::PublicKey;
use openpgp::KeyRing;
use pattern::Pattern;

/// Below the engine's configuration.
const FILE: &str = "policy.toml";
/// Reasons that a person is told.
const TOLD: usize = 5;

/// What `policy.toml` says.
#[derive(Debug)]
pub struct Policy {
    default: Action,
    archives: Action,
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    patterns: Vec<Pattern>,
    action: Action,
}

#[derive(Debug)]
enum Action {
    Accept,
    Reject,
    Require(Box<Requirement>),
}

/// One of these keys must have signed.
#[derive(Debug)]
struct Requirement {
    keys: Vec<PublicKey>,
    rings: Vec<KeyRing>,
    lookaside: Option<Lookaside>,
    identity: Identity,
    /// In place of the pattern's part without wildcards, the name that was signed begins with this.
    signed_as: Option<(String, String)>,
}

/// Where simple signing's documents lie.
#[derive(Debug)]
enum Lookaside {
    Folder(PathBuf),
    /// Without a slash at its end.
    Url(String),
}

/// Why the policy cannot be used, or what it refuses.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("policy {path:?} cannot be used")]
    Syntax {
        path: PathBuf,
        #[source]
        source: Box<toml::de::Error>,
    },
    #[error("policy {path:?} cannot be used: {why}")]
    Rule { path: PathBuf, why: String },
    #[error("key {path:?} cannot be used: {why}")]
    Key { path: PathBuf, why: String },
    #[error("the policy rejects {name}, by its rule {rule:?}")]
    Rejected { name: String, rule: String },
    #[error("the policy requires a signature on {name} ({digest}), by its rule {rule:?}")]
    Unsigned {
        name: String,
        digest: Digest,
        rule: String,
        source: Unproven,
    },
}

/// What was found instead of a valid signature.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.text())]
pub struct Unproven(pub Vec<String>);

impl Unproven {
    fn text(&self) -> String {
        match self.0.as_slice() {
            [] => "no signature was found".into(),
            [one] => format!("one signature was found: {one}"),
            all => {
                let mut told: Vec<&str> = all.iter().map(String::as_str).collect();
                told.dedup();
                let more = if told.len() > TOLD { "; …" } else { "" };
                told.truncate(TOLD);
                format!(
                    "{} signatures were found, and none is valid: {}{more}",
                    all.len(),
                    told.join("; ")
                )
            }
        }
    }
}

impl PolicyError {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Syntax { .. } | Self::Rule { .. } | Self::Key { .. } => Kind::Invalid,
            Self::Rejected { .. } | Self::Unsigned { .. } => Kind::Denied,
        }
    }
}

/// How the question was answered, for who wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// No rule asks for more.
    Accepted,
    /// Signed, and by which key.
    Signed(String),
}

impl Policy {
    /// Reads the file; where there is none, everything is accepted.
    pub fn load(paths: &Paths) -> Result<Self, PolicyError> {
        file::load(&paths.etc().join(FILE))
    }

    /// The action for a name, and the pattern that decided, as it is written.
    fn decide(&self, reference: &Reference) -> (&Action, &str) {
        let all = self.rules.iter();
        let all = all.flat_map(|r| r.patterns.iter().map(move |p| (p, &r.action)));
        let fitting = all.filter(|(p, _)| p.fits(reference));
        // Of two as specific, the stricter.
        let best = fitting.max_by_key(|(p, action)| (p.weight(), action.strictness()));
        match best {
            Some((pattern, action)) => (action, pattern.text()),
            None => (&self.default, "default"),
        }
    }
}

impl Action {
    fn strictness(&self) -> u8 {
        match self {
            Self::Accept => 0,
            Self::Require(_) => 1,
            Self::Reject => 2,
        }
    }
}

impl Engine {
    /// Asks the policy about what a name was resolved to: `digests` are those of the index and of the image in it,
    /// either of which a signature may be on, since the one names the other.
    pub(crate) async fn admit(
        &self,
        client: &Client,
        reference: &Reference,
        digests: &[&Digest],
    ) -> Result<Admission, EngineError> {
        let policy = Policy::load(&self.paths)?;
        let (action, rule) = policy.decide(reference);
        let name = reference.familiar();
        let rule = || rule.to_owned();
        let requirement = match action {
            Action::Accept => return Ok(Admission::Accepted),
            Action::Reject => return Err(PolicyError::Rejected { name, rule: rule() }.into()),
            Action::Require(requirement) => requirement,
        };
        let mut reasons = Vec::new();
        let mut seen: Vec<&Digest> = Vec::new();
        for &digest in digests {
            if seen.contains(&digest) {
                continue;
            }
            seen.push(digest);
            let search = evidence::Search {
                client,
                reference,
                digest,
                requirement,
            };
            if let Some(signer) = search.run(&mut reasons).await? {
                return Ok(Admission::Signed(signer));
            }
        }
        Err(PolicyError::Unsigned {
            name,
            digest: digests
                .first()
                .map_or_else(|| Digest::of(b""), |d| (*d).clone()),
            rule: rule(),
            source: Unproven(reasons),
        }
        .into())
    }

    /// What is rejected by its name is not even asked for.
    pub(crate) fn refuse_rejected(&self, reference: &Reference) -> Result<(), EngineError> {
        let policy = Policy::load(&self.paths)?;
        match policy.decide(reference) {
            (Action::Reject, rule) => Err(PolicyError::Rejected {
                name: reference.familiar(),
                rule: rule.into(),
            }
            .into()),
            _ => Ok(()),
        }
    }

    /// Asks the policy about an archive or folder of images. Those carry no signature that could be looked up by name.
    pub(crate) fn admit_archive(&self, label: &str) -> Result<(), EngineError> {
        let policy = Policy::load(&self.paths)?;
        match policy.archives {
            Action::Accept => Ok(()),
            Action::Reject | Action::Require(_) => Err(PolicyError::Rejected {
                name: label.into(),
                rule: "archives".into(),
            }
            .into()),
        }
    }

    /// What the policy says of a name, without asking anybody: for people who write one.
    pub fn policy_for(&self, reference: &Reference) -> Result<(&'static str, String), EngineError> {
        let policy = Policy::load(&self.paths)?;
        let (action, rule) = policy.decide(reference);
        let word = match action {
            Action::Accept => "accept",
            Action::Reject => "reject",
            Action::Require(_) => "require",
        };
        Ok((word, rule.to_owned()))
    }
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    file.take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    match bytes.len() as u64 > max {
        true => Err(format!("it is larger than {max} bytes")),
        false => Ok(bytes),
    }
}
