//! Intel RDT: a share of the last-level cache and of memory bandwidth, by the resctrl filesystem (runtime
//! specification, `linux.intelRdt`; kernel: `Documentation/arch/x86/resctrl.rst`).
//!
//! ```text
//!   ROOT/CLOS/schemata                what the class gets
//!   ROOT/CLOS/tasks                   who is in it: a new process is where its parent was
//!   ROOT/CLOS/mon_groups/ID/tasks     who is counted together
//! ```
//! A class that the spec names belongs to whoever runs the host, and stays. One of the container's own id, and
//! its monitoring group, go with the container.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use rustix::fs::{CWD, Mode, OFlags, mkdir, openat, rmdir};
use rustix::io::Errno;

use crate::Error;
use crate::dir::{read_file, write_file};

/// What a spec asks for, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A folder's name; `None` is the root's class, which every host has.
    class: Option<String>,
    /// The class is the container's own.
    own: bool,
    /// Lines that an existing class of somebody else's must have already.
    schema: Vec<String>,
    /// Lines that are written whatever is there.
    schemata: Vec<String>,
    monitor: Option<String>,
}

/// A container's place, as its state keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub class: PathBuf,
    pub own: bool,
    pub monitor: Option<PathBuf>,
}

/// Decides. Pure.
pub fn plan(rdt: &LinuxIntelRdt, id: &str) -> Result<Plan, Error> {
    let given = rdt.clos_id().as_deref().filter(|c| !c.is_empty());
    let class = match given {
        Some("/") => None,
        Some(name) => Some(checked_name(name)?),
        None => Some(checked_name(id)?),
    };
    let mut schema = Vec::new();
    let bandwidth = filled(rdt.mem_bw_schema());
    for line in filled(rdt.l3_cache_schema()).iter().flat_map(|s| s.lines()) {
        // The other field's line replaces one of its kind in here.
        if bandwidth.is_none() || !line.trim_start().starts_with("MB:") {
            schema.push(checked_line("intelRdt.l3CacheSchema", line)?);
        }
    }
    if let Some(line) = bandwidth {
        if !line.starts_with("MB:") {
            let reason = "it does not start with MB:";
            return Err(invalid("intelRdt.memBwSchema", line, reason));
        }
        schema.push(checked_line("intelRdt.memBwSchema", line)?);
    }
    let lines = rdt.schemata().iter().flatten();
    let schemata = lines
        .map(|line| checked_line("intelRdt.schemata", line))
        .collect::<Result<_, _>>()?;
    let monitor = match rdt.enable_monitoring() {
        Some(true) => Some(checked_name(id)?),
        _ => None,
    };
    Ok(Plan {
        class,
        own: given.is_none(),
        schema,
        schemata,
        monitor,
    })
}

fn filled(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|t| !t.is_empty())
}

fn invalid(setting: &str, value: &str, reason: &'static str) -> Error {
    Error::Invalid {
        setting: setting.into(),
        value: value.into(),
        reason,
    }
}

fn checked_name(name: &str) -> Result<String, Error> {
    // Folders of the filesystem's own.
    const TAKEN: [&str; 5] = [".", "..", "info", "mon_groups", "mon_data"];
    if TAKEN.contains(&name) || name.len() > 255 || name.contains(['/', '\0', '\n']) {
        let reason = "it is no name of a class";
        return Err(invalid("intelRdt.closID", name, reason));
    }
    Ok(name.into())
}

fn checked_line(setting: &'static str, line: &str) -> Result<String, Error> {
    let line = line.trim();
    let kind = line.split_once(':').map(|(kind, _)| kind);
    if line.contains(['\n', '\0']) || kind.is_none_or(str::is_empty) {
        return Err(invalid(setting, line, "a line looks like L3:0=ff;1=f"));
    }
    Ok(line.into())
}

/// Where resctrl is mounted, from `/proc/self/mountinfo`. Read only for a container that asks for it.
pub fn mounted() -> Result<PathBuf, Error> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    find(&text).ok_or(Error::Unsupported {
        setting: "linux.intelRdt".into(),
        reason: "this host has no resctrl filesystem mounted",
    })
}

fn find(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let is_it = filesystem.split(' ').next() == Some("resctrl");
        // Field 5; one with a space in its name would be escaped, and nobody mounts resctrl there.
        mount.split(' ').nth(4).filter(|_| is_it).map(PathBuf::from)
    })
}

impl Plan {
    /// The container's place below `root`, known before anything is made there.
    pub fn place(&self, root: &Path) -> Place {
        let class = match &self.class {
            Some(name) => root.join(name),
            None => root.into(),
        };
        let monitor = self.monitor.as_ref();
        Place {
            monitor: monitor.map(|id| class.join("mon_groups").join(id)),
            own: self.own,
            class,
        }
    }

