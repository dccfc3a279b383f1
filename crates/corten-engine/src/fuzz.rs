//! Entrances for the fuzzer, and the same entrances tried with its corpus by an ordinary test: what strangers write
//! about images. None may panic, whatever it is given. Compiled with `--cfg fuzzing` and for the tests only.

use crate::image;

/// An entrance, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 6] = [
    ("openpgp", openpgp),
    ("policy", policy),
    ("public_key", public_key),
    ("signature", signature),
    ("members", members),
    ("config_dump", config_dump),
];

/// Two bytes for the length of a key ring, the ring, and a message.
pub fn openpgp(bytes: &[u8]) {
    let Some((length, rest)) = bytes.split_at_checked(2) else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (ring, message) = rest.split_at(length.min(rest.len()));
    image::policy::fuzz::openpgp(ring, message);
}

/// `policy.toml`, without the keys that it names.
pub fn policy(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        image::policy::fuzz::policy(text);
    }
}

/// Public keys in PEM.
pub fn public_key(bytes: &[u8]) {
    image::policy::fuzz::public_key(bytes);
}

/// A bundle, a claim.
pub fn signature(bytes: &[u8]) {
    image::policy::fuzz::signature(bytes);
}

/// A tar, as an archive of images and as a layer.
pub fn members(bytes: &[u8]) {
    image::changes::fuzz(bytes);
}

/// A checkpoint's `config.dump`.
pub fn config_dump(bytes: &[u8]) {
    crate::pod::checkpoint::fuzz(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
