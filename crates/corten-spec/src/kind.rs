//! What sort of failure an error is: the one word that decides an exit code, a
//! gRPC status or an HTTP status. Each public error type has a `kind()`.

/// The sorts of failure, the same at every boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What was named does not exist.
    NotFound,
    /// What was to be made exists.
    AlreadyExists,
    /// The input is wrong; trying again will not help.
    Invalid,
    /// The thing is in a state that does not allow this.
    Conflict,
    /// Somebody else holds it now; trying again may help.
    Busy,
    /// This host or build cannot.
    Unsupported,
    /// The caller may not.
    Denied,
    /// A peer (registry, shim, network) does not answer or answers badly.
    Unavailable,
    /// All else: a bug, a full disk, a kernel that refuses.
    Internal,
}
