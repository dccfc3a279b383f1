//! What the main plugins do alike: addresses from IPAM, the container's link given them, compared
//! with them, and taken away.

mod check;
mod configure;
mod keys;
mod link;

use corten_spec::cni::CniResult;

use super::{Request, Verb};
use crate::Error;

pub use check::{Told, check_inside, missing, need_link, same, same_detail};
pub use configure::{configure_with, prepare_families, prepare_ipv6, routes, set_up};
pub use keys::{Asked, Shared, asked_mac, given, wrong_key};
pub use link::{
    Source, add_inside, delete_inside, delete_named, interface, make_inside, prepare_inside,
};

/// Runs ADD, and what undoes it when it fails. The caller will ask for DEL as well (section 4 of
/// the specification), but a caller that dies before must not cost an address. ADD's own failure
/// is the one worth telling.
pub fn or_undo(
    request: &Request<'_>,
    add: impl FnOnce() -> Result<CniResult, Error>,
    undo: impl FnOnce(&Request<'_>) -> Result<(), Error>,
) -> Result<CniResult, Error> {
    add().map_err(|error| {
        let request = Request {
            verb: Verb::Del,
            ..*request
        };
        match undo(&request) {
            Ok(()) => error,
            Err(also) => Error::Attach {
                container: request.container_id.into(),
                network: request.network().into(),
                source: Box::new(error),
                undo: vec![also],
            },
        }
    })
}
