//! A container's state: what is on disk, and what is derived from it.
//!
//! ```text
//!   ROOT/ID/state.json    who the container is: written before its cgroup exists, again with init's pid
//!   ROOT/ID/config.json   the spec that it was made from
//!   ROOT/ID/start.sock    the gate: there while init waits, gone before it is told to go
//!   ROOT/ID/checkpointed  there once a checkpoint has ended the container
//! ```
//! Whether a container is created, running or stopped is written nowhere. Init is known by process id
//! and start time; the gate tells whether it has been let go.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use corten_cgroup::{Cgroup, Layout};
use corten_spec::ContainerId;
use corten_sys::weakened;
use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdir, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::error::{Error, failed, failed_io};
use crate::parent::rdt::Resctrl;
use crate::plan::seccomp::Listener;

/// Where in its life a container is. Never stored: derived from init, which is known by process
/// id and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Being made, or its maker died half way.
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    /// The specification's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// What `state` and `list` report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    pub id: ContainerId,
    pub status: Status,
    /// Init's process id on the host; 0 unless created, running or paused.
    pub pid: u32,
    pub bundle: PathBuf,
    /// The root folder, empty with a detached root mount.
    pub rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub created: String,
    /// The user id that created it.
    pub owner: u32,
    /// Path of the cgroup below each hierarchy's root; empty if the container has none of its own.
    pub cgroup: String,
    pub annotations: BTreeMap<String, String>,
}

const CHECKPOINTED: &str = "checkpointed";
const VERSION: u32 = 1;
/// Larger files are not ours.
const SIZE_MAX: u64 = 16 << 20;

/// The content of `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub id: ContainerId,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    pub created: String,
    pub owner: u32,
    pub cgroup: String,
    /// `argv[0]`, for messages.
    pub program: String,
    /// The spec has hooks from start on, so `config.json` must be read again.
    pub hooks: bool,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Its pid namespace is not its own: others live in it, and outlive init.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shares_pids: bool,
    /// Where the seccomp filter's listener goes when the program is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Listener>,
    #[serde(default)]
    pub init: Option<Init>,
    /// The unit whose the cgroup is, if systemd made it. Records of before systemd have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resctrl: Option<Resctrl>,
}

/// A unit of systemd's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    /// `corten-web.scope`.
    pub name: String,
    /// Of the calling user's manager, not the host's.
    pub user: bool,
}

/// A process that no other can be mistaken for until the next boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Init {
    pub pid: u32,
    /// Field 22 of `/proc/PID/stat`, in clock ticks since boot.
    pub start_time: u64,
}

impl Record {
    pub fn new(id: &ContainerId, bundle: &Path, rootfs: PathBuf, cgroup: &str) -> Self {
        Self {
            version: VERSION,
            id: id.clone(),
            bundle: bundle.into(),
            rootfs,
            created: now(),
            owner: rustix::process::geteuid().as_raw(),
            cgroup: cgroup.into(),
            program: String::new(),
            hooks: false,
            annotations: BTreeMap::new(),
            shares_pids: false,
            listener: None,
            init: None,
            unit: None,
            resctrl: None,
        }
    }

    /// The specification's state document, as hooks get it.
    pub fn document(&self, status: &str, pid: u32) -> String {
        let mut document = serde_json::json!({
            "ociVersion": crate::OCI_VERSION,
            "id": self.id,
            "status": status,
            "bundle": self.bundle,
        });
        if pid != 0 {
            document["pid"] = pid.into();
        }
        if !self.annotations.is_empty() {
            document["annotations"] = serde_json::json!(self.annotations);
        }
        document.to_string()
    }
}

/// A container's folder below the state root. It is looked up by name once, must be ours, and is used by
/// descriptor from then on: whoever can rename in the folder above changes nothing for us.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    pub path: PathBuf,
    id: ContainerId,
    held: OnceLock<Arc<OwnedFd>>,
}

/// The gate's name in the folder.
pub(crate) const GATE: &str = "start.sock";
const RECORD: &str = "state.json";
const CONFIG: &str = "config.json";

impl Folder {
    pub fn new(root: &Path, id: &ContainerId) -> Self {
        Self {
            path: root.join(id.as_str()),
            id: id.clone(),
            held: OnceLock::new(),
        }
    }

