//! Which process a lease belongs to, told apart from a later one with the same pid.

use std::fs;
use std::sync::OnceLock;

use crate::error::{Error, Result};

/// A process for as long as it lives: the pid alone is reused, the start time alone starts anew at each boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub pid: i64,
    pub started: i64,
    pub boot: String,
}

impl Owner {
    pub fn this_process() -> Result<Self> {
        let path = "/proc/self/stat";
        let stat = fs::read(path).map_err(Error::io("read", path))?;
        let started = start_time(&stat).ok_or(Error::Damaged {
            what: "file",
            name: path.into(),
            why: "it has no 22nd field".into(),
        })?;
        Ok(Self {
            pid: i64::from(std::process::id()),
            started,
            boot: boot()?.to_owned(),
        })
    }

    pub fn is_alive(&self) -> Result<bool> {
        if self.boot != boot()? {
            return Ok(false);
        }
        // A zombie has given up its work as much as a process that is gone; it still has a stat file.
        Ok(fs::read(format!("/proc/{}/stat", self.pid))
            .is_ok_and(|s| start_time(&s) == Some(self.started) && !is_zombie(&s)))
    }
}

/// This boot's id.
pub(crate) fn boot() -> Result<&'static str> {
    static BOOT: OnceLock<String> = OnceLock::new();
    if let Some(b) = BOOT.get() {
        return Ok(b);
    }
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
    Ok(BOOT.get_or_init(|| text.trim().to_owned()))
}

/// The fields after the command, which is in parentheses and may itself hold spaces and parentheses (proc_pid_stat(5)).
fn after_command(stat: &[u8]) -> Option<impl Iterator<Item = &str>> {
    let end = stat.iter().rposition(|&b| b == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    Some(rest.split_ascii_whitespace())
}

/// Field 22, in clock ticks since boot.
fn start_time(stat: &[u8]) -> Option<i64> {
    after_command(stat)?.nth(19)?.parse().ok()
}

fn is_zombie(stat: &[u8]) -> bool {
    after_command(stat).and_then(|mut f| f.next()) == Some("Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_does_not_confuse() {
        let stat = b"12 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(start_time(stat), Some(4711));
        assert!(!is_zombie(stat));
        assert!(is_zombie(b"12 (a) Z 1"));
        assert_eq!(start_time(b""), None);
    }

    #[test]
    fn this_process_lives_and_its_forerunner_does_not() {
        let me = Owner::this_process().unwrap();
        assert!(me.is_alive().unwrap());
        for other in [
            Owner {
                started: me.started - 1,
                ..me.clone()
            },
            Owner {
                boot: "earlier".into(),
                ..me.clone()
            },
            Owner {
                pid: i64::from(u32::MAX),
                ..me
            },
        ] {
            assert!(!other.is_alive().unwrap());
        }
    }
}
