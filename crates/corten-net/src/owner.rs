//! Whose a thing is, as a text that fits wherever the kernel lets us write one: the alias of a
//! link (255 bytes), the user data of a map element (253).

use std::fmt;

/// A container, by one of its links, on one network.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    pub container_id: String,
    pub ifname: String,
    pub network: String,
}

/// Longer ids (the OCI runtime allows 1024) are written as a hash.
const MAX_ID: usize = 100;

impl Owner {
    pub fn new(container_id: &str, ifname: &str, network: &str) -> Self {
        Self {
            container_id: tag(container_id),
            ifname: ifname.into(),
            network: network.into(),
        }
    }

    /// Reads what `to_string` wrote; what others wrote makes no owner.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix("corten ")?.split(' ');
        let owner = Self {
            container_id: words.next()?.into(),
            ifname: words.next()?.into(),
            network: words.next()?.into(),
        };
        words.next().is_none().then_some(owner)
    }

    /// Whether this is the container's, by whichever link.
    pub fn is_container(&self, container_id: &str) -> bool {
        self.container_id == tag(container_id)
    }

    /// The name of the host's end of the veth pair: the same for the same owner, so that it is
    /// found without a list.
    pub fn veth_name(&self) -> String {
        let hash = fnv1a(self.to_string().as_bytes());
        format!("veth{:08x}", (hash ^ (hash >> 32)) as u32)
    }

    /// A MAC address of the owner's own: locally administered, unicast.
    pub fn mac(&self, salt: &str) -> [u8; 6] {
        let hash = fnv1a(format!("{salt} {self}").as_bytes()).to_be_bytes();
        [
            hash[0] & 0xfc | 0x02,
            hash[1],
            hash[2],
            hash[3],
            hash[4],
            hash[5],
        ]
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "corten {} {} {}",
            self.container_id, self.ifname, self.network
        )
    }
}

fn tag(container_id: &str) -> String {
    if container_id.len() <= MAX_ID {
        return container_id.into();
    }
    // `#` is in no id: none that is short is taken for a long one.
    format!("#{:016x}", fnv1a(container_id.as_bytes()))
}

/// FNV-1a, with a final mix (MurmurHash3's) as its low bits are weak on short texts.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    let mut hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let owner = Owner::new(&"a".repeat(64), "eth0", "bridge");
        assert_eq!(Owner::parse(&owner.to_string()), Some(owner.clone()));
        let long = Owner::new(&"a".repeat(1024), "fifteencharacte", &"n".repeat(128));
        assert!(long.to_string().len() <= 253);
        assert!(long.is_container(&"a".repeat(1024)) && !long.is_container("a"));
        assert!(!long.is_container(long.container_id.trim_start_matches('#')));
        for other in ["", "corten", "corten a", "corten a b c d", "docker a b c"] {
            assert_eq!(Owner::parse(other), None, "{other}");
        }
    }

    #[test]
    fn names_and_macs_are_valid_and_differ() {
        let names: std::collections::BTreeSet<(String, [u8; 6])> = (0..1000)
            .map(|i| {
                let o = Owner::new(&i.to_string(), "eth0", "n");
                (o.veth_name(), o.mac("host"))
            })
            .collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|(n, m)| n.len() == 12 && m[0] & 3 == 2));
    }
}
