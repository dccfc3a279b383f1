//! In which form a layer is kept, and which one this host can have.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use super::erofs::{Packing, probe};

/// How new layers are kept. Those that are there stay as they are, and any mixture is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LayerChoice {
    /// EROFS images where the kernel can mount them, else folders.
    #[default]
    Auto,
    /// EROFS images; where the kernel cannot mount them, layers are refused.
    Erofs(Packing),
    Folders,
}

/// How a layer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Folders,
    Erofs(Packing),
}

/// A text that is no form.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no form of a layer")]
pub(crate) struct FormError(String);

impl Form {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Folders => "tree",
            Self::Erofs(Packing::Tar) => "erofs",
            Self::Erofs(Packing::Pages) => "erofs-pages",
        }
    }
}

impl FromStr for Form {
    type Err = FormError;

    fn from_str(s: &str) -> Result<Self, FormError> {
        [
            Self::Folders,
            Self::Erofs(Packing::Tar),
            Self::Erofs(Packing::Pages),
        ]
        .into_iter()
        .find(|f| f.as_str() == s)
        .ok_or_else(|| FormError(s.chars().take(40).collect()))
    }
}

/// What came of the choice on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    pub(crate) form: Form,
    /// Why there are no EROFS images, where that is so.
    pub(crate) why_not: Option<String>,
}

impl Chosen {
    /// `ingest` is a folder of the store, on the file system that layers will be on.
    pub(crate) fn new(choice: LayerChoice, ingest: &Path) -> Self {
        let (packing, forced) = match choice {
            LayerChoice::Folders => {
                return Self {
                    form: Form::Folders,
                    why_not: Some("the configuration asks for folders".into()),
                };
            }
            LayerChoice::Auto => (Packing::Tar, false),
            LayerChoice::Erofs(packing) => (packing, true),
        };
        match probe(ingest, packing) {
            Ok(()) => Self {
                form: Form::Erofs(packing),
                why_not: None,
            },
            Err(why) => Self {
                form: match forced {
                    true => Form::Erofs(packing),
                    false => Form::Folders,
                },
                why_not: Some(why.to_string()),
            },
        }
    }

    /// The snapshotter's name: `erofs` or `overlay`.
    pub fn name(&self) -> &'static str {
        match self.form {
            Form::Erofs(_) => "erofs",
            Form::Folders => "overlay",
        }
    }
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.form, &self.why_not) {
            (Form::Erofs(_), None) => {
                f.write_str("erofs: layers are mounted as they came, none is unpacked")
            }
            (Form::Erofs(_), Some(why)) => {
                write!(f, "erofs, as configured, which cannot be had: {why}")
            }
            (Form::Folders, Some(why)) => write!(f, "overlay, layers unpacked into folders: {why}"),
            (Form::Folders, None) => f.write_str("overlay, layers unpacked into folders"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_written_and_read() {
        for form in [
            Form::Folders,
            Form::Erofs(Packing::Tar),
            Form::Erofs(Packing::Pages),
        ] {
            assert_eq!(form.as_str().parse::<Form>().unwrap(), form);
        }
        assert!("erofs2".parse::<Form>().is_err());
    }
}
