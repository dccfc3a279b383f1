//! `run` of a container that ends at once, and what a seccomp policy adds to it.

use super::super::report::Series;
use super::bundle::Variant;
use super::gate::Gates;
use super::{CRUN, RUNC, Rig, Subject, WARM_UP};
use crate::failure::Result;

pub fn measure(rig: &Rig, gates: &mut Gates) -> Result<()> {
    on_v2(rig, gates)?;
    on_host(rig, gates)?;
    with_profile(rig, gates)
}

fn on_v2(rig: &Rig, gates: &mut Gates) -> Result<()> {
    let a = Variant::new(&["/bin/true"]);
    let b = a.clone().own_cgroups();
    let mut subjects = vec![
        rig.floor("floor", "run-floor"),
        rig.oci("corten-oci, spec A", &rig.corten, "run-corten-a", &a)?,
        rig.oci("crun, spec A", CRUN, "run-crun-a", &a)?,
        rig.oci("corten-oci, spec B", &rig.corten, "run-corten-b", &b)?,
        rig.oci("crun, spec B", CRUN, "run-crun-b", &b)?,
    ];
    if !rig.quick {
        subjects.push(rig.oci("runc, spec B", RUNC, "run-runc-b", &b)?);
    }
    let mut series = Series::default();
    for round in 0..rig.rounds + WARM_UP {
        for subject in &subjects {
            let millis = rig.v2.run(&subject.argv)?;
            if round >= WARM_UP {
                series.add(subject.name, millis);
            }
            rig.breathe();
        }
    }
    let title = "run busybox true, v2 (A: `runc spec`; B: and a cgroup namespace)";
    series.print(title, "ms", &["floor", "crun, spec A", "crun, spec B"]);
    let mut gate = |name, pair, limit| gates.ratio(name, &series, pair, limit);
    gate(
        "run, spec A, to crun",
        ["corten-oci, spec A", "crun, spec A"],
        0.5,
    );
    gate(
        "run, spec B, to crun",
        ["corten-oci, spec B", "crun, spec B"],
        0.5,
    );
    gate(
        "run, spec B, to the floor",
        ["corten-oci, spec B", "floor"],
        1.4,
    );
    Ok(())
}

fn on_host(rig: &Rig, gates: &mut Gates) -> Result<()> {
    let variant = Variant::new(&["/bin/true"]).on_host();
    let subjects: [Subject; 2] = [
        rig.oci("corten-oci", &rig.corten, "host-corten", &variant)?,
        rig.oci("runc", RUNC, "host-runc", &variant)?,
    ];
    let mut series = Series::default();
    for round in 0..rig.rounds.div_ceil(2) + WARM_UP {
        for subject in &subjects {
            let millis = rig.host.run(&subject.argv)?;
            if round >= WARM_UP {
                series.add(subject.name, millis);
            }
            rig.breathe();
        }
    }
    series.print(
        "run busybox true, the host's own control groups",
        "ms",
        &["runc"],
    );
    let pair = ["corten-oci", "runc"];
    gates.ratio("run, host's groups, to runc", &series, pair, 0.35);
    Ok(())
}

/// The difference is a hundredth of the noise, so: neighbours in time, in changing order, many of them.
fn with_profile(rig: &Rig, gates: &mut Gates) -> Result<()> {
    let plain = Variant::new(&["/bin/true"]).own_cgroups();
    let filtered = Variant {
        seccomp: Some(rig.profile.clone()),
        ..plain.clone()
    };
    let mut series = Series::default();
    for (name, runtime, id, times) in [
        ("corten-oci", rig.corten.as_str(), "policy-corten", 4),
        ("crun", CRUN, "policy-crun", 1),
    ] {
        let without = rig.oci("", runtime, &format!("{id}-without"), &plain)?.argv;
        let with = rig.oci("", runtime, &format!("{id}-with"), &filtered)?.argv;
        for round in 0..rig.rounds * times + WARM_UP {
            let (a, b) = match round % 2 {
                0 => (rig.v2.run(&without)?, rig.v2.run(&with)?),
                _ => {
                    let with = rig.v2.run(&with)?;
                    (rig.v2.run(&without)?, with)
                }
            };
            if round >= WARM_UP {
                series.add(&format!("{name}, no policy"), a);
                series.add(&format!("{name}, Docker's policy"), b);
                series.add(&format!("{name}, pairwise difference"), b - a);
            }
        }
    }
    series.print(
        "run with Docker's default seccomp policy, v2, spec B",
        "ms",
        &[],
    );
    let added = series.median("corten-oci, pairwise difference");
    gates.at_most("Docker's seccomp policy adds", "ms", added, 0.1);
    Ok(())
}
