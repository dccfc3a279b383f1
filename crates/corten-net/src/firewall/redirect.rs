//! The table that the resolver sets inside a container's network namespace: what is sent to port 53
//! of its address reaches the port that it listens on, and the answers seem to come from 53.
//!
//! ```text
//!  output (raw)   to   127.0.0.11, port 53      notrack, destination port := ours
//!                 from 127.0.0.11, port ours    notrack, source port := 53
//! ```
//!
//! Ports are rewritten in the packet itself, before connection tracking sees it: a lookup leaves no
//! entry behind, and a container full of entries still resolves. Binding 53 itself would keep the
//! container from running a DNS server of its own on `0.0.0.0:53`.

use std::net::Ipv4Addr;

use corten_sys::netlink::{Family as Part, Message, Socket};
use rustix::io::Errno;

use super::expression::{Base, Expression, Meta, Side, address, only};
use super::failed;
use super::message::{self, Chain, Family};
use crate::Error;

const TABLE: &str = "corten-names";
const REVISION: &str = "corten-names 1";
/// Hook output, priority raw.
const CHAIN: Chain = Chain {
    name: "output",
    hook: Some(("filter", 3, -300)),
};
/// The protocol's number, and where its header keeps the checksum.
const PROTOCOLS: [(u8, u32); 2] = [(17, 6), (6, 16)];
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;

/// Sets the table in the namespace of the calling thread, in one transaction; one that is there
/// is replaced.
pub fn set(server: Ipv4Addr, served: u16, port: u16) -> Result<(), Error> {
    let mut socket = Socket::open(Part::Netfilter).map_err(failed("open nf_tables"))?;
    for _ in 0..2 {
        let made = socket.transact(message::transaction(create(server, served, port)));
        match made {
            Ok(()) => return Ok(()),
            Err(e) if e.source.errno() == Some(Errno::EXIST) => {}
            Err(e) => return Err(failed(format!("make table inet {TABLE}"))(e.source)),
        }
        remove(&mut socket)?;
    }
    Err(Error::Invalid {
        what: "nftables table",
        value: TABLE.into(),
        reason: "comes back whenever it is deleted: another process makes it".into(),
    })
}

/// Deletes the table from the namespace of the calling thread; none is a success.
pub fn unset() -> Result<(), Error> {
    remove(&mut Socket::open(Part::Netfilter).map_err(failed("open nf_tables"))?)
}

fn remove(socket: &mut Socket) -> Result<(), Error> {
    let gone = message::transaction(vec![message::delete_table(Family::Inet, TABLE)]);
    match socket.transact(gone) {
        Err(e) if e.source.errno() != Some(Errno::NOENT) => {
            Err(failed(format!("delete table inet {TABLE}"))(e.source))
        }
        _ => Ok(()),
    }
}

fn create(server: Ipv4Addr, served: u16, port: u16) -> Vec<Message> {
    let mut all = vec![
        message::new_table(Family::Inet, TABLE, REVISION),
        message::new_chain(Family::Inet, TABLE, &CHAIN),
    ];
    for (protocol, checksum) in PROTOCOLS {
        let to = rewrite(server, protocol, checksum, Side::Destination, served, port);
        let from = rewrite(server, protocol, checksum, Side::Source, port, served);
        for rule in [to, from] {
            let family = Family::Inet;
            all.push(message::new_rule(
                family, TABLE, CHAIN.name, true, &rule, "",
            ));
        }
    }
    all
}

fn rewrite(
    server: Ipv4Addr,
    protocol: u8,
    checksum: u32,
    side: Side,
    old: u16,
    new: u16,
) -> Vec<Expression> {
    let offset = match side {
        Side::Source => SOURCE_PORT,
        Side::Destination => DESTINATION_PORT,
    };
    let mut rule = only(true);
    rule.extend([
        address(true, side),
        Expression::Equal(server.octets().to_vec()),
        Expression::Meta(Meta::L4proto, 0),
        Expression::Equal(vec![protocol]),
        Expression::Payload {
            base: Base::Transport,
            offset,
            length: 2,
            word: 0,
        },
        Expression::Equal(old.to_be_bytes().to_vec()),
        Expression::Notrack,
        Expression::Load(new.to_be_bytes().to_vec()),
        Expression::SetPort { offset, checksum },
    ]);
    rule
}
