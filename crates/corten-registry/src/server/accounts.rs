//! Who may come in: users and bcrypt hashes in a file as `htpasswd -B` writes it, asked for by HTTP Basic.
//!
//! bcrypt is slow on purpose, and clients send their password with each request. So a password that was right is
//! remembered, as a hash under a key that only this process knows, for as long as the file stays as it is. Whoever is
//! not known costs as much as who is: a hash of the same cost is computed for them. A file that cannot be understood
//! does not take the place of the one before it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

use super::ServerError;
use super::watched::Watched;

/// The largest file, in bytes.
const FILE_MAX: u64 = 1 << 20;
/// The longest user name and password together, in bytes.
const PAIR_MAX: usize = 1024;
/// The highest cost: at 17 a check takes ten seconds, and each further one doubles that.
const COST_MAX: u32 = 16;
/// Checks at once: strangers must not have all our processors by sending passwords.
const CHECKS_AT_ONCE: usize = 2;

/// The accounts of a server.
pub(super) struct Accounts {
    file: Watched<Users>,
    /// Passwords that were right, by the file's version.
    known: Mutex<(u64, HashMap<String, [u8; 32]>)>,
    key: [u8; 32],
    checks: Semaphore,
}

/// What a password file says.
#[derive(Debug)]
pub(crate) struct Users {
    hashes: HashMap<String, String>,
    /// For those who are not there: of the highest cost that is.
    nobody: String,
}

/// A password file that is none, by line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadLine {
    pub line: usize,
    pub why: &'static str,
}

impl Users {
    /// Reads lines of `USER:HASH`; blank ones and those that begin with `#` are passed over.
    pub fn parse(text: &str) -> Result<Self, BadLine> {
        let mut hashes = HashMap::new();
        let mut highest = 4;
        for (n, line) in text.lines().enumerate() {
            let bad = |why| BadLine { line: n + 1, why };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, hash) = line.split_once(':').ok_or(bad("is not USER:HASH"))?;
            if user.is_empty() || user.chars().any(char::is_control) {
                return Err(bad("has no usable user name"));
            }
            let parts: bcrypt::HashParts = bcrypt_form(hash)
                .and_then(|h| h.parse().ok())
                .ok_or(bad("has no bcrypt hash (htpasswd makes one with -B)"))?;
            let cost = parts.get_cost();
            if cost > COST_MAX {
                return Err(bad("has a hash of a cost that nobody can wait for"));
            }
            highest = highest.max(cost);
            if hashes.insert(user.to_owned(), hash.to_owned()).is_some() {
                return Err(bad("names a user that has a line already"));
            }
        }
        // Any salt and any hash will do: no password has it.
        let nobody = format!("$2b${highest:02}${}", ".".repeat(53));
        Ok(Self { hashes, nobody })
    }

    /// Slow, and equally so whoever asks.
    fn check(&self, user: &str, password: &[u8]) -> bool {
        let hash = self.hashes.get(user);
        let right = bcrypt::verify(password, hash.unwrap_or(&self.nobody)).unwrap_or(false);
        right && hash.is_some()
    }
}

/// The prefixes that differ in no way that matters: what has one of them is `$2b$` for the crate below.
fn bcrypt_form(hash: &str) -> Option<&str> {
    let fits = ["$2a$", "$2b$", "$2y$"].iter().any(|p| hash.starts_with(p));
    (fits && hash.len() == 60 && hash.is_ascii()).then_some(hash)
}

impl Accounts {
    pub fn open(path: PathBuf) -> Result<Self, ServerError> {
        let file = Watched::open(vec![path], |paths| {
            let text = super::watched::read(&paths[0], FILE_MAX)?;
            let text = String::from_utf8(text).map_err(|_| "it is no UTF-8".to_owned())?;
            Users::parse(&text).map_err(|bad| format!("line {} {}", bad.line, bad.why))
        })?;
        let mut key = [0; 32];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut key)
            .map_err(|_| ServerError::Random)?;
        Ok(Self {
            file,
            known: Mutex::default(),
            key,
            checks: Semaphore::new(CHECKS_AT_ONCE),
        })
    }

    /// The user that an `Authorization` header proves, if it does.
    pub async fn user(self: &Arc<Self>, header: Option<&str>) -> Option<String> {
        let (user, password) = basic(header?)?;
        let (users, version) = self.file.now();
        let seal = self.seal(&user, &password);
        if self.is_known(version, &user, &seal) {
            return Some(user);
        }
        // The semaphore is never closed.
        let _turn = self.checks.acquire().await.ok()?;
        let asked = user.clone();
        let checked = tokio::task::spawn_blocking(move || users.check(&asked, &password)).await;
        if !checked.unwrap_or(false) {
            return None;
        }
        let mut known = self.known.lock().unwrap_or_else(|p| p.into_inner());
        if known.0 != version {
            *known = (version, HashMap::new());
        }
        known.1.insert(user.clone(), seal);
        Some(user)
    }

    fn is_known(&self, version: u64, user: &str, seal: &[u8; 32]) -> bool {
        let known = self.known.lock().unwrap_or_else(|p| p.into_inner());
        known.0 == version && known.1.get(user).is_some_and(|k| same(k, seal))
    }

    /// What a password is remembered by: nothing without our key, which is in no file.
    fn seal(&self, user: &str, password: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.key);
        hash.update((user.len() as u64).to_le_bytes());
        hash.update(user);
        hash.update(password);
        hash.finalize().into()
    }
}

