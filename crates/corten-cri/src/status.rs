//! From the engine's errors to gRPC's: one table.

use corten_engine::Error;
use corten_spec::{Kind, chain};
use tonic::{Code, Status};

/// The code of an error's kind, and its whole chain as the message, outermost first.
pub(crate) fn of(error: &Error) -> Status {
    Status::new(code(error), chain(error))
}

fn code(error: &Error) -> Code {
    if error.is_no_space() {
        return Code::ResourceExhausted;
    }
    of_kinds(error.kind())
}

fn of_kinds(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::AlreadyExists => Code::AlreadyExists,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Conflict => Code::FailedPrecondition,
        Kind::Busy | Kind::Unavailable => Code::Unavailable,
        Kind::Unsupported => Code::Unimplemented,
        Kind::Denied => Code::PermissionDenied,
        Kind::Internal => Code::Internal,
    }
}

/// The same of an error of ours.
pub(crate) fn of_kind(kind: Kind, message: String) -> Status {
    Status::new(of_kinds(kind), message)
}
