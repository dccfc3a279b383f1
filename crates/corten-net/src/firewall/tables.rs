//! Our tables in the kernel: reading them, and changing them in transactions that either fit what
//! was read or are tried anew.

use std::collections::HashSet;
use std::time::Duration;

use corten_sys::netlink::{BatchError, Family as Part, Message, Socket};
use rustix::io::Errno;

use super::element::{self, Entry, Set};
use super::expression::Expression;
use super::message::{self, Chain, Family};
use super::plan::{self, Condition, Contents, Features, Plan, SCHEMAS, Schema};
use super::{describe, failed};
use crate::Error;

/// Others change the ruleset too; each try costs them and us a reading.
const TRIES: u64 = 50;

const PROBE: Chain = Chain {
    name: "probe",
    hook: None,
};

/// A connection to nf_tables, for the tables of one name.
#[derive(Debug)]
pub struct Tables {
    pub socket: Socket,
    pub name: String,
    /// In the order of [`SCHEMAS`]: whether this connection has seen the table to be there.
    ensured: [bool; 2],
    features: Option<Features>,
    /// Whether it made one.
    pub made: bool,
    /// What it added: should the tables vanish meanwhile, it is added again.
    added: Vec<Entry>,
}

impl Tables {
    pub fn open(name: &str) -> Result<Self, Error> {
        Ok(Self {
            socket: Socket::open(Part::Netfilter).map_err(failed("open nf_tables"))?,
            name: name.into(),
            ensured: [false; 2],
            features: None,
            made: false,
            added: Vec::new(),
        })
    }

    /// Adds entries in one transaction. A port that another container has is refused with its name.
    pub fn add(&mut self, wanted: &[Entry]) -> Result<(), Error> {
        // Two ports to one target have one element about it.
        let mut seen = HashSet::new();
        let once = wanted.iter().filter(|e| seen.insert(e.about()));
        let mut entries: Vec<Entry> = once.cloned().collect();
        if entries.is_empty() {
            return Ok(());
        }
        for turn in 0..TRIES {
            self.ensure(&entries)?;
            let messages = entries
                .iter()
                .map(|e| element::add(&self.name, e))
                .collect();
            let Err(BatchError { index, source }) =
                self.socket.transact(message::transaction(messages))
            else {
                self.added.extend(entries);
                return Ok(());
            };
            match source.errno() {
                // Somebody deleted the table after we had seen it.
                Some(Errno::NOENT) => {
                    self.ensured = [false; 2];
                    let mut all = std::mem::take(&mut self.added);
                    all.retain(|e| !entries.contains(e));
                    entries.splice(0..0, all);
                    std::thread::sleep(Duration::from_micros(100 * turn));
                }
                Some(Errno::EXIST) => return self.claim(entries),
                _ => {
                    // The first message of a transaction is its frame.
                    let refused = index.checked_sub(1).and_then(|i| entries.get(i));
                    let what = refused.map_or_else(|| "elements".into(), describe::entry);
                    return Err(failed(format!("add {what} to table {}", self.name))(source));
                }
            }
        }
        Err(self.restless())
    }

    /// Adds entries some of whose keys are there.
    fn claim(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        self.change("claim elements", &all_sets(), |name, there| {
            let plan = plan::plan(name, there, &entries);
            match plan.taken.first() {
                Some((port, holder)) => Err(describe::taken(port, holder)),
                None => Ok(plan),
            }
        })?;
        self.added.extend(entries);
        Ok(())
    }

