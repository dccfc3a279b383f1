//! Rows that people name: by whole id, then by name, then by a prefix of the id that only one has.

use corten_spec::ContainerId;
use rusqlite::{Connection, Params, Row};

use crate::error::{Error, Result};

/// How a table's rows are selected and read.
pub(super) struct Rows<T> {
    /// What one is called in errors.
    pub what: &'static str,
    /// `SELECT … FROM …`; the table has the columns `id` and `name`.
    pub columns: &'static str,
    pub read: fn(&Row<'_>) -> rusqlite::Result<T>,
    pub id: fn(&T) -> &ContainerId,
}

impl<T> Rows<T> {
    /// Those that a condition or an order selects.
    pub fn select(
        &self,
        c: &Connection,
        rest: &str,
        params: impl Params,
    ) -> rusqlite::Result<Vec<T>> {
        let mut q = c.prepare(&format!("{} {rest}", self.columns))?;
        q.query_map(params, self.read)?.collect()
    }

    /// Those that the key may mean: several only if it is a prefix of several ids.
    pub fn find(&self, c: &Connection, key: &str) -> rusqlite::Result<Vec<T>> {
        for by in ["id = ?1", "name = ?1", "substr(id, 1, length(?1)) = ?1"] {
            let rows = self.select(c, &format!("WHERE {by} LIMIT 10"), [key])?;
            if !rows.is_empty() || key.is_empty() {
                return Ok(rows);
            }
        }
        Ok(Vec::new())
    }

    /// The one that was found.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`].
    pub fn only(&self, key: &str, mut found: Vec<T>) -> Result<T> {
        match (found.pop(), found.is_empty()) {
            (Some(row), true) => Ok(row),
            (Some(last), false) => Err(Error::Ambiguous {
                what: self.what,
                name: key.into(),
                candidates: found
                    .iter()
                    .chain([&last])
                    .map(|r| (self.id)(r).short().to_owned())
                    .collect(),
            }),
            (None, _) => Err(Error::NotFound {
                what: self.what,
                name: key.into(),
            }),
        }
    }
}
