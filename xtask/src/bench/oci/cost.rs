//! What a run costs beside time: system calls, memory, and the smallest memory limit that it starts under.

use std::fs;

use super::super::report::skipped;
use super::agent::Place;
use super::bundle::{Variant, text};
use super::gate::Gates;
use super::{CRUN, RUNC, Rig, words};
use crate::failure::{Context, Result, failure};

const KIB: u64 = 1024;
const LIMITS: [u64; 9] = [256, 384, 512, 1024, 2048, 3072, 4096, 6144, 8192];
const TRIES: usize = 5;

pub fn measure(rig: &Rig, gates: &mut Gates) -> Result<()> {
    calls(rig, gates)?;
    memory(rig, gates)?;
    smallest_limit(rig, gates)
}

fn calls(rig: &Rig, gates: &mut Gates) -> Result<()> {
    let variant = Variant::new(&["/bin/true"]).own_cgroups();
    let on_host = Variant::new(&["/bin/true"]).on_host();
    let floor = rig.floor("floor, v2", "calls-floor");
    let runtimes = [
        ("corten-oci, v2", rig.corten.as_str(), &rig.v2, &variant),
        ("crun, v2", CRUN, &rig.v2, &variant),
        ("runc, v2", RUNC, &rig.v2, &variant),
        (
            "corten-oci, host's groups",
            rig.corten.as_str(),
            &rig.host,
            &on_host,
        ),
        ("runc, host's groups", RUNC, &rig.host, &on_host),
    ];
    println!("\nsystem calls of run busybox true, the container's own included (strace -f -c)");
    let count = count(rig, &rig.v2, &floor.argv)?;
    println!("  {:<34} {count:>9}", floor.name);
    for (number, (name, runtime, place, variant)) in runtimes.into_iter().enumerate() {
        let subject = rig.oci(name, runtime, &format!("calls-{number}"), variant)?;
        let count = self::count(rig, place, &subject.argv)?;
        println!("  {name:<34} {count:>9}");
        if number == 0 {
            gates.at_most(
                "system calls of a run, spec B",
                "n",
                Some(count as f64),
                200.0,
            );
        }
    }
    Ok(())
}

fn count(rig: &Rig, place: &Place, argv: &[String]) -> Result<u64> {
    let file = rig.folder.join("calls");
    let path = text(&file);
    let mut strace = words(&[
        "/usr/bin/strace",
        "-f",
        "-c",
        "-U",
        "calls,name",
        "-o",
        &path,
    ]);
    strace.extend(argv.iter().cloned());
    place.run(&strace)?;
    let table = fs::read_to_string(&file).context(&path)?;
    let total = table.lines().find(|line| line.ends_with(" total"));
    let count = total.and_then(|line| line.split_whitespace().next()?.parse().ok());
    count.ok_or_else(|| failure("strace has counted nothing"))
}

fn memory(rig: &Rig, gates: &mut Gates) -> Result<()> {
    let variant = Variant::new(&["/bin/true"]).own_cgroups();
    let stays = Variant::new(&["/bin/sleep", "0.5"]).own_cgroups();
    println!(
        "\npeak resident set of run, v2, spec B (MiB): the runtime's own process; the largest of its tree"
    );
    let floor = rig.floor("floor", "memory-floor");
    println!(
        "  {:<34} {:>9} {:>9.2}",
        floor.name,
        "-",
        peak(rig, &floor.argv)?
    );
    for (name, runtime) in [
        ("corten-oci", rig.corten.as_str()),
        ("crun", CRUN),
        ("runc", RUNC),
    ] {
        let run = rig.oci(name, runtime, &format!("memory-{name}"), &variant)?;
        let stay = rig.oci(name, runtime, &format!("stay-{name}"), &stays)?;
        let own = rig.v2.high_water(&stay.argv)? / 1024.0;
        let tree = peak(rig, &run.argv)?;
        println!("  {name:<34} {own:>9.2} {tree:>9.2}");
        if name == "corten-oci" {
            gates.at_most(
                "peak resident set of a run",
                "MB",
                Some(tree * 1.048_576),
                2.5,
            );
        }
    }
    Ok(())
}

/// In MiB, of the largest process.
fn peak(rig: &Rig, argv: &[String]) -> Result<f64> {
    let file = rig.folder.join("peak.kib");
    let path = text(&file);
    let mut command = words(&[&rig.peak, &path]);
    command.extend(argv.iter().cloned());
    rig.v2.run(&command)?;
    let text = fs::read_to_string(&file).context(&path)?;
    let kib: f64 = text.trim().parse().context(&path)?;
    Ok(kib / 1024.0)
}

fn smallest_limit(rig: &Rig, gates: &mut Gates) -> Result<()> {
    println!(
        "\nsmallest memory limit under which busybox true starts, {TRIES} times of {TRIES} (KiB; a v1 memory group)"
    );
    for (name, runtime, place) in [
        ("corten-oci", rig.corten.as_str(), &rig.host),
        ("crun, v1 alone", CRUN, &rig.v1),
        ("runc", RUNC, &rig.host),
    ] {
        let mut found = None;
        let mut last = None;
        for limit in LIMITS {
            match starts(rig, place, runtime, limit) {
                Ok(()) => {
                    found = Some(limit);
                    break;
                }
                Err(why) => last = Some(why),
            }
        }
        match (found, last) {
            (Some(limit), _) => println!("  {name:<34} {limit:>9}"),
            (None, Some(why)) => skipped(name, why),
            (None, None) => {}
        }
        if name == "corten-oci" {
            let found = found.map(|limit| limit as f64);
            gates.at_most("smallest memory limit", "KiB", found, 512.0);
        }
    }
    Ok(())
}

fn starts(rig: &Rig, place: &Place, runtime: &str, limit: u64) -> Result<()> {
    let variant = Variant {
        memory: Some(limit * KIB),
        ..Variant::new(&["/bin/true"]).on_host()
    };
    let id = format!("limit-{limit}");
    let subject = rig.oci("", runtime, &id, &variant)?;
    (0..TRIES).try_for_each(|_| {
        let ran = place.run(&subject.argv);
        if ran.is_err() {
            // What a start that was killed half-way leaves; there may be nothing.
            let _ = place.run(&rig.command(runtime, &["delete", "--force", &id]));
        }
        ran.map(drop)
    })
}
