//! Entrances for the fuzzer, and the same entrances tried with its corpus by an ordinary test. None may panic, whatever
//! it is given. Compiled with `--cfg fuzzing` and for the tests only.

use crate::stream::fuzz as stream;
use crate::{cdi, image, server};

/// An entrance, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 6] = [
    ("devices", cdi::fuzz::document),
    ("spdy_frames", stream::spdy_frames),
    ("websocket_frames", stream::websocket_frames),
    ("resizes", stream::resizes),
    ("call_headers", server::fuzz::headers),
    ("pull_credentials", image::fuzz::credentials),
];

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
