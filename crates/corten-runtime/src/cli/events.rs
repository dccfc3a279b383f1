//! `events`: what a container uses, and when it ran out of memory, as runc's JSON lines.

use std::ffi::OsString;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use corten_cgroup::detail::{Account, Counter, Detail, Pressure, Stall};
use corten_cgroup::stats::{Io, Memory};
use corten_cgroup::{Cgroup, OomWatch, Stats};
use corten_sys::Errno;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::{Map, Value, json};

use super::options::{End, flag, parse, value};
use super::{Context, Failure, UsageError, id};
use crate::state::{Found, Held, refused};
use crate::{Error, Status};

const USUAL: Duration = Duration::from_secs(5);

pub(super) fn events(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &[flag("stats"), value("interval")], End::Never)?;
    let id = id(&parsed)?;
    let interval = match parsed.get("interval") {
        Some(text) => duration(text).ok_or_else(|| UsageError::Bad {
            name: "interval",
            text: text.into(),
            must: "a time above 0, for example 5s or 1m30s",
        })?,
        None => USUAL,
    };
    let found = Found::open(&context.root, &id)?;
    let status = found.status()?;
    let Some(init) = found.init.as_ref().filter(|_| status != Status::Creating) else {
        return Err(found.conflict("watch", status).into());
    };
    let cgroup = crate::cgroup(&context.root, &id)?;
    let stats = || -> Result<(), Failure> {
        let data = document(&cgroup, init.pid)?;
        line(&json!({"type": "stats", "id": id, "data": data}));
        Ok(())
    };
    if parsed.has("stats") {
        stats()?;
        return Ok(0);
    }
    let watch = cgroup
        .oom_events()
        .map_err(refused("watch the memory of"))?;
    let tell = || line(&json!({"type": "oom", "id": id}));
    follow(init, watch.as_ref(), interval, stats, tell)?;
    Ok(0)
}

/// At once, so that a reader at a pipe's end sees each line.
fn line(value: &Value) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // A reader that is gone ends us by SIGPIPE or is noticed at the next line.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

/// Until init has ended.
fn follow(
    init: &Held,
    watch: Option<&OomWatch>,
    interval: Duration,
    stats: impl Fn() -> Result<(), Failure>,
    oom: impl Fn(),
) -> Result<(), Failure> {
    let failed = crate::error::failed("wait for events of", "the container");
    let kills = |watch: &OomWatch| watch.kills().map_err(refused("count the OOM kills of"));
    let mut seen = watch.map(kills).transpose()?.unwrap_or(0);
    let mut due = Instant::now() + interval;
    loop {
        let rest = due.saturating_duration_since(Instant::now());
        let limit = Timespec {
            tv_sec: rest.as_secs() as i64,
            tv_nsec: rest.subsec_nanos().into(),
        };
        let mut fds = vec![PollFd::new(&init.pidfd, PollFlags::IN)];
        if let Some(watch) = watch {
            fds.push(PollFd::from_borrowed_fd(watch.as_fd(), watch.interest()));
        }
        match poll(&mut fds, Some(&limit)) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno).into()),
        }
        let ended = !fds[0].revents().is_empty();
        if let Some(watch) = watch {
            let now = kills(watch)?;
            (seen..now).for_each(|_| oom());
            seen = seen.max(now);
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= due {
            due = Instant::now() + interval;
            stats()?;
        }
    }
}

/// Go's durations: `5s`, `1m30s`, `1.5h`, `300ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (total > 0.0 && total < 1e9).then(|| Duration::from_secs_f64(total))
}

