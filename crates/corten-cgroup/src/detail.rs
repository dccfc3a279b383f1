//! What only somebody who looks closely asks for: a part of each CPU, pressure, cpusets, kernel memory, the
//! block layer's queues. [`Stats`](crate::Stats) has what engines ask for every few seconds.

use crate::Error;
use crate::group::Cgroup;
use crate::stats::{V1_UNLIMITED, device, number};

/// A part is empty or `None` where this host does not count it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Detail {
    /// Nanoseconds of each CPU: all, in the kernel, in programs (v1).
    pub per_cpu: [Vec<u64>; 3],
    pub cpuset: Cpuset,
    pub cpu_pressure: Option<Pressure>,
    pub memory_pressure: Option<Pressure>,
    pub io_pressure: Option<Pressure>,
    /// Memory of the kernel on the group's behalf, and of TCP's buffers (v1).
    pub kernel: Option<Account>,
    pub kernel_tcp: Option<Account>,
    /// Highest usage of memory and swap together (v1), of swap (v2).
    pub swap_peak: u64,
    pub swap_failures: u64,
    /// Highest usage, by page size.
    pub hugetlb_peak: Vec<(String, u64)>,
    pub block: Block,
}

/// CPUs and memory nodes, and v1's switches by their file's name without `cpuset.`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpuset {
    pub cpus: Vec<u16>,
    pub nodes: Vec<u16>,
    pub switches: Vec<(&'static str, i64)>,
}

/// Bytes. A limit of `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    pub usage: u64,
    pub peak: u64,
    pub limit: Option<u64>,
    pub failures: u64,
}

/// How long the group's processes have waited for what; `None` where the kernel does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressures {
    pub cpu: Option<Pressure>,
    pub memory: Option<Pressure>,
    pub io: Option<Pressure>,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

/// Shares of time in percent, over the last 10, 60 and 300 seconds; microseconds in all.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    pub averages: [f64; 3],
    pub total: u64,
}

/// A counter of one device and one operation (`Read`, `Write`, `Sync`, …; empty where there is one for all).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counter {
    pub major: u32,
    pub minor: u32,
    pub operation: String,
    pub value: u64,
}

/// v1's counters of the block layer, of the group and those below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Block {
    pub bytes: Vec<Counter>,
    pub operations: Vec<Counter>,
    pub queued: Vec<Counter>,
    pub service_time: Vec<Counter>,
    pub wait_time: Vec<Counter>,
    pub merged: Vec<Counter>,
    pub time: Vec<Counter>,
    pub sectors: Vec<Counter>,
}

const SWITCHES: [&str; 9] = [
    "cpu_exclusive",
    "mem_exclusive",
    "mem_hardwall",
    "memory_migrate",
    "memory_pressure",
    "memory_spread_page",
    "memory_spread_slab",
    "sched_load_balance",
    "sched_relax_domain_level",
];

impl Cgroup {
    pub fn detail(&self) -> Result<Detail, Error> {
        let v2 = self.is_pure_v2();
        let mut detail = Detail {
            cpuset: self.cpuset()?,
            hugetlb_peak: self.hugetlb_peaks()?,
            ..Detail::default()
        };
        if v2 {
            let pressures = self.pressures()?;
            detail.cpu_pressure = pressures.cpu;
            detail.memory_pressure = pressures.memory;
            detail.io_pressure = pressures.io;
            detail.swap_peak = self.value("memory", "memory.swap.peak")?.unwrap_or(0);
            let events = self.text("memory", "memory.swap.events")?;
            let events = events.unwrap_or_default();
            let failed = crate::remove::field(&events, "fail").and_then(number);
            detail.swap_failures = failed.unwrap_or(0);
            return Ok(detail);
        }
        let list = |file| -> Result<Vec<u64>, Error> {
            let text = self.text("cpuacct", file)?.unwrap_or_default();
            Ok(text.split_ascii_whitespace().filter_map(number).collect())
        };
        detail.per_cpu = [
            list("cpuacct.usage_percpu")?,
            list("cpuacct.usage_percpu_sys")?,
            list("cpuacct.usage_percpu_user")?,
        ];
        detail.kernel = self.account("kmem")?;
        detail.kernel_tcp = self.account("kmem.tcp")?;
        let swap = self.account("memsw")?.unwrap_or_default();
        (detail.swap_peak, detail.swap_failures) = (swap.peak, swap.failures);
        detail.block = self.block()?;
        Ok(detail)
    }

    /// The unified tree counts it, also on a hybrid host, and without any controller.
    pub fn pressures(&self) -> Result<Pressures, Error> {
        Ok(Pressures {
            cpu: self.pressure("cpu.pressure")?,
            memory: self.pressure("memory.pressure")?,
            io: self.pressure("io.pressure")?,
        })
    }

    fn cpuset(&self) -> Result<Cpuset, Error> {
        let v2 = self.is_pure_v2();
        let names = match v2 {
            true => ["cpuset.cpus.effective", "cpuset.mems.effective"],
            false => ["cpuset.cpus", "cpuset.mems"],
        };
        let list = |file| -> Result<Vec<u16>, Error> {
            let text = self.text("cpuset", file)?.unwrap_or_default();
            Ok(ranges(&text))
        };
        let mut set = Cpuset {
            cpus: list(names[0])?,
            nodes: list(names[1])?,
            switches: Vec::new(),
        };
        for switch in SWITCHES.iter().filter(|_| !v2) {
            let text = self.text("cpuset", &format!("cpuset.{switch}"))?;
            if let Some(value) = text.and_then(|t| t.trim().parse().ok()) {
                set.switches.push((switch, value));
            }
        }
        Ok(set)
    }

