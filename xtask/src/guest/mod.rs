//! The tests of the runtime and of control groups on another kernel than this machine's, where cgroup v2
//! is all there is: `cargo xtask test --guest`.
//!
//! ```text
//!  here                                  in the guest
//!  suite    builds the test binaries
//!  uml      User Mode Linux     ┐
//!  qemu     emulated machine    ├─ boot → init    root file system, cgroup2; starts the runner, powers off
//!  image    Debian with systemd ┘         runner  each test in a process of its own, with a time limit
//!  console  relays, waits  ←──────────────────── lines on the console
//! ```
//!
//! The guest sees this machine's files through a read-only mount under an overlay in memory, so that it
//! runs the very binaries that were built here, and changes nothing here.

mod console;
mod image;
mod init;
mod initramfs;
mod job;
mod kernel;
mod qemu;
mod runner;
mod suite;
mod uml;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::failure::{Context, Result, failure};
pub use suite::Scope;

/// A kind of guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rig {
    /// Seconds to boot; no cpuset and no hugetlb controller. What CI runs.
    Uml,
    /// Debian's kernel, emulated: every controller, and eight times slower.
    Qemu,
    /// The same with systemd as process 1; runs the tests named `systemd_…` alone.
    Systemd,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    rigs: Vec<Rig>,
    filters: Vec<String>,
}

impl Request {
    /// From `--guest[=RIG] [-- FILTER…]`. `None`: the arguments are not about guests.
    pub fn parse(args: &[String]) -> Result<Option<Self>> {
        let Some((first, rest)) = args.split_first() else {
            return Ok(None);
        };
        let rigs = match first.as_str() {
            "--guest" | "--guest=uml" => vec![Rig::Uml],
            "--guest=qemu" => vec![Rig::Qemu],
            "--guest=systemd" => vec![Rig::Systemd],
            "--guest=all" => vec![Rig::Uml, Rig::Qemu, Rig::Systemd],
            other if other.starts_with("--guest") => {
                return Err(failure(format!(
                    "{other}: a guest is uml, qemu, systemd or all"
                )));
            }
            _ => return Ok(None),
        };
        let filters = match rest.split_first() {
            None => Vec::new(),
            Some((dashes, filters)) if dashes == "--" => filters.to_vec(),
            Some((other, _)) => {
                return Err(failure(format!("{other}: test names come after `--`")));
            }
        };
        Ok(Some(Self { rigs, filters }))
    }

    /// What a whole run of the tests ends with.
    pub fn of_ci() -> Self {
        Self {
            rigs: vec![Rig::Uml],
            filters: Vec::new(),
        }
    }
}

/// Runs the suite in each guest that was asked for; fails if one test of them did.
pub fn test(request: &Request, scope: Scope) -> Result<()> {
    let binaries = suite::build(scope)?;
    let mut failed = Vec::new();
    for rig in &request.rigs {
        let since = Instant::now();
        let name = format!("{rig:?}").to_lowercase();
        println!("step guest {name}");
        let outcome = match rig {
            Rig::Uml => uml::run(&binaries, &request.filters)?,
            Rig::Qemu => qemu::run(&binaries, &request.filters)?,
            Rig::Systemd => qemu::run_systemd(&binaries, &request.filters)?,
        };
        outcome.print(&name);
        println!("step guest {name}: {:.1} s", since.elapsed().as_secs_f64());
        if let Some(reason) = outcome.failure() {
            failed.push(format!("{name}: {reason}"));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failure(format!("guests: {}", failed.join("; ")))),
    }
}

/// Process 1 of a guest, called by its kernel.
pub fn init(args: &[String]) -> Result<()> {
    match args {
        // User Mode Linux adds words of its own.
        [job, ..] => init::main(Path::new(job)),
        _ => Err(failure("guest-init takes the job's file")),
    }
}

/// The tests, in the guest.
pub fn runner(args: &[String]) -> Result<()> {
    match args {
        [job] => runner::main(Path::new(job)),
        _ => Err(failure("guest-run takes the job's file")),
    }
}

/// Everything that the guests need and leave: `target/guest`.
pub fn folder(name: &str) -> Result<PathBuf> {
    let folder = workspace().join("target/guest").join(name);
    std::fs::create_dir_all(&folder).context(folder.display())?;
    Ok(folder)
}

fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// This program, which is static, so that it can be the first process of any kernel.
fn own_binary() -> Result<PathBuf> {
    std::env::current_exe().context("cannot find xtask's own binary")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Option<Request>> {
        Request::parse(&args.iter().map(|a| a.to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn guests_are_asked_for_by_name() {
        assert_eq!(parse(&[]).unwrap(), None);
        assert_eq!(parse(&["-p", "corten-net"]).unwrap(), None);
        let request = parse(&["--guest=systemd", "--", "systemd_"])
            .unwrap()
            .unwrap();
        assert_eq!(request.rigs, [Rig::Systemd]);
        assert_eq!(request.filters, ["systemd_"]);
        assert_eq!(parse(&["--guest"]).unwrap().unwrap(), Request::of_ci());
        assert_eq!(parse(&["--guest=all"]).unwrap().unwrap().rigs.len(), 3);
        let error = parse(&["--guest=bochs"]).unwrap_err().to_string();
        assert!(
            error.contains("bochs") && error.contains("systemd"),
            "{error}"
        );
        assert!(parse(&["--guest", "limits"]).is_err());
    }
}
