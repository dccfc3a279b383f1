//! The program: found as the container's user, executed as the last step.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};

use corten_sys::exec::Program;
use corten_sys::seccomp::Filter;
use corten_sys::trampoline::{Fork, Tags, Trampoline, Way};
use corten_sys::{process, weakened};
use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, OFlags, accessat, openat, statat};
use rustix::io::Errno;

use crate::handshake::{self, FORKED, Failure, Step, tag};
use crate::plan::process::Plan;

/// What a process needs besides its plan: made before the clone.
#[derive(Debug)]
pub(crate) struct Parts {
    pub program: Program,
    /// `None`: our own executable cannot be written to, so it may be seen.
    pub trampoline: Option<Trampoline>,
    pub terminal: Option<OwnedFd>,
    pub stdio: Option<[OwnedFd; 3]>,
    /// Capabilities that the new process starts with.
    pub capabilities: u64,
    pub preserve_fds: u32,
    /// The process is not in its pid namespace yet: a sibling of it will be, made by the trampoline.
    pub forks: bool,
    /// A procfs in which this process is, for its security label.
    pub procfs: Option<OwnedFd>,
    /// Which of the program's paths it is.
    pub found: usize,
}

/// Looks for the program, with the rights of whom we have become, as execvp(3): the first that can be
/// executed; if there is none but one that may not be, that is the error.
pub(crate) fn find<'a>(plan: &'a Plan, parts: &mut Parts) -> Result<(), Failure<'a>> {
    let mut worst = Errno::NOENT;
    for (index, path) in parts.program.paths().iter().enumerate() {
        match check(path) {
            Ok(()) => {
                parts.found = index;
                return Ok(());
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => worst = errno,
        }
    }
    let name = plan.arguments.first().map_or(&b""[..], |a| a.as_bytes());
    Err(Failure::new(Step::Find, worst, name))
}

fn check(path: &CStr) -> Result<(), Errno> {
    accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    let kind = FileType::from_raw_mode(statat(CWD, path, AtFlags::empty())?.st_mode);
    match kind {
        FileType::RegularFile => Ok(()),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::ACCESS),
    }
}

/// Replaces this process. Returns only on failure. `report` is where the trampoline tells of one.
pub(crate) fn execute<'a>(plan: &'a Plan, parts: Parts, report: impl AsFd) -> Failure<'a> {
    let name = plan.arguments.first().map_or(&b""[..], |a| a.as_bytes());
    let at = |step, errno| Failure::new(step, errno, name);
    // One call for all that is open, whoever opened it and with whichever flags.
    if !weakened!("fds.leak")
        && let Err(errno) = process::cloexec_from(3 + parts.preserve_fds)
    {
        return at(Step::Descriptors, errno);
    }
    let fork = parts.forks.then(|| Fork {
        told: FORKED,
        failed: tag(Step::Fork),
        session: tag(Step::Session),
        terminal: parts.terminal.as_ref().map(|_| tag(Step::Terminal)),
    });
    let Parts {
        program,
        trampoline,
        found,
        ..
    } = parts;
    let path = &program.paths()[found];
    let filter = plan.filter.as_ref();
    // The trampoline installs it where that needs no privilege: then exec is the only call of ours that it
    // has to allow.
    let here = filter.filter(|_| trampoline.is_none() || !plan.no_new_privileges);
    let there = filter.filter(|_| here.is_none());
    let tags = Tags {
        report: tag(Step::Descriptors),
        filter: tag(Step::Seccomp),
        send: tag(Step::Listener),
        listener: handshake::listener_tag(),
        execute: tag(Step::Execute),
    };
    let way = Way {
        fork,
        filter: there,
        tags,
    };
    // All but the last call before the filter, which may forbid the others.
    let sealed = trampoline.map(|t| t.seal(&program, path, &report, &way));
    let sealed = match sealed.transpose() {
        Ok(sealed) => sealed,
        Err(errno) => return at(Step::Trampoline, errno),
    };
    if let Some(filter) = here
        && let Err((step, errno)) = install(filter, &report)
    {
        return at(step, errno);
    }
    match sealed {
        Some(sealed) => at(Step::Trampoline, sealed.enter()),
        None => at(Step::Execute, program.execute(path)),
    }
}

