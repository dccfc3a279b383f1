//! Address management: which address of which range, and who holds it.

pub mod range;
pub mod store;

pub use range::{Range, RangeSet};
pub use store::{Reservation, Store};
