//! What a group has used, and of how much.

use std::collections::BTreeMap;

use crate::Error;
use crate::group::Cgroup;
use crate::remove::field;

/// A snapshot. A part is `None` where this host has no controller for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu: Option<Cpu>,
    pub memory: Option<Memory>,
    pub pids: Option<Pids>,
    pub io: Vec<Io>,
    pub hugetlb: Vec<Hugetlb>,
}

/// Nanoseconds of CPU time, and how often the quota held the group back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    pub usage: u64,
    pub user: u64,
    pub system: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
    /// How often, and for how long, the quota was exceeded by what had been saved (Linux 5.14).
    pub bursts: u64,
    pub burst: u64,
}

/// Bytes. A limit of `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    pub usage: u64,
    /// Highest usage; v2 has it since Linux 5.19.
    pub peak: Option<u64>,
    pub limit: Option<u64>,
    /// v1: memory and swap together, as its files count. v2: swap alone.
    pub swap_usage: u64,
    pub swap_limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    pub oom_kills: u64,
    /// Page cache that the kernel would drop first: `usage - inactive_file` is the working set.
    pub inactive_file: u64,
    /// `memory.stat` as it is, in the names of its version.
    pub detail: BTreeMap<String, u64>,
    /// `memory.events` (v2) or `memory.oom_control` (v1) as it is.
    pub events: BTreeMap<String, u64>,
    /// Whether the two swap numbers and `detail` are v1's.
    pub v1: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    pub current: u64,
    pub limit: Option<u64>,
}

/// One block device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub reads: u64,
    pub writes: u64,
}

/// One page size, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hugetlb {
    pub page_size: String,
    pub usage: u64,
    pub limit: Option<u64>,
    pub failures: u64,
}

/// v1's "unlimited" is the largest multiple of the page size in an i64.
pub(crate) const V1_UNLIMITED: u64 = 0x7fff_ffff_ffff_0000;

impl Cgroup {
    /// Reads everything there is.
    pub fn stats(&self) -> Result<Stats, Error> {
        Ok(Stats {
            cpu: self.cpu_stats()?,
            memory: self.memory_stats()?,
            pids: self.pid_stats()?,
            io: self.io_stats()?,
            hugetlb: self.hugetlb_stats()?,
        })
    }

    pub(crate) fn text(&self, controller: &str, file: &str) -> Result<Option<String>, Error> {
        match self.holder(controller)? {
            Some(dir) => dir.read_if(&self.path, file),
            None => Ok(None),
        }
    }

    pub(crate) fn value(&self, controller: &str, file: &str) -> Result<Option<u64>, Error> {
        let text = self.text(controller, file)?;
        Ok(text.and_then(|t| number(&t)))
    }

    fn cpu_stats(&self) -> Result<Option<Cpu>, Error> {
        if self.is_pure_v2() {
            // `cpu.stat` belongs to the core: it counts time even without the controller.
            let text = self.text("cgroup", "cpu.stat")?;
            return Ok(text.map(|t| cpu_v2(&t)));
        }
        let Some(usage) = self.value("cpuacct", "cpuacct.usage")? else {
            return Ok(None);
        };
        let limits = self.text("cpu", "cpu.stat")?.unwrap_or_default();
        let get = |key| field(&limits, key).and_then(number).unwrap_or(0);
        Ok(Some(Cpu {
            usage,
            user: self.value("cpuacct", "cpuacct.usage_user")?.unwrap_or(0),
            system: self.value("cpuacct", "cpuacct.usage_sys")?.unwrap_or(0),
            periods: get("nr_periods"),
            throttled_periods: get("nr_throttled"),
            throttled: get("throttled_time"),
            bursts: get("nr_bursts"),
            burst: get("burst_time"),
        }))
    }

    fn memory_stats(&self) -> Result<Option<Memory>, Error> {
        let v2 = self.is_pure_v2();
        let names = if v2 {
            [
                "memory.current",
                "memory.peak",
                "memory.max",
                "memory.swap.current",
                "memory.swap.max",
            ]
        } else {
            [
                "memory.usage_in_bytes",
                "memory.max_usage_in_bytes",
                "memory.limit_in_bytes",
                "memory.memsw.usage_in_bytes",
                "memory.memsw.limit_in_bytes",
            ]
        };
        let Some(usage) = self.value("memory", names[0])? else {
            return Ok(None);
        };
        let detail = pairs(&self.text("memory", "memory.stat")?.unwrap_or_default());
        let events = if v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let events = self.text("memory", events)?.unwrap_or_default();
        let event = |key| field(&events, key).and_then(number).unwrap_or(0);
        let inactive = if v2 {
            "inactive_file"
        } else {
            "total_inactive_file"
        };
        Ok(Some(Memory {
            usage,
            peak: self.value("memory", names[1])?,
            limit: self
                .value("memory", names[2])?
                .filter(|l| *l < V1_UNLIMITED),
            swap_usage: self.value("memory", names[3])?.unwrap_or(0),
            swap_limit: self
                .value("memory", names[4])?
                .filter(|l| *l < V1_UNLIMITED),
            failures: match v2 {
                true => event("max"),
                false => self.value("memory", "memory.failcnt")?.unwrap_or(0),
            },
            oom_kills: event("oom_kill"),
            events: pairs(&events),
            inactive_file: detail.get(inactive).copied().unwrap_or(0),
            detail,
            v1: !v2,
        }))
    }

    fn pid_stats(&self) -> Result<Option<Pids>, Error> {
        let Some(current) = self.value("pids", "pids.current")? else {
            return Ok(None);
        };
        let limit = self.value("pids", "pids.max")?;
        Ok(Some(Pids { current, limit }))
    }

