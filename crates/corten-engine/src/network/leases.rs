//! Addresses from servers on the wire: the daemon that keeps their leases, which is started by the first container that
//! needs it, ends some time after the last, and is started again by any container's supervisor.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use corten_shim::client::Watched;

use super::{Ipam, Plan};
use crate::Engine;
use crate::container::options::Endpoint;
use crate::container::{executable, global_flags};
use crate::error::Error;

/// Below the run folder.
pub(super) const SOCKET: &str = "dhcp.sock";
/// How long the daemon stays without a lease.
const IDLE: &str = "-idle=30s";
/// How long it may take to serve.
const PATIENCE: Duration = Duration::from_secs(5);

impl Engine {
    /// Whether one of these networks gets its addresses from a server on the wire.
    pub(super) fn has_leases(&self, endpoints: &[Endpoint]) -> Result<bool, Error> {
        for endpoint in endpoints {
            let network = self.network(&endpoint.network)?;
            if matches!(&network.plan, Plan::Definition(d) if d.ipam == Ipam::Dhcp) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Sees to it that the daemon serves.
    pub fn ensure_leases(&self) -> Result<(), Error> {
        let socket = self.paths.run().join(SOCKET);
        if UnixStream::connect(&socket).is_ok() {
            return Ok(());
        }
        let path = executable()?;
        let mut at = std::ffi::OsString::from("-socketpath=");
        at.push(&socket);
        let arguments = [
            OsStr::new("dhcp"),
            OsStr::new("daemon"),
            &at,
            OsStr::new(IDLE),
        ];
        corten_net::process::leave(&path, &arguments).map_err(Error::io("run", &path))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match UnixStream::connect(&socket) {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > deadline => {
                    return Err(Error::io("connect to", &socket)(e));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    }

    /// The daemon, as a container's supervisor looks after it.
    pub(super) fn watched_leases(&self) -> Result<Watched, Error> {
        let mut command = global_flags(&self.paths)?;
        command.extend(["system", "leases"].map(Into::into));
        Ok(Watched {
            socket: self.paths.run().join(SOCKET).to_string_lossy().into(),
            command,
        })
    }
}
