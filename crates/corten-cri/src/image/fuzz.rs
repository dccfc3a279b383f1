//! The entrance to the credentials of a pull, as they come from the wire.

use prost::Message as _;

use super::auth;
use crate::proto::PullImageRequest;

/// A refusal repeats no secret.
pub(crate) fn credentials(bytes: &[u8]) {
    let Ok(request) = PullImageRequest::decode(bytes) else {
        return;
    };
    let Ok(reference) = request.image.unwrap_or_default().image.parse() else {
        return;
    };
    if let Err(refused) = auth::credentials(request.auth.as_ref(), &reference) {
        let secret = request.auth.unwrap_or_default().auth;
        assert!(secret.len() < 16 || !refused.message().contains(&secret));
    }
}