    fn io_stats(&self) -> Result<Vec<Io>, Error> {
        if self.is_pure_v2() {
            let text = self.text("io", "io.stat")?.unwrap_or_default();
            return Ok(io_v2(&text));
        }
        let bytes = self.text("blkio", "blkio.throttle.io_service_bytes_recursive")?;
        let counts = self.text("blkio", "blkio.throttle.io_serviced_recursive")?;
        Ok(io_v1(
            &bytes.unwrap_or_default(),
            &counts.unwrap_or_default(),
        ))
    }

    fn hugetlb_stats(&self) -> Result<Vec<Hugetlb>, Error> {
        // On a hybrid host the leftovers are not asked: `holder` would switch them on.
        let v2 = self.is_pure_v2();
        let Some(dir) = (match v2 {
            true => self.holder("hugetlb")?,
            false => self.dirs.iter().find(|d| d.has("hugetlb")),
        }) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for (size, page_size) in [("2MB", "2MB"), ("1GB", "1GB"), ("64KB", "64KB")] {
            let names = match v2 {
                true => ["current", "max", "events"],
                false => ["usage_in_bytes", "limit_in_bytes", "failcnt"],
            }
            .map(|n| format!("hugetlb.{size}.{n}"));
            let Some(usage) = dir.read_if(&self.path, &names[0])? else {
                continue;
            };
            let limit = dir.read_if(&self.path, &names[1])?;
            let failures = dir.read_if(&self.path, &names[2])?.unwrap_or_default();
            all.push(Hugetlb {
                page_size: page_size.into(),
                usage: number(&usage).unwrap_or(0),
                limit: limit.and_then(|l| number(&l)),
                failures: field(&failures, "max")
                    .unwrap_or(&failures)
                    .trim()
                    .parse()
                    .unwrap_or(0),
            });
        }
        Ok(all)
    }
}

/// `max` and anything that is no number is `None`.
pub(crate) fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn pairs(text: &str) -> BTreeMap<String, u64> {
    let pair = |l: &str| {
        let (key, value) = l.split_once(' ')?;
        Some((key.to_string(), number(value)?))
    };
    text.lines().filter_map(pair).collect()
}

fn cpu_v2(text: &str) -> Cpu {
    let get = |key| field(text, key).and_then(number).unwrap_or(0);
    // Microseconds there, nanoseconds here.
    let nanos = |key| get(key).saturating_mul(1000);
    Cpu {
        usage: nanos("usage_usec"),
        user: nanos("user_usec"),
        system: nanos("system_usec"),
        periods: get("nr_periods"),
        throttled_periods: get("nr_throttled"),
        throttled: nanos("throttled_usec"),
        bursts: get("nr_bursts"),
        burst: nanos("burst_usec"),
    }
}

pub(crate) fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn io_v2(text: &str) -> Vec<Io> {
    let line = |l: &str| {
        let mut words = l.split_ascii_whitespace();
        let (major, minor) = device(words.next()?)?;
        let mut io = Io {
            major,
            minor,
            ..Io::default()
        };
        for (key, value) in words.filter_map(|w| w.split_once('=')) {
            let slot = match key {
                "rbytes" => &mut io.read_bytes,
                "wbytes" => &mut io.write_bytes,
                "rios" => &mut io.reads,
                "wios" => &mut io.writes,
                _ => continue,
            };
            *slot = number(value).unwrap_or(0);
        }
        Some(io)
    };
    text.lines().filter_map(line).collect()
}

/// `8:0 Read 1` lines of two files.
fn io_v1(bytes: &str, counts: &str) -> Vec<Io> {
    let mut found: BTreeMap<(u32, u32), Io> = BTreeMap::new();
    for (text, is_bytes) in [(bytes, true), (counts, false)] {
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(at), Some(what), Some(value)) = (
                words.next().and_then(device),
                words.next(),
                words.next().and_then(number),
            ) else {
                continue; // the last line: "Total N"
            };
            let io = found.entry(at).or_insert(Io {
                major: at.0,
                minor: at.1,
                ..Io::default()
            });
            match (what, is_bytes) {
                ("Read", true) => io.read_bytes = value,
                ("Write", true) => io.write_bytes = value,
                ("Read", false) => io.reads = value,
                ("Write", false) => io.writes = value,
                _ => {}
            }
        }
    }
    found.into_values().collect()
}

/// For the fuzzer: the kernel's tables.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn fuzz(text: &str) {
    let _ = (pairs(text), cpu_v2(text), io_v2(text), io_v1(text, text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines_of_both_versions_agree() {
        let v1 = io_v1(
            "8:0 Read 10\n8:0 Write 20\n8:0 Sync 3\nTotal 30\n",
            "8:0 Read 1\n8:0 Write 2\nTotal 3\n",
        );
        let v2 = io_v2("8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n8:16 \n");
        assert_eq!(v1, v2[..1]);
        assert_eq!(v2.len(), 2);
    }

    #[test]
    fn cpu_times_become_nanoseconds() {
        let cpu = cpu_v2("usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_throttled 7\n");
        assert_eq!(
            (cpu.usage, cpu.user, cpu.system, cpu.throttled_periods),
            (5000, 3000, 2000, 7)
        );
    }

    #[test]
    fn garbage_in_a_stat_file_is_left_out() {
        assert!(pairs("a b\nc\n\u{fffd} 1 2\n").is_empty());
        assert!(io_v2("x:y rbytes=1\n\n8").is_empty());
    }
}
