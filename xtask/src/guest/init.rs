//! Process 1 of a guest: makes a root of this machine's files with a writable layer in memory, mounts what
//! a kernel offers, and starts the runner, or systemd, which starts it. When the runner has ended, so
//! does the guest.

use std::ffi::CString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, mount, mount_bind, mount_move};
use rustix::process::{WaitOptions, chroot, wait};
use rustix::system::{RebootCommand, finit_module, reboot};

use super::console;
use super::job::{Job, Root};
use crate::failure::{Context, Result, failure};

/// A folder that every root file system has, and in which nothing is that is needed.
const SCRATCH: &str = "/mnt";
/// Where the job lies once the root is changed.
const JOB: &str = "/run/corten-guest.json";
const UNIT: &str = "corten-guest.service";

/// File systems of the new root: type, folder, options.
const MOUNTS: &[(&str, &str, &str)] = &[
    ("proc", "proc", ""),
    ("sysfs", "sys", ""),
    ("devtmpfs", "dev", "mode=755"),
    ("devpts", "dev/pts", "mode=620,ptmxmode=666,gid=5"),
    ("tmpfs", "dev/shm", "mode=1777"),
    ("mqueue", "dev/mqueue", ""),
    ("tmpfs", "run", "mode=755"),
    ("tmpfs", "tmp", "mode=1777"),
    ("cgroup2", "sys/fs/cgroup", "nsdelegate"),
];

/// Does not return but by ending the guest.
pub fn main(job: &Path) -> Result<()> {
    if std::process::id() != 1 {
        return Err(failure("guest-init is for the first process of a guest"));
    }
    let ended = Job::read(job).and_then(|job| run(&job));
    if let Err(error) = ended {
        console::say_broken(error);
    }
    reboot(RebootCommand::PowerOff).context("cannot power off")
}

fn run(job: &Job) -> Result<()> {
    for module in &job.root.modules {
        load(module)?;
    }
    let (new, host) = new_root(&job.root)?;
    for (kind, folder, options) in MOUNTS {
        // systemd mounts these as it likes them.
        if !job.root.systemd || matches!(*folder, "run" | "tmp") {
            mount_at(kind, &new.join(folder), options)?;
        }
    }
    // After the mounts, which cover some of it if the checkout is in /tmp.
    for (number, folder) in job.root.shown.iter().enumerate() {
        show(number, &below(&host, folder), &below(&new, folder))?;
    }
    job.write(&new.join(JOB.trim_start_matches('/')))?;
    let program = place_program(&new)?;
    if job.root.systemd {
        write_unit(&new, &program)?;
    }
    enter(&new)?;
    match job.root.systemd {
        true => Err(failure(format!(
            "cannot start systemd: {}",
            Command::new("/lib/systemd/systemd").exec()
        ))),
        false => {
            loopback_up()?;
            run_to_the_end(&program)
        }
    }
}

/// Nothing else does it here, and criu speaks with itself over it to see what the kernel can.
fn loopback_up() -> Result<()> {
    let mut ip = Command::new("/sbin/ip");
    let status = ip.args(["link", "set", "lo", "up"]).status();
    match status.context("cannot run ip")?.success() {
        true => Ok(()),
        false => Err(failure("cannot set the loopback link up")),
    }
}

/// Loads a module; one that is built in or loaded is no error.
fn load(module: &Path) -> Result<()> {
    let file = fs::File::open(module).context(module.display())?;
    // MODULE_INIT_COMPRESSED_FILE: later Debian kernels come with compressed modules (Linux 5.17).
    let compressed = module.extension().is_some_and(|end| end != "ko");
    match finit_module(&file, c"", if compressed { 4 } else { 0 }) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context(format!("cannot load {}", module.display())),
    }
}

