//! From the engine's errors to gRPC's: one table.

use corten_engine::Error;
use corten_spec::Kind;
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

/// An error and its causes on one line, without what a cause repeats.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let cause = e.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = e.source();
    }
    text
}
