//! A process and its descendants, killed together.
//!
//! A control group would be surer; an added process has none of its own. All are stopped before any is killed, so
//! that none forks while the next is looked for, and none is adopted by init before its parents were followed. What has made
//! itself an orphan earlier belongs to the container and stays.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use corten_sys::process::send_signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

const SIGKILL: i32 = 9;
const SIGSTOP: i32 = 19;

/// Who forks faster than we look is killed as far as it was seen.
const ROUNDS: usize = 32;

/// Kills a process and those of `candidates` that descend from it. `candidates` is asked again as long as that finds new ones.
pub(super) fn kill(root: u32, mut candidates: impl FnMut() -> Vec<i32>) {
    let mut family = BTreeMap::new();
    stop(root, &mut family);
    for _ in 0..ROUNDS {
        let pids = candidates().into_iter().filter_map(|p| p.try_into().ok());
        let parents = |pid| Some((pid, parent(pid)?));
        let parents: BTreeMap<u32, u32> = pids.filter_map(parents).collect();
        let found = descendants(root, &parents);
        let before = family.len();
        for pid in found {
            if !family.contains_key(&pid) {
                stop(pid, &mut family);
            }
        }
        if family.len() == before {
            break;
        }
    }
    for pidfd in family.values() {
        let _ended = send_signal(pidfd, SIGKILL);
    }
}

/// Stops a process, if it is still the one whose parent was looked at: a number that was used again has another.
fn stop(pid: u32, family: &mut BTreeMap<u32, OwnedFd>) {
    let before = parent(pid);
    let number = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let Some(Ok(pidfd)) = number.map(|n| pidfd_open(n, PidfdFlags::empty())) else {
        return;
    };
    if before.is_some() && parent(pid) == before && send_signal(&pidfd, SIGSTOP).is_ok() {
        family.insert(pid, pidfd);
    }
}

/// Those whose parents lead to `root`, by process and parent.
fn descendants(root: u32, parents: &BTreeMap<u32, u32>) -> Vec<u32> {
    let leads = |pid: &u32| {
        let mut at = *pid;
        // No chain is longer than there are processes, even if it is read while they change.
        for _ in 0..=parents.len() {
            match parents.get(&at) {
                Some(parent) if *parent == root => return true,
                Some(parent) => at = *parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(leads).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, parentheses too: proc_pid_stat(5).
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_by_their_parents() {
        let parents: BTreeMap<u32, u32> = BTreeMap::from([
            (10, 1),
            (11, 10),
            (12, 11),
            (20, 1),
            (21, 20),
            (30, 31),
            (31, 30),
        ]);
        assert_eq!(descendants(10, &parents), [11, 12]);
        assert_eq!(descendants(1, &parents), [10, 11, 12, 20, 21]);
        assert!(descendants(12, &parents).is_empty());
        assert_eq!(
            parent(std::process::id()),
            Some(std::os::unix::process::parent_id())
        );
    }
}
