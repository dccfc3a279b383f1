//! What plugin and daemon say to each other on the daemon's Unix socket: one JSON document and a
//! newline there, one back. (The reference's two speak Go's own net/rpc; each pair is its own.)
//!
//! ```text
//!  {"verb":"allocate","container":"…","ifname":"eth0","network":"lan","netns":"/…","provide":[],"request":[]}
//!  {"lease":{"address":"192.0.2.7/24",…}}     or     {"error":"…"}
//! ```
//!
//! `allocate` for what has a lease already gives that lease; `release` of none succeeds; `check` of
//! none fails; `collect` releases all of a network's that are not `valid`; `status` says whether anybody is there.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::lease::Lease;
use crate::Error;

pub const SOCKET: &str = "/run/cni/dhcp.sock";
/// The longest line that is read.
pub const MAX_LINE: u64 = 1 << 20;
/// Longer than any server is waited for: the daemon gives up first.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    Allocate,
    Release,
    Check,
    /// Releases what the network's valid attachments do not hold.
    Collect,
    Status,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    pub verb: Verb,
    #[serde(default)]
    pub container: String,
    #[serde(default)]
    pub ifname: String,
    #[serde(default)]
    pub network: String,
    #[serde(default)]
    pub netns: PathBuf,
    #[serde(default)]
    pub provide: Vec<(u8, Vec<u8>)>,
    #[serde(default)]
    pub request: Vec<u8>,
    /// For `collect`: containers and their links.
    #[serde(default)]
    pub valid: Vec<(String, String)>,
}

impl Ask {
    /// Whether anybody is there.
    pub fn status() -> Self {
        Self {
            verb: Verb::Status,
            container: String::new(),
            ifname: String::new(),
            network: String::new(),
            netns: PathBuf::new(),
            provide: Vec::new(),
            request: Vec::new(),
            valid: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    Lease(Lease),
    Done(bool),
    Error(String),
}

/// Reads one document.
pub fn read<T: for<'de> Deserialize<'de>>(stream: impl Read) -> std::io::Result<T> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(MAX_LINE));
    reader.read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

pub fn write(mut stream: impl Write, document: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Asks the daemon at `socket`.
pub fn ask(socket: &Path, question: &Ask) -> Result<Answer, Error> {
    let failed = |action| {
        move |source| Error::File {
            action,
            path: socket.into(),
            source,
        }
    };
    let stream =
        UnixStream::connect(socket).map_err(failed("reach the DHCP daemon (`dhcp daemon`) at"))?;
    let answered = stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| write(&stream, question))
        .and_then(|()| read(&stream));
    answered.map_err(failed("have an answer of the DHCP daemon at"))
}
