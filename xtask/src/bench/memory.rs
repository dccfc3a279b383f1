//! (b) The memory of one container's supervisor: proportional set size, which
//! counts a page shared by n processes as 1/n, with one container running.

use std::fs;

use super::Bench;
use super::peer::{Engine, Network};
use super::report::{Series, skipped};
use crate::failure::{Context, Result, failure};

const SETTLE: std::time::Duration = std::time::Duration::from_millis(500);

pub fn measure(bench: &Bench) -> Result<()> {
    let mut pss = Series::default();
    let mut rss = Series::default();
    for engine in &bench.engines {
        match supervisor(engine) {
            Ok((proportional, resident)) => {
                pss.add(engine.name, proportional);
                rss.add(engine.name, resident);
            }
            Err(why) => skipped(engine.name, why),
        }
    }
    pss.print(
        "supervisor of one container: PSS",
        "MiB",
        &["podman + crun", "docker"],
    );
    rss.print(
        "supervisor of one container: RSS",
        "MiB",
        &["podman + crun", "docker"],
    );
    Ok(())
}

fn supervisor(engine: &Engine) -> Result<(f64, f64)> {
    let name = "bench-memory".to_owned();
    engine.place.run(&engine.start(&name, Network::None))?;
    std::thread::sleep(SETTLE);
    let measured = find(engine.supervisor).and_then(|pid| read(pid).map(|sizes| (pid, sizes)));
    for argv in engine.remove(&[name]) {
        engine.place.run(&argv)?;
    }
    let (_, sizes) = measured?;
    Ok(sizes)
}

/// The one process whose command line has these words.
pub fn find(words: &str) -> Result<u32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        // conmon writes its own command line into podman's exit command too.
        if line.contains(words) && !line.contains("bench-inside") {
            found.push(pid);
        }
    }
    match found[..] {
        [pid] => Ok(pid),
        [] => Err(failure(format!(
            "no process has `{words}` in its command line"
        ))),
        _ => Err(failure(format!(
            "{} processes have `{words}` in their command line",
            found.len()
        ))),
    }
}

/// Its PSS and RSS in MiB.
pub fn read(pid: u32) -> Result<(f64, f64)> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).context(&path)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line
            .trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()?;
        Some(kib / 1024.0)
    };
    field("Pss")
        .zip(field("Rss"))
        .ok_or_else(|| failure(format!("{path} has no Pss and Rss")))
}
