//! For the fuzzer: a file of devices.

use std::path::Path;

use super::registry;

/// The first byte says which of the two forms the rest is in.
pub fn document(bytes: &[u8]) {
    let Some((form, rest)) = bytes.split_first() else {
        return;
    };
    let name = match form % 2 {
        0 => "a.json",
        _ => "a.yaml",
    };
    if let Ok(document) = registry::parse(Path::new(name), rest) {
        // What is taken has devices, each of which changes something.
        let mut sum = document.container_edits.clone();
        for device in &document.devices {
            sum.append(&device.container_edits);
        }
        assert_ne!(sum, super::Edits::default());
    }
}
