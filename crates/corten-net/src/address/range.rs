//! Ranges of addresses as host-local's configuration has them. Pure.

use std::net::IpAddr;

use corten_spec::{Cidr, cidr};
use serde::Deserialize;

use crate::Error;

/// Part of a subnet, from `start` to `end`, both included. The gateway's address is in the
/// subnet and never given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    pub subnet: Cidr,
    pub start: IpAddr,
    pub end: IpAddr,
    pub gateway: IpAddr,
}

/// One address is given from each set: from any of its ranges.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

/// A range as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeConfig {
    pub subnet: Cidr,
    pub range_start: Option<IpAddr>,
    pub range_end: Option<IpAddr>,
    pub gateway: Option<IpAddr>,
}

fn invalid(what: &'static str, value: impl ToString, reason: impl Into<String>) -> Error {
    Error::Invalid {
        what,
        value: value.to_string(),
        reason: reason.into(),
    }
}

impl Range {
    pub fn new(config: &RangeConfig) -> Result<Self, Error> {
        let subnet = config.subnet.network();
        if subnet.address() != config.subnet.address() {
            return Err(invalid(
                "subnet",
                config.subnet,
                format!("has host bits set; the network is {subnet}"),
            ));
        }
        let host_bits = if subnet.is_ipv4() { 32 } else { 128 } - subnet.prefix();
        if host_bits < 2 {
            return Err(invalid("subnet", subnet, "has no address to give out"));
        }
        // The first address of a subnet is its own, the last one of IPv4 the broadcast address.
        let first = cidr::next(subnet.first()).unwrap_or(subnet.first());
        let last = match subnet.is_ipv4() {
            true => cidr::previous(subnet.last()).unwrap_or(subnet.last()),
            false => subnet.last(),
        };
        let range = Self {
            subnet,
            start: config.range_start.unwrap_or(first),
            end: config.range_end.unwrap_or(last),
            gateway: config.gateway.unwrap_or(first),
        };
        for (what, address) in [("rangeStart", range.start), ("rangeEnd", range.end)] {
            if !subnet.contains(address) || address < first || address > last {
                return Err(invalid(what, address, format!("is no host of {subnet}")));
            }
        }
        if range.start > range.end {
            return Err(invalid(
                "rangeStart",
                range.start,
                format!("is after rangeEnd {}", range.end),
            ));
        }
        if range.gateway.is_ipv4() != subnet.is_ipv4() {
            return Err(invalid(
                "gateway",
                range.gateway,
                format!("is not of the family of {subnet}"),
            ));
        }
        Ok(range)
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        // Comparing addresses of different families would order the families.
        self.subnet.contains(address) && self.start <= address && address <= self.end
    }

    fn overlaps(&self, other: &Range) -> bool {
        self.subnet.is_ipv4() == other.subnet.is_ipv4()
            && self.start <= other.end
            && other.start <= self.end
    }

    pub fn text(&self) -> String {
        format!("{}-{}", self.start, self.end)
    }
}

impl RangeSet {
    pub fn new(ranges: Vec<Range>) -> Result<Self, Error> {
        let Some(first) = ranges.first() else {
            return Err(invalid("ranges", "[]", "holds an empty set"));
        };
        for (i, a) in ranges.iter().enumerate() {
            if a.subnet.is_ipv4() != first.subnet.is_ipv4() {
                return Err(invalid(
                    "range",
                    a.text(),
                    "is of another family than its set",
                ));
            }
            if let Some(b) = ranges[..i].iter().find(|b| a.overlaps(b)) {
                return Err(invalid("range", a.text(), format!("overlaps {}", b.text())));
            }
        }
        Ok(Self(ranges))
    }

    /// No address in two sets: else a container could get it twice.
    pub fn check_disjoint(sets: &[RangeSet]) -> Result<(), Error> {
        for (i, set) in sets.iter().enumerate() {
            for a in &set.0 {
                let earlier = sets[..i].iter().flat_map(|s| &s.0);
                if let Some(b) = earlier.into_iter().find(|b| a.overlaps(b)) {
                    return Err(invalid("range", a.text(), format!("overlaps {}", b.text())));
                }
            }
        }
        Ok(())
    }

    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    pub fn range_of(&self, address: IpAddr) -> Option<&Range> {
        self.0.iter().find(|r| r.contains(address))
    }

    pub fn text(&self) -> String {
        let all: Vec<String> = self.0.iter().map(Range::text).collect();
        all.join(", ")
    }

