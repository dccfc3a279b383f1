//! Removes what nothing needs.
pub(crate) mod trash;
use crate::error::Result;
use crate::store::Store;
impl Store {
    /// Removes what no image, container or living lease needs; returns the bytes freed.
    pub fn collect(&self) -> Result<u64> { unimplemented!() }
    /// Makes the layers unpacked since boot survive a power cut without being unpacked anew.
    pub fn flush(&self) -> Result<()> { unimplemented!() }
}
