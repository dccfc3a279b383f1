//! Compares the rows with what is on disk.
use crate::error::Result;
use crate::store::Store;
use std::fmt;

/// What sort of defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect { Orphan }
impl fmt::Display for Defect { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("orphan") } }

/// Something that is not as the rows say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: Defect,
    /// A path, or the name of a row.
    pub where_: String,
    /// Put right by this very check.
    pub repaired: bool,
}
impl Store {
    /// Names everything that is on disk and not in the rows, or the other way round, and with `repair` puts it right.
    pub fn check(&self, _repair: bool) -> Result<Vec<Finding>> { unimplemented!() }
}
