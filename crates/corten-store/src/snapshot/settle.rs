//! settle
use crate::{LayerId, Result, Store};
pub(crate) fn settle(_s: &Store, _ids: &[LayerId]) -> Result<Vec<LayerId>> {
    unimplemented!()
}
