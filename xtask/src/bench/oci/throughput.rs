//! Containers a second, with one, two and eight at work.

use super::super::report::Series;
use super::bundle::Variant;
use super::gate::Gates;
use super::{CRUN, RUNC, Rig};
use crate::failure::Result;

const WORKERS: [usize; 3] = [1, 2, 8];

pub fn measure(rig: &Rig, gates: &mut Gates) -> Result<()> {
    let (count, rounds) = if rig.quick { (64, 1) } else { (200, 3) };
    for workers in WORKERS {
        let crews = crews(rig, workers)?;
        let mut series = Series::default();
        for _ in 0..rounds {
            for Crew { name, argvs } in &crews {
                // The slow one need not be timed as long.
                let count = if *name == "runc" { count / 4 } else { count };
                let seconds = rig.v2.many(argvs, count)?;
                series.add(name, count as f64 / seconds);
            }
        }
        let title = format!("run busybox true, {workers} at work, v2, spec B");
        series.print(&title, "containers a second", &["crun", "runc", "floor"]);
        if workers == 8 {
            gates.at_least("8 at work, to crun", &series, ["corten-oci", "crun"], 2.0);
        }
    }
    Ok(())
}

/// The same work for several workers at once.
struct Crew {
    name: &'static str,
    argvs: Vec<Vec<String>>,
}

/// A bundle and a control group for each worker.
fn crews(rig: &Rig, workers: usize) -> Result<Vec<Crew>> {
    let variant = Variant::new(&["/bin/true"]).own_cgroups();
    let floor = (0..workers).map(|n| rig.floor("", &format!("many-floor-{n}")).argv);
    let mut crews = vec![Crew {
        name: "floor",
        argvs: floor.collect(),
    }];
    let mut runtimes = vec![("corten-oci", rig.corten.as_str()), ("crun", CRUN)];
    if !rig.quick {
        runtimes.push(("runc", RUNC));
    }
    for (name, runtime) in runtimes {
        let argvs = (0..workers).map(|n| {
            let id = format!("many-{name}-{n}");
            rig.oci(name, runtime, &id, &variant).map(|s| s.argv)
        });
        let argvs = argvs.collect::<Result<_>>()?;
        crews.push(Crew { name, argvs });
    }
    Ok(crews)
}