/// This machine's files below a layer in memory, and where they are without it.
fn new_root(root: &Root) -> Result<(PathBuf, PathBuf)> {
    let scratch = Path::new(SCRATCH);
    mount_at("tmpfs", scratch, "mode=755")?;
    let [upper, work, host, new] = ["upper", "work", "host", "new"].map(|n| scratch.join(n));
    for folder in [&upper, &work, &host, &new] {
        fs::create_dir(folder).context(folder.display())?;
    }
    let host = match &root.share {
        None => PathBuf::from("/"),
        Some(tag) => {
            // Nothing changes behind the guest's back that it looks at, so all may be cached.
            let options = "trans=virtio,version=9p2000.L,msize=512000,cache=loose";
            let options = CString::new(options).context("9p options")?;
            mount(
                tag.as_str(),
                &host,
                "9p",
                MountFlags::RDONLY,
                options.as_c_str(),
            )
            .context("cannot mount this machine's files over 9p")?;
            host
        }
    };
    let lower = below(&host, &root.lower);
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount_at("overlay", &new, &options)?;
    if let Some(tree) = &root.module_tree {
        let release = tree.file_name().unwrap_or_default();
        bind(
            &below(&host, tree),
            &new.join("usr/lib/modules").join(release),
        )?;
    }
    Ok((new, host))
}

/// As the root: a layer in memory above it, so that it is no file system that only can be read.
fn show(number: usize, from: &Path, to: &Path) -> Result<()> {
    let layer = Path::new(SCRATCH).join(format!("shown-{number}"));
    let [upper, work] = ["upper", "work"].map(|name| layer.join(name));
    for folder in [&upper, &work] {
        fs::create_dir_all(folder).context(folder.display())?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        from.display(),
        upper.display(),
        work.display()
    );
    mount_at("overlay", to, &options)
}

fn bind(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).context(to.display())?;
    mount_bind(from, to).context(format!("cannot show {}", from.display()))
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn mount_at(kind: &str, folder: &Path, options: &str) -> Result<()> {
    fs::create_dir_all(folder).context(folder.display())?;
    let data = CString::new(options).context("mount options")?;
    mount(kind, folder, kind, MountFlags::empty(), data.as_c_str())
        .context(format!("cannot mount {kind} on {}", folder.display()))
}

/// Own program, at a place that does not depend on which root it came from.
fn place_program(new: &Path) -> Result<PathBuf> {
    let place = Path::new("/run/corten-guest");
    // The kernel tells a first process by which path it was found; there is no /proc yet to ask.
    let own = std::env::args_os().next().unwrap_or_default();
    fs::copy(&own, below(new, place)).context(format!("cannot copy {}", own.display()))?;
    Ok(place.to_owned())
}

/// As `switch_root` does: pivot_root(2) refuses the kernel's first root.
fn enter(new: &Path) -> Result<()> {
    rustix::process::chdir(new).context(new.display())?;
    mount_move(".", "/").context("cannot move the new root")?;
    chroot(".").context("cannot enter the new root")?;
    rustix::process::chdir("/").context("/")?;
    // A runtime makes its own mounts private, and must not be spared that: systemd shares all mounts too.
    rustix::mount::mount_change("/", rustix::mount::MountPropagationFlags::SHARED)
        .context("cannot share the root's mounts")
}

/// Starts the runner and reaps whatever is orphaned until it ends.
fn run_to_the_end(program: &Path) -> Result<()> {
    let child = Command::new(program)
        .args(["guest-run", JOB])
        .spawn()
        .context("cannot start the runner")?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_nonzero().get() as u32 == child.id() => {
                return match status.exit_status() {
                    Some(0) => Ok(()),
                    _ => Err(failure(format!("the runner ended with {status:?}"))),
                };
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for the runner"),
        }
    }
}

/// The runner as a service that has the console, and takes the guest with it.
fn write_unit(new: &Path, program: &Path) -> Result<()> {
    let text = format!(
        "[Unit]\nDescription=Corten's tests\nAfter=dbus.service systemd-logind.service\nWants=dbus.service\n\
         SuccessAction=poweroff-force\nFailureAction=poweroff-force\n\n\
         [Service]\nType=oneshot\nExecStart={} guest-run {JOB}\nStandardOutput=tty\nStandardError=tty\n\
         TTYPath=/dev/console\nDelegate=no\nTimeoutStartSec=infinity\n",
        program.display()
    );
    let units = new.join("etc/systemd/system");
    let wants = units.join("default.target.wants");
    fs::create_dir_all(&wants).context(wants.display())?;
    fs::write(units.join(UNIT), text).context(UNIT)?;
    rustix::fs::symlinkat(format!("../{UNIT}"), CWD, wants.join(UNIT)).context(UNIT)
}
