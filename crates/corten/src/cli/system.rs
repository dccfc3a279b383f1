//! `corten system`.

use std::process::ExitCode;

use super::{Global, install};
use crate::failure::Failure;
use crate::output::{self, table};

/// Look at the engine itself
#[derive(clap::Subcommand)]
pub enum Command {
    /// Show what this engine and this host are
    Info,
    /// Look for what crashes have left; exit 1 if something is left
    Check {
        /// Remove it
        #[arg(long)]
        repair: bool,
    },
    /// Show what lies on the disk, and what of it could go
    ///
    /// Sizes are of disk blocks. RECLAIMABLE of images is what removing those that no container has would free, of containers what the
    /// stopped ones have written, of volumes those that no container has; garbage is what `system prune` frees besides.
    Df,
    /// Remove containers that do not run, networks without containers, and layers that nothing uses
    Prune,
    Install(install::Args),
    /// Start the containers whose restart policy wants them running and that do not run
    ///
    /// For the host's start, and for after a supervisor was killed. Containers that were stopped by the user are left out, but for those
    /// with the policy always. Prints the names of those that were started.
    Start,
    /// What a supervisor runs when a container that has ended is to be started again
    #[command(hide = true)]
    Restarted {
        container: String,
    },
    /// What a supervisor runs when its container has ended and nobody waits
    #[command(hide = true)]
    Exited {
        container: String,
    },
    /// What a supervisor runs when the resolver of names has gone
    #[command(hide = true)]
    Names,
}

pub fn run(global: &Global, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Info => info(global)?,
        Command::Df => disk_use(global)?,
        Command::Check { repair } => return check(global, repair),
        Command::Prune => prune(global)?,
        Command::Install(args) => install::run(global, &args)?,
        Command::Start => start(global)?,
        Command::Restarted { container } => global.engine()?.restart_again(&container)?,
        Command::Names => global.engine()?.ensure_names()?,
        Command::Exited { container } => {
            let engine = global.engine()?;
            engine.exited(&container)?;
            engine.sweep()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn info(global: &Global) -> Result<(), Failure> {
    let info = global.engine()?.info()?;
    if global.json {
        return Ok(output::json(&info)?);
    }
    let lines = [
        ("version", info.version.to_owned()),
        ("root", info.root),
        ("run", info.run),
        ("snapshotter", info.layers),
        ("cgroups", info.cgroup.to_owned()),
        (
            "containers",
            format!("{} ({} running)", info.containers, info.running),
        ),
        ("images", info.images.to_string()),
        (
            "bridge",
            format!("{} ({})", info.bridge, info.subnets.join(", ")),
        ),
        ("kernel", format!("{} {}", info.kernel, info.architecture)),
        ("processors", info.cpus.to_string()),
        ("memory", output::size(info.memory)),
    ];
    for (key, value) in lines {
        output::line(format!("{:<13}{value}", format!("{key}:")))?;
    }
    Ok(())
}

fn disk_use(global: &Global) -> Result<(), Failure> {
    let lines = global.engine()?.disk_use()?;
    if global.json {
        return Ok(output::json(&lines)?);
    }
    let share = |part: u64, whole: u64| match whole {
        0 => String::new(),
        _ => format!(" ({}%)", part.saturating_mul(100) / whole),
    };
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|l| {
            let reclaimable = output::size(l.reclaimable) + &share(l.reclaimable, l.size);
            vec![
                l.what.to_owned(),
                l.total.to_string(),
                l.active.to_string(),
                output::size(l.size),
                reclaimable,
            ]
        })
        .collect();
    Ok(table::print(
        &["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"],
        &rows,
    )?)
}

fn start(global: &Global) -> Result<(), Failure> {
    let (started, failed) = global.engine()?.start_by_policy()?;
    for name in started {
        output::line(name)?;
    }
    let mut failed = failed.into_iter().map(Failure::from);
    let last = failed.next_back();
    for failure in failed {
        failure.report();
    }
    last.map_or(Ok(()), Err)
}

fn check(global: &Global, repair: bool) -> Result<ExitCode, Failure> {
    let found = global.engine()?.check(repair)?;
    if global.json {
        output::json(&found)?;
    } else {
        for f in &found {
            let mark = if f.repaired { "repaired" } else { "found" };
            output::line(format!("{mark}: {}: {}", f.what, f.place))?;
        }
    }
    Ok(match found.iter().all(|f| f.repaired) {
        true => ExitCode::SUCCESS,
        false => {
            eprintln!("hint: 'corten system check --repair' removes what can be removed");
            ExitCode::from(1)
        }
    })
}

fn prune(global: &Global) -> Result<(), Failure> {
    let pruned = global.engine()?.prune()?;
    if global.json {
        return Ok(output::json(&pruned)?);
    }
    for name in pruned.containers.iter().chain(&pruned.networks) {
        output::line(name)?;
    }
    Ok(output::line(format!(
        "freed: {}",
        output::size(pruned.freed)
    ))?)
}
