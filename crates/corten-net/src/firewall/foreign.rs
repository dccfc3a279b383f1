//! Other people's firewalls. In nf_tables an accept ends only its own table: a packet is dropped
//! if any table drops it. Docker (and who sets `iptables -P FORWARD DROP`) drops what is forwarded
//! in the tables `ip filter` and `ip6 filter` of iptables-nft. So we put two rules at the head of
//! that chain, as Docker, libvirt and others do, with our comment to find them by.
//!
//! What this does not reach: rules of the legacy iptables (another kernel interface), and tables
//! of other names, firewalld's among them; there the administrator has to let the link pass.

use corten_sys::netlink::Socket;
use rustix::io::Errno;

use super::expression::{Expression, Meta, ifname};
use super::failed;
use super::message::{self, Family};
use crate::Error;

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

fn comment(link: &str) -> String {
    format!("corten {link}")
}

/// Accepts what is forwarded from and to `link`, in each foreign chain whose policy is to drop.
pub fn accept(socket: &mut Socket, link: &str) -> Result<(), Error> {
    for family in FAMILIES {
        if !drops(socket, family)? || !ours(socket, family, link)?.is_empty() {
            continue;
        }
        let messages = rules(link)
            .iter()
            .map(|r| message::new_rule(family, TABLE, CHAIN, false, r, &comment(link)))
            .collect();
        socket
            .transact(message::transaction(messages))
            .map_err(|e| {
                failed(format!("accept link {link} in chain {CHAIN} of another"))(e.source)
            })?;
    }
    Ok(())
}

/// Removes our rules for `link`.
pub fn withdraw(socket: &mut Socket, link: &str) -> Result<(), Error> {
    for family in FAMILIES {
        let messages: Vec<_> = ours(socket, family, link)?
            .into_iter()
            .map(|handle| message::delete_rule(family, TABLE, CHAIN, handle))
            .collect();
        if !messages.is_empty() {
            socket
                .transact(message::transaction(messages))
                .map_err(|e| {
                    failed(format!("remove the rules for {link} from {CHAIN}"))(e.source)
                })?;
        }
    }
    Ok(())
}

/// What a container sends goes out; answers and published ports come in. Every expression is one
/// that iptables-nft writes itself: it refuses to work on a table with any other (`table filter is
/// incompatible`), which would break whoever drops here.
fn rules(link: &str) -> [Vec<Expression>; 2] {
    let out = vec![
        Expression::Meta(Meta::Iifname, 0),
        Expression::Equal(ifname(link)),
        Expression::Counter,
        Expression::Accept,
    ];
    let back = vec![
        Expression::Meta(Meta::Oifname, 0),
        Expression::Equal(ifname(link)),
        Expression::XtConntrack,
        Expression::Counter,
        Expression::Accept,
    ];
    [out, back]
}

fn drops(socket: &mut Socket, family: Family) -> Result<bool, Error> {
    let mut drops = false;
    let asked = socket.query(message::get_chain(family, TABLE, CHAIN), |r| {
        drops = message::read_chain_drops(&r).unwrap_or(false);
    });
    match asked {
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(false),
        other => other
            .map(|()| drops)
            .map_err(failed(format!("look at chain {CHAIN}"))),
    }
}

fn ours(socket: &mut Socket, family: Family, link: &str) -> Result<Vec<u64>, Error> {
    let wanted = comment(link);
    let dumped: Result<Vec<(u64, String)>, _> = socket.dump(
        message::list_rules(family, TABLE, CHAIN),
        |all: &mut Vec<_>, r| all.extend(message::read_rule(&r)),
    );
    match dumped {
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
        other => Ok(other
            .map_err(failed(format!("list chain {CHAIN}")))?
            .into_iter()
            .filter(|(_, text)| *text == wanted)
            .map(|(handle, _)| handle)
            .collect()),
    }
}
