//! Processes with a client at their streams.

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use corten_shim::attach::{Hello, Size};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::error::Error;
use super::process::{self, Announced};
use super::pump::{self, pump};
use crate::stream::{Resizes, Streams};

const SIGHUP: u32 = 1;
/// How long a new terminal's size is waited for. Clients send it at once, but behind the request; a program that asks before it has come, and
/// asks once, would draw for no columns. A client that has none to send waits this long for its process.
const FIRST_SIZE: Duration = Duration::from_millis(50);

/// Runs an announced process, and returns its exit code, or 128 + the signal that ended it.
///
/// Dropped, its client has gone: standard input ends, output is read and lost, and on a terminal the process is
/// hung up on. It is not killed, and is taken off the shim's list when it ends.
pub async fn run(announced: Announced, streams: Streams) -> Result<i32, Error> {
    let (stay, gone) = oneshot::channel();
    let session = tokio::spawn(session(announced, streams, gone));
    let code = session.await.unwrap_or(Err(Error::Unfinished));
    drop(stay);
    code
}

async fn session(
    announced: Announced,
    mut streams: Streams,
    mut gone: oneshot::Receiver<()>,
) -> Result<i32, Error> {
    let hello = hello(announced.exec_id.clone(), &streams);
    let tty = announced.tty;
    let size = match tty {
        true => first_size(&mut streams.resize).await,
        false => None,
    };
    let (mut process, frames) = announced.start(hello, size).await?;
    let mut pumping = pin!(pump(frames, streams));
    let (mut pumped, mut left) = (None, false);
    let exit = loop {
        tokio::select! {
            exit = process.exit() => break exit,
            done = &mut pumping, if pumped.is_none() => pumped = Some(done),
            _ = &mut gone, if !left => {
                left = true;
                if tty {
                    process.kill(SIGHUP, false).await;
                }
            }
        }
    };
    // The shim has written everything before it told the exit; the client may have to read some of it.
    let pumped = match pumped {
        Some(done) => done,
        None if exit.is_ok() => pumping.await,
        None => Ok(()),
    };
    let exit = exit?;
    process.forget().await;
    pumped.map_err(|source| Error::Streams { source })?;
    Ok(exit.status as i32)
}

/// Connects a client to the streams of a container's own process, until that ends. Dropped, it lets go of them.
pub async fn attach(bundle: &Path, streams: Streams) -> Result<(), Error> {
    let hello = hello(String::new(), &streams);
    let frames = process::attach(bundle.to_owned(), hello).await?;
    let pumped = pump(frames, streams).await;
    pumped.map_err(|source| Error::Streams { source })
}

async fn first_size(resize: &mut Option<Resizes>) -> Option<Size> {
    let size = timeout(FIRST_SIZE, pump::size(resize)).await;
    size.ok().flatten()
}

fn hello(exec_id: String, streams: &Streams) -> Hello {
    Hello {
        exec_id,
        stdin: streams.stdin.is_some(),
        stdout: streams.stdout.is_some(),
        stderr: streams.stderr.is_some(),
    }
}
