//! User Mode Linux: Debian's kernel as a program. It needs neither rights nor a processor's help, and is up
//! within two seconds, so it is what CI runs.
//!
//! It runs on one processor, and hands each system call between two processes of this machine. On the same
//! processor that takes a third of the time, so a guest is bound to one, and there are two guests, each with half of the tests.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::console::{self, Outcome};
use super::job::{Binary, Job, Root};
use super::{folder, own_binary};
use crate::failure::{Context, Result, failure};
use crate::packages;

const KERNEL: &str = "/usr/bin/linux.uml";
const PACKAGES: &[(&str, &str)] = &[("user-mode-linux", KERNEL), ("iproute2", "/sbin/ip")];
const MODULES: &str = "/usr/lib/uml/modules";
const XSTATE: &str = include_str!("xstate.c");
/// What the kernel has room for; see `xstate.c`.
const XSTATE_ROOM: u32 = 2696;
const GUESTS: usize = 2;
const FOR_ONE: Duration = Duration::from_secs(120);
const FOR_ALL: Duration = Duration::from_secs(1200);
/// The disk for tests of I/O limits.
const DISK: u64 = 64 << 20;

pub fn run(binaries: &[Binary], filters: &[String]) -> Result<Outcome> {
    if !cfg!(target_arch = "x86_64") {
        return Err(failure("User Mode Linux is there for x86-64 alone"));
    }
    packages::install(PACKAGES).context("User Mode Linux cannot be had")?;
    let cpus = cpus()?;
    let root = Root {
        share: None,
        lower: "/".into(),
        shown: super::qemu::covered(binaries),
        modules: modules()?,
        module_tree: None,
        systemd: false,
    };
    let preload = xstate()?;
    let guests: Vec<Guest> = cpus
        .iter()
        .enumerate()
        .map(|(shard, cpu)| {
            let job = Job {
                binaries: binaries.to_vec(),
                filters: filters.to_vec(),
                shard,
                of: cpus.len(),
                threads: 1,
                limit: FOR_ONE,
                environment: BTreeMap::from([
                    ("CORTEN_GUEST".to_owned(), "uml".to_owned()),
                    ("CORTEN_TEST_DISK".to_owned(), "/dev/ubda".to_owned()),
                ]),
                root: root.clone(),
            };
            Guest::prepare(&job, *cpu, preload.as_deref())
        })
        .collect::<Result<_>>()?;
    together(guests)
}

fn together(guests: Vec<Guest>) -> Result<Outcome> {
    let threads: Vec<_> = guests
        .into_iter()
        .map(|guest| std::thread::spawn(move || guest.run()))
        .collect();
    // All are waited for, also when one has failed: none may outlive this.
    let ends: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
    let mut all = Outcome::default();
    for end in ends {
        all.add(end.map_err(|_| failure("a guest's thread panicked"))??);
    }
    Ok(all)
}

struct Guest {
    label: String,
    cpu: usize,
    arguments: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    leftovers: PathBuf,
}

impl Guest {
    fn prepare(job: &Job, cpu: usize, preload: Option<&Path>) -> Result<Self> {
        let label = format!("uml{}", job.shard);
        // Several runs at once, in several checkouts or one, must not meet.
        let own = folder(&format!("{label}-{}", std::process::id()))?;
        let file = own.join("job.json");
        job.write(&file)?;
        let disk = own.join("disk");
        let made = fs::File::create(&disk).and_then(|disk| disk.set_len(DISK));
        made.context(disk.display())?;
        let mut arguments: Vec<OsString> = [
            "mem=1024M",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "ro",
            "con=null",
            "con0=null,fd:1",
            "quiet",
            "loglevel=1",
        ]
        .map(OsString::from)
        .into();
        for (key, value) in [
            ("init=", own_binary()?),
            ("ubd0=", disk),
            ("uml_dir=", own.clone()),
        ] {
            let mut argument = OsString::from(key);
            argument.push(value);
            arguments.push(argument);
        }
        arguments.extend(["--", "guest-init"].map(OsString::from));
        arguments.push(file.into());
        Ok(Self {
            label,
            cpu,
            arguments,
            environment: preload
                .map(|library| ("LD_PRELOAD", library.into()))
                .into_iter()
                .collect(),
            leftovers: own,
        })
    }

    fn run(self) -> Result<Outcome> {
        let mut only = CpuSet::new();
        only.set(self.cpu);
        // Of this thread, and so of the guest.
        sched_setaffinity(None, &only).context("cannot choose a processor")?;
        let mut command = Command::new(KERNEL);
        command.args(&self.arguments).envs(self.environment);
        let outcome = console::follow(&self.label, &mut command, FOR_ALL);
        fs::remove_dir_all(&self.leftovers).context(self.leftovers.display())?;
        outcome
    }
}

/// The processors that guests are bound to.
fn cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(None).context("cannot see which processors there are")?;
    let all = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu));
    Ok(all.take(GUESTS).collect())
}

/// What the tests need of the kernel that is no part of it, each after what it needs itself: overlayfs,
/// the kinds of link, nf_tables.
const NEEDED: &[&str] = &[
    "fs/overlayfs/overlay",
    "lib/crc-ccitt",
    "net/ipv6/ipv6",
    "net/llc/llc",
    "net/802/stp",
    "net/802/mrp",
    "net/802/garp",
    "net/bridge/bridge",
    "net/8021q/8021q",
    "net/netfilter/nfnetlink",
    "net/netfilter/nf_tables",
    "drivers/net/veth",
    "drivers/net/dummy",
    "drivers/net/macvlan",
    "drivers/net/ipvlan/ipvlan",
    "drivers/net/vrf",
];

fn modules() -> Result<Vec<PathBuf>> {
    let versions = fs::read_dir(MODULES).context(MODULES)?;
    let mut folders = versions
        .flatten()
        .map(|version| version.path().join("kernel"));
    let folder = folders
        .find(|path| path.join("fs/overlayfs/overlay.ko").exists())
        .ok_or_else(|| failure(format!("there is no overlay module below {MODULES}")))?;
    let all = NEEDED.iter().map(|name| folder.join(format!("{name}.ko")));
    // What another build of the kernel has built in is no file.
    Ok(all.filter(|path| path.exists()).collect())
}

/// The library of `xstate.c`, where this processor needs it.
fn xstate() -> Result<Option<PathBuf>> {
    if !wide_registers() {
        return Ok(None);
    }
    let folder = folder("xstate")?;
    let (source, library) = (folder.join("xstate.c"), folder.join("xstate.so"));
    let current = fs::read_to_string(&source).is_ok_and(|text| text == XSTATE);
    if current && library.exists() {
        return Ok(Some(library));
    }
    fs::write(&source, XSTATE).context(source.display())?;
    // Another run may be using the old one: never written in place.
    let fresh = folder.join(format!("xstate-{}.so", std::process::id()));
    let status = Command::new("cc")
        .args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .args([&fresh, &source])
        .status()
        .context("cannot run cc")?;
    if !status.success() {
        return Err(failure("cc does not compile xstate.c"));
    }
    fs::rename(&fresh, &library).context(library.display())?;
    Ok(Some(library))
}

/// Whether a process's extended registers need more room than the kernel has for them.
#[cfg(target_arch = "x86_64")]
fn wide_registers() -> bool {
    // Leaf 13: what the system enabled, in bytes.
    std::arch::x86_64::__cpuid_count(13, 0).ebx > XSTATE_ROOM
}

#[cfg(not(target_arch = "x86_64"))]
fn wide_registers() -> bool {
    false
}
