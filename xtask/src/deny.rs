//! Licences, banned crates, crates present twice: what of `cargo deny` this
//! project needs, over the same graph, so that a check needs nothing installed.
//! Where `cargo deny` is there and a deny.toml too, it runs as well.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use crate::failure::{Context, Result, failure};
use crate::metadata::{Graph, Package};

const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates that must not come in, not even through another one.
const BANNED: &[(&str, &str)] = &[
    (
        "openssl",
        "TLS is rustls on ring; a C library would have to be installed first",
    ),
    (
        "openssl-sys",
        "TLS is rustls on ring; a C library would have to be installed first",
    ),
    ("native-tls", "TLS is rustls on ring"),
    (
        "aws-lc-sys",
        "rustls runs on ring; this one needs cmake and doubles the build",
    ),
    ("aws-lc-rs", "rustls runs on ring"),
    ("nftables", "it runs the nft command; rules go over netlink"),
    ("rustables", "GPL"),
    ("libcontainer", "the runtime is ours"),
    (
        "protoc-bin-vendored",
        "a prebuilt binary; protox compiles the messages",
    ),
];

/// Two versions of one crate that nobody here can merge: who brings the old one.
const TWICE: &[(&str, &str)] = &[
    ("base64", "tonic holds 0.22"),
    ("getrandom", "ring holds 0.2"),
    ("hashbrown", "hashlink of rusqlite and indexmap differ"),
    (
        "prettyplease",
        "prost-build and tonic-build differ, at build time only",
    ),
    ("syn", "derive crates move to 3 one by one"),
];

pub fn check(graph: &Graph) -> Result<()> {
    let mut findings = Vec::new();
    for package in graph.packages.values() {
        if let Err(why) = licence(package) {
            findings.push(format!("{} {}: {why}", package.name, package.version));
        }
        if let Some((_, why)) = BANNED.iter().find(|(name, _)| *name == package.name) {
            findings.push(format!(
                "{} {} is banned: {why}",
                package.name, package.version
            ));
        }
    }
    duplicates(graph, &mut findings);
    if !findings.is_empty() {
        return Err(failure(format!("deny:\n  {}", findings.join("\n  "))));
    }
    println!(
        "deny: {} packages, licences and bans in order",
        graph.packages.len()
    );
    cargo_deny()
}

fn duplicates(graph: &Graph, findings: &mut Vec<String>) {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in graph.packages.values() {
        versions
            .entry(&package.name)
            .or_default()
            .push(&package.version);
    }
    for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
        if !TWICE.iter().any(|(known, _)| known == name) {
            findings.push(format!(
                "{name} is there more than once ({}): align the versions, or name who holds the old one in TWICE",
                versions.join(", ")
            ));
        }
    }
}

fn cargo_deny() -> Result<()> {
    let present = Command::new("cargo-deny")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !present.is_ok_and(|status| status.success()) || !std::path::Path::new("deny.toml").exists()
    {
        return Ok(());
    }
    let status = Command::new("cargo-deny")
        .arg("check")
        .status()
        .context("cannot run cargo deny")?;
    if status.success() {
        Ok(())
    } else {
        Err(failure("cargo deny found something"))
    }
}

fn licence(package: &Package) -> std::result::Result<(), String> {
    match &package.license {
        Some(expression) => match allowed(expression) {
            Ok(true) => Ok(()),
            Ok(false) => Err(format!("licence {expression} is not allowed")),
            Err(why) => Err(format!("licence {expression}: {why}")),
        },
        None => Err(match &package.license_file {
            Some(file) => format!("only a licence file ({file}), which nobody has judged"),
            None => "no licence".to_owned(),
        }),
    }
}

/// Whether an SPDX expression can be met by what ALLOWED names.
fn allowed(expression: &str) -> std::result::Result<bool, String> {
    // `MIT/Apache-2.0` is the form of crates older than SPDX expressions.
    let spaced = expression
        .replace('(', " ( ")
        .replace(')', " ) ")
        .replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser {
        words: &words,
        at: 0,
    };
    let verdict = parser.any()?;
    if parser.at == words.len() {
        Ok(verdict)
    } else {
        Err(format!("cannot read from `{}` on", words[parser.at]))
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    at: usize,
}

impl Parser<'_> {
    fn take(&mut self, word: &str) -> bool {
        let hit = self.words.get(self.at) == Some(&word);
        self.at += usize::from(hit);
        hit
    }

    fn any(&mut self) -> std::result::Result<bool, String> {
        let mut verdict = self.all()?;
        while self.take("OR") {
            verdict |= self.all()?;
        }
        Ok(verdict)
    }

    fn all(&mut self) -> std::result::Result<bool, String> {
        let mut verdict = self.one()?;
        while self.take("AND") {
            verdict &= self.one()?;
        }
        Ok(verdict)
    }

    fn one(&mut self) -> std::result::Result<bool, String> {
        if self.take("(") {
            let verdict = self.any()?;
            return if self.take(")") {
                Ok(verdict)
            } else {
                Err("a bracket stays open".to_owned())
            };
        }
        let name = *self.words.get(self.at).ok_or("it ends too early")?;
        self.at += 1;
        // An exception only adds rights, so the licence alone decides.
        if self.take("WITH") {
            self.at += 1;
        }
        Ok(ALLOWED.contains(&name))
    }
}

#[cfg(test)]
mod tests {
    use super::allowed;

    #[test]
    fn expressions() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert_eq!(allowed(good), Ok(true), "{good}");
        }
        for bad in [
            "GPL-3.0-only",
            "MIT AND LGPL-2.1",
            "(GPL-2.0 OR LGPL-3.0) AND MIT",
        ] {
            assert_eq!(allowed(bad), Ok(false), "{bad}");
        }
        for broken in ["", "(MIT", "MIT MIT", "MIT OR"] {
            assert!(allowed(broken).is_err(), "{broken}");
        }
    }
}