    /// Reads, decides, does; anew if the ruleset changed meanwhile. What was done is returned.
    pub fn change(
        &mut self,
        action: &'static str,
        sets: &[&'static Set],
        decide: impl Fn(&str, &Contents) -> Result<Plan, Error>,
    ) -> Result<Plan, Error> {
        for turn in 0..TRIES {
            let generation = self.generation()?;
            let mut there = self.read(sets)?;
            if there.conditions[0] != Condition::Current {
                there.features = self.features()?;
            }
            let plan = decide(&self.name, &there)?;
            if plan.messages.is_empty() {
                return Ok(plan);
            }
            let messages = plan.messages.clone();
            let batch = match plan.remakes {
                true => message::transaction_on(generation, messages),
                false => message::transaction(messages),
            };
            let Err(refused) = self.socket.transact(batch) else {
                self.made |= plan.remakes;
                self.ensured = [false; 2];
                return Ok(plan);
            };
            match refused.source.errno() {
                Some(Errno::RESTART | Errno::NOENT | Errno::EXIST) if turn + 1 < TRIES => {
                    std::thread::sleep(Duration::from_micros(100 * turn));
                }
                _ => {
                    let action = format!(
                        "{action} in table {} (message {})",
                        self.name, refused.index
                    );
                    return Err(failed(action)(refused.source));
                }
            }
        }
        Err(self.restless())
    }

    fn restless(&self) -> Error {
        Error::Invalid {
            what: "nftables table",
            value: self.name.clone(),
            reason: "comes and goes: another process makes and deletes it".into(),
        }
    }

    /// Makes the tables that the entries belong in, if missing or of another revision.
    fn ensure(&mut self, entries: &[Entry]) -> Result<(), Error> {
        for (i, schema) in SCHEMAS.iter().enumerate() {
            let needed = entries.iter().any(|e| e.set.family == schema.family);
            if !needed || self.ensured[i] {
                continue;
            }
            if self.condition(schema)? != Condition::Current {
                self.make(i)?;
            }
            self.ensured[i] = true;
        }
        Ok(())
    }

    fn make(&mut self, schema: usize) -> Result<(), Error> {
        self.change("make the sets and rules", &all_sets(), |name, there| {
            let mut plan = plan::plan(name, there, &[]);
            if there.conditions[schema] == Condition::Missing {
                plan.messages
                    .extend((SCHEMAS[schema].create)(name, there.features));
                plan.remakes = true;
            }
            Ok(plan)
        })
        .map(drop)
    }

    pub(super) fn generation(&mut self) -> Result<u32, Error> {
        let mut found = None;
        self.socket
            .query(message::get_generation(), |r| {
                found = found.or(message::read_generation(&r));
            })
            .map_err(failed("ask for the ruleset's generation"))?;
        // A kernel that does not say cannot compare either.
        Ok(found.unwrap_or(0))
    }

    /// What the tables hold in these sets.
    pub fn read(&mut self, sets: &[&'static Set]) -> Result<Contents, Error> {
        let mut there = Contents {
            conditions: [Condition::Missing; 2],
            features: Features { socket: true },
            entries: Vec::new(),
        };
        for (condition, schema) in there.conditions.iter_mut().zip(&SCHEMAS) {
            *condition = self.condition(schema)?;
            if *condition == Condition::Missing {
                continue;
            }
            for set in sets.iter().filter(|s| s.family == schema.family) {
                there.entries.extend(self.list(set)?);
            }
        }
        Ok(there)
    }

    /// Costs the kernel a grace period (10 to 20 ms on a busy host), so it is asked once, where
    /// rules are to be made.
    pub fn features(&mut self) -> Result<Features, Error> {
        if let Some(known) = self.features {
            return Ok(known);
        }
        let features = Features {
            socket: self.can(&Expression::SocketWildcard)?,
        };
        self.features = Some(features);
        Ok(features)
    }

    /// Whether the kernel knows an expression: it is shown a table with it, in a transaction that
    /// is never closed and so never comes about.
    pub(super) fn can(&mut self, expression: &Expression) -> Result<bool, Error> {
        let (name, chain) = (format!("{}-probe", self.name), PROBE);
        let rule = std::slice::from_ref(expression);
        let mut all = message::transaction(vec![
            message::new_table(Family::Inet, &name, ""),
            message::new_chain(Family::Inet, &name, &chain),
            message::new_rule(Family::Inet, &name, chain.name, true, rule, ""),
        ]);
        all.pop();
        match self.socket.transact(all) {
            Ok(()) => Ok(true),
            // The rule's: what is before it is known to every kernel.
            Err(refused) if refused.index == 3 => Ok(false),
            Err(refused) => Err(failed("see what nf_tables can")(refused.source)),
        }
    }

    /// The elements of a set; none if there is no such set (or table).
    fn list(&mut self, set: &'static Set) -> Result<Vec<Entry>, Error> {
        let raw = self
            .socket
            .dump(element::list(&self.name, set), |all: &mut Vec<_>, r| {
                all.extend(element::read(&r));
            });
        match raw {
            Ok(raw) => Ok(element::entries(set, raw)),
            Err(e) if e.errno() == Some(Errno::NOENT) => Ok(Vec::new()),
            Err(e) => Err(failed(format!(
                "list set {} of table {}",
                set.name, self.name
            ))(e)),
        }
    }

    /// Whether a set has an element of this key.
    pub fn has(&mut self, set: &'static Set, key: &[u8]) -> Result<bool, Error> {
        match self
            .socket
            .query(element::get(&self.name, set, key), |_| ())
        {
            Ok(()) => Ok(true),
            Err(e) if e.errno() == Some(Errno::NOENT) => Ok(false),
            Err(e) => Err(failed(format!("look into set {}", set.name))(e)),
        }
    }

    /// A table with a comment that is none of ours is somebody else's.
    fn condition(&mut self, schema: &Schema) -> Result<Condition, Error> {
        let Some(comment) = self.comment(schema.family)? else {
            return Ok(Condition::Missing);
        };
        if comment == schema.revision {
            return Ok(Condition::Current);
        }
        let number = comment.strip_prefix("corten ").map(str::parse::<u32>);
        match number {
            Some(Ok(_)) => Ok(Condition::Old),
            _ => Err(Error::Invalid {
                what: "nftables table",
                value: self.name.clone(),
                reason: format!("is another's: its comment is no revision of ours ({comment:?})"),
            }),
        }
    }

    fn comment(&mut self, family: Family) -> Result<Option<String>, Error> {
        let mut found = None;
        let question: Message = message::get_table(family, &self.name);
        let asked = self
            .socket
            .query(question, |r| found = message::read_table(&r));
        match asked {
            Ok(()) => Ok(found),
            // A kernel without nf_tables for bridges has no such table either.
            Err(e) if matches!(e.errno(), Some(Errno::NOENT | Errno::AFNOSUPPORT)) => Ok(None),
            Err(e) => Err(failed(format!("look for table {}", self.name))(e)),
        }
    }
}

/// Every set of both tables.
pub fn all_sets() -> Vec<&'static Set> {
    SCHEMAS.iter().flat_map(|s| s.sets).collect()
}
