//! (c) Fifty containers started in the background one after the other, then
//! removed at once: the wall time of both.

use std::time::Instant;

use super::Bench;
use super::peer::{Engine, Kind, Network};
use super::report::{Series, skipped};
use crate::failure::Result;

const COUNT: usize = 50;

pub fn measure(bench: &Bench) -> Result<()> {
    for (network, title) in [
        (Network::None, "without a network"),
        (Network::Default, "with the default network"),
    ] {
        let (mut start, mut remove) = (Series::default(), Series::default());
        for engine in bench
            .engines
            .iter()
            .filter(|engine| engine.kind != Kind::Containerd)
        {
            match fifty(engine, network) {
                Ok((started, removed)) => {
                    start.add(engine.name, started);
                    remove.add(engine.name, removed);
                }
                Err(why) => skipped(engine.name, why),
            }
        }
        start.print(
            &format!("{COUNT} containers started, {title}"),
            "s",
            &["podman + crun", "docker"],
        );
        remove.print(
            &format!("{COUNT} containers removed, {title}"),
            "s",
            &["podman + crun", "docker"],
        );
    }
    Ok(())
}

fn fifty(engine: &Engine, network: Network) -> Result<(f64, f64)> {
    let names: Vec<String> = (0..COUNT)
        .map(|number| format!("bench-many-{number}"))
        .collect();
    let since = Instant::now();
    let started = names
        .iter()
        .try_for_each(|name| engine.place.run(&engine.start(name, network)).map(drop));
    let start = since.elapsed().as_secs_f64();
    let since = Instant::now();
    for argv in engine.remove(&names) {
        engine.place.run(&argv)?;
    }
    started?;
    Ok((start, since.elapsed().as_secs_f64()))
}
