//! Rows of pods, and of the containers in them. What a record means is the engine's affair; the store sees to it that ids and
//! names are unique, and that no pod goes while it has containers.

use corten_spec::ContainerId;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::error::{Error, Result};
use crate::metadata::parsed;
use crate::store::Store;

/// One pod, or one container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRow {
    pub id: ContainerId,
    /// A container's; a pod has none.
    pub pod: Option<ContainerId>,
    /// Unique among pods, or among containers of pods. Any text: orchestrators make it of several names.
    pub name: String,
    /// Nanoseconds since the epoch; lists are in this order.
    pub created_at: i64,
    /// The engine's own, versioned JSON.
    pub record: String,
}

/// The rows of pods and their containers.
pub struct Pods<'a> {
    store: &'a Store,
}

impl<'a> Pods<'a> {
    pub(crate) fn new(store: &'a Store) -> Self {
        Self { store }
    }

    /// Adds a row. To be done before anything else of it exists: the row is what owns it, and a container's snapshot has its id
    /// as key.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] with the id of the one that has the name, [`Error::NotFound`] if the pod of a container is gone.
    pub fn insert(&self, row: &PodRow) -> Result<()> {
        let op = "insert a pod";
        let (what, table) = match row.pod {
            None => ("pod name", "pod"),
            Some(_) => ("container name", "pod_container"),
        };
        self.store.db().write(op, |t| {
            let taken: Option<String> = t
                .query_row(
                    &format!("SELECT id FROM {table} WHERE name = ?1"),
                    [&row.name],
                    |r| r.get(0),
                )
                .optional()
                .map_err(Error::db(op))?;
            if let Some(by) = taken {
                return Err(Error::AlreadyExists {
                    what,
                    name: row.name.clone(),
                    by,
                });
            }
            let (id, name) = (row.id.as_str(), &row.name);
            match &row.pod {
                None => t.execute(
                    "INSERT INTO pod (id, name, created_at, record) VALUES (?1, ?2, ?3, ?4)",
                    params![id, name, row.created_at, row.record],
                ),
                Some(pod) => {
                    let known = "SELECT 1 FROM pod WHERE id = ?1";
                    let known = t.query_row(known, [pod.as_str()], |_| Ok(())).optional();
                    if known.map_err(Error::db(op))?.is_none() {
                        return Err(missing(pod));
                    }
                    t.execute(
                        "INSERT INTO pod_container (id, pod, name, created_at, record) VALUES (?1, ?2, ?3, ?4, ?5)",
                        params![id, pod.as_str(), name, row.created_at, row.record],
                    )
                }
            }
            .map(drop)
            .map_err(Error::db(op))
        })
    }

    /// Every pod, then every container of one, each oldest first.
    pub fn list(&self) -> Result<Vec<PodRow>> {
        self.store.db().read("list the pods", |c| {
            let mut rows = select(
                c,
                "SELECT id, NULL, name, created_at, record FROM pod ORDER BY created_at, id",
            )?;
            rows.extend(select(
                c,
                "SELECT id, pod, name, created_at, record FROM pod_container ORDER BY created_at, id",
            )?);
            Ok(rows)
        })
    }

    /// The pod of this name, or the container.
    pub fn named(&self, name: &str, container: bool) -> Result<Option<PodRow>> {
        let sql = match container {
            false => "SELECT id, NULL, name, created_at, record FROM pod WHERE name = ?1",
            true => "SELECT id, pod, name, created_at, record FROM pod_container WHERE name = ?1",
        };
        let db = self.store.db();
        db.read("find a pod", |c| c.query_row(sql, [name], read).optional())
    }

    /// Replaces the record of a pod, or of a container of one.
    pub fn update(&self, row: &PodRow) -> Result<()> {
        let op = "update a pod";
        let sql = format!("UPDATE {} SET record = ?2 WHERE id = ?1", table(row));
        self.store.db().write(op, |t| {
            let changed = t.execute(&sql, [row.id.as_str(), &row.record]);
            match changed.map_err(Error::db(op))? {
                0 => Err(missing(&row.id)),
                _ => Ok(()),
            }
        })
    }

    /// Removes the row: the last step of a removal, as its insertion was the first. One that is not there is removed.
    ///
    /// # Errors
    /// A pod that has containers stays.
    pub fn delete(&self, row: &PodRow) -> Result<()> {
        let op = "delete a pod";
        let sql = format!("DELETE FROM {} WHERE id = ?1", table(row));
        self.store.db().write(op, |t| {
            let done = t.execute(&sql, [row.id.as_str()]);
            done.map(drop).map_err(Error::db(op))
        })
    }
}

fn table(row: &PodRow) -> &'static str {
    match row.pod {
        None => "pod",
        Some(_) => "pod_container",
    }
}

fn missing(id: &ContainerId) -> Error {
    Error::NotFound {
        what: "pod",
        name: id.to_string(),
    }
}

fn select(c: &Connection, sql: &str) -> rusqlite::Result<Vec<PodRow>> {
    let mut query = c.prepare(sql)?;
    query.query_map([], read)?.collect()
}

fn read(r: &Row<'_>) -> rusqlite::Result<PodRow> {
    let pod: Option<String> = r.get(1)?;
    Ok(PodRow {
        id: parsed(r, 0)?,
        pod: match pod {
            None => None,
            Some(_) => Some(parsed(r, 1)?),
        },
        name: r.get(2)?,
        created_at: r.get(3)?,
        record: r.get(4)?,
    })
}
