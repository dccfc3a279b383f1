//! A peer's daemon: started with folders of its own, awaited, stopped.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{Context, Result, failure};

const READY: Duration = Duration::from_secs(30);
const STOPPED: Duration = Duration::from_secs(15);

pub struct Daemon {
    name: String,
    child: Child,
}

impl Daemon {
    /// Starts a daemon and waits until `ready` says so.
    pub fn start(
        name: &str,
        command: &mut Command,
        log: &Path,
        ready: impl Fn() -> bool,
    ) -> Result<Daemon> {
        let file = File::create(log).context(log.display())?;
        let also = file.try_clone().context(log.display())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(also)
            .spawn()
            .context(name)?;
        let mut daemon = Daemon {
            name: name.to_owned(),
            child,
        };
        let since = Instant::now();
        while !ready() {
            let ended = daemon.child.try_wait().context(name)?;
            if ended.is_some() || since.elapsed() > READY {
                daemon.stop();
                let text = std::fs::read_to_string(log).unwrap_or_default();
                let tail: Vec<&str> = text.lines().rev().take(3).collect();
                return Err(failure(format!(
                    "{name} did not come up: {}",
                    tail.join(" / ")
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and makes it end.
    pub fn stop(&mut self) {
        let pid = self.child.id().to_string();
        let since = Instant::now();
        if matches!(self.child.try_wait(), Ok(None)) {
            // Its own child, by id, and not reaped yet: the id is still this process's.
            if let Err(why) = super::call("kill", &["-TERM", &pid]) {
                eprintln!("bench: {why}");
            }
        }
        while matches!(self.child.try_wait(), Ok(None)) {
            if since.elapsed() > STOPPED {
                eprintln!("bench: {} does not end by itself", self.name);
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
