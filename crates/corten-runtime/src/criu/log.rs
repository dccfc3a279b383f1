//! The end of criu's log, which says why.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// As much of the file as is looked at.
const TAIL: u64 = 64 << 10;
/// As many lines, and bytes of each, as go into a message.
const LINES: usize = 4;
const LINE_MAX: usize = 240;

/// The last errors in the log at `path`, or its last lines if it names none, oldest first.
pub(crate) fn last_lines(path: &Path) -> Vec<String> {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // No log is one that says nothing: criu may have ended before it opened any.
    choose(&String::from_utf8_lossy(&read().unwrap_or_default()))
}

fn choose(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().map(bare).filter(|l| !l.is_empty()).collect();
    let errors: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with("Error"))
        .collect();
    let chosen = if errors.is_empty() { &lines } else { &errors };
    chosen[chosen.len().saturating_sub(LINES)..]
        .iter()
        .map(|line| clean(line))
        .collect()
}

/// Without the time and process id before it: `(00.123456)   42: `.
fn bare(line: &str) -> &str {
    let line = line.trim();
    let rest = match line.strip_prefix('(').and_then(|l| l.split_once(')')) {
        Some((_, rest)) => rest.trim_start(),
        None => line,
    };
    match rest.split_once(": ") {
        Some((pid, text)) if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) => {
            text.trim_start()
        }
        _ => rest,
    }
}

/// A container chooses names that criu logs: nothing of them may steer a terminal.
fn clean(line: &str) -> String {
    let mut text = String::new();
    for letter in line.chars() {
        if text.len() + letter.len_utf8() > LINE_MAX {
            text.push('…');
            break;
        }
        text.push(if letter.is_control() { '?' } else { letter });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_preferred() {
        let log = "(00.1) Dumping\n(00.2)   7: Error (criu/x.c:1): no\x1b[2J way\n(00.3) Unlock\n\
                   (00.4) Error (criu/cr-dump.c:2053): Dumping FAILED.\n";
        assert_eq!(
            choose(log),
            [
                "Error (criu/x.c:1): no?[2J way",
                "Error (criu/cr-dump.c:2053): Dumping FAILED."
            ]
        );
        assert_eq!(choose("(00.1) one\n(00.2) two\n"), ["one", "two"]);
        assert_eq!(choose(""), [""; 0]);
        let long = choose(&"x".repeat(9000));
        assert!(long[0].len() < LINE_MAX + 4);
    }
}
