//! What a test needs of the machine. A test that cannot run says why, in words that the harness counts
//! and prints; it never passes in silence.
//!
//! ```no_run
//! use corten_testkit::need;
//! if !need::pure_v2() || !need::controller("cpuset") {
//!     return;
//! }
//! ```
//!
//! Every question that is answered by `false` has called [`skip`] with the reason.

use std::fmt::Display;
use std::fs;
use std::io::Write as _;
use std::path::Path;

/// Names the file to which reasons are added; `cargo xtask test` prints it at the end.
const LIST: &str = "CORTEN_SKIPPED";

/// Says that the running test is not done here, and why.
pub fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("skipped: {line}");
    let Some(list) = std::env::var_os(LIST) else {
        return;
    };
    // One write of one line: tests run at once.
    let written = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(&list)
        .and_then(|mut file| file.write_all(line.as_bytes()));
    if let Err(error) = written {
        panic!("cannot note a skipped test in {}: {error}", list.display());
    }
}

/// `yes`, or the reason is told.
pub fn that(yes: bool, otherwise: impl Display) -> bool {
    if !yes {
        skip(otherwise);
    }
    yes
}

/// Only cgroup v2 is mounted, at `/sys/fs/cgroup`.
pub fn pure_v2() -> bool {
    that(
        Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        "/sys/fs/cgroup is not a cgroup v2 mount here",
    )
}

/// A v1 hierarchy is mounted, alone or beside v2.
pub fn v1() -> bool {
    that(
        !Path::new("/sys/fs/cgroup/cgroup.controllers").exists(),
        "no cgroup v1 hierarchy is mounted here",
    )
}

/// The kernel has this cgroup v2 controller, and v1 has not taken it.
pub fn controller(name: &str) -> bool {
    let files = [
        "/sys/fs/cgroup/cgroup.controllers",
        "/sys/fs/cgroup/unified/cgroup.controllers",
    ];
    let list = files.iter().find_map(|file| fs::read_to_string(file).ok());
    that(
        list.unwrap_or_default()
            .split_whitespace()
            .any(|c| c == name),
        format_args!("cgroup v2 has no {name} controller here"),
    )
}

/// The running kernel is at least this version.
pub fn kernel(major: u32, minor: u32) -> bool {
    that(
        is_kernel(major, minor),
        format_args!("it takes Linux {major}.{minor}, and this is {}", release()),
    )
}

/// The same as a question: nothing is told.
pub(crate) fn is_kernel(major: u32, minor: u32) -> bool {
    version(&release()) >= (major, minor)
}

fn release() -> String {
    let name = rustix::system::uname();
    name.release().to_string_lossy().into_owned()
}

/// A file, device or folder that not every kernel or machine has.
pub fn file(path: impl AsRef<Path>) -> bool {
    let path = path.as_ref();
    that(
        path.exists(),
        format_args!("there is no {} here", path.display()),
    )
}

/// The machine was booted by systemd, which answers on the system bus.
pub fn systemd() -> bool {
    that(
        Path::new("/run/systemd/system").exists(),
        "systemd is not what runs this machine",
    )
}

/// The kernel translates addresses by nf_tables, as published ports and masquerading need it.
pub fn nat() -> bool {
    that(is_nat(), "this kernel's nf_tables translate no addresses")
}

/// The same as a question: nothing is told.
pub fn is_nat() -> bool {
    let rules = "add table inet corten_probe; \
                 add chain inet corten_probe c { type nat hook postrouting priority 0; }; \
                 add rule inet corten_probe c masquerade";
    // Tried, and not kept.
    crate::tool::call("nft", &["--check", rules]).is_ok()
}

/// The machine is a guest of this kind, whose units, groups and files are the test's to change.
pub fn guest(kind: &str) -> bool {
    that(
        std::env::var("CORTEN_GUEST").is_ok_and(|name| name == kind),
        format_args!("it changes the machine: `cargo xtask test --guest={kind}` runs it"),
    )
}

fn version(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    (next(), next())
}

#[cfg(test)]
mod tests {
    use super::version;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert_eq!(version("6.1.0-56-amd64"), (6, 1));
        assert_eq!(version("6.18.44-fc-v669"), (6, 18));
        assert_eq!(version("7.0"), (7, 0));
        assert!(version("6.9.1") < version("6.12"));
    }
}
