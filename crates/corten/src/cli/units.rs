//! Units for systemd: what brings containers back after the host's start.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::Global;
use crate::failure::Failure;
use crate::output;

const SERVICE: &str = "corten-restart.service";
const TIMER: &str = "corten-restart.timer";

#[derive(Debug, thiserror::Error)]
#[error("cannot write the unit {0}")]
struct Unit(String, #[source] io::Error);

/// Writes them; nothing is enabled. A unit that is there with another text is left, and named.
pub fn install(global: &Global, folder: &Path) -> Result<(), Failure> {
    let command = command(global)?;
    for (name, text) in [(SERVICE, service(&command)), (TIMER, timer())] {
        let path = folder.join(name);
        if fs::read_to_string(&path).is_ok_and(|there| there == text) {
            continue;
        }
        let written = fs::File::create_new(&path).and_then(|mut f| f.write_all(text.as_bytes()));
        written.map_err(|e| {
            let hint = "remove what is there, or name another folder";
            Failure::hinted(Unit(path.display().to_string(), e), hint)
        })?;
        output::line(path.display())?;
    }
    Ok(())
}

/// Our command line, on the folders of this engine.
fn command(global: &Global) -> Result<String, Failure> {
    let paths = global.paths()?;
    let executable = std::env::current_exe()?;
    let words = [
        executable.as_path(),
        Path::new("--root"),
        paths.root(),
        Path::new("--run"),
        paths.run(),
        Path::new("--etc"),
        paths.etc(),
        Path::new("system"),
        Path::new("start"),
    ];
    Ok(words.map(quoted).join(" "))
}

/// A word of systemd's command lines (systemd.service(5)): specifiers and variables mean nothing in it.
fn quoted(word: &Path) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(plain) {
        return text.into_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '%' | '$' => out.extend([c, c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn service(command: &str) -> String {
    // KillMode: what is started is to outlive the command that has started it.
    format!(
        "[Unit]\n\
         Description=Start containers by their restart policies\n\
         Wants=network-online.target\n\
         After=network-online.target local-fs.target\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={command}\n\
         KillMode=process\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// For those who want a container back whose supervisor was killed.
fn timer() -> String {
    "[Unit]\n\
     Description=Start containers again whose supervisor was killed\n\
     \n\
     [Timer]\n\
     OnBootSec=1min\n\
     OnUnitInactiveSec=1min\n\
     \n\
     [Install]\n\
     WantedBy=timers.target\n"
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_systemd_reads_as_they_are() {
        for (word, text) in [
            ("/var/lib/corten", "/var/lib/corten"),
            ("/a b", "\"/a b\""),
            ("/%h$x", "\"/%%h$$x\""),
            ("/q\"\\", "\"/q\\\"\\\\\""),
        ] {
            assert_eq!(quoted(Path::new(word)), text);
        }
    }
}
