//! The walls cannot be taken down in what is shipped.

use super::{proves, weak};
use crate::harness::runtime;

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

/// Neither the variable nor a wall's name is in an ordinary build; both are in the weak one.
#[test]
fn an_ordinary_build_has_no_walls_to_take_down() {
    if !proves() {
        return;
    }
    let strong = std::fs::read(runtime()).unwrap();
    let weak = std::fs::read(weak()).unwrap();
    for text in [
        "CORTEN_WEAKEN",
        "rooted.no_in_root",
        "ids.unchecked",
        "trampoline.none",
    ] {
        assert!(!holds(&strong, text), "{text} is in the ordinary build");
        assert!(holds(&weak, text), "{text} is not in the weak build");
    }
}
