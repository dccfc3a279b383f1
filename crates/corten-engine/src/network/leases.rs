//! Addresses from servers on the wire: the daemon that keeps their leases. The first container that needs it starts it; it
//! ends some time after the last, and whatever ends it before that, the next one that attaches or goes starts another,
//! which takes over the leases from disk.

use corten_net::dhcp::daemon;

use super::{Ipam, Network, Plan};
use crate::Engine;
use crate::container::executable;
use crate::error::Error;

/// Below the run folder.
pub(super) const SOCKET: &str = "dhcp.sock";

impl Engine {
    /// Sees to it that the daemon serves, if this network needs it.
    pub(super) fn ensure_leases(&self, network: &Network) -> Result<(), Error> {
        let needed = matches!(&network.plan, Plan::Definition(d) if d.ipam == Ipam::Dhcp);
        match needed {
            true => Ok(daemon::ensure(
                &executable()?,
                &self.paths.run().join(SOCKET),
            )?),
            false => Ok(()),
        }
    }
}
