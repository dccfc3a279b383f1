//! Blobs.
use crate::error::Result;
use crate::metadata::Lease;
use crate::store::Store;
use corten_spec::Digest;
impl Store {
    /// Stores a small document.
    pub fn put_blob(&self, _lease: &Lease, _digest: &Digest, _bytes: &[u8]) -> Result<()> {
        unimplemented!()
    }
    /// Reads a small document, and checks its digest again.
    pub fn read_blob(&self, _digest: &Digest, _max: u64) -> Result<Vec<u8>> {
        unimplemented!()
    }
    /// Is the blob in the store?
    pub fn has_blob(&self, _digest: &Digest) -> Result<bool> {
        unimplemented!()
    }
}
