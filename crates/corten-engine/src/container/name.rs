//! Names for containers that were given none: an adjective and a noun of steel and harbour.

const FIRST: [&str; 32] = [
    "amber", "bold", "brave", "bright", "calm", "clever", "copper", "eager", "early", "gentle",
    "golden", "grand", "happy", "hardy", "keen", "light", "lively", "lucky", "mellow", "merry",
    "noble", "patient", "plain", "proud", "quick", "quiet", "rusty", "solid", "steady", "swift",
    "warm", "wise",
];

const SECOND: [&str; 32] = [
    "anchor", "anvil", "barge", "beacon", "bollard", "bridge", "buoy", "cable", "capstan", "crane",
    "davit", "derrick", "dock", "ferry", "forge", "girder", "harbour", "hull", "jetty", "keel",
    "ladle", "lantern", "mast", "mooring", "pier", "pilot", "quay", "rivet", "rudder", "sluice",
    "tide", "winch",
];

/// A name from an id of hexadecimal digits; after a clash (`attempt` above 0) some of those are added.
pub fn generate(id: &str, attempt: u32) -> String {
    let pick = |list: [&'static str; 32], digits: &str| {
        list[usize::from_str_radix(digits, 16).unwrap_or_default() % 32]
    };
    let (a, b) = (pick(FIRST, &id[0..2]), pick(SECOND, &id[2..4]));
    match attempt {
        0 => format!("{a}_{b}"),
        _ => format!("{a}_{b}_{}", &id[4..8]),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_name_is_a_name() {
        for byte in 0..=255u8 {
            let id = corten_spec::ContainerId::from_random(&[byte.wrapping_mul(7); 32]);
            for attempt in 0..3 {
                super::generate(id.as_str(), attempt)
                    .parse::<corten_spec::Name>()
                    .unwrap();
            }
        }
    }
}
