//! The way out of a network namespace whose owner may not touch the host's network: a process of
//! the user's own that carries packets between a tap link in there and ordinary sockets out here.
//! `pasta` where it is installed, else `slirp4netns`.
//!
//! Either gives the namespace a link `tap0` with [`ADDRESS`], a default route through [`GATEWAY`], and
//! [`NAMESERVER`], which is the host's name server wherever that is. The host's own loopback is not
//! reached, unless it is asked for: then it is behind [`GATEWAY`].
//!
//! One folder, one namespace, one process. The folder's file says whose it is before there is any; a
//! process that was started by somebody who died before noting its number is found by the folder's
//! path, which its command line carries. It holds the namespace, so it is to be ended with the
//! last of the namespace's containers.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use corten_sys::spawn::{self, Program};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, pidfd_open, pidfd_send_signal, waitpid,
};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::process::started_at;

pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub const PREFIX: u8 = 24;
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub const NAMESERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
pub const LINK: &str = "tap0";
/// What both carry.
const MTU: &str = "65520";

/// Where a program is looked for after `PATH`, which a service may not have.
const FOLDERS: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin"];
const RECORD: &str = "way-out.json";
const PIDFILE: &str = "pid";
const LOG: &str = "log";
/// Time for a program to set the link up.
const START: Duration = Duration::from_secs(10);
/// Time for it to end when it is asked to, before it is killed.
const END: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(2);
/// The end of a log that goes into an error.
const LOG_TAIL: usize = 400;

/// The program that carries the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    Pasta,
    Slirp4netns,
}

impl Driver {
    const ALL: [Self; 2] = [Self::Pasta, Self::Slirp4netns];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pasta => "pasta",
            Self::Slirp4netns => "slirp4netns",
        }
    }
}

/// The namespace that wants out, and how far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// A process in it, and in the user namespace that owns it.
    pub pid: u32,
    /// IPv6 too, where the host has a way out for it.
    pub ipv6: bool,
    /// Whether the host's loopback is behind [`GATEWAY`].
    pub host_loopback: bool,
}

/// A way out that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    pub driver: Driver,
    pub pid: u32,
    pub target: Target,
}

/// What the folder's file says.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    driver: Driver,
    target: Target,
    /// Number and start time of the process; absent until it is known.
    process: Option<(u32, u64)>,
}

/// The way out of one namespace.
#[derive(Clone, Debug)]
pub struct WayOut {
    folder: PathBuf,
    search: Vec<PathBuf>,
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        action,
        path,
        source,
    }
}

