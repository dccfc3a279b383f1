//! For the fuzzer: a file of devices.

use std::path::Path;

use super::registry;

/// The first byte says which of the two forms the rest is in. What is read can be read again as its own sum.
pub fn document(bytes: &[u8]) {
    let Some((form, rest)) = bytes.split_first() else {
        return;
    };
    let name = if form % 2 == 0 { "a.json" } else { "a.yaml" };
    if let Ok(document) = registry::parse(Path::new(name), rest) {
        let mut edits = document.container_edits.clone();
        for device in &document.devices {
            edits.append(&device.container_edits);
        }
        assert!(edits.env.len() >= document.container_edits.env.len());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn takes_anything() {
        for bytes in [&b""[..], b"\0{}", b"\x01a: 1", b"\x01\xff", b"\0["] {
            super::document(bytes);
        }
    }
}