/// In a time that does not tell where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// User and password of HTTP Basic (RFC 7617).
fn basic(header: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") || encoded.len() > PAIR_MAX * 2 {
        return None;
    }
    let engine = &base64::engine::general_purpose::STANDARD;
    let pair = engine.decode(encoded.trim()).ok()?;
    let colon = pair.iter().position(|b| *b == b':')?;
    if pair.len() > PAIR_MAX {
        return None;
    }
    let user = String::from_utf8(pair[..colon].to_vec()).ok()?;
    Some((user, pair[colon + 1..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(pair: &str) -> String {
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        format!("Basic {encoded}")
    }

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4)
            .unwrap()
            .replacen("$2b$", "$2y$", 1)
    }

    #[test]
    fn files_are_read_or_their_line_is_named() {
        let good = format!("# people\n\nme:{}\n", hash("pw"));
        let users = Users::parse(&good).unwrap();
        assert!(users.check("me", b"pw"));
        assert!(!users.check("me", b"pw2"));
        assert!(!users.check("you", b"pw"));
        let twice = format!("{good}me:{}", hash("x"));
        for (text, line) in [
            ("me", 1),
            ("\nme:plain", 2),
            ("me:$apr1$abcdefgh$0123456789012345678901", 1),
            (
                ":$2y$05$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                1,
            ),
            (
                "me:$2y$31$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                1,
            ),
            (&twice, 4),
        ] {
            assert_eq!(Users::parse(text).unwrap_err().line, line, "{text}");
        }
    }

    #[tokio::test]
    async fn the_right_password_opens_until_the_file_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, format!("me:{}", hash("pw:1"))).unwrap();
        let accounts = Arc::new(Accounts::open(path.clone()).unwrap());
        let user = async |pair: &str| accounts.user(Some(&header(pair))).await;
        for _ in 0..2 {
            assert_eq!(user("me:pw:1").await.as_deref(), Some("me"));
        }
        for wrong in ["me:pw", "me:", "you:pw:1", "me", ":pw:1"] {
            assert_eq!(user(wrong).await, None, "{wrong}");
        }
        assert_eq!(accounts.user(None).await, None);
        assert_eq!(accounts.user(Some("Bearer x")).await, None);
        assert_eq!(accounts.user(Some("Basic !")).await, None);
        std::fs::write(&path, format!("me:{}\nyou:{}", hash("new"), hash("x"))).unwrap();
        accounts.file.look_again();
        assert_eq!(user("me:pw:1").await, None);
        assert_eq!(user("me:new").await.as_deref(), Some("me"));
        // What cannot be understood changes nothing.
        std::fs::write(&path, "me:plain").unwrap();
        accounts.file.look_again();
        assert_eq!(user("you:x").await.as_deref(), Some("you"));
    }

    #[test]
    fn nobody_costs_what_the_dearest_costs() {
        let users = Users::parse(&format!("a:{}", bcrypt::hash("x", 6).unwrap())).unwrap();
        assert!(users.nobody.starts_with("$2b$06$"));
        assert_eq!(users.nobody.len(), 60);
        // It must be one that is really computed.
        assert!(matches!(bcrypt::verify("x", &users.nobody), Ok(false)));
    }

    proptest::proptest! {
        #[test]
        fn any_file_is_survived(text in "([a-z]{0,3}:?(\\$2[aby]\\$[0-9]{0,3}\\$)?[ -~\n]{0,70}\n?){0,4}") {
            let _ = Users::parse(&text);
        }
    }
}