    /// Makes it; that it exists is the one sign that an id is taken.
    pub fn make(&self) -> Result<(), Error> {
        let mode = Mode::from_raw_mode(0o700);
        match mkdir(&self.path, mode) {
            Err(Errno::NOENT) => {
                let parent = self.path.parent().unwrap_or(Path::new("/"));
                let mut builder = std::fs::DirBuilder::new();
                let made = builder.recursive(true).mode(0o711).create(parent);
                made.map_err(failed_io("make the folder", parent))?;
                mkdir(&self.path, mode)
            }
            other => other,
        }
        .map_err(|errno| match errno {
            Errno::EXIST => Error::AlreadyExists {
                id: self.id.to_string(),
            },
            errno => failed("make the folder", &self.path)(errno),
        })
    }

    /// The folder itself.
    pub fn fd(&self) -> Result<&OwnedFd, Error> {
        if let Some(fd) = self.held.get() {
            return Ok(fd);
        }
        let fd = self.open().map_err(|errno| match errno {
            Errno::NOENT => Error::NotFound {
                id: self.id.to_string(),
            },
            Errno::NOTDIR | Errno::LOOP => self.broken(&self.path, "is no folder".into()),
            errno => failed("open", &self.path)(errno),
        })?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("examine", &self.path))?;
        // What another user can write to could name any process as our container's.
        if !weakened!("state.trusting") {
            let own = rustix::process::geteuid().as_raw();
            if stat.st_uid != own && stat.st_uid != 0 {
                let problem = format!("belongs to user {}", stat.st_uid);
                return Err(self.broken(&self.path, problem));
            }
            if stat.st_mode & 0o022 != 0 {
                let problem = format!("has the mode {:o}", stat.st_mode & 0o7777);
                return Err(self.broken(&self.path, problem));
            }
        }
        Ok(self.held.get_or_init(|| Arc::new(fd)))
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let nofollow = match weakened!("state.trusting") {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        openat(CWD, &self.path, flags | nofollow, Mode::empty())
    }

    /// For messages; who opens it names it by [`fd`](Self::fd).
    pub fn gate(&self) -> PathBuf {
        self.path.join(GATE)
    }

    /// Does init wait at the gate?
    pub fn has_gate(&self) -> Result<bool, Error> {
        match statat(self.fd()?, GATE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(failed("examine", self.gate())(errno)),
        }
    }

    /// Writes the record: the first one in place, as nothing was there; later ones by renaming.
    pub fn write(&self, record: &Record, first: bool) -> Result<(), Error> {
        const TEMPORARY: &str = "state.json.new";
        let path = self.path.join(RECORD);
        let bytes = serde_json::to_vec(record).map_err(|e| self.broken(&path, e.to_string()))?;
        if first {
            return self.write_new(RECORD, &bytes);
        }
        self.write_new(TEMPORARY, &bytes)?;
        let fd = self.fd()?;
        renameat(fd, TEMPORARY, fd, RECORD).map_err(failed("rename", self.path.join(TEMPORARY)))
    }

    pub fn write_config(&self, spec: &Spec) -> Result<(), Error> {
        let path = self.path.join(CONFIG);
        let bytes = serde_json::to_vec(spec).map_err(|e| self.broken(&path, e.to_string()))?;
        self.write_new(CONFIG, &bytes)
    }

    fn write_new(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let folder = self.fd()?;
        let write = || -> Result<(), Errno> {
            let flags = OFlags::WRONLY
                | OFlags::CREATE
                | OFlags::TRUNC
                | OFlags::NOFOLLOW
                | OFlags::CLOEXEC;
            let file = openat(folder, name, flags, Mode::from_raw_mode(0o600))?;
            let mut rest = bytes;
            while !rest.is_empty() {
                let written = rustix::io::write(&file, rest)?;
                rest = &rest[written..];
            }
            Ok(())
        };
        write().map_err(failed("write", self.path.join(name)))
    }

    pub fn read(&self) -> Result<Record, Error> {
        let path = self.path.join(RECORD);
        let record: Record = self.parse(RECORD)?;
        if record.version != VERSION {
            let problem = format!("has version {}, and {VERSION} is known", record.version);
            return Err(self.broken(&path, problem));
        }
        if record.id != self.id {
            return Err(self.broken(&path, format!("is of container {}", record.id)));
        }
        Ok(record)
    }

