//! Processes without a client: their output is collected.

use std::time::Duration;

use corten_shim::attach::{self, Frame, Hello};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::error::Error;
use super::process::{Announced, Process};
use super::pump::Frames;

/// What is kept of both streams together, in bytes. The rest is read and dropped. A message of the interface is 16 MiB at most,
/// and this goes into one, with a few bytes around it.
pub const OUTPUT_MAX: usize = (16 << 20) - 64;

const SIGKILL: u32 = 9;
/// How long a killed process may take to be gone.
const DYING: Duration = Duration::from_secs(5);

/// A process's output and end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Its exit code, or 128 + the signal that ended it.
    pub exit_code: i32,
}

impl Collected {
    fn keep(&mut self, frame: &Frame) {
        let kept = self.stdout.len() + self.stderr.len();
        let to = match frame.kind {
            attach::STDOUT => &mut self.stdout,
            attach::STDERR => &mut self.stderr,
            _ => return,
        };
        let room = OUTPUT_MAX - kept.min(OUTPUT_MAX);
        to.extend_from_slice(&frame.payload[..frame.payload.len().min(room)]);
    }
}

/// Runs an announced process to its end, or kills it, with its descendants, after `limit` ([`Error::Late`]). Dropped, it kills
/// it too: nobody is left to hear of its end.
pub async fn collect(announced: Announced, limit: Option<Duration>) -> Result<Collected, Error> {
    let (stay, gone) = oneshot::channel();
    let session = tokio::spawn(session(announced, limit, gone));
    let collected = session.await.unwrap_or(Err(Error::Unfinished));
    drop(stay);
    collected
}

async fn session(
    announced: Announced,
    limit: Option<Duration>,
    gone: oneshot::Receiver<()>,
) -> Result<Collected, Error> {
    let hello = Hello {
        exec_id: announced.exec_id.clone(),
        stdin: false,
        stdout: true,
        stderr: true,
    };
    let (mut process, mut frames) = announced.start(hello, None).await?;
    let late = async {
        match limit {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let collected = tokio::select! {
        collected = to_end(&mut process, &mut frames) => collected,
        () = late => Err(kill(&mut process, &mut frames, limit).await),
        _ = gone => Err(kill(&mut process, &mut frames, limit).await),
    };
    process.forget().await;
    collected
}

async fn to_end(process: &mut Process, frames: &mut Frames) -> Result<Collected, Error> {
    let streams = |source| Error::Streams { source };
    let (mut collected, mut open) = (Collected::default(), true);
    let exit = loop {
        tokio::select! {
            exit = process.exit() => break exit?,
            frame = frames.next(), if open => match frame.map_err(streams)? {
                Some(frame) => collected.keep(&frame),
                None => open = false,
            },
        }
    };
    // The shim has written everything before it told the exit.
    while open && let Some(frame) = frames.next().await.map_err(streams)? {
        collected.keep(&frame);
    }
    collected.exit_code = exit.status as i32;
    Ok(collected)
}

async fn kill(process: &mut Process, frames: &mut Frames, limit: Option<Duration>) -> Error {
    process.kill(SIGKILL, true).await;
    // Its exit is told when its output was taken.
    let _late = timeout(DYING, to_end(process, frames)).await;
    Error::Late {
        limit: limit.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_much_is_kept() {
        let mut collected = Collected::default();
        for (kind, count) in [
            (attach::STDERR, 100),
            (attach::HELLO, 300),
            (attach::STDOUT, 300),
        ] {
            let payload = vec![kind; 60_000];
            let frame = Frame { kind, payload };
            (0..count).for_each(|_| collected.keep(&frame));
        }
        assert!(collected.stderr == vec![attach::STDERR; 6_000_000]);
        assert!(collected.stdout == vec![attach::STDOUT; OUTPUT_MAX - 6_000_000]);
    }

    #[test]
    fn all_that_is_kept_goes_into_one_message() {
        use prost::Message as _;
        let half = OUTPUT_MAX / 2;
        for (stdout, stderr) in [(OUTPUT_MAX, 0), (half, OUTPUT_MAX - half), (0, OUTPUT_MAX)] {
            let answer = crate::proto::ExecSyncResponse {
                stdout: vec![0; stdout],
                stderr: vec![0; stderr],
                exit_code: -1,
            };
            assert!(answer.encoded_len() <= 16 << 20, "{stdout} {stderr}");
        }
    }
}
