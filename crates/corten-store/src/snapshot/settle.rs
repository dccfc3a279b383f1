//! settle
use crate::{Store, LayerId, Result};
pub(crate) fn settle(_s: &Store, _ids: &[LayerId]) -> Result<Vec<LayerId>> { unimplemented!() }