fn document(cgroup: &Cgroup, init: u32) -> Result<Value, Error> {
    let stats = cgroup.stats().map_err(refused("read the statistics of"))?;
    let detail = cgroup.detail().map_err(refused("read the statistics of"))?;
    let limited = |limit: Option<u64>| limit.unwrap_or(0);
    let pids = stats.pids.unwrap_or_default();
    let hugetlb = stats.hugetlb.iter().map(|h| {
        let peak = detail
            .hugetlb_peak
            .iter()
            .find(|(size, _)| *size == h.page_size);
        let entry = entry(None, h.usage, peak.map_or(0, |p| p.1), h.failures);
        (h.page_size.clone(), entry)
    });
    Ok(json!({
        "cpu": cpu(&stats, &detail),
        "cpuset": cpuset(&detail),
        "memory": memory(stats.memory.as_ref(), &detail),
        "pids": {"current": pids.current, "limit": limited(pids.limit)},
        "blkio": block(&stats, &detail),
        "hugetlb": hugetlb.collect::<Map<_, _>>(),
        "intel_rdt": {},
        "network_interfaces": interfaces(init),
    }))
}

fn cpu(stats: &Stats, detail: &Detail) -> Value {
    let cpu = stats.cpu.unwrap_or_default();
    let mut usage = json!({"total": cpu.usage, "kernel": cpu.system, "user": cpu.user});
    for (name, list) in ["percpu", "percpu_kernel", "percpu_user"]
        .iter()
        .zip(&detail.per_cpu)
    {
        if !list.is_empty() {
            usage[name] = json!(list);
        }
    }
    let mut value = json!({
        "usage": usage,
        "throttling": {
            "periods": cpu.periods,
            "throttledPeriods": cpu.throttled_periods,
            "throttledTime": cpu.throttled,
        },
    });
    pressure(&mut value, detail.cpu_pressure);
    value
}

fn pressure(value: &mut Value, pressure: Option<Pressure>) {
    let stall = |s: Stall| {
        let [short, middle, long] = s.averages;
        json!({"avg10": short, "avg60": middle, "avg300": long, "total": s.total})
    };
    if let Some(pressure) = pressure {
        value["psi"] = json!({"some": stall(pressure.some), "full": stall(pressure.full)});
    }
}

/// All switches are there in runc's document, 0 on version 2.
fn cpuset(detail: &Detail) -> Value {
    let set = &detail.cpuset;
    let switch = |name: &str| {
        set.switches
            .iter()
            .find(|(n, _)| *n == name)
            .map_or(0, |s| s.1)
    };
    json!({
        "cpus": set.cpus,
        "mems": set.nodes,
        "cpu_exclusive": switch("cpu_exclusive"),
        "mem_hardwall": switch("mem_hardwall"),
        "mem_exclusive": switch("mem_exclusive"),
        "memory_migrate": switch("memory_migrate"),
        "memory_spread_page": switch("memory_spread_page"),
        "memory_spread_slab": switch("memory_spread_slab"),
        "memory_pressure": switch("memory_pressure"),
        "sched_load_balance": switch("sched_load_balance"),
        "sched_relax_domain_level": switch("sched_relax_domain_level"),
    })
}

fn entry(limit: Option<u64>, usage: u64, peak: u64, failures: u64) -> Value {
    let mut entry = json!({"usage": usage, "max": peak, "failcnt": failures});
    if let Some(limit) = limit {
        entry["limit"] = json!(limit);
    }
    entry
}

fn memory(memory: Option<&Memory>, detail: &Detail) -> Value {
    let Some(memory) = memory else {
        return json!({});
    };
    let limit = |limit: Option<u64>| Some(limit.unwrap_or(u64::MAX));
    let account = |account: Option<Account>| {
        let a = account.unwrap_or_default();
        let limit = account.map_or(Some(0), |a| limit(a.limit));
        entry(limit, a.usage, a.peak, a.failures)
    };
    // runc's `swap` is memory and swap together, which version 2 counts apart.
    let (swap, swap_limit, swap_peak) = match memory.v1 {
        true => (memory.swap_usage, memory.swap_limit, detail.swap_peak),
        false => (
            memory.swap_usage + memory.usage,
            memory
                .swap_limit
                .zip(memory.limit)
                .map(|(a, b)| a.saturating_add(b)),
            0,
        ),
    };
    let cache = if memory.v1 { "cache" } else { "file" };
    let peak = memory.peak.unwrap_or(0);
    let mut value = json!({
        "cache": memory.detail.get(cache).copied().unwrap_or(0),
        "usage": entry(limit(memory.limit), memory.usage, peak, memory.failures),
        "swap": entry(limit(swap_limit), swap, swap_peak, detail.swap_failures),
        "kernel": account(detail.kernel),
        "kernelTCP": account(detail.kernel_tcp),
        "raw": memory.detail,
    });
    pressure(&mut value, detail.memory_pressure);
    value
}

