//! Entrances for the fuzzer, and the same entrances tried with its corpus by an ordinary test: what strangers put
//! on the wire, into configurations, and into our plugins. None may panic, whatever it is given. Compiled with `--cfg fuzzing` and for the tests only.

use crate::{cni, dhcp, names, plugin};

/// An entrance, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 5] = [
    ("dns_query", dns_query),
    ("dns_answer", dns_answer),
    ("dhcp", dhcp_message),
    ("conflist", conflist),
    ("cni_stdin", cni_stdin),
];

/// What a container sends to the resolver.
pub fn dns_query(bytes: &[u8]) {
    names::fuzz::query(bytes);
}

/// What comes back from a server that was asked.
pub fn dns_answer(bytes: &[u8]) {
    names::fuzz::answer(bytes);
}

/// What comes from a DHCP server, as a packet or as a message; and as an option of ours.
pub fn dhcp_message(bytes: &[u8]) {
    dhcp::fuzz::packet_from_wire(bytes);
    dhcp::fuzz::own_message(bytes);
}

/// Network configurations, whole and in files dropped in; definitions of networks; entries of the cache.
pub fn conflist(bytes: &[u8]) {
    cni::fuzz::documents(bytes);
}

/// A call of one of the plugins. Needs root, for a network namespace of its own.
pub fn cni_stdin(bytes: &[u8]) {
    plugin::fuzz::executable(bytes);
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
