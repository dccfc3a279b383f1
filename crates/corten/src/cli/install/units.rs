//! Units for systemd: the daemon with its socket, and what brings containers back after the host's start.

use std::path::Path;

use super::{Item, file};
use crate::cli::Global;
use crate::failure::Failure;
use crate::serve::config::Config;

/// None is enabled by being here.
pub(super) fn plan(global: &Global, folder: &Path) -> Result<Vec<Item>, Failure> {
    let paths = global.paths()?;
    let config = Config::load(None, paths.etc(), paths.run());
    let config = config.map_err(|e| crate::cli::serve::failed(e.into()))?;
    let unit = |name: &str, text: &str| file(folder.join(name), text);
    let start = command(global, &["system", "start"])?;
    Ok(vec![
        unit("corten-restart.service", &restart(&start)),
        unit("corten-restart.timer", TIMER),
        unit("corten.service", &serve(&command(global, &["serve"])?)),
        unit("corten.socket", &socket(&config.socket)),
    ])
}

/// Our command line, on the folders of this engine.
fn command(global: &Global, verb: &[&str]) -> Result<String, Failure> {
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
    ];
    let words = words.into_iter().chain(verb.iter().map(Path::new));
    Ok(words.map(quoted).collect::<Vec<_>>().join(" "))
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

fn restart(command: &str) -> String {
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
const TIMER: &str = "[Unit]
Description=Start containers again whose supervisor was killed

[Timer]
OnBootSec=1min
OnUnitInactiveSec=1min

[Install]
WantedBy=timers.target
";

/// Pods outlive the daemon: nothing but the daemon is ended with the unit (KillMode), and the groups below its own are ours to
/// make (Delegate). It may lower a container's score for the kernel's killer as far as it has its own (OOMScoreAdjust).
fn serve(command: &str) -> String {
    format!(
        "[Unit]\n\
         Description=Corten, Kubernetes' node runtime\n\
         Requires=corten.socket\n\
         Wants=network-online.target\n\
         After=corten.socket network-online.target local-fs.target\n\
         \n\
         [Service]\n\
         Type=notify\n\
         ExecStart={command}\n\
         KillMode=process\n\
         Delegate=yes\n\
         Restart=always\n\
         RestartSec=1\n\
         OOMScoreAdjust=-999\n\
         LimitNOFILE=1048576\n\
         LimitNPROC=infinity\n\
         LimitCORE=infinity\n\
         TasksMax=infinity\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n\
         Also=corten.socket\n"
    )
}

/// Held by systemd, so that kubelet's calls wait while the daemon starts, or starts again.
fn socket(path: &Path) -> String {
    format!(
        "[Unit]\n\
         Description=Socket of Corten, Kubernetes' node runtime\n\
         \n\
         [Socket]\n\
         ListenStream={}\n\
         SocketMode=0660\n\
         DirectoryMode=0711\n\
         \n\
         [Install]\n\
         WantedBy=sockets.target\n",
        specifiers(&path.to_string_lossy())
    )
}

/// A value that is no command line: systemd.unit(5) reads `%` in it, and nothing else.
fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
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