    /// Makes the class as the spec has it, and moves a process of one thread into it.
    pub fn apply(&self, root: &Path, pid: u32) -> Result<(), Error> {
        let place = self.place(root);
        let wanted = self.own || !self.schema.is_empty() || !self.schemata.is_empty();
        let made = match self.class.is_some() && wanted {
            true => make(&place.class, root)?,
            false => false,
        };
        let done = self
            .fill(root, &place, made)
            .and_then(|()| place.join(root, pid));
        if done.is_err() && made {
            // Nobody else can be in it yet. What led here is the one to tell.
            let _ = place.monitor.as_ref().map(rmdir);
            let _ = rmdir(&place.class);
        }
        done
    }

    fn fill(&self, root: &Path, place: &Place, made: bool) -> Result<(), Error> {
        let mut lines: Vec<&str> = Vec::new();
        if made || self.own {
            lines.extend(self.schema.iter().map(String::as_str));
        } else if !self.schema.is_empty() {
            let path = place.class.join("schemata");
            let text = open(&place.class)
                .and_then(|fd| read_file(std::os::fd::AsFd::as_fd(&fd), "schemata"))
                .map_err(|source| failed("read", &path, root, source))?;
            if let Some(line) = self.schema.iter().find(|line| !has(&text, line)) {
                return Err(invalid(
                    "intelRdt schema",
                    line,
                    "the class exists and has another",
                ));
            }
        }
        lines.extend(self.schemata.iter().map(String::as_str));
        if !lines.is_empty() {
            // One write for all: the kernel takes them line by line, and wants the last newline.
            let text = lines.join("\n") + "\n";
            write(&place.class, "schemata", &text, root)?;
        }
        match &place.monitor {
            Some(folder) => make(folder, root).map(drop),
            None => Ok(()),
        }
    }
}

impl Place {
    /// Moves a process of one thread in: init, or one that is added later and so is nobody's child in there.
    pub fn join(&self, root: &Path, pid: u32) -> Result<(), Error> {
        let pid = pid.to_string();
        write(&self.class, "tasks", &pid, root)?;
        match &self.monitor {
            Some(folder) => write(folder, "tasks", &pid, root),
            None => Ok(()),
        }
    }

    /// Removes what was the container's own. What is gone is no error.
    pub fn remove(&self) -> Result<(), Error> {
        let own = self.own.then_some(&self.class);
        for folder in self.monitor.iter().chain(own) {
            match rmdir(folder) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(source) => {
                    return Err(Error::Resctrl {
                        step: "remove",
                        path: folder.clone(),
                        status: String::new(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}

/// `Ok(false)`: it was there. The kernel has few classes: ENOSPC says that all are taken.
fn make(folder: &Path, root: &Path) -> Result<bool, Error> {
    match mkdir(folder, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(source) => Err(failed("make", folder, root, source)),
    }
}

fn open(folder: &Path) -> Result<std::os::fd::OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(CWD, folder, flags, Mode::empty())
}

fn write(folder: &Path, file: &str, value: &str, root: &Path) -> Result<(), Error> {
    let write =
        || open(folder).and_then(|fd| write_file(std::os::fd::AsFd::as_fd(&fd), file, value));
    write().map_err(|source| failed("write", &folder.join(file), root, source))
}

/// The kernel says in a file of its own what was wrong with the last command.
fn failed(step: &'static str, path: &Path, root: &Path, source: Errno) -> Error {
    let status = std::fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
    let status = match status.trim() {
        "" | "ok" => String::new(),
        words => format!(" ({})", words.replace('\n', "; ")),
    };
    Error::Resctrl {
        step,
        path: path.into(),
        status,
        source,
    }
}

/// Whether a `schemata` file has a line's values, in whatever form they are written.
fn has(text: &str, line: &str) -> bool {
    let values = |line: &str| -> Option<(String, Vec<(u64, String)>)> {
        let (kind, list) = line.trim().split_once(':')?;
        let mut values = Vec::new();
        for pair in list.split(';').filter(|p| !p.trim().is_empty()) {
            let (id, value) = pair.split_once('=')?;
            let value = value.trim().to_ascii_lowercase();
            let value = value.strip_prefix("0x").unwrap_or(&value);
            let value = value.trim_start_matches('0').to_owned();
            values.push((id.trim().parse().ok()?, value));
        }
        Some((kind.trim().to_owned(), values))
    };
    let Some((kind, wanted)) = values(line) else {
        return false;
    };
    text.lines()
        .filter_map(values)
        .any(|(k, there)| k == kind && wanted.iter().all(|v| there.contains(v)))
}

#[cfg(test)]
mod tests;
