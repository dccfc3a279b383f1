//! An address with its prefix length (`10.88.0.5/16`), and the arithmetic on the
//! subnet around it. Works on 128-bit numbers so that IPv4 and IPv6 share the code.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is no CIDR.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CidrError {
    #[error("{text:?} is no address with a prefix length, such as 10.88.0.0/16")]
    Form { text: String },
    #[error("{text:?} has a prefix longer than {max} bits")]
    Prefix { text: String, max: u8 },
}

/// An IP address and the length of its network prefix. The host bits may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// `None` if the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(address)).then_some(Self { address, prefix })
    }

    /// The address alone: a `/32` or `/128`.
    pub fn host(address: IpAddr) -> Self {
        Self {
            address,
            prefix: bits(address),
        }
    }

    pub fn address(&self) -> IpAddr {
        self.address
    }

    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    pub fn is_ipv4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The same prefix with the host bits cleared.
    pub fn network(&self) -> Self {
        Self {
            address: self.first(),
            prefix: self.prefix,
        }
    }

    /// The lowest address of the subnet (IPv4: the network address).
    pub fn first(&self) -> IpAddr {
        from_number(number(self.address) & self.mask(), self.is_ipv4())
    }

    /// The highest address of the subnet (IPv4: the broadcast address).
    pub fn last(&self) -> IpAddr {
        let host = !self.mask() & family_mask(self.is_ipv4());
        from_number(number(self.address) | host, self.is_ipv4())
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4()
            && number(address) & self.mask() == number(self.address) & self.mask()
    }

    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.first()) || other.contains(self.first())
    }

    fn mask(&self) -> u128 {
        let host_bits = u32::from(bits(self.address) - self.prefix);
        let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
        mask & family_mask(self.is_ipv4())
    }
}

/// The address after this one, if the family has one.
pub fn next(address: IpAddr) -> Option<IpAddr> {
    let n = number(address);
    (n < family_mask(address.is_ipv4())).then(|| from_number(n + 1, address.is_ipv4()))
}

/// The address before this one, if the family has one.
pub fn previous(address: IpAddr) -> Option<IpAddr> {
    number(address)
        .checked_sub(1)
        .map(|n| from_number(n, address.is_ipv4()))
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn family_mask(v4: bool) -> u128 {
    if v4 { u128::from(u32::MAX) } else { u128::MAX }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

fn from_number(n: u128, v4: bool) -> IpAddr {
    if v4 {
        // Masked to 32 bits by every caller.
        IpAddr::V4(Ipv4Addr::from(n as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from(n))
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let form = || CidrError::Form {
            text: text.chars().take(64).collect(),
        };
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: IpAddr = address.parse().map_err(|_| form())?;
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
            return Err(form());
        }
        let max = bits(address);
        prefix
            .parse()
            .ok()
            .and_then(|prefix| Self::new(address, prefix))
            .ok_or_else(|| CidrError::Prefix {
                text: text.chars().take(64).collect(),
                max,
            })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(s: &str) -> Cidr {
        s.parse().unwrap()
    }

    #[test]
    fn knows_the_edges_of_a_subnet() {
        let c = cidr("10.88.3.5/16");
        assert_eq!(c.network().to_string(), "10.88.0.0/16");
        assert_eq!(c.last().to_string(), "10.88.255.255");
        assert!(c.contains("10.88.200.1".parse().unwrap()));
        assert!(!c.contains("10.89.0.1".parse().unwrap()));
        assert!(!c.contains("::1".parse().unwrap()));
        let all = cidr("0.0.0.0/0");
        assert_eq!(all.last().to_string(), "255.255.255.255");
        let c = cidr("fd00:1::5/64");
        assert_eq!(c.first().to_string(), "fd00:1::");
        assert_eq!(c.last().to_string(), "fd00:1::ffff:ffff:ffff:ffff");
        assert_eq!(cidr("::/0").first().to_string(), "::");
    }

    #[test]
    fn steps_stop_at_the_end_of_the_family() {
        assert_eq!(next("255.255.255.255".parse().unwrap()), None);
        assert_eq!(previous("::".parse().unwrap()), None);
        assert_eq!(
            next("10.0.0.255".parse().unwrap()).unwrap().to_string(),
            "10.0.1.0"
        );
    }

    #[test]
    fn refuses_what_is_no_cidr() {
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/",
            "10.0.0.1/+8",
            "x/8",
            "10.0.0/8",
        ] {
            assert!(
                matches!(bad.parse::<Cidr>(), Err(CidrError::Form { .. })),
                "{bad}"
            );
        }
        for bad in ["10.0.0.0/33", "::/129", "::/99999999999"] {
            assert!(
                matches!(bad.parse::<Cidr>(), Err(CidrError::Prefix { .. })),
                "{bad}"
            );
        }
    }
}
