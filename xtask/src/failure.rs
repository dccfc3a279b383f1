//! Why a task stopped: one sentence for a developer's terminal. Nothing catches
//! it and decides by it, so it carries no kinds.

use std::fmt;

pub type Result<T> = std::result::Result<T, Failure>;

#[derive(Debug)]
pub struct Failure(String);

pub fn failure(what: impl Into<String>) -> Failure {
    Failure(what.into())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Adds to an error what was being done.
pub trait Context<T> {
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|source| Failure(format!("{what}: {source}")))
    }
}
