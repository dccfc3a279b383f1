//! Published ports, masquerading, who may reach whom, and the way through other people's
//! firewalls: nf_tables, over netlink, every change one transaction.
//!
//! ```text
//!   Network, Published, … ──wish, port──▶ elements ──plan──▶ messages ──tables──▶ kernel
//!                                           ▲ what is there                │
//!                                           └──────────────────────────────┘
//! ```

mod conntrack;
mod describe;
mod element;
mod ethernet;
mod expression;
mod foreign;
mod message;
mod plan;
mod port;
pub(crate) mod redirect;
mod request;
mod table;
mod tables;
mod wish;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use corten_spec::cni::Protocol;
use corten_spec::{Cidr, Kind};
use corten_sys::netlink::Error as NetlinkError;

use crate::Error;
use crate::failpoint::failpoint;
use crate::link::Links;
use crate::owner::Owner;
use crate::sysctl;
use element::{Entry, Set};
pub use foreign::{Obstacle, Reason};
use plan::{Features, Plan};
pub use request::{Admitted, Guarded, Network, Published, Source, Wanted};
use tables::Tables;

/// What was wanted and not there, and what could not be put back, each in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    pub missing: Vec<String>,
    pub refused: Vec<String>,
}

/// A connection to nf_tables, for the tables of one name: family inet, and where ports need it
/// family bridge.
#[derive(Debug)]
pub struct Firewall {
    tables: Tables,
    /// The link that this connection has made others let pass.
    vouched: Option<String>,
    /// Whether it admitted a link that the table had not.
    admitted_anew: bool,
}

fn failed(action: impl Into<String>) -> impl FnOnce(NetlinkError) -> Error {
    move |source| Error::Netlink {
        action: action.into(),
        source,
    }
}

