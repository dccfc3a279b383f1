//! How a failure travels: gRPC's code, a text, and our own detail.

use corten_spec::{Kind, chain};
use prost::Message;
use prost_types::Any;

use crate::proto::corten::Failure;
use crate::proto::ttrpc;

const FAILURE: &str = "corten.shim.v1.Failure";

/// gRPC's status codes, those that are used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Unknown = 2,
    InvalidArgument = 3,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
}

const KINDS: [(Kind, &str, Code); 9] = [
    (Kind::NotFound, "not_found", Code::NotFound),
    (Kind::AlreadyExists, "already_exists", Code::AlreadyExists),
    (Kind::Invalid, "invalid", Code::InvalidArgument),
    (Kind::Conflict, "conflict", Code::FailedPrecondition),
    (Kind::Busy, "busy", Code::Unavailable),
    (Kind::Unsupported, "unsupported", Code::Unimplemented),
    (Kind::Denied, "denied", Code::PermissionDenied),
    (Kind::Unavailable, "unavailable", Code::Unavailable),
    (Kind::Internal, "internal", Code::Unknown),
];

fn code_of(kind: Kind) -> Code {
    let found = KINDS.iter().find(|(k, ..)| *k == kind);
    found.map_or(Code::Unknown, |(_, _, code)| *code)
}

fn kind_of(code: i32) -> Kind {
    let found = KINDS.iter().find(|(.., c)| *c as i32 == code);
    found.map_or(Kind::Internal, |(kind, ..)| *kind)
}

/// A failed call.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    pub code: i32,
    pub message: String,
    /// What failed, as data; only our own shim sends it.
    pub failure: Option<Box<Failure>>,
}

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code: code as i32,
            message: message.into(),
            failure: None,
        }
    }

    /// A status with the matching code and a failure that says the kind.
    pub fn of(kind: Kind, message: impl Into<String>) -> Self {
        let message = message.into();
        let failure = Failure {
            kind: kind_name(kind).into(),
            message: message.clone(),
            exit_code: 1,
            ..Failure::default()
        };
        Self {
            code: code_of(kind) as i32,
            message,
            failure: Some(Box::new(failure)),
        }
    }

    /// The same failure as one of another sort, in its code and in its detail.
    pub fn as_kind(mut self, kind: Kind) -> Self {
        self.code = code_of(kind) as i32;
        if let Some(failure) = &mut self.failure {
            failure.kind = kind_name(kind).into();
        }
        self
    }

    /// The sort of failure, from the detail or else from the code.
    pub fn kind(&self) -> Kind {
        let named = self.failure.as_ref().map(|f| f.kind.as_str());
        let found = KINDS.iter().find(|(_, name, _)| Some(*name) == named);
        found.map_or_else(|| kind_of(self.code), |(kind, ..)| *kind)
    }
}

fn kind_name(kind: Kind) -> &'static str {
    let found = KINDS.iter().find(|(k, ..)| *k == kind);
    found.map_or("internal", |(_, name, _)| name)
}

impl From<Status> for ttrpc::Status {
    fn from(status: Status) -> Self {
        let detail = status.failure.map(|failure| Any {
            type_url: FAILURE.into(),
            value: failure.encode_to_vec(),
        });
        Self {
            code: status.code,
            message: status.message,
            details: detail.into_iter().collect(),
        }
    }
}

impl From<ttrpc::Status> for Status {
    fn from(status: ttrpc::Status) -> Self {
        let detail = status.details.iter().find(|d| d.type_url == FAILURE);
        Self {
            code: status.code,
            failure: detail
                .and_then(|d| Failure::decode(d.value.as_slice()).ok())
                .map(Box::new),
            message: status.message,
        }
    }
}

impl From<corten_runtime::Error> for Status {
    fn from(error: corten_runtime::Error) -> Self {
        let mut status = Self::of(error.kind(), chain(&error));
        if let Some(failure) = &mut status.failure {
            failure.step = error.step().into();
            failure.errno = error.errno().unwrap_or(0);
            failure.path = error
                .path()
                .map(|p| p.display().to_string())
                .unwrap_or_default();
            failure.exit_code = error.exit_code().into();
        }
        status
    }
}

impl From<corten_cgroup::Error> for Status {
    fn from(error: corten_cgroup::Error) -> Self {
        let mut status = Self::of(error.kind(), chain(&error));
        if let Some(failure) = &mut status.failure {
            failure.errno = error.errno().map_or(0, |e| e.raw_os_error());
        }
        status
    }
}
