//! Connections to the kernel that live as long as one call of a list of plugins.
//!
//! Opening one is cheap. Closing one of nf_tables is not: after a transaction that removed
//! something the kernel has to free it, which takes an RCU grace period (10 to 30 ms). `corten-sys` leaves that to the
//! kernel where it can (Linux 6.10); elsewhere it is waited for once, at the end of a DEL, and runs while the other plugins do
//! their part.

use std::cell::{RefCell, RefMut};

use crate::Error;
use crate::firewall::Firewall;

/// See above. One table is all that a call is about, so one connection is held.
#[derive(Debug, Default)]
pub struct Session {
    firewall: RefCell<Option<Firewall>>,
}

impl Session {
    pub fn firewall(&self, table: &str) -> Result<RefMut<'_, Firewall>, Error> {
        let mut held = self.firewall.borrow_mut();
        if held.as_ref().is_none_or(|f| f.table() != table) {
            *held = Some(Firewall::open(table)?);
        }
        RefMut::filter_map(held, Option::as_mut).map_err(|_| Error::Invalid {
            what: "nftables table",
            value: table.into(),
            reason: "is not held although it was just opened".into(),
        })
    }

    /// Whether the table was found gone, or without the network's link.
    pub fn is_fresh(&self) -> bool {
        self.firewall
            .borrow()
            .as_ref()
            .is_some_and(Firewall::is_fresh)
    }
}