fn block(stats: &Stats, detail: &Detail) -> Value {
    let list = |counters: &[Counter]| -> Vec<Value> {
        let one = |c: &Counter| json!({"major": c.major, "minor": c.minor, "op": c.operation, "value": c.value});
        counters.iter().map(one).collect()
    };
    let both = |read: fn(&Io) -> u64, write: fn(&Io) -> u64| -> Vec<Value> {
        let one = |io: &Io| {
            [("Read", read(io)), ("Write", write(io))]
                .map(|(op, value)| json!({"major": io.major, "minor": io.minor, "op": op, "value": value}))
        };
        stats.io.iter().flat_map(one).collect()
    };
    let block = &detail.block;
    let or = |counters: &[Counter], other: Vec<Value>| match counters.is_empty() {
        true => other,
        false => list(counters),
    };
    let mut value = Map::new();
    let lists = [
        (
            "ioServiceBytesRecursive",
            or(&block.bytes, both(|i| i.read_bytes, |i| i.write_bytes)),
        ),
        (
            "ioServicedRecursive",
            or(&block.operations, both(|i| i.reads, |i| i.writes)),
        ),
        // Their spelling.
        ("ioQueueRecursive", list(&block.queued)),
        ("ioServiceTimeRecursive", list(&block.service_time)),
        ("ioWaitTimeRecursive", list(&block.wait_time)),
        ("ioMergedRecursive", list(&block.merged)),
        ("ioTimeRecursive", list(&block.time)),
        ("sectorsRecursive", list(&block.sectors)),
    ];
    for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        value.insert(name.into(), list.into());
    }
    let mut value = Value::from(value);
    pressure(&mut value, detail.io_pressure);
    value
}

/// Of init's network namespace, but the loopback. runc's words begin with capitals here.
fn interfaces(init: u32) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("/proc/{init}/net/dev")).unwrap_or_default();
    // Two lines of headings: proc_pid_net(5).
    text.lines().skip(2).filter_map(interface).collect()
}

fn interface(line: &str) -> Option<Value> {
    let (name, counters) = line.split_once(':')?;
    let name = name.trim();
    let counters: Vec<u64> = counters
        .split_ascii_whitespace()
        .filter_map(|n| n.parse().ok())
        .collect();
    let (received, sent) = counters.split_at_checked(8)?;
    let direction = |c: &[u64]| Some([*c.first()?, *c.get(1)?, *c.get(2)?, *c.get(3)?]);
    let (rx, tx) = (direction(received)?, direction(sent)?);
    (name != "lo").then(|| {
        json!({
            "Name": name,
            "RxBytes": rx[0], "RxPackets": rx[1], "RxErrors": rx[2], "RxDropped": rx[3],
            "TxBytes": tx[0], "TxPackets": tx[1], "TxErrors": tx[2], "TxDropped": tx[3],
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_gos_durations() {
        for (text, milliseconds) in [
            ("5s", Some(5_000)),
            ("1m30s", Some(90_000)),
            ("300ms", Some(300)),
            ("1.5h", Some(5_400_000)),
            ("0s", None),
            ("5", None),
            ("", None),
            ("-1s", None),
            ("1y", None),
        ] {
            let expected = milliseconds.map(Duration::from_millis);
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn interfaces_are_read() {
        let line = "  eth0:    1    2    3    4    0     0          0         0     5    6    7    8    0     0       0          0";
        let value = interface(line).unwrap();
        assert_eq!(
            (&value["Name"], &value["RxDropped"]),
            (&json!("eth0"), &json!(4))
        );
        assert_eq!(value["TxBytes"], 5);
        assert!(interface("lo: 1 2 3 4 5 6 7 8 9 1 2 3 4 5 6 7").is_none());
        assert!(interface("x: 1 2").is_none());
    }
}