    /// Every address of the set but the gateways, once round, beginning after `last`.
    pub fn from(&self, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
        let start = last
            .and_then(|l| self.0.iter().position(|r| r.contains(l)).map(|i| (i, l)))
            .unwrap_or((0, self.0[0].end));
        let (first_range, after) = match last.is_some_and(|l| self.range_of(l).is_some()) {
            true => start,
            // From the very beginning: as if the last range's end had been given out.
            false => (self.0.len() - 1, self.0[self.0.len() - 1].end),
        };
        let mut at = (first_range, after);
        let mut done = false;
        std::iter::from_fn(move || {
            loop {
                if done {
                    return None;
                }
                at = self.step(at);
                done = at == (first_range, after);
                let range = &self.0[at.0];
                if at.1 != range.gateway {
                    return Some((at.1, range));
                }
            }
        })
    }

    fn step(&self, (i, address): (usize, IpAddr)) -> (usize, IpAddr) {
        match cidr::next(address).filter(|n| *n <= self.0[i].end) {
            Some(next) => (i, next),
            None => {
                let i = (i + 1) % self.0.len();
                (i, self.0[i].start)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(json: serde_json::Value) -> Result<Range, Error> {
        Range::new(&serde_json::from_value(json).unwrap())
    }

    fn set(ranges: &[(&str, &str)]) -> RangeSet {
        let all = ranges.iter().map(|(s, e)| {
            range(serde_json::json!({"subnet": "10.0.0.0/24", "rangeStart": s, "rangeEnd": e}))
                .unwrap()
        });
        RangeSet::new(all.collect()).unwrap()
    }

    #[test]
    fn goes_round_once_from_after_the_last_and_skips_the_gateway() {
        let s = set(&[("10.0.0.1", "10.0.0.3"), ("10.0.0.10", "10.0.0.11")]);
        let walk = |last: Option<&str>| -> Vec<String> {
            s.from(last.map(|l| l.parse().unwrap()))
                .map(|(a, _)| a.to_string())
                .collect()
        };
        let all = ["10.0.0.2", "10.0.0.3", "10.0.0.10", "10.0.0.11"];
        assert_eq!(walk(None), all);
        // One that the configuration no longer has.
        assert_eq!(walk(Some("10.0.0.77")), all);
        assert_eq!(
            walk(Some("10.0.0.3")),
            ["10.0.0.10", "10.0.0.11", "10.0.0.2", "10.0.0.3"]
        );
        assert_eq!(walk(Some("10.0.0.11")), all);
        assert_eq!(set(&[("10.0.0.1", "10.0.0.1")]).from(None).count(), 0);
    }

    #[test]
    fn defaults_leave_network_gateway_and_broadcast() {
        let r = range(serde_json::json!({"subnet": "10.0.0.0/30"})).unwrap();
        let s = RangeSet::new(vec![r]).unwrap();
        assert_eq!(
            s.from(None).map(|(a, _)| a.to_string()).collect::<Vec<_>>(),
            ["10.0.0.2"]
        );
        let r = range(serde_json::json!({"subnet": "fd00::/126"})).unwrap();
        assert_eq!(r.end.to_string(), "fd00::3");
    }

    #[test]
    fn refuses_what_cannot_be() {
        for (json, wanted) in [
            (serde_json::json!({"subnet": "10.0.0.5/24"}), "host bits"),
            (serde_json::json!({"subnet": "10.0.0.0/31"}), "no address"),
            (
                serde_json::json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.1"}),
                "no host of",
            ),
            (
                serde_json::json!({"subnet": "10.0.0.0/24", "rangeEnd": "fd00::1"}),
                "no host of",
            ),
            (
                serde_json::json!({"subnet": "10.0.0.0/24", "rangeEnd": "10.0.0.255"}),
                "no host of",
            ),
            (
                serde_json::json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}),
                "is after",
            ),
            (
                serde_json::json!({"subnet": "10.0.0.0/24", "gateway": "fd00::1"}),
                "family",
            ),
        ] {
            let error = range(json).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn ranges_that_clash_are_refused() {
        let a = range(serde_json::json!({"subnet": "10.0.0.0/24"})).unwrap();
        let b = range(serde_json::json!({"subnet": "10.0.0.0/25"})).unwrap();
        let v6 = range(serde_json::json!({"subnet": "fd00::/64"})).unwrap();
        assert!(RangeSet::new(vec![a.clone(), b.clone()]).is_err());
        assert!(RangeSet::new(vec![a.clone(), v6.clone()]).is_err());
        let [a, b, v6] = [a, b, v6].map(|r| RangeSet::new(vec![r]).unwrap());
        assert!(RangeSet::check_disjoint(&[a.clone(), b]).is_err());
        RangeSet::check_disjoint(&[a, v6]).unwrap();
    }
}
