//! folder
pub(crate) mod attributes {}
pub(crate) mod marks {}