impl WayOut {
    /// `folder` is this namespace's alone, and its path absolute: it is what the process is known by.
    pub fn new(folder: &Path) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let named = std::env::split_paths(&path).filter(|p| p.is_absolute());
        let search = named.chain(FOLDERS.map(PathBuf::from)).collect();
        Self::with_programs_in(folder, search)
    }

    /// As [`WayOut::new`], with the folders in which programs are looked for.
    pub fn with_programs_in(folder: &Path, search: Vec<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            search,
        }
    }

    /// The program that would be used. An error names both if there is neither.
    pub fn driver(&self) -> Result<(Driver, PathBuf), Error> {
        let executable = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK);
        let found = Driver::ALL.into_iter().find_map(|driver| {
            let mut all = self.search.iter().map(|f| f.join(driver.as_str()));
            let path = all.find(|p| p.is_file() && executable(p).is_ok())?;
            Some((driver, path))
        });
        found.ok_or_else(|| Error::NoWayOut {
            reason: "neither pasta (of passt) nor slirp4netns is installed".into(),
        })
    }

    /// Sets the way out up, and returns when packets can leave. One that is there for the same target
    /// is left; one for another, or half there, is ended first.
    pub fn start(&self, target: &Target) -> Result<Running, Error> {
        match self.find()? {
            Some(running) if running.target == *target => return Ok(running),
            _ => self.stop()?,
        }
        let (driver, program) = self.driver()?;
        fs::create_dir_all(&self.folder).map_err(file_error("make", &self.folder))?;
        let mut record = Record {
            driver,
            target: target.clone(),
            process: None,
        };
        self.write(&record)?;
        let started = match driver {
            Driver::Pasta => self.start_pasta(&program, target),
            Driver::Slirp4netns => self.start_slirp(&program, target),
        };
        let noted = started.and_then(|pid| {
            let since = started_at(pid).ok_or_else(|| self.failed(driver, "ended at once"))?;
            record.process = Some((pid, since));
            self.write(&record).map(|()| pid)
        });
        match noted {
            Ok(pid) => Ok(Running {
                driver,
                pid,
                target: target.clone(),
            }),
            Err(error) => {
                self.stop()?;
                Err(error)
            }
        }
    }

    /// The process, if it runs.
    pub fn find(&self) -> Result<Option<Running>, Error> {
        let Some(record) = self.read()? else {
            return Ok(None);
        };
        let Some((pid, since)) = record.process else {
            return Ok(None);
        };
        let running = Running {
            driver: record.driver,
            pid,
            target: record.target,
        };
        Ok((started_at(pid) == Some(since)).then_some(running))
    }

    /// Ends the process, whoever started it, and removes what the folder holds of it. None is a
    /// success.
    pub fn stop(&self) -> Result<(), Error> {
        if let Some(record) = self.read()? {
            let noted = record
                .process
                .filter(|(pid, at)| started_at(*pid) == Some(*at));
            let marked = self.marked(record.driver);
            let all = noted.map(|(pid, _)| pid).into_iter().chain(marked);
            for pid in all {
                end(pid).map_err(|e| Error::File {
                    action: "end the process of",
                    path: self.folder.clone(),
                    source: e.into(),
                })?;
            }
        }
        for name in [PIDFILE, LOG, RECORD] {
            let path = self.folder.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &path)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn failed(&self, driver: Driver, what: &str) -> Error {
        let mut text = Vec::new();
        // Without a log there is less to say, and that is all.
        let _ = File::open(self.folder.join(LOG)).and_then(|mut f| f.read_to_end(&mut text));
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().filter(|l| !l.contains("syslog"));
        let said = lines.collect::<Vec<_>>().join("; ");
        let start = said.ceil_char_boundary(said.len().saturating_sub(LOG_TAIL));
        let said = match said[start..].trim() {
            "" => String::new(),
            said => format!(" ({said})"),
        };
        Error::NoWayOut {
            reason: format!("{} {what}{said}", driver.as_str()),
        }
    }

    /// What a process of this folder has in its command line.
    fn mark(&self, driver: Driver) -> OsString {
        match driver {
            Driver::Pasta => self.folder.join(PIDFILE).into_os_string(),
            // It takes no file's name; its own may be any.
            Driver::Slirp4netns => {
                let mut name = b"slirp4netns:".to_vec();
                name.extend_from_slice(self.folder.as_os_str().as_bytes());
                OsString::from_vec(name)
            }
        }
    }

    /// The processes with this folder's mark.
    fn marked(&self, driver: Driver) -> Vec<u32> {
        let mark = self.mark(driver);
        let is_ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = line.split(|b| *b == 0);
            // Somebody may look at the file: that is not a process to be ended.
            let named = match driver {
                Driver::Pasta => words.next() == Some(b"pasta"),
                Driver::Slirp4netns => return words.next() == Some(mark.as_bytes()),
            };
            named && words.any(|word| word == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .filter(is_ours)
            .collect()
    }

    fn run(
        &self,
        program: &Path,
        args: &[&OsStr],
        ready: Option<&impl AsFd>,
    ) -> Result<u32, Error> {
        let path = self.folder.join(LOG);
        let log = File::create(&path).map_err(file_error("write", &path))?;
        let ready: Vec<_> = ready.map(AsFd::as_fd).into_iter().collect();
        spawn::spawn(&Program {
            path: program,
            arguments: args,
            environment: &[],
            stdio: [None, None, Some(log.as_fd())],
            descriptors: &ready,
            session: true,
        })
        .map_err(|e| file_error("run", program)(e.into()))
    }

    /// pasta goes into the background when it is ready, and writes its number before.
    fn start_pasta(&self, program: &Path, target: &Target) -> Result<u32, Error> {
        let mark = self.mark(Driver::Pasta);
        let (address, prefix) = (ADDRESS.to_string(), PREFIX.to_string());
        let (gateway, nameserver) = (GATEWAY.to_string(), NAMESERVER.to_string());
        let pid = target.pid.to_string();
        let mut args: Vec<&OsStr> = vec!["pasta".as_ref(), "--config-net".as_ref()];
        let settings = [
            ("--ns-ifname", LINK),
            ("--address", &address),
            ("--netmask", &prefix),
            ("--gateway", &gateway),
            ("--dns-forward", &nameserver),
            ("--mtu", MTU),
            // Ports are published by others, and nothing of the host's is forwarded into it.
            ("--tcp-ports", "none"),
            ("--udp-ports", "none"),
            ("--tcp-ns", "none"),
            ("--udp-ns", "none"),
        ];
        args.extend(
            settings
                .iter()
                .flat_map(|(k, v)| [OsStr::new(k), OsStr::new(v)]),
        );
        args.extend([OsStr::new("--pid"), &mark, OsStr::new("--quiet")]);
        if !target.host_loopback {
            args.push("--no-map-gw".as_ref());
        }
        if !target.ipv6 {
            args.push("--ipv4-only".as_ref());
        }
        args.push(OsStr::new(&pid));
        let child = self.run(program, &args, None::<&File>)?;
        self.wait(Driver::Pasta, child, || false)?;
        let text = fs::read_to_string(&mark).unwrap_or_default();
        let pid = text.trim().parse().ok();
        pid.ok_or_else(|| self.failed(Driver::Pasta, "has not said its number"))
    }

    /// slirp4netns stays, and writes one byte to a pipe when it is ready.
    fn start_slirp(&self, program: &Path, target: &Target) -> Result<u32, Error> {
        let broken = |e: Errno| file_error("make a pipe for", &self.folder)(e.into());
        let (said, say) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(broken)?;
        rustix::fs::fcntl_setfl(&said, rustix::fs::OFlags::NONBLOCK).map_err(broken)?;
        let mark = self.mark(Driver::Slirp4netns);
        let pid = target.pid.to_string();
        let mtu = format!("--mtu={MTU}");
        let mut args: Vec<&OsStr> = vec![&mark];
        let flags = [
            "--configure",
            "--ready-fd=3",
            "--enable-sandbox",
            "--enable-seccomp",
            &mtu,
        ];
        args.extend(flags.map(OsStr::new));
        if !target.host_loopback {
            args.push("--disable-host-loopback".as_ref());
        }
        if target.ipv6 {
            args.push("--enable-ipv6".as_ref());
        }
        args.extend([OsStr::new(&pid), OsStr::new(LINK)]);
        let child = self.run(program, &args, Some(&say))?;
        drop(say);
        let ready = || rustix::io::read(&said, &mut [0]).is_ok_and(|n| n > 0);
        self.wait(Driver::Slirp4netns, child, ready)?;
        Ok(child)
    }

    /// Waits until a child is ready, or has ended well.
    fn wait(&self, driver: Driver, child: u32, ready: impl Fn() -> bool) -> Result<(), Error> {
        let until = Instant::now() + START;
        let pid = i32::try_from(child).ok().and_then(Pid::from_raw);
        while !ready() {
            match waitpid(pid, WaitOptions::NOHANG) {
                Ok(None) if Instant::now() < until => std::thread::sleep(PAUSE),
                Ok(None) => return Err(self.failed(driver, "does not get ready")),
                Ok(Some((_, status))) if status.exit_status() == Some(0) => return Ok(()),
                Ok(Some((_, status))) => {
                    let how = match status.exit_status() {
                        Some(code) => format!("ended with status {code}"),
                        None => "was killed".into(),
                    };
                    return Err(self.failed(driver, &how));
                }
                Err(e) => return Err(file_error("wait for", &self.folder)(e.into())),
            }
        }
        Ok(())
    }

    fn read(&self) -> Result<Option<Record>, Error> {
        let path = self.folder.join(RECORD);
        match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file_error("read", &path)(e)),
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|e| file_error("read", &path)(e.into())),
        }
    }

    fn write(&self, record: &Record) -> Result<(), Error> {
        let path = self.folder.join(RECORD);
        let new = path.with_extension("new");
        let text = serde_json::to_vec(record).map_err(|e| file_error("write", &path)(e.into()))?;
        File::create(&new)
            .and_then(|mut file| file.write_all(&text))
            .map_err(file_error("write", &new))?;
        fs::rename(&new, &path).map_err(file_error("write", &path))
    }
}

/// Ends one process, and waits for that. It is reaped if it is ours.
fn end(pid: u32) -> Result<(), Errno> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or(Errno::SRCH)?;
    let life = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(Errno::SRCH) => return Ok(()),
        other => other?,
    };
    for (signal, patience) in [(Signal::TERM, END), (Signal::KILL, END)] {
        match pidfd_send_signal(&life, signal) {
            Err(Errno::SRCH) => break,
            other => other?,
        }
        let timeout = rustix::time::Timespec {
            tv_sec: patience.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let mut fds = [rustix::event::PollFd::new(
            &life,
            rustix::event::PollFlags::IN,
        )];
        let ended = rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, Some(&timeout)));
        if ended? > 0 {
            break;
        }
    }
    // Not ours: its parent's business.
    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
    Ok(())
}