    /// `memory.NAME.usage_in_bytes` and its siblings.
    fn account(&self, name: &str) -> Result<Option<Account>, Error> {
        let read = |what: &str| self.value("memory", &format!("memory.{name}.{what}"));
        let Some(usage) = read("usage_in_bytes")? else {
            return Ok(None);
        };
        Ok(Some(Account {
            usage,
            peak: read("max_usage_in_bytes")?.unwrap_or(0),
            limit: read("limit_in_bytes")?.filter(|l| *l < V1_UNLIMITED),
            failures: read("failcnt")?.unwrap_or(0),
        }))
    }

    fn pressure(&self, file: &str) -> Result<Option<Pressure>, Error> {
        Ok(self.text("cgroup", file)?.map(|text| pressure(&text)))
    }

    /// Highest usage by page size, where the kernel keeps it (v1).
    pub fn hugetlb_peaks(&self) -> Result<Vec<(String, u64)>, Error> {
        // Version 2 does not keep it.
        let mut peaks = Vec::new();
        if self.is_pure_v2() || !self.dirs.iter().any(|d| d.has("hugetlb")) {
            return Ok(peaks);
        }
        for size in ["2MB", "1GB", "64KB"] {
            let file = format!("hugetlb.{size}.max_usage_in_bytes");
            if let Some(peak) = self.value("hugetlb", &file)? {
                peaks.push((size.to_owned(), peak));
            }
        }
        Ok(peaks)
    }

    fn block(&self) -> Result<Block, Error> {
        let read = |names: &[&str]| -> Result<Vec<Counter>, Error> {
            for name in names {
                if let Some(text) = self.text("blkio", name)? {
                    let found = counters(&text);
                    if !found.is_empty() {
                        return Ok(found);
                    }
                }
            }
            Ok(Vec::new())
        };
        // The scheduler's own counters if it keeps any, else the throttle layer's.
        Ok(Block {
            bytes: read(&[
                "blkio.bfq.io_service_bytes_recursive",
                "blkio.throttle.io_service_bytes_recursive",
            ])?,
            operations: read(&[
                "blkio.bfq.io_serviced_recursive",
                "blkio.throttle.io_serviced_recursive",
            ])?,
            queued: read(&["blkio.bfq.io_queued_recursive"])?,
            service_time: read(&["blkio.bfq.io_service_time_recursive"])?,
            wait_time: read(&["blkio.bfq.io_wait_time_recursive"])?,
            merged: read(&["blkio.bfq.io_merged_recursive"])?,
            time: read(&["blkio.bfq.time_recursive"])?,
            sectors: read(&["blkio.bfq.sectors_recursive"])?,
        })
    }
}

/// `0-2,5`; what is no list is left out.
fn ranges(text: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) {
            all.extend(first..=last);
        }
    }
    all
}

/// `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(text: &str) -> Pressure {
    let stall = |kind: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(kind));
        let mut stall = Stall::default();
        for (key, value) in line
            .into_iter()
            .flat_map(str::split_ascii_whitespace)
            .filter_map(|w| w.split_once('='))
        {
            match key {
                "avg10" => stall.averages[0] = value.parse().unwrap_or(0.0),
                "avg60" => stall.averages[1] = value.parse().unwrap_or(0.0),
                "avg300" => stall.averages[2] = value.parse().unwrap_or(0.0),
                "total" => stall.total = number(value).unwrap_or(0),
                _ => {}
            }
        }
        stall
    };
    Pressure {
        some: stall("some "),
        full: stall("full "),
    }
}

/// `8:0 Read 1` or `8:0 1`; the last line, `Total 1`, is of no device.
fn counters(text: &str) -> Vec<Counter> {
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = device(words.next()?)?;
        let (second, third) = (words.next()?, words.next());
        let (operation, value) = match third {
            Some(value) => (second, value),
            None => ("", second),
        };
        Some(Counter {
            major,
            minor,
            operation: operation.into(),
            value: number(value)?,
        })
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_pressure_are_read() {
        assert_eq!(ranges("0-2,5\n"), [0, 1, 2, 5]);
        assert_eq!(ranges("\n"), [0u16; 0]);
        assert_eq!(ranges("x,3-2"), [0u16; 0]);
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=7\nfull avg10=0.00 avg60=0.25 avg300=0.00 total=3\n";
        let read = pressure(text);
        assert_eq!((read.some.averages[0], read.some.total), (1.5, 7));
        assert_eq!((read.full.averages[1], read.full.total), (0.25, 3));
        assert_eq!(pressure("garbage"), Pressure::default());
    }

    #[test]
    fn counters_are_read() {
        let found = counters("8:0 Read 10\n8:16 4\nTotal 14\n\nx:y Read 1\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].operation.as_str(), found[0].value), ("Read", 10));
        assert_eq!((found[1].operation.as_str(), found[1].minor), ("", 16));
    }
}