    pub fn read_config(&self) -> Result<Spec, Error> {
        self.parse(CONFIG)
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<T, Error> {
        let folder = self.fd()?;
        let path = self.path.join(name);
        let nofollow = match weakened!("state.trusting") {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        // A FIFO in its place must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | nofollow;
        let file = openat(folder, name, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::NOENT => self.broken(&path, "is missing".into()),
            Errno::LOOP => self.broken(&path, "is a link".into()),
            errno => failed("read", &path)(errno),
        })?;
        let mut bytes = Vec::with_capacity(4096);
        let read = std::fs::File::from(file)
            .take(SIZE_MAX)
            .read_to_end(&mut bytes);
        read.map_err(failed_io("read", &path))?;
        serde_json::from_slice(&bytes).map_err(|e| self.broken(&path, format!("is damaged: {e}")))
    }

    fn broken(&self, path: &Path, problem: String) -> Error {
        Error::State {
            path: path.into(),
            problem,
        }
    }

    /// Says that the container's end was a checkpoint, so that its id is free for the restore.
    pub fn mark_checkpointed(&self) -> Result<(), Error> {
        self.write_new(CHECKPOINTED, b"")
    }

    pub fn is_checkpointed(&self) -> bool {
        self.path.join(CHECKPOINTED).exists()
    }

    /// Removes what is in it by name, then all else: nothing but ours belongs there. A link in its place is
    /// removed, and not what it leads to.
    pub fn remove(&self) -> Result<(), Error> {
        let folder = match self.open() {
            Ok(folder) => folder,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                return rustix::fs::unlink(&self.path).map_err(failed("remove", &self.path));
            }
            Err(errno) => return Err(failed("open", &self.path)(errno)),
        };
        for name in [GATE, CONFIG, RECORD] {
            match unlinkat(&folder, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                Err(errno) => return Err(failed("remove", self.path.join(name))(errno)),
            }
        }
        match rustix::fs::rmdir(&self.path) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // By descriptors as well: std's does not follow links.
            Err(_) => std::fs::remove_dir_all(&self.path).map_err(failed_io("remove", &self.path)),
        }
    }
}

/// Init, held: it cannot be replaced by another process of the same number.
#[derive(Debug)]
pub(crate) struct Held {
    pub pid: u32,
    pub pidfd: OwnedFd,
}

impl Init {
    /// A process that was just made.
    pub fn of(pid: u32) -> Result<Self, Error> {
        let path = PathBuf::from(format!("/proc/{pid}/stat"));
        let stat = Stat::read(&path).map_err(failed_io("read", &path))?;
        Ok(Self {
            pid,
            start_time: stat.start_time,
        })
    }

    /// `None`: it has ended.
    pub fn hold(self) -> Result<Option<Held>, Error> {
        let Some(pid) = Pid::from_raw(self.pid as i32) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH | Errno::INVAL) => return Ok(None),
            Err(errno) => return Err(failed("open a pidfd of init", "")(errno)),
        };
        // After the pidfd, so that it is about the process that the pidfd holds, or about none.
        let stat = Stat::read(&PathBuf::from(format!("/proc/{pid}/stat")));
        match stat {
            Ok(stat)
                if (stat.start_time == self.start_time || weakened!("init.by_pid"))
                    && !stat.ended() =>
            {
                Ok(Some(Held {
                    pid: self.pid,
                    pidfd,
                }))
            }
            _ => Ok(None),
        }
    }
}

/// The letter of what a process does: `R`, `S`, `T`, … `None`: there is no such process.
pub(crate) fn doing(pid: u32) -> Option<u8> {
    let stat = Stat::read(&PathBuf::from(format!("/proc/{pid}/stat")));
    stat.ok().map(|stat| stat.state)
}

/// A process's id in the innermost pid namespace that it is in (proc_pid_status(5), `NSpid`).
pub(crate) fn pid_inside(pid: u32) -> Result<u32, Error> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status = std::fs::read_to_string(&path).map_err(failed_io("read", &path))?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let last = line.and_then(|line| line.split_whitespace().next_back()?.parse().ok());
    Ok(last.unwrap_or(pid))
}

struct Stat {
    state: u8,
    start_time: u64,
}

impl Stat {
    fn read(path: &Path) -> std::io::Result<Self> {
        // One line; the kernel gives a file of procfs whole to a reader with room for it.
        let mut text = [0; 1024];
        let len = std::fs::File::open(path)?.read(&mut text)?;
        Self::parse(&text[..len]).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
    }

    /// After the name in parentheses, which may hold anything: state, then fields up to 22.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|b| *b == b')')?;
        let rest = std::str::from_utf8(text.get(end + 2..)?).ok()?;
        let mut fields = rest.split(' ');
        let state = *fields.next()?.as_bytes().first()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { state, start_time })
    }

    fn ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X')
    }
}

/// A container, looked up: its record, and its init if that lives.
#[derive(Debug)]
pub(crate) struct Found {
    pub folder: Folder,
    pub record: Record,
    pub init: Option<Held>,
}

impl Found {
    pub fn open(root: &Path, id: &ContainerId) -> Result<Self, Error> {
        let folder = Folder::new(root, id);
        let record = folder.read()?;
        let init = match record.init {
            Some(init) => init.hold()?,
            None => None,
        };
        Ok(Self {
            folder,
            record,
            init,
        })
    }

