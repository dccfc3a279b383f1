//! What has to be asked of nf_tables so that it holds what is wanted, given what it holds. Pure.

use std::collections::HashMap;
use std::net::IpAddr;

use corten_sys::netlink::Message;

use super::element::{self, Entry, Key, Set};
use super::message::{self, Family};
use super::{ethernet, table};

/// One of our two tables, in one of its revisions: the present one is all that we make.
#[derive(Debug)]
pub struct Schema {
    pub family: Family,
    pub revision: &'static str,
    pub sets: &'static [Set],
    pub create: fn(&str, Features) -> Vec<Message>,
}

/// What this kernel can that not every one can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// `socket wildcard` (CONFIG_NFT_SOCKET, Linux 5.10): without it nobody reaches the host's
    /// loopback, and all else works.
    pub socket: bool,
}

pub static SCHEMAS: [Schema; 2] = [
    Schema {
        family: Family::Inet,
        revision: table::REVISION,
        sets: &table::SETS,
        create: table::create,
    },
    Schema {
        family: Family::Bridge,
        revision: ethernet::REVISION,
        sets: &ethernet::SETS,
        create: ethernet::create,
    },
];

/// How a table of ours was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Missing,
    /// Of another revision, which another version of this program made.
    Old,
    Current,
}

/// What nf_tables holds of ours.
#[derive(Clone, Debug)]
pub struct Contents {
    /// In the order of [`SCHEMAS`].
    pub conditions: [Condition; 2],
    pub features: Features,
    pub entries: Vec<Entry>,
}

/// What to ask for, and why not all.
#[derive(Debug, Default)]
pub struct Plan {
    pub messages: Vec<Message>,
    /// Wanted entries that were not there.
    pub missing: Vec<Entry>,
    /// Wanted entries whose key another container has, and that one's entry.
    pub taken: Vec<(Entry, Entry)>,
    /// Whether it rests on the tables' conditions, so that it must fail if anybody changes them.
    pub remakes: bool,
}

fn by_key(entries: &[Entry]) -> HashMap<Key<'_>, &Entry> {
    let keyed = entries.iter().map(|e| (e.about(), e));
    keyed.collect()
}

/// Makes what is wanted be there. What is there stays, but for entries with the same key: those are
/// replaced, unless it is a published port of another container.
pub fn plan(table: &str, there: &Contents, wanted: &[Entry]) -> Plan {
    let mut plan = Plan::default();
    let mut held = by_key(&there.entries);
    let mut deletions = Vec::new();
    for entry in wanted {
        let key = entry.about();
        match held.get(&key) {
            Some(other) if *other == entry => continue,
            Some(other) if is_port(entry.set) && other.comment != entry.comment => {
                plan.taken.push((entry.clone(), (*other).clone()));
                continue;
            }
            // An unowned one says nothing but that it is there.
            Some(other) if !entry.set.owned && other.end == entry.end => continue,
            Some(other) => deletions.push(*other),
            None => {}
        }
        held.insert(key, entry);
        plan.missing.push(entry.clone());
    }
    for (schema, condition) in SCHEMAS.iter().zip(there.conditions) {
        let of_family = |e: &&Entry| e.set.family == schema.family;
        match condition {
            Condition::Current => {
                let gone = deletions.iter().copied().filter(of_family);
                plan.messages
                    .extend(gone.map(|e| element::delete(table, e)));
            }
            Condition::Old => {
                plan.remakes = true;
                plan.messages
                    .push(message::delete_table(schema.family, table));
                plan.messages.extend((schema.create)(table, there.features));
                let kept = there.entries.iter().filter(of_family);
                let kept = kept.filter(|e| !deletions.iter().any(|d| d.about() == e.about()));
                plan.messages.extend(kept.map(|e| element::add(table, e)));
            }
            Condition::Missing => {
                if plan.missing.iter().any(|e| of_family(&e)) {
                    plan.messages.extend((schema.create)(table, there.features));
                    plan.remakes = true;
                }
            }
        }
        let new = plan.missing.iter().filter(of_family);
        plan.messages.extend(new.map(|e| element::add(table, e)));
    }
    plan
}

