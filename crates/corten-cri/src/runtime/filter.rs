//! Who is on a list that kubelet has narrowed.

use std::collections::BTreeMap;

/// Every label that is asked for is there.
pub fn labels(has: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> bool {
    wanted
        .iter()
        .all(|(key, value)| has.get(key) == Some(value))
}

/// By id, or the beginning of one; nothing: everybody.
pub fn id(has: &str, wanted: &str) -> bool {
    has.starts_with(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_labels_count() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect()
        };
        let has = map(&[("a", "1"), ("b", "2")]);
        assert!(labels(&has, &map(&[])));
        assert!(labels(&has, &map(&[("a", "1")])));
        assert!(!labels(&has, &map(&[("a", "1"), ("b", "3")])));
        assert!(!labels(&has, &map(&[("c", "")])));
        assert!(id("abc", "") && id("abc", "ab") && !id("abc", "b"));
    }
}
