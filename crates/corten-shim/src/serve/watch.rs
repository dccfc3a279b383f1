//! Somebody else's process that the container needs, and who starts it again: as long as we are connected to its socket
//! it is there; when it hangs up, a command is run that sees to another one.
//!
//! ```text
//!   connected ── hang-up ──▶ apart ── after a moment: connect ──▶ connected
//!                             ▲  │ nobody there
//!                             └──┘ run the command, wait longer each time
//! ```
//!
//! The engine's resolver of names is such a process. Every container's supervisor watches it, so that it comes back
//! whatever ends it, and no daemon is needed for that.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::say;
use crate::listen::connect_now;

/// Between two tries; doubled up to [`LONGEST`].
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(10);
/// The supervisors of many containers do not all try at the same moment: the first one's command is enough.
const SPREAD: u32 = 32;

/// See above.
#[derive(Debug)]
pub struct Watch {
    socket: PathBuf,
    command: Vec<String>,
    state: State,
}

#[derive(Debug)]
enum State {
    Connected(UnixStream),
    Apart { again: Instant, pause: Duration },
}

impl Watch {
    /// `command`: an absolute path, and arguments.
    pub fn new(socket: PathBuf, command: Vec<String>) -> Self {
        let mut watch = Self {
            socket,
            command,
            state: State::Apart {
                again: Instant::now(),
                pause: SHORTEST,
            },
        };
        if let Ok(stream) = connect_now(&watch.socket) {
            watch.state = State::Connected(stream);
        }
        watch
    }

    /// What to poll, for nothing but its hang-up.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Connected(stream) => Some(stream.as_fd()),
            State::Apart { .. } => None,
        }
    }

    pub fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Connected(_) => None,
            State::Apart { again, .. } => Some(again),
        }
    }

    /// It hung up.
    pub fn lost(&mut self) {
        let turn = Duration::from_millis(u64::from(std::process::id() % SPREAD));
        self.state = State::Apart {
            again: Instant::now() + turn,
            pause: SHORTEST,
        };
    }

    /// Does what is due.
    pub fn advance(&mut self) {
        let State::Apart { again, pause } = self.state else {
            return;
        };
        if again > Instant::now() {
            return;
        }
        self.state = match connect_now(&self.socket) {
            Ok(stream) => State::Connected(stream),
            // Nobody there, or nobody who takes us on.
            Err(_) => {
                self.start();
                State::Apart {
                    again: Instant::now() + pause,
                    pause: (pause * 2).min(LONGEST),
                }
            }
        };
    }

    fn start(&self) {
        if let [name, ..] = self.command.as_slice()
            && let Err(error) = super::program::start(&self.command)
        {
            say(format_args!("cannot run {name}: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn until(watch: &mut Watch, mut done: impl FnMut(&Watch) -> bool) {
        let end = Instant::now() + Duration::from_secs(10);
        while !done(watch) {
            assert!(Instant::now() < end, "{watch:?}");
            std::thread::sleep(Duration::from_millis(5));
            watch.advance();
        }
    }

    #[test]
    fn the_command_runs_when_it_hangs_up_and_not_while_somebody_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, ran) = (dir.path().join("s"), dir.path().join("ran"));
        let listener = UnixListener::bind(&socket).unwrap();
        let command = ["/bin/sh", "-c", &format!("echo x >> {}", ran.display())];
        let mut watch = Watch::new(socket.clone(), command.map(Into::into).to_vec());
        assert!(watch.as_fd().is_some() && watch.deadline().is_none());
        watch.lost();
        // Another one has it already: reconnected, nothing run.
        until(&mut watch, |w| w.as_fd().is_some());
        assert!(!ran.exists());
        drop(listener);
        watch.lost();
        until(&mut watch, |_| ran.exists());
        assert!(watch.as_fd().is_none());
        std::fs::remove_file(&socket).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        until(&mut watch, |w| w.as_fd().is_some());
        // Twice at most: the second before the socket was there again.
        let times = std::fs::read_to_string(&ran).unwrap().lines().count();
        assert!(times <= 8, "{times}");
    }

    #[test]
    fn a_socket_in_a_deep_folder_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("x".repeat(120));
        std::fs::create_dir(&folder).unwrap();
        let near = dir.path().join("s");
        let _listener = UnixListener::bind(&near).unwrap();
        std::fs::rename(near, folder.join("s")).unwrap();
        let watch = Watch::new(folder.join("s"), vec!["/bin/false".into()]);
        assert!(watch.as_fd().is_some());
    }

    #[test]
    fn a_command_that_helps_nothing_is_run_ever_more_rarely() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path().join("none"), vec!["/bin/true".into()]);
        let mut last = SHORTEST;
        for _ in 0..12 {
            if let State::Apart { again, .. } = &mut watch.state {
                *again = Instant::now();
            }
            watch.advance();
            let State::Apart { pause, .. } = watch.state else {
                panic!("connected to nobody");
            };
            assert!(pause >= last);
            last = pause;
        }
        assert_eq!(last, LONGEST);
    }
}