    /// Whether it is paused takes a look at its cgroup.
    pub fn status(&self) -> Result<Status, Error> {
        if self.record.init.is_none() {
            return Ok(Status::Creating);
        }
        if self.init.is_none() {
            return Ok(Status::Stopped);
        }
        if self.folder.has_gate()? {
            return Ok(Status::Created);
        }
        let frozen = match self.cgroup()? {
            Some(cgroup) => cgroup.is_frozen().map_err(refused("read the freezer"))?,
            None => false,
        };
        Ok(if frozen {
            Status::Paused
        } else {
            Status::Running
        })
    }

    /// `None`: it is gone already, or there never was one.
    pub fn cgroup(&self) -> Result<Option<Cgroup>, Error> {
        open_cgroup(&self.record.cgroup)
    }

    pub fn state(&self) -> Result<State, Error> {
        let status = self.status()?;
        Ok(State {
            id: self.record.id.clone(),
            status,
            pid: self.init.as_ref().map_or(0, |init| init.pid),
            bundle: self.record.bundle.clone(),
            rootfs: self.record.rootfs.clone(),
            created: self.record.created.clone(),
            owner: self.record.owner,
            cgroup: self.record.cgroup.clone(),
            annotations: self.record.annotations.clone(),
        })
    }

    /// Refuses an action in a state that it is not for.
    pub fn conflict(&self, action: &'static str, status: Status) -> Error {
        Error::Conflict {
            action,
            id: self.record.id.to_string(),
            status: status.as_str(),
        }
    }
}

pub(crate) fn open_cgroup(path: &str) -> Result<Option<Cgroup>, Error> {
    // One that has none of its own: made without root.
    if path.is_empty() {
        return Ok(None);
    }
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    match Cgroup::open(&layout, path) {
        Ok(cgroup) => Ok(Some(cgroup)),
        Err(corten_cgroup::Error::NotFound { .. }) => Ok(None),
        Err(source) => Err(refused("open the control group")(source)),
    }
}

pub(crate) fn refused(step: &'static str) -> impl FnOnce(corten_cgroup::Error) -> Error {
    move |source| Error::Cgroup { step, source }
}

/// Waits, without limit, until a process has ended.
pub(crate) fn wait_end(pidfd: impl AsFd) -> Result<(), Error> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    loop {
        match poll(&mut fds, None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for init", "")(errno)),
        }
    }
}

/// For the fuzzer: whatever can be read can be written and read again, and has the id that it says.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let _ = Stat::parse(bytes);
    let Ok(record) = serde_json::from_slice::<Record>(bytes) else {
        return;
    };
    let text = serde_json::to_vec(&record).expect("a record can be written");
    let again: Record = serde_json::from_slice(&text).expect("a record of ours can be read");
    assert_eq!(record.document("running", 1), again.document("running", 1));
}

fn now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    rfc3339(now.as_secs(), now.subsec_nanos())
}

/// Days to a date after H. Hinnant's `civil_from_days` (chrono-compatible low-level date algorithms).
pub(crate) fn rfc3339(seconds: u64, nanos: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_399, 5), "2000-02-28T23:59:59.000000005Z");
        assert_eq!(rfc3339(951_868_799, 0), "2000-02-29T23:59:59.000000000Z");
        assert_eq!(rfc3339(1_795_444_800, 0), "2026-11-23T14:40:00.000000000Z");
    }

    #[test]
    fn a_record_of_before_systemd_is_read() {
        let old = r#"{"version":1,"id":"web","bundle":"/b","rootfs":"/b/r","created":"","owner":0,
            "cgroup":"/corten/web","program":"sh","hooks":false,"init":{"pid":7,"start_time":9}}"#;
        let record: Record = serde_json::from_str(old).unwrap();
        assert_eq!((record.unit, record.resctrl), (None, None));
        let mut new = Record::new(
            &"web".parse().unwrap(),
            Path::new("/b"),
            "/b/r".into(),
            "/s/u",
        );
        // Without the two, a record is as it always was.
        assert!(!serde_json::to_string(&new).unwrap().contains("unit"));
        new.unit = Some(Unit {
            name: "corten-web.scope".into(),
            user: true,
        });
        let again: Record = serde_json::from_str(&serde_json::to_string(&new).unwrap()).unwrap();
        assert_eq!(again.unit, new.unit);
    }

    #[test]
    fn a_stat_line_is_read_past_a_hostile_name() {
        let line = b"7 (a) R 1) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.state, stat.start_time), (b'S', 4242));
        assert!(Stat::parse(b"7 (a").is_none());
        assert!(Stat::parse(b"7 (a)").is_none());
    }
}
