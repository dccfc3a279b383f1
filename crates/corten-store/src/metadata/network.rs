//! Network rows, and which containers are on which network. What a record means is the engine's affair; the
//! store sees to it that a name has one network, and that none goes while a container is on it.

use corten_spec::{ContainerId, Name};
use rusqlite::{Row, Transaction, params};

use crate::error::{Error, Result};
use crate::metadata::lookup::Rows;
use crate::metadata::parsed;
use crate::store::Store;

/// One network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkRow {
    /// 64 hexadecimal digits, as a container's.
    pub id: ContainerId,
    pub name: Name,
    /// Nanoseconds since the epoch; lists are in this order.
    pub created_at: i64,
    /// The engine's own, versioned JSON.
    pub record: String,
}

/// The network rows of a store.
pub struct Networks<'a> {
    store: &'a Store,
}

const ROWS: Rows<NetworkRow> = Rows {
    what: "network",
    columns: "SELECT id, name, created_at, record FROM network",
    read,
    id: |r| &r.id,
};
const OLDEST_FIRST: &str = "ORDER BY created_at, id";

impl<'a> Networks<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// Adds the row that `make` makes of those that are there: no other process adds one meanwhile, so two
    /// networks do not choose the same subnet. Its own error comes back as it is, and nothing is added.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] with the id of the network that has the name.
    pub fn add<E: From<Error>>(
        &self,
        make: impl FnOnce(&[NetworkRow]) -> Result<NetworkRow, E>,
    ) -> Result<NetworkRow, E> {
        let op = "insert a network";
        self.store.db().write(op, |t| {
            let all = ROWS.select(t, OLDEST_FIRST, []).map_err(Error::db(op))?;
            let row = match make(&all) {
                Ok(row) => row,
                Err(e) => return Ok(Err(e)),
            };
            if let Some(other) = all.iter().find(|o| o.name == row.name) {
                return Err(Error::AlreadyExists {
                    what: "network name",
                    name: row.name.to_string(),
                    by: format!("network {}", other.id),
                });
            }
            t.execute(
                "INSERT INTO network (id, name, created_at, record) VALUES (?1, ?2, ?3, ?4)",
                params![
                    row.id.as_str(),
                    row.name.as_str(),
                    row.created_at,
                    row.record
                ],
            )
            .map_err(Error::db(op))?;
            Ok(Ok(row))
        })?
    }

    /// Finds by whole id, then by name, then by a prefix of the id that only one has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn get(&self, key: &str) -> Result<NetworkRow> {
        let op = "look up a network";
        let found = self.store.db().read(op, |c| ROWS.find(c, key))?;
        ROWS.only(key, found)
    }

    /// The network of this very name, which a record holds: no id, and no part of one.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn named(&self, name: &str) -> Result<NetworkRow> {
        let op = "look up a network";
        let mut found = self
            .store
            .db()
            .read(op, |c| ROWS.select(c, "WHERE name = ?1", [name]))?;
        found.pop().ok_or_else(|| missing(name))
    }

    /// All rows, oldest first.
    pub fn list(&self) -> Result<Vec<NetworkRow>> {
        let op = "list the networks";
        self.store
            .db()
            .read(op, |c| ROWS.select(c, OLDEST_FIRST, []))
    }

    /// The containers that are on a network, whether they run or not.
    pub fn members(&self, id: &ContainerId) -> Result<Vec<ContainerId>> {
        self.store.db().read("list a network's containers", |c| {
            let sql = "SELECT container FROM network_member WHERE network = ?1 ORDER BY container";
            let mut q = c.prepare(sql)?;
            q.query_map([id.as_str()], |r| parsed(r, 0))?.collect()
        })
    }

    /// Replaces a container's record, and with it the networks that the container is on.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the container or one of the networks is not there (any more).
    pub fn set_members(
        &self,
        container: &ContainerId,
        record: &str,
        networks: &[ContainerId],
    ) -> Result<()> {
        let op = "put a container on networks";
        self.store.db().write(op, |t| {
            let changed = t
                .execute(
                    "UPDATE container SET record = ?2 WHERE id = ?1",
                    [container.as_str(), record],
                )
                .map_err(Error::db(op))?;
            if changed == 0 {
                return Err(Error::NotFound {
                    what: "container",
                    name: container.to_string(),
                });
            }
            t.execute(
                "DELETE FROM network_member WHERE container = ?1",
                [container.as_str()],
            )
            .map_err(Error::db(op))?;
            enter(t, container, networks)
        })
    }

    /// Removes the row of a network that no container is on: the last step of a removal.
    ///
    /// # Errors
    /// [`Error::InUse`] with the containers that are on it.
    pub fn delete(&self, id: &ContainerId) -> Result<()> {
        let op = "delete a network";
        self.store.db().write(op, |t| {
            let sql = "SELECT c.name FROM network_member m JOIN container c ON c.id = m.container \
                       WHERE m.network = ?1 ORDER BY c.name";
            let names = (t.prepare(sql))
                .and_then(|mut q| {
                    q.query_map([id.as_str()], |r| r.get::<_, String>(0))?
                        .collect::<rusqlite::Result<Vec<_>>>()
                })
                .map_err(Error::db(op))?;
            if !names.is_empty() {
                return Err(Error::InUse {
                    what: "network",
                    name: id.short().into(),
                    by: names,
                });
            }
            let gone = t.execute("DELETE FROM network WHERE id = ?1", [id.as_str()]);
            match gone.map_err(Error::db(op))? {
                0 => Err(missing(id.as_str())),
                _ => Ok(()),
            }
        })
    }
}

/// Enters a container as a member, within the transaction that makes or changes its row.
pub(super) fn enter(
    t: &Transaction<'_>,
    container: &ContainerId,
    networks: &[ContainerId],
) -> Result<()> {
    let op = "put a container on networks";
    for network in networks {
        let there = t
            .query_row(
                "SELECT count(*) FROM network WHERE id = ?1",
                [network.as_str()],
                |r| r.get::<_, i64>(0),
            )
            .map_err(Error::db(op))?;
        if there == 0 {
            return Err(missing(network.as_str()));
        }
        t.execute(
            "INSERT OR IGNORE INTO network_member (network, container) VALUES (?1, ?2)",
            [network.as_str(), container.as_str()],
        )
        .map_err(Error::db(op))?;
    }
    Ok(())
}

fn missing(name: &str) -> Error {
    Error::NotFound {
        what: "network",
        name: name.into(),
    }
}

fn read(r: &Row<'_>) -> rusqlite::Result<NetworkRow> {
    Ok(NetworkRow {
        id: parsed(r, 0)?,
        name: parsed(r, 1)?,
        created_at: r.get(2)?,
        record: r.get(3)?,
    })
}