/// Takes entries away; with the last of a table's, the table. `used` are the host's addresses: a subnet that none of them is in serves nobody.
pub fn removal(
    table: &str,
    there: &Contents,
    used: &[IpAddr],
    gone: impl Fn(&Entry) -> bool,
) -> Plan {
    let mut plan = Plan::default();
    for (schema, condition) in SCHEMAS.iter().zip(there.conditions) {
        let all = there
            .entries
            .iter()
            .filter(|e| e.set.family == schema.family);
        let (gone, kept): (Vec<&Entry>, Vec<&Entry>) = all.partition(|e| gone(e));
        if condition == Condition::Missing {
            continue;
        }
        if kept.iter().all(|e| e.is_idle(used)) {
            plan.remakes = true;
            plan.messages
                .push(message::delete_table(schema.family, table));
        } else {
            let gone = gone.into_iter().map(|e| element::delete(table, e));
            plan.messages.extend(gone);
        }
    }
    plan
}

pub fn is_port(set: &Set) -> bool {
    [(true, true), (true, false), (false, true), (false, false)]
        .iter()
        .any(|(v4, on)| table::publish(*v4, *on).name == set.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(conditions: [Condition; 2], entries: &[Entry]) -> Contents {
        Contents {
            conditions,
            features: Features { socket: true },
            entries: entries.to_vec(),
        }
    }

    fn port(number: u8, owner: &str) -> Entry {
        Entry {
            data: vec![10, 0, 0, 2, 0, 80, 0, 0],
            comment: owner.into(),
            ..Entry::key(
                table::publish(true, false),
                vec![6, 0, 0, 0, 0, number, 0, 0],
            )
        }
    }

    #[test]
    fn what_is_there_costs_nothing_and_what_is_another_containers_stays() {
        let there = contents(
            [Condition::Current, Condition::Missing],
            &[port(1, "corten a eth0 n"), port(2, "corten b eth0 n")],
        );
        let wanted = [
            port(1, "corten a eth0 n"),
            port(2, "corten a eth0 n"),
            port(3, "corten a eth0 n"),
        ];
        let plan = plan("t", &there, &wanted);
        assert_eq!(plan.missing, [port(3, "corten a eth0 n")]);
        assert_eq!(
            plan.taken,
            [(wanted[1].clone(), port(2, "corten b eth0 n"))]
        );
        assert_eq!(plan.messages, [element::add("t", &wanted[2])]);
        assert!(!plan.remakes);
    }

    #[test]
    fn an_old_table_is_made_anew_with_its_elements() {
        let there = contents(
            [Condition::Old, Condition::Missing],
            &[port(1, "corten a eth0 n")],
        );
        let plan = plan("t", &there, &[]);
        assert_eq!(plan.messages[0], message::delete_table(Family::Inet, "t"));
        assert_eq!(
            plan.messages.last(),
            Some(&element::add("t", &there.entries[0]))
        );
        assert!(plan.remakes);
    }

    #[test]
    fn an_address_that_changed_hands_is_the_new_owners() {
        let admitted = |owner: &str| Entry {
            data: b"br0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec(),
            comment: owner.into(),
            ..Entry::key(table::admitted(true), vec![10, 0, 0, 2])
        };
        let there = contents(
            [Condition::Current, Condition::Missing],
            &[admitted("corten gone eth0 n")],
        );
        let new = admitted("corten new eth0 n");
        let plan = plan("t", &there, std::slice::from_ref(&new));
        let wanted = [
            element::delete("t", &there.entries[0]),
            element::add("t", &new),
        ];
        assert_eq!(plan.messages, wanted);
    }

    #[test]
    fn a_subnet_that_is_used_keeps_the_table() {
        let subnet = Entry {
            end: Some(vec![10, 0, 1, 0]),
            ..Entry::key(table::masq(true), vec![10, 0, 0, 0])
        };
        let there = contents(
            [Condition::Current, Condition::Missing],
            &[port(1, "corten a eth0 n"), subnet],
        );
        let without = |used: [u8; 4]| removal("t", &there, &[used.into()], |e| !e.set.interval);
        let deleted = [element::delete("t", &there.entries[0])];
        assert_eq!(without([10, 0, 0, 255]).messages, deleted);
        let whole = [message::delete_table(Family::Inet, "t")];
        assert_eq!(without([10, 0, 1, 0]).messages, whole);
        assert_eq!(removal("t", &there, &[], |_| true).messages, whole);
    }

    #[test]
    fn the_last_entry_takes_the_table_along() {
        let there = contents(
            [Condition::Current, Condition::Missing],
            &[port(1, "corten a eth0 n"), port(2, "corten b eth0 n")],
        );
        let one = removal("t", &there, &[], |e| e.comment.contains(" a "));
        assert_eq!(one.messages, [element::delete("t", &there.entries[0])]);
        let all = removal("t", &there, &[], |_| true);
        assert_eq!(all.messages, [message::delete_table(Family::Inet, "t")]);
    }
}