impl Firewall {
    /// Opens a connection; the table is made by the first change.
    pub fn open(table: &str) -> Result<Self, Error> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if table.is_empty() || table.len() > 64 || !table.bytes().all(valid) {
            return Err(Error::Invalid {
                what: "nftables table",
                value: table.chars().take(64).collect(),
                reason: "may hold 1 to 64 of [a-zA-Z0-9_-]".into(),
            });
        }
        Ok(Self {
            tables: Tables::open(table)?,
            vouched: None,
            admitted_anew: false,
        })
    }

    pub fn table(&self) -> &str {
        &self.tables.name
    }

    /// Whether the kernel has nf_tables and lets us look.
    pub fn probe(&mut self) -> Result<(), Error> {
        self.tables.read(&[]).map(drop)
    }

    /// Whether this connection made the table, or admitted a link that was not in it: then what
    /// other containers had in it may have gone.
    pub fn is_fresh(&self) -> bool {
        self.tables.made || self.admitted_anew
    }

    /// Admits a network: its link, its subnets, and accepts its packets where another firewall
    /// would drop them.
    pub fn admit(&mut self, network: &Network<'_>) -> Result<(), Error> {
        if let Some(link) = network.link.filter(|_| network.host_loopback)
            && !self
                .tables
                .has(table::host_loopback(), &expression::ifname(link))?
        {
            needs_socket(self.tables.features()?)?;
        }
        if let Some(link) = network.link
            && !self.tables.has(table::links(), &expression::ifname(link))?
        {
            self.admitted_anew = true;
        }
        self.tables.add(&wish::network(network))?;
        let Some(link) = network.link else {
            return Ok(());
        };
        if network.host_loopback {
            // After the guard, which keeps the rest of the loopback out of reach.
            sysctl::set(&format!("ipv4/conf/{link}/route_localnet"), "1")?;
        }
        if !network.internal {
            self.vouch(link)?;
        }
        Ok(())
    }

    fn vouch(&mut self, link: &str) -> Result<(), Error> {
        if self.vouched.as_deref() != Some(link) {
            foreign::accept(&mut self.tables.socket, link)?;
            self.vouched = Some(link.into());
        }
        Ok(())
    }

    /// Takes back what [`Firewall::admit`] did; deletes the table when no link is left in it.
    pub fn dismiss(&mut self, link: &str, subnets: &[Cidr]) -> Result<(), Error> {
        foreign::withdraw(&mut self.tables.socket, link)?;
        let sets = tables::all_sets();
        self.tables
            .change("dismiss a network", &sets, |name, there| {
                let used = Links::open()?.all_addresses()?;
                Ok(plan::removal(name, there, &used, |e| {
                    wish::is_about(e, link, subnets)
                }))
            })
            .map(drop)
    }

    /// Takes back what [`Firewall::admit`] did for a link that is one container's, and ends with it. Subnets stay: they
    /// are those of other containers too. A link that is not known costs one question.
    pub fn dismiss_link(&mut self, link: &str) -> Result<(), Error> {
        match self.tables.has(table::links(), &expression::ifname(link))? {
            true => self.dismiss(link, &[]),
            false => Ok(()),
        }
    }

    /// As [`Firewall::admit`], for subnets whose links are one container's each. `first`: no other link has an address in them.
    /// Then the elements, if they are there, are what a killed process has left or what [`Firewall::gather`] is about to take: they are
    /// added anew, whereupon a `gather` that has not seen our link fails and looks again.
    pub fn admit_shared(&mut self, network: &Network<'_>, first: bool) -> Result<(), Error> {
        if !first {
            return self.admit(network);
        }
        let wanted = wish::network(network);
        self.tables
            .change("admit a subnet", &tables::all_sets(), |name, there| {
                let mut plan = plan::plan(name, there, &wanted);
                if plan.messages.is_empty() {
                    let anew = wanted.iter();
                    plan.messages = anew.clone().map(|e| element::delete(name, e)).collect();
                    plan.messages.extend(anew.map(|e| element::add(name, e)));
                }
                Ok(plan)
            })
            .map(drop)
    }

    /// Takes back what [`Firewall::admit_shared`] did, if no link has an address in the subnets any more. It looks at the kernel, not at
    /// what anybody remembers, so whoever comes next does what a killed process has not done.
    pub fn gather(&mut self, subnets: &[Cidr]) -> Result<(), Error> {
        let used = Links::open()?.all_addresses()?;
        if subnets.iter().all(|s| used.iter().any(|a| s.contains(*a))) {
            return Ok(());
        }
        let change = |tables: &mut Tables| {
            tables.change("gather subnets", &tables::all_sets(), |name, there| {
                // After the table was read: see above.
                let used = Links::open()?.all_addresses()?;
                let mut plan = plan::removal(name, there, &used, |e| {
                    e.is_idle(&used) && wish::is_about(e, "", subnets)
                });
                plan.remakes = true;
                Ok(plan)
            })
        };
        let gathered = match self.tables.read(&[]) {
            // Most often: there is nothing, and what the kernel can need not be asked.
            Ok(there) if there.conditions == [plan::Condition::Missing; 2] => Ok(()),
            Ok(_) => change(&mut self.tables).map(drop),
            Err(error) => Err(error),
        };
        match gathered {
            // In a kernel that cannot have the table there is nothing of it.
            Err(error) if error.kind() == Kind::Unsupported => Ok(()),
            other => other,
        }
    }

    /// The links that are admitted, whether they are there or not.
    pub fn links(&mut self) -> Result<Vec<String>, Error> {
        let there = self.tables.read(&[table::links()])?.entries;
        Ok(there.iter().map(|e| describe::link_name(&e.key)).collect())
    }

    /// Publishes ports: all of them, or none. A port that another container has is refused with
    /// its name. UDP clients that asked the host before are let begin anew.
    pub fn publish(&mut self, ports: &[Published]) -> Result<(), Error> {
        let entries: Vec<Entry> = ports.iter().flat_map(port::entries).collect();
        self.tables.add(&entries)?;
        failpoint!("portmap.add.unforgotten");
        let mut links = Links::open()?;
        let mut own: HashMap<IpAddr, bool> = HashMap::new();
        self.forget(ports, &mut |flow, port| {
            let asked = flow.destination.ip();
            if flow.answers_from == port.target {
                return Ok(false);
            }
            // The same port of another machine is none of ours: a loopback's route is the host's.
            if let Some(known) = own.get(&asked) {
                return Ok(*known);
            }
            let is_own = links.way_to(asked)? == Some(LOOPBACK);
            own.insert(asked, is_own);
            Ok(is_own)
        })
    }

    /// Takes back all ports for which `which` is true, and says how many. Their UDP clients'
    /// flows are forgotten.
    pub fn withdraw(&mut self, which: impl Fn(&Published) -> bool) -> Result<usize, Error> {
        let mut ports = self.published()?;
        ports.retain(which);
        let entries: Vec<Entry> = ports.iter().flat_map(port::entries).collect();
        // With the owner: the port may be another's by the time that we get to it.
        let gone: HashSet<_> = entries.iter().map(|e| (e.about(), &*e.comment)).collect();
        self.remove("take published ports back", &port::sets(), |e| {
            gone.contains(&(e.about(), &*e.comment))
        })?;
        self.forget(&ports, &mut |flow, port| {
            Ok(flow.answers_from == port.target)
        })?;
        Ok(ports.len())
    }

    fn forget(
        &mut self,
        ports: &[Published],
        stale: &mut dyn FnMut(&conntrack::Flow, &Published) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let udp: Vec<&Published> = ports
            .iter()
            .filter(|p| p.protocol == Protocol::Udp)
            .collect();
        let hosts: Vec<SocketAddr> = udp.iter().map(|p| p.host).collect();
        conntrack::forget(&mut self.tables.socket, &hosts, &mut |flow| {
            for port in udp.iter().filter(|p| conntrack::covers(&p.host, flow)) {
                if stale(flow, port)? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .map(drop)
    }

    /// All published ports, whoever owns them.
    pub fn published(&mut self) -> Result<Vec<Published>, Error> {
        Ok(port::read(&self.tables.read(&port::sets())?.entries))
    }

    /// Admits a container's addresses as the plugin `firewall` does.
    pub fn admit_addresses(&mut self, admitted: &Admitted) -> Result<(), Error> {
        self.tables.add(&wish::admitted(admitted))?;
        failpoint!("firewall.add.unvouched");
        self.vouch(&admitted.link)
    }

    /// Takes back what [`Firewall::admit_addresses`] did for these owners; with the last address
    /// of a link that [`Firewall::admit`] does not know, what others accept for it.
    pub fn expel(&mut self, which: impl Fn(&Owner) -> bool) -> Result<(), Error> {
        let gone = |e: &Entry| {
            (admitted_sets().contains(&e.set) || *e.set == *ethernet::alone())
                && Owner::parse(&e.comment).is_some_and(|o| which(&o))
        };
        let sets = tables::all_sets();
        let unknown = std::cell::RefCell::new(Vec::new());
        self.tables
            .change("expel a container", &sets, |name, there| {
                let left = left_links(&there.entries, gone);
                let used = Links::open()?.all_addresses()?;
                let plan = plan::removal(name, there, &used, |e| {
                    gone(e) || left.iter().any(|l| l.takes_along(e))
                });
                *unknown.borrow_mut() = left;
                Ok(plan)
            })?;
        for left in unknown.into_inner().iter().filter(|l| !l.known) {
            foreign::withdraw(&mut self.tables.socket, &left.link)?;
        }
        Ok(())
    }

    /// Has a port send from one MAC address only.
    pub fn guard(&mut self, guarded: &Guarded) -> Result<(), Error> {
        self.tables.add(&wish::guarded(guarded))
    }

    /// Takes the guards of these owners' ports away.
    pub fn unguard(&mut self, which: impl Fn(&Owner) -> bool) -> Result<(), Error> {
        let gone = |e: &Entry| {
            (*e.set == *ethernet::guarded() || *e.set == *ethernet::macs())
                && Owner::parse(&e.comment).is_some_and(|o| which(&o))
        };
        let sets: Vec<&Set> = ethernet::SETS.iter().collect();
        self.tables
            .change("unguard a port", &sets, |name, there| {
                let mut there = there.clone();
                // The other table was not read.
                there.conditions[0] = plan::Condition::Missing;
                Ok(plan::removal(name, &there, &[], gone))
            })
            .map(drop)
    }

    /// What of `wanted` is not there, in words.
    pub fn missing(&mut self, wanted: &Wanted) -> Result<Vec<String>, Error> {
        let there = self.tables.read(&tables::all_sets())?;
        let plan = plan::plan(&self.tables.name, &there, &wanted.entries);
        let mut all: Vec<String> = plan.missing.iter().map(describe::entry).collect();
        all.extend(plan.taken.iter().map(|(e, _)| describe::entry(e)));
        for link in &wanted.links {
            if !foreign::lets_pass(&mut self.tables.socket, link)? {
                all.push(format!("the way of {link} through others' FORWARD chain"));
            }
        }
        Ok(all)
    }

    /// Puts back what of `wanted` is missing: in one transaction, and nothing else is touched. A
    /// port that another container has meanwhile stays that one's.
    pub fn restore(&mut self, wanted: &Wanted) -> Result<Restored, Error> {
        let sets = tables::all_sets();
        let done: Plan = self.tables.change("restore", &sets, |name, there| {
            Ok(plan::plan(name, there, &wanted.entries))
        })?;
        let mut restored = Restored {
            missing: done.missing.iter().map(describe::entry).collect(),
            refused: done
                .taken
                .iter()
                .map(|(port, holder)| describe::taken(port, holder).to_string())
                .collect(),
        };
        for link in &wanted.links {
            if !foreign::lets_pass(&mut self.tables.socket, link)? {
                restored
                    .missing
                    .push(format!("the way of {link} through others' FORWARD chain"));
                foreign::accept(&mut self.tables.socket, link)?;
            }
        }
        Ok(restored)
    }

    /// What containers have here besides ports, each in words and with its owner.
    pub fn admissions(&mut self) -> Result<Vec<(String, Owner)>, Error> {
        let sets: Vec<&Set> = admitted_sets().into_iter().chain(&ethernet::SETS).collect();
        let there = self.tables.read(&sets)?.entries;
        let all = there.iter().filter_map(|e| {
            let what = describe::thing(e);
            Owner::parse(&e.comment).map(|owner| (what, owner))
        });
        Ok(all.collect())
    }

    /// Chains of others that drop what is forwarded and that we do not write to.
    pub fn obstacles(&mut self) -> Result<Vec<Obstacle>, Error> {
        foreign::obstacles(&mut self.tables.socket, &self.tables.name)
    }

    fn remove(
        &mut self,
        action: &'static str,
        sets: &[&'static Set],
        gone: impl Fn(&Entry) -> bool,
    ) -> Result<(), Error> {
        self.tables
            .change(action, sets, |name, there| {
                let gone = there.entries.iter().filter(|e| gone(e));
                Ok(Plan {
                    messages: gone.map(|e| element::delete(name, e)).collect(),
                    ..Plan::default()
                })
            })
            .map(drop)
    }
}

fn needs_socket(features: Features) -> Result<(), Error> {
    match features.socket {
        true => Ok(()),
        false => Err(Error::Invalid {
            what: "the way to the host's loopback",
            value: "cortenHostLoopback".into(),
            reason: "needs the expression `socket wildcard` of nf_tables, which this kernel lacks \
                     (CONFIG_NFT_SOCKET, Linux 5.10)"
                .into(),
        }),
    }
}

/// `LOOPBACK_IFINDEX`: in every network namespace.
const LOOPBACK: u32 = 1;

fn admitted_sets() -> [&'static Set; 2] {
    [table::admitted(true), table::admitted(false)]
}

/// A link whose last admitted address goes.
struct Left {
    link: String,
    /// Whether [`Firewall::admit`] has it too.
    known: bool,
}

impl Left {
    fn takes_along(&self, entry: &Entry) -> bool {
        let [same, ingress] = wish::ingress(&self.link);
        *entry == ingress || (!self.known && *entry == same)
    }
}

fn left_links(there: &[Entry], gone: impl Fn(&Entry) -> bool) -> Vec<Left> {
    let admitted = |e: &&Entry| admitted_sets().contains(&e.set);
    let (gone, kept): (Vec<&Entry>, Vec<&Entry>) =
        there.iter().filter(admitted).partition(|e| gone(e));
    let mut links: Vec<&[u8]> = gone.iter().map(|e| &*e.data).collect();
    links.sort_unstable();
    links.dedup();
    links.retain(|link| kept.iter().all(|e| e.data != *link));
    let left = links.into_iter().map(|name| Left {
        link: describe::link_name(name),
        known: there
            .iter()
            .any(|e| *e.set == *table::links() && e.key == name),
    });
    left.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_asked_for_an_expression_and_nothing_stays() {
        #[expect(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        let mut tables = Tables::open("t").unwrap();
        let none = expression::Expression::Jump("nowhere");
        assert!(tables.can(&expression::Expression::Counter).unwrap());
        assert!(!tables.can(&none).unwrap());
        assert!(tables.read(&[]).unwrap().conditions == [plan::Condition::Missing; 2]);
        let rules = std::process::Command::new("nft")
            .args(["list", "ruleset"])
            .output()
            .unwrap();
        assert!(rules.stdout.is_empty(), "{rules:?}");
    }

    #[test]
    fn a_subnet_that_somebody_may_be_taking_away_is_added_anew() {
        #[expect(deprecated)]
        rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).unwrap();
        let mut firewall = Firewall::open("t").unwrap();
        let subnets = ["10.1.0.0/24".parse().unwrap()];
        let network = Network {
            subnets: &subnets,
            masquerade: true,
            ..Network::default()
        };
        let generation = |firewall: &mut Firewall| firewall.tables.generation().unwrap();
        firewall.admit_shared(&network, true).unwrap();
        let made = generation(&mut firewall);
        // Whoever looks before and acts after fails only if something was changed in between.
        firewall.admit_shared(&network, true).unwrap();
        let anew = generation(&mut firewall);
        assert_ne!(anew, made);
        firewall.admit_shared(&network, false).unwrap();
        assert_eq!(generation(&mut firewall), anew);
        firewall.gather(&subnets).unwrap();
        assert_eq!(
            firewall.tables.read(&tables::all_sets()).unwrap().entries,
            []
        );
    }

    #[test]
    fn a_kernel_without_socket_has_the_table_but_no_way_to_the_hosts_loopback() {
        let holds = |socket| {
            let all = table::create("t", Features { socket });
            let word = b"socket\0";
            let with = all
                .iter()
                .filter(|m| m.payload().windows(7).any(|w| w == word));
            (all.len(), with.count())
        };
        let ((all, with), (less, without)) = (holds(true), holds(false));
        assert_eq!((all - less, with, without), (4, 2, 0));
        let refused = needs_socket(Features { socket: false }).unwrap_err();
        assert!(
            refused.to_string().contains("CONFIG_NFT_SOCKET"),
            "{refused}"
        );
        needs_socket(Features { socket: true }).unwrap();
    }
}
