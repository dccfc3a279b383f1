//! As much of OpenPGP (RFC 4880, with the keys of RFC 9580 that GnuPG makes) as it takes to check a signed message: version 4
//! keys and signatures; RSA, ECDSA on P-256 and P-384, Ed25519; SHA-2. Nothing is decrypted, made or written.
//!
//! ```text
//!  message ── packets ──► literal + signatures ── a key of the ring, bound, signing, neither expired nor revoked ──► payload
//! ```
//! What is not known is refused: a critical subpacket, an old hash, a key without a valid self-signature.

mod hash;
mod keyring;
mod packet;
mod signature;

pub use keyring::KeyRing;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};

    /// GnuPG in a folder of its own.
    struct Gpg(tempfile::TempDir);

    impl Gpg {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn run(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
            let mut child = Command::new("gpg")
                .args([
                    "--homedir",
                    self.0.path().to_str().unwrap(),
                    "--batch",
                    "--yes",
                    "--quiet",
                ])
                .args([
                    "--pinentry-mode",
                    "loopback",
                    "--passphrase",
                    "",
                    "--no-auto-check-trustdb",
                    "--trust-model",
                    "always",
                ])
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            let done = child.wait_with_output().unwrap();
            assert!(
                done.status.success(),
                "{args:?}: {}",
                String::from_utf8_lossy(&done.stderr)
            );
            done.stdout
        }

        fn make(&self, user: &str, algorithm: &str, usage: &str, expires: &str) {
            self.run(&["--quick-gen-key", user, algorithm, usage, expires], b"");
        }

        fn ring(&self, armor: bool) -> KeyRing {
            let args: &[&str] = if armor {
                &["--export", "--armor"]
            } else {
                &["--export"]
            };
            KeyRing::parse(&self.run(args, b"")).unwrap()
        }
    }

    impl Drop for Gpg {
        fn drop(&mut self) {
            // Its agent would outlive the folder otherwise.
            let home = self.0.path().to_str().unwrap();
            let _ = Command::new("gpgconf")
                .args(["--homedir", home, "--kill", "all"])
                .status();
        }
    }

    fn available() -> bool {
        let there = Path::new("/usr/bin/gpg").exists();
        if !there {
            eprintln!("skipped: GnuPG is not installed");
        }
        there
    }

    #[test]
    fn what_gnupg_signed_is_opened() {
        if !available() {
            return;
        }
        for algorithm in ["rsa2048", "ed25519", "nistp256", "nistp384"] {
            let gpg = Gpg::new();
            gpg.make("a@example.test", algorithm, "sign", "1d");
            let payload = vec![b'x'; 70_000];
            for (args, armor) in [
                (&["--sign"][..], false),
                (&["--sign", "-z", "0"], true),
                (&["--sign", "--compress-algo", "zlib"], false),
            ] {
                let message = gpg.run(args, &payload);
                let (opened, signer) = gpg.ring(armor).open(&message).unwrap();
                assert_eq!(opened, payload, "{algorithm} {args:?}");
                assert_eq!(signer.len(), 40, "{signer}");
                // One bit anywhere: it is another payload, or no valid message.
                for at in (0..message.len()).step_by(message.len() / 40 + 1) {
                    let mut changed = message.clone();
                    changed[at] ^= 1;
                    assert!(
                        gpg.ring(armor)
                            .open(&changed)
                            .map_or(true, |(p, _)| p == payload),
                        "{algorithm} {at}"
                    );
                }
            }
            let other = Gpg::new();
            other.make("b@example.test", algorithm, "sign", "1d");
            let why = gpg
                .ring(false)
                .open(&other.run(&["--sign"], b"x"))
                .unwrap_err();
            assert!(why.contains("none of the keys"), "{why}");
        }
    }

    #[test]
    fn keys_that_may_not_sign_do_not() {
        if !available() {
            return;
        }
        let gpg = Gpg::new();
        gpg.make("a@example.test", "ed25519", "sign", "1d");
        let listed = String::from_utf8(gpg.run(&["--list-keys", "--with-colons"], b"")).unwrap();
        let fingerprint = listed
            .lines()
            .find_map(|l| l.strip_prefix("fpr:"))
            .unwrap()
            .trim_matches(':')
            .to_owned();
        gpg.run(
            &["--quick-add-key", &fingerprint, "ed25519", "sign", "1d"],
            b"",
        );
        // GnuPG signs with the newest key: the one below, which its primary key has bound and which has bound itself.
        let message = gpg.run(&["--sign"], b"payload");
        let (_, signer) = gpg.ring(false).open(&message).unwrap();
        assert_ne!(signer, fingerprint);
        // From the day after tomorrow on, nothing of it holds any more.
        let late = gpg
            .ring(false)
            .at(std::time::Duration::from_secs(2 * 86_400))
            .open(&message)
            .unwrap_err();
        assert!(late.contains("expired"), "{late}");
        // The ring without the binding's half: the key below is not known.
        let bytes = gpg.run(&["--export", "--export-options", "export-minimal"], b"");
        let mut cut = bytes.clone();
        cut.truncate(bytes.len() - 10);
        assert!(KeyRing::parse(&cut).is_err());
    }

    #[test]
    fn a_revoked_key_is_refused() {
        if !available() {
            return;
        }
        let gpg = Gpg::new();
        gpg.make("a@example.test", "rsa2048", "sign", "1d");
        let message = gpg.run(&["--sign"], b"payload");
        assert!(gpg.ring(false).open(&message).is_ok());
        let revocations = gpg.0.path().join("openpgp-revocs.d");
        let file = std::fs::read_dir(revocations)
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        // GnuPG writes it with a colon, so that nobody revokes by accident.
        let text = std::fs::read_to_string(file)
            .unwrap()
            .replace(":-----BEGIN", "-----BEGIN");
        gpg.run(&["--import"], text.as_bytes());
        let why = gpg.ring(false).open(&message).unwrap_err();
        assert!(why.contains("revoked"), "{why}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            if let Ok(ring) = KeyRing::parse(&bytes) {
                let _ = ring.open(&bytes);
            }
            let _ = packet::packets(&bytes);
        }
    }
}
