//! The ingest.
use super::*;
use crate::error::Result;
use crate::metadata::Lease;
use crate::store::Store;
use std::io::Read;

/// Whether there is anything to do for a layer.
pub enum Begin {
    /// It is in the store, and the lease keeps it.
    Present(LayerId),
    /// Its bytes are wanted, from [`LayerIngest::offset`] on.
    Ingest(LayerIngest),
}
/// A layer on its way in.
pub struct LayerIngest {
    offset: u64,
}
impl LayerIngest {
    /// Bytes of the compressed blob that are on disk already. May be all of them: then `run` wants an empty reader.
    pub fn offset(&self) -> u64 {
        self.offset
    }
    /// Takes the rest of the compressed bytes.
    pub fn run<R: Read>(self, _rest: R) -> Result<LayerId> {
        unimplemented!()
    }
}
impl Store {
    /// Starts or resumes a layer. Blocks while another thread or process has the same layer in hand.
    pub fn begin_layer(&self, _lease: &Lease, _desc: &LayerDesc) -> Result<Begin> {
        unimplemented!()
    }
}
pub(crate) fn rebuild() {}
