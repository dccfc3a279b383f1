//! (a) `run --rm busybox true`: the time until it is over and gone, without a
//! network, with the default one, and a runtime's share of it.

use super::Bench;
use super::peer::Network;
use super::report::{Series, skipped};
use crate::failure::Result;

const WARM_UP: usize = 2;

pub fn measure(bench: &Bench) -> Result<()> {
    let rounds = rounds();
    bare(bench, rounds);
    engines(
        bench,
        rounds,
        Network::None,
        "run --rm --network none busybox true",
    );
    engines(
        bench,
        rounds,
        Network::Default,
        "run --rm busybox true, default network",
    );
    Ok(())
}

/// `CORTEN_BENCH_ROUNDS` changes it for a quick look or a long night.
pub fn rounds() -> usize {
    let asked = std::env::var("CORTEN_BENCH_ROUNDS")
        .ok()
        .and_then(|text| text.parse().ok());
    asked.unwrap_or(20)
}

/// Engines and bare runtimes in the same rounds: the targets compare across.
fn engines(bench: &Bench, rounds: usize, network: Network, title: &str) {
    let mut series = Series::default();
    let mut failed = Vec::new();
    for round in 0..rounds + WARM_UP {
        for engine in &bench.engines {
            let Some(argv) = engine.run(network) else {
                continue;
            };
            if failed.contains(&engine.name) {
                continue;
            }
            match engine.place.run(&argv) {
                Ok(timing) if round >= WARM_UP => series.add(engine.name, timing.millis),
                Ok(_) => {}
                Err(why) => {
                    skipped(engine.name, why);
                    failed.push(engine.name);
                }
            }
        }
        if network == Network::None {
            for bare in bench.bare.iter().filter(|bare| bare.name == "crun (v2)") {
                if let (Ok(timing), true) = (bare.place.run(&bare.argv), round >= WARM_UP) {
                    series.add("bare crun (v2)", timing.millis);
                }
            }
        }
    }
    series.print(title, "ms", &["podman + crun", "docker", "bare crun (v2)"]);
}

fn bare(bench: &Bench, rounds: usize) {
    let mut series = Series::default();
    for round in 0..rounds + WARM_UP {
        for bare in &bench.bare {
            match bare.place.run(&bare.argv) {
                Ok(timing) if round >= WARM_UP => series.add(bare.name, timing.millis),
                Ok(_) => {}
                Err(why) => skipped(bare.name, why),
            }
        }
    }
    series.print(
        "a runtime on a prepared bundle: run busybox true",
        "ms",
        &["crun (v2)", "runc"],
    );
}
