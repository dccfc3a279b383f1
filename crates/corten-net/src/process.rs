//! Which process a number stands for.

use std::fs;

/// When a process started, in clock ticks since the host did (proc_pid_stat(5), field 22); `None` if
/// it has ended, reaped or not. A number that is used again has another.
pub(crate) fn started_at(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let mut words = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(words.next()?, "Z" | "X");
    words.nth(18).filter(|_| !ended)?.parse().ok()
}
