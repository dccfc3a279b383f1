//! A long run: thousands of containers one after the other, created, started, ended and deleted. What the machine has
//! more of afterwards is a leak.

use std::collections::BTreeMap;
use std::fs;
use std::time::Instant;

use super::super::call;
use super::bundle::{Variant, text};
use super::{Place, Rig, words};
use crate::failure::{Context, Result, failure};

/// Looked at so many times on the way.
const LOOKS: usize = 10;

/// To be looked at, in MiB. No verdict: the kernel ends namespaces in a worker, and others use this machine too.
const WATCHED: [&str; 2] = ["MemAvailable", "SUnreclaim"];

pub fn measure(rig: &Rig, count: usize) -> Result<()> {
    let on_v2 = Variant::new(&["/bin/true"]).own_cgroups();
    let on_host = Variant::new(&["/bin/true"]).on_host();
    for (name, place, variant) in [
        ("v2, spec B", &rig.v2, on_v2),
        ("the host's control groups", &rig.host, on_host),
    ] {
        println!("\n{count} times create, start, delete: {name}");
        soak(rig, place, &variant, count)?;
    }
    Ok(())
}

fn soak(rig: &Rig, place: &Place, variant: &Variant, count: usize) -> Result<()> {
    let id = "soak";
    let bundle = rig.bundles.make(id, variant)?;
    let create = rig.command(&rig.corten, &["create", "--bundle", &bundle, id]);
    let start = rig.command(&rig.corten, &["start", id]);
    let delete = rig.command(&rig.corten, &["delete", "--force", id]);
    // The first container makes the parent groups, which stay.
    for argv in [&create, &start, &delete] {
        place.run(argv)?;
    }
    let before = Look::take(rig, place, [&create, &delete])?;
    before.print("before");
    let since = Instant::now();
    for turn in 1..=count {
        for argv in [&create, &start, &delete] {
            place.run(argv)?;
        }
        if turn % count.div_ceil(LOOKS) == 0 {
            Look::take(rig, place, [&create, &delete])?.print(&format!("after {turn}"));
        }
    }
    let seconds = since.elapsed().as_secs_f64();
    // The kernel ends network namespaces by and by.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let after = Look::take(rig, place, [&create, &delete])?;
    after.print("at rest");
    println!(
        "  {seconds:.1} s, {:.2} ms a container",
        seconds * 1e3 / count as f64
    );
    after.compare(&before)
}

/// What there is of everything that a container makes.
struct Look(BTreeMap<&'static str, f64>);

impl Look {
    fn take(rig: &Rig, place: &Place, [create, delete]: [&Vec<String>; 2]) -> Result<Look> {
        let lines =
            |path: &str| fs::read_to_string(path).map_or(f64::NAN, |t| t.lines().count() as f64);
        let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
        let keyrings = keys
            .lines()
            .filter(|line| line.contains("_ses.soak"))
            .count() as f64;
        let entries = |path: &str| fs::read_dir(path).map_or(0.0, |found| found.count() as f64);
        let mounts = format!("/proc/{}/mountinfo", place.pid());
        let meminfo = fs::read_to_string("/proc/meminfo").context("meminfo")?;
        let mib = |field: &str| {
            let line = meminfo.lines().find(|line| line.starts_with(field));
            let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            kib.unwrap_or(f64::NAN) / 1024.0
        };
        let peak = rig.folder.join("peak.kib");
        let path = text(&peak);
        let mut measured = words(&[&rig.peak, &path]);
        measured.extend(create.iter().cloned());
        place.run(&measured)?;
        place.run(delete)?;
        let text = fs::read_to_string(&peak).context(&path)?;
        let peak: f64 = text.trim().parse().context(&path)?;
        let groups = call(
            "find",
            &[
                "/sys/fs/cgroup",
                "-type",
                "d",
                "-path",
                "*corten-bench/soak*",
            ],
        )?;
        // Since the machine came up; its own buffer turns over.
        let complaints = call("dmesg", &[]).map_or(f64::NAN, |log| {
            log.lines().filter(|line| complaint(line)).count() as f64
        });
        Ok(Look(BTreeMap::from([
            ("state entries", entries(&rig.state(&rig.corten))),
            ("groups", groups.lines().count() as f64),
            ("mounts", lines(&mounts)),
            ("session keyrings", keyrings),
            ("RSS of create, KiB", peak),
            ("kernel complaints", complaints),
            (WATCHED[0], mib(WATCHED[0])),
            (WATCHED[1], mib(WATCHED[1])),
        ])))
    }

    fn print(&self, when: &str) {
        let fields = self
            .0
            .iter()
            .map(|(name, value)| format!("{name} {value:.0}"));
        println!("  {when:<12} {}", fields.collect::<Vec<_>>().join(", "));
    }

    /// Everything countable must be as before.
    fn compare(&self, before: &Look) -> Result<()> {
        for (name, value) in self.0.iter().filter(|(name, _)| !WATCHED.contains(name)) {
            let was = before.0.get(name).copied().unwrap_or(f64::NAN);
            // Pages of a process vary with what the page cache holds.
            let slack = if name.starts_with("RSS") {
                was * 0.1
            } else {
                0.0
            };
            if *value > was + slack {
                return Err(failure(format!("{name}: {was} before, {value} after")));
            }
        }
        println!("  nothing is left");
        Ok(())
    }
}

fn complaint(line: &str) -> bool {
    ["BUG", "WARNING:", "Oops", "unregister_netdevice", "leak"]
        .iter()
        .any(|word| line.contains(word))
}
