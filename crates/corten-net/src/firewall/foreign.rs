//! Other people's firewalls. In nf_tables an accept ends only its own table: a packet is dropped
//! if any table drops it. Docker (and who sets `iptables -P FORWARD DROP`) drops what is forwarded
//! in the tables `ip filter` and `ip6 filter` of iptables-nft. So we put two rules at the head of
//! that chain, as Docker, libvirt and others do, with our comment to find them by.
//!
//! Chains of other names are their owner's alone: what drops there is found and named, and the
//! administrator has to let the link pass. So are rules of the legacy iptables, which is another
//! kernel interface, whose presence is all that can be seen from here.

use std::fmt;

use corten_sys::netlink::{Reply, Socket};
use rustix::io::Errno;

use super::expression::{Expression, Meta, ifname};
use super::failed;
use super::message::{self, Family, Rule};
use crate::Error;

const TABLE: &str = "filter";
const CHAIN: &str = "FORWARD";
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];
/// One line for each table of the legacy iptables that the thread's namespace has.
const LEGACY: [&str; 2] = [
    "/proc/thread-self/net/ip_tables_names",
    "/proc/thread-self/net/ip6_tables_names",
];

/// A chain that drops what is forwarded, and is not ours to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// `inet`, `ip`, `ip6`.
    pub family: &'static str,
    pub table: String,
    pub chain: String,
    pub reason: Reason,
}

/// Why a chain is an obstacle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Policy,
    LastRule,
    /// It is of the legacy iptables; whether it drops cannot be seen.
    Legacy,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Obstacle {
            family,
            table,
            chain,
            reason,
        } = self;
        match reason {
            Reason::Policy => write!(
                f,
                "chain {chain} of table {family} {table} drops what none of its rules accepts"
            ),
            Reason::LastRule => write!(
                f,
                "chain {chain} of table {family} {table} ends with a rule that drops the rest"
            ),
            Reason::Legacy => write!(
                f,
                "chain {chain} of the legacy iptables' table {table} may drop what is forwarded"
            ),
        }
    }
}

fn comment(link: &str) -> String {
    format!("corten {link}")
}

/// Accepts what is forwarded from and to `link`, in each chain of iptables-nft that drops.
pub fn accept(socket: &mut Socket, link: &str) -> Result<(), Error> {
    for family in FAMILIES {
        if lets_pass_in(socket, family, link)? {
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

/// Whether no chain of iptables-nft drops what is forwarded from and to `link`.
pub fn lets_pass(socket: &mut Socket, link: &str) -> Result<bool, Error> {
    for family in FAMILIES {
        if !lets_pass_in(socket, family, link)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn lets_pass_in(socket: &mut Socket, family: Family, link: &str) -> Result<bool, Error> {
    if !drops(socket, family)? {
        return Ok(true);
    }
    Ok(!ours(socket, family, link)?.is_empty())
}

/// Removes our rules for `link`.
pub fn withdraw(socket: &mut Socket, link: &str) -> Result<(), Error> {
    for family in FAMILIES {
        let messages: Vec<_> = ours(socket, family, link)?
            .into_iter()
            .map(|handle| message::delete_rule(family, TABLE, CHAIN, handle))
            .collect();
        if messages.is_empty() {
            continue;
        }
        match socket.transact(message::transaction(messages)) {
            // Somebody flushed the chain meanwhile, or another of us was faster.
            Err(e) if e.source.errno() != Some(Errno::NOENT) => {
                return Err(failed(format!("remove the rules for {link} from {CHAIN}"))(
                    e.source,
                ));
            }
            _ => {}
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

/// Whether the chain of iptables-nft drops what its rules do not accept.
fn drops(socket: &mut Socket, family: Family) -> Result<bool, Error> {
    let mut policy = false;
    let asked = socket.query(message::get_chain(family, TABLE, CHAIN), |r| {
        policy = message::read_chain(&r).is_some_and(|c| c.drops);
    });
    match asked {
        Err(e) if e.errno() == Some(Errno::NOENT) => return Ok(false),
        other => other.map_err(failed(format!("look at chain {CHAIN}")))?,
    }
    Ok(policy || ends_in_drop(&list_rules(socket, family, TABLE, CHAIN)?))
}

/// The last rule takes all that is left. (A jump to a chain that does is not seen.)
fn ends_in_drop(rules: &[Rule]) -> bool {
    rules.last().is_some_and(|r| r.drops_all)
}

fn list_rules(
    socket: &mut Socket,
    family: Family,
    table: &str,
    chain: &str,
) -> Result<Vec<Rule>, Error> {
    let question = message::list_rules(family, table, chain);
    let dumped = socket.dump(question, |all: &mut Vec<_>, r| {
        all.extend(message::read_rule(&r));
    });
    match dumped {
        Err(e) if e.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
        other => other.map_err(failed(format!("list chain {chain} of table {table}"))),
    }
}

fn ours(socket: &mut Socket, family: Family, link: &str) -> Result<Vec<u64>, Error> {
    let wanted = comment(link);
    let rules = list_rules(socket, family, TABLE, CHAIN)?;
    let ours = rules.into_iter().filter(|r| r.comment == wanted);
    Ok(ours.map(|r| r.handle).collect())
}

/// Chains at the forward hook that drop, and that [`accept`] does not see to.
pub fn obstacles(socket: &mut Socket, own: &str) -> Result<Vec<Obstacle>, Error> {
    let chains: Vec<message::BaseChain> = socket
        .dump(message::list_chains(), |all: &mut Vec<_>, r: Reply<'_>| {
            all.extend(message::read_chain(&r));
        })
        .map_err(failed("list the chains of all tables"))?;
    let mut all = Vec::new();
    for chain in chains {
        let Some(family) = [Family::Inet, Family::Ip, Family::Ip6]
            .into_iter()
            .find(|f| *f as u8 == chain.family)
        else {
            continue;
        };
        let handled = FAMILIES.contains(&family) && chain.table == TABLE && chain.name == CHAIN;
        if !chain.forwards || handled || (family == Family::Inet && chain.table == own) {
            continue;
        }
        let reason = match chain.drops {
            true => Reason::Policy,
            false if ends_in_drop(&list_rules(socket, family, &chain.table, &chain.name)?) => {
                Reason::LastRule
            }
            false => continue,
        };
        all.push(Obstacle {
            family: family.name(),
            table: chain.table,
            chain: chain.name,
            reason,
        });
    }
    all.extend(
        ["ip", "ip6"]
            .into_iter()
            .zip(LEGACY)
            .filter_map(|(family, path)| {
                // A kernel without the interface has no such file.
                let names = std::fs::read_to_string(path).unwrap_or_default();
                names.lines().any(|n| n == TABLE).then(|| Obstacle {
                    family,
                    table: TABLE.into(),
                    chain: CHAIN.into(),
                    reason: Reason::Legacy,
                })
            }),
    );
    Ok(all)
}
