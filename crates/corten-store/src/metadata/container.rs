//! Container rows. What a record means is the engine's affair; the store sees to it
//! that ids and names are unique and that lookups by prefix are not ambiguous.

use corten_spec::{ContainerId, Name};
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::error::{Error, Result};
use crate::metadata::lookup::Rows;
use crate::metadata::parsed;
use crate::store::Store;

/// One container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerRow {
    pub id: ContainerId,
    pub name: Name,
    /// The reference it was made from, for people to see. It keeps nothing alive: the snapshot keeps the layers.
    pub image: String,
    /// Nanoseconds since the epoch; lists are in this order.
    pub created_at: i64,
    /// The engine's own, versioned JSON.
    pub record: String,
}

/// The container rows of a store.
pub struct Containers<'a> {
    store: &'a Store,
}

const ROWS: Rows<ContainerRow> = Rows {
    what: "container",
    columns: "SELECT id, name, image, created_at, record FROM container",
    read,
    id: |r| &r.id,
};
const OLDEST_FIRST: &str = "ORDER BY created_at, id";

impl<'a> Containers<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// Adds a row. To be done before anything else of the container exists, for this row is what owns it:
    /// a snapshot whose key is no container's id, nor held by a lease, is garbage. `networks`: those that it is on,
    /// which stay as long as it does.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] with the id of the container that has the name (or the id), [`Error::NotFound`] if a network
    /// is not there.
    pub fn insert(&self, row: &ContainerRow, networks: &[ContainerId]) -> Result<()> {
        let op = "insert a container";
        self.store.db().write(op, |t| {
            let taken = t
                .query_row(
                    "SELECT id, name FROM container WHERE id = ?1 OR name = ?2",
                    [row.id.as_str(), row.name.as_str()],
                    |r| Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?)),
                )
                .optional()
                .map_err(Error::db(op))?;
            if let Some((by, name)) = taken {
                return Err(match name == row.name.as_str() {
                    true => Error::AlreadyExists {
                        what: "container name",
                        name,
                        by: format!("container {by}"),
                    },
                    false => Error::AlreadyExists {
                        what: "container id",
                        name: by,
                        by: format!("container {name}"),
                    },
                });
            }
            t.execute(
                "INSERT INTO container (id, name, image, created_at, record) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![row.id.as_str(), row.name.as_str(), row.image, row.created_at, row.record],
            )
            .map_err(Error::db(op))?;
            super::network::enter(t, &row.id, networks)
        })
    }

    /// Finds by whole id, then by name, then by a prefix of the id that only one has.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn get(&self, key: &str) -> Result<ContainerRow> {
        let op = "look up a container";
        let found = self.store.db().read(op, |c| ROWS.find(c, key))?;
        ROWS.only(key, found)
    }

    /// All rows, oldest first.
    pub fn list(&self) -> Result<Vec<ContainerRow>> {
        let op = "list the containers";
        self.store
            .db()
            .read(op, |c| ROWS.select(c, OLDEST_FIRST, []))
    }

    /// Replaces the record, and only that.
    pub fn update(&self, id: &ContainerId, record: &str) -> Result<()> {
        self.change("update a container", id, |c| {
            c.execute(
                "UPDATE container SET record = ?2 WHERE id = ?1",
                [id.as_str(), record],
            )
        })
    }

    /// Gives another name.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] if another container has it.
    pub fn rename(&self, id: &ContainerId, name: &Name) -> Result<()> {
        if let Ok(row) = self.get(name.as_str())
            && row.name == *name
            && row.id != *id
        {
            return Err(Error::AlreadyExists {
                what: "container name",
                name: name.to_string(),
                by: format!("container {}", row.id),
            });
        }
        self.change("rename a container", id, |c| {
            c.execute(
                "UPDATE container SET name = ?2 WHERE id = ?1",
                [id.as_str(), name.as_str()],
            )
        })
    }

    /// Removes the row: the last step of a removal, as its insertion was the first.
    pub fn delete(&self, id: &ContainerId) -> Result<()> {
        self.change("delete a container", id, |c| {
            c.execute("DELETE FROM container WHERE id = ?1", [id.as_str()])
        })
    }

    fn change(
        &self,
        op: &'static str,
        id: &ContainerId,
        f: impl FnOnce(&Connection) -> rusqlite::Result<usize>,
    ) -> Result<()> {
        match self.store.db().read(op, f)? {
            0 => Err(Error::NotFound {
                what: "container",
                name: id.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

fn read(r: &Row<'_>) -> rusqlite::Result<ContainerRow> {
    Ok(ContainerRow {
        id: parsed(r, 0)?,
        name: parsed(r, 1)?,
        image: r.get(2)?,
        created_at: r.get(3)?,
        record: r.get(4)?,
    })
}
