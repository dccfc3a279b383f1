//! A container's life in the steps that an engine takes: create, start, state, exec, delete while it runs.

use std::fs;

use super::super::report::Series;
use super::bundle::Variant;
use super::gate::Gates;
use super::{CRUN, RUNC, Rig, WARM_UP, words};
use crate::failure::{Context, Result};

const STEPS: [&str; 5] = ["create", "start", "state", "exec true", "delete -f"];

pub fn measure(rig: &Rig, gates: &mut Gates) -> Result<()> {
    let variant = Variant::new(&["/bin/sleep", "1000"]).own_cgroups();
    let mut subjects = vec![("corten-oci", rig.corten.as_str()), ("crun", CRUN)];
    if !rig.quick {
        subjects.push(("runc", RUNC));
    }
    let mut steps: Vec<Series> = STEPS.iter().map(|_| Series::default()).collect();
    // runc sleeps a tenth of a second in each delete.
    for round in 0..rig.rounds.div_ceil(2) + WARM_UP {
        for &(name, runtime) in &subjects {
            let id = format!("life-{name}");
            let bundle = rig.bundles.make(&id, &variant)?;
            let millis = life(rig, runtime, &id, &bundle)?;
            if round >= WARM_UP {
                for (series, millis) in steps.iter_mut().zip(millis.0) {
                    series.add(name, millis);
                }
                if name == "corten-oci" {
                    steps[3].add("floor", millis.1);
                }
            }
        }
    }
    for (name, series) in STEPS.iter().zip(&steps) {
        series.print(
            &format!("{name}, v2, spec B"),
            "ms",
            &["floor", "crun", "runc"],
        );
    }
    for (step, gate) in [(3, 0.4), (2, 0.3), (4, 0.15)] {
        let name = format!("{}, to crun", STEPS[step]);
        gates.ratio(&name, &steps[step], ["corten-oci", "crun"], gate);
    }
    Ok(())
}

/// The time of each step, and of the floor under `exec` in the same container.
fn life(rig: &Rig, runtime: &str, id: &str, bundle: &str) -> Result<([f64; 5], f64)> {
    let file = rig.folder.join("pid");
    let pid_file = super::text(&file);
    let step = |more: &[&str]| {
        rig.breathe();
        rig.v2.run(&rig.command(runtime, more))
    };
    let create = step(&["create", "--bundle", bundle, "--pid-file", &pid_file, id])?;
    let start = step(&["start", id])?;
    let state = step(&["state", id])?;
    let exec = step(&["exec", id, "/bin/true"])?;
    let pid = fs::read_to_string(&file).context(&pid_file)?;
    let group = format!("/sys/fs/cgroup/corten-bench/{id}");
    rig.breathe();
    let floor = rig
        .v2
        .run(&words(&[&rig.floor, "--exec", pid.trim(), &group]))?;
    let delete = step(&["delete", "--force", id])?;
    Ok(([create, start, state, exec, delete], floor))
}
