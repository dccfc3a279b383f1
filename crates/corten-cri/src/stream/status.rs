//! How a session's end is told on its error stream.

use serde::Serialize;

use super::backend::Failure;

/// By version 4 of the protocol it is a Kubernetes `Status` in JSON; before that it is words, and none if all went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Words,
    Json,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Success,
    Exit(i32),
    Failed(Failure),
}

#[derive(Default, Serialize)]
struct Document {
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Serialize)]
struct Cause {
    reason: &'static str,
    message: String,
}

impl Status {
    pub fn of_exit(code: i32) -> Self {
        match code {
            0 => Self::Success,
            code => Self::Exit(code),
        }
    }

    /// The error stream's bytes.
    pub fn encode(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Words => self.words().into_bytes(),
            Format::Json => serde_json::to_vec(&self.document()).unwrap_or_default(),
        }
    }

    fn words(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::Exit(code) => format!("command terminated with exit code {code}"),
            Self::Failed(failure) => format!("Internal error occurred: {failure}"),
        }
    }

    fn document(&self) -> Document {
        let failed = Document {
            status: "Failure",
            message: self.words(),
            ..Document::default()
        };
        match self {
            Self::Success => Document {
                status: "Success",
                ..Document::default()
            },
            Self::Exit(code) => Document {
                reason: Some("NonZeroExitCode"),
                details: Some(Details {
                    causes: [Cause {
                        reason: "ExitCode",
                        message: code.to_string(),
                    }],
                }),
                ..failed
            },
            Self::Failed(_) => Document {
                reason: Some("InternalError"),
                code: Some(500),
                ..failed
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_clients_read() {
        let json = |s: Status| String::from_utf8(s.encode(Format::Json)).unwrap();
        assert_eq!(json(Status::of_exit(0)), r#"{"status":"Success"}"#);
        assert_eq!(
            json(Status::of_exit(7)),
            r#"{"status":"Failure","message":"command terminated with exit code 7","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#
        );
        let failed = Status::Failed(Failure::new("no such \"thing\""));
        assert_eq!(
            json(failed.clone()),
            r#"{"status":"Failure","message":"Internal error occurred: no such \"thing\"","reason":"InternalError","code":500}"#
        );
        let words = failed.encode(Format::Words);
        assert_eq!(words, b"Internal error occurred: no such \"thing\"");
        assert_eq!(Status::Success.encode(Format::Words), b"");
    }
}
