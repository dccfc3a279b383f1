//! The JSON body that a registry explains a failure with ("Error Codes" in the specification).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The codes of the specification, and those of the older Docker API that are still sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    RangeInvalid,
    TagInvalid,
    PaginationNumberInvalid,
    Unauthorized,
    Denied,
    Unsupported,
    TooManyRequests,
    Unknown,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::RangeInvalid => "RANGE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// One entry of an error body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    #[serde(default)]
    pub code: String,
    #[serde(default)]
    pub message: String,
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub detail: serde_json::Value,
}

#[derive(Serialize, Deserialize)]
struct Body {
    errors: Vec<Item>,
}

/// What a registry said about a failure. Prints as `: CODE: message`, or as nothing where it
/// said nothing, so that it can end a sentence.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said(pub Vec<Item>);

impl Said {
    /// Reads an error body; bytes that are none give an empty value.
    pub fn parse(bytes: &[u8]) -> Self {
        Self(serde_json::from_slice::<Body>(bytes).map_or_else(|_| Vec::new(), |b| b.errors))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn has(&self, code: Code) -> bool {
        self.0.iter().any(|i| i.code == code.as_str())
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(item) = self.0.first() else {
            return Ok(());
        };
        for text in [&item.code, &item.message] {
            // A stranger's text goes to a terminal: no control characters, no novels.
            let clean: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
            if !clean.is_empty() {
                write!(f, ": {clean}")?;
            }
        }
        Ok(())
    }
}

/// The body for one error.
pub fn render(code: Code, message: &str, detail: serde_json::Value) -> Vec<u8> {
    let item = Item {
        code: code.as_str().into(),
        message: message.into(),
        detail,
    };
    // Strings and a JSON value always serialise.
    serde_json::to_vec(&Body { errors: vec![item] }).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let bytes = render(Code::BlobUnknown, "no such blob", serde_json::Value::Null);
        let said = Said::parse(&bytes);
        assert!(said.has(Code::BlobUnknown));
        assert_eq!(said.to_string(), ": BLOB_UNKNOWN: no such blob");
    }

    #[test]
    fn html_is_nothing_said_and_escapes_do_not_reach_the_terminal() {
        assert!(Said::parse(b"<html>").is_empty());
        let said = Said::parse(br#"{"errors":[{"code":"X","message":"\u001b[31mred"}]}"#);
        assert_eq!(said.to_string(), ": X: [31mred");
    }
}