/// Installs the filter. Its listener, if it has one, goes to whoever waits for the exec.
fn install(filter: &Filter, report: impl AsFd) -> Result<(), (Step, Errno)> {
    let listener = filter.install().map_err(|e| (Step::Seccomp, e))?;
    match listener {
        Some(fd) => handshake::send_listener(report, fd.as_fd()).map_err(|e| (Step::Listener, e)),
        None => Ok(()),
    }
}

/// Sets `HOME` from the container's `/etc/passwd` if nobody has; `/` if it is not there.
pub(crate) fn find_home(plan: &Plan, parts: &mut Parts) -> Result<(), Errno> {
    if !parts.program.wants_home() {
        return Ok(());
    }
    let mut home = Home {
        uid: plan.uid,
        ..Home::default()
    };
    // Not to hang on a FIFO in its place.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    if let Ok(file) = openat(CWD, c"/etc/passwd", flags, Mode::empty()) {
        home.search(|buffer| rustix::io::read(&file, buffer));
    }
    match home.found() {
        Some(path) => parts.program.set_home(path),
        None => parts.program.set_home(b"/"),
    }
}

/// Longest line of a passwd file that is looked at.
const LINE: usize = 1024;

/// A search through a passwd file, in place.
struct Home {
    uid: u32,
    line: [u8; LINE],
    range: Option<std::ops::Range<usize>>,
}

impl Default for Home {
    fn default() -> Self {
        Self {
            uid: 0,
            line: [0; LINE],
            range: None,
        }
    }
}

impl Home {
    fn found(&self) -> Option<&[u8]> {
        let path = self.line.get(self.range.clone()?)?;
        (!path.is_empty()).then_some(path)
    }

    /// Reads at most 1 MiB, line by line; lines that are too long are left out.
    fn search(&mut self, mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) {
        let mut buffer = [0u8; 4096];
        let (mut len, mut total) = (0, 0);
        while let Ok(got) = read(&mut buffer)
            && got > 0
            && total < 1 << 20
        {
            total += got;
            for byte in &buffer[..got] {
                if *byte == b'\n' {
                    if self.take(len) {
                        return;
                    }
                    len = 0;
                } else {
                    if let Some(slot) = self.line.get_mut(len) {
                        *slot = *byte;
                    }
                    len += 1;
                }
            }
        }
        self.take(len);
    }

    /// Does the line of `len` bytes name the user? Then where its sixth field is.
    fn take(&mut self, len: usize) -> bool {
        let Some(line) = self.line.get(..len) else {
            return false;
        };
        let mut start = 0;
        for (index, field) in line.split(|b| *b == b':').enumerate() {
            if index == 2 && number(field) != Some(self.uid) {
                return false;
            }
            if index == 5 {
                self.range = Some(start..start + field.len());
                return true;
            }
            start += field.len() + 1;
        }
        false
    }
}

/// For the fuzzer: a passwd file.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(mut passwd: &[u8]) {
    let mut home = Home {
        uid: 33,
        ..Home::default()
    };
    home.search(|buffer| std::io::Read::read(&mut passwd, buffer).map_err(|_| Errno::IO));
    if let Some(found) = home.found() {
        assert!(!found.contains(&b'\n') && !found.contains(&b':'));
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(uid: u32, passwd: &[u8]) -> Option<Vec<u8>> {
        let mut home = Home {
            uid,
            ..Home::default()
        };
        let mut rest = passwd;
        home.search(|buffer| {
            let len = rest.len().min(7);
            buffer[..len].copy_from_slice(&rest[..len]);
            rest = &rest[len..];
            Ok(len)
        });
        home.found().map(<[u8]>::to_vec)
    }

    #[test]
    fn finds_the_home_of_a_user() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/srv/www:/bin/false";
        assert_eq!(home(0, passwd).as_deref(), Some(&b"/root"[..]));
        assert_eq!(home(33, passwd).as_deref(), Some(&b"/srv/www"[..]));
        assert_eq!(home(34, passwd), None);
    }

    #[test]
    fn survives_a_hostile_file() {
        let long = [vec![b'a'; 5000], b"\nx:x:7:7::/seven:\n".to_vec()].concat();
        assert_eq!(home(7, &long).as_deref(), Some(&b"/seven"[..]));
        assert_eq!(home(7, b"::7\n:::::\nx:x:-7:0::/no:"), None);
        assert_eq!(home(7, &[0xff; 3000]), None);
    }
}
