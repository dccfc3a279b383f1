//! The places that `copy` knows, in skopeo's words.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use corten_spec::Reference;

use super::super::ImageError;

/// `docker://NAME`, `oci:FOLDER[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`, `dir:FOLDER`; and `store:IMAGE`,
/// an image of this engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Registry(Reference),
    Layout {
        folder: PathBuf,
        tag: Option<String>,
    },
    LayoutArchive {
        file: PathBuf,
        tag: Option<String>,
    },
    DockerArchive {
        file: PathBuf,
        name: Option<String>,
    },
    Folder(PathBuf),
    Store(String),
}

impl FromStr for Place {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let wrong = |why: String| ImageError::Place {
            text: text.into(),
            why,
        };
        let (transport, rest) = text
            .split_once(':')
            .ok_or_else(|| wrong("it begins with no transport".into()))?;
        if rest.is_empty() {
            return Err(wrong("nothing follows its transport".into()));
        }
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name.to_owned()).filter(|n| !n.is_empty())),
            None => (rest, None),
        };
        if path.is_empty() && transport != "docker" {
            return Err(wrong("it names no file".into()));
        }
        match transport {
            "docker" => {
                let name = rest.strip_prefix("//");
                let name = name.ok_or_else(|| wrong("a registry is docker://NAME".into()))?;
                let reference = name
                    .parse::<Reference>()
                    .map_err(|e| wrong(e.to_string()))?;
                Ok(Self::Registry(reference))
            }
            "oci" => Ok(Self::Layout {
                folder: path.into(),
                tag: name,
            }),
            "oci-archive" => Ok(Self::LayoutArchive {
                file: path.into(),
                tag: name,
            }),
            "docker-archive" => Ok(Self::DockerArchive {
                file: path.into(),
                name,
            }),
            "dir" => Ok(Self::Folder(rest.into())),
            "store" | "containers-storage" => Ok(Self::Store(rest.into())),
            _ => Err(wrong(format!("{transport:?} is no transport"))),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |n: &Option<String>| n.as_ref().map_or(String::new(), |n| format!(":{n}"));
        match self {
            Self::Registry(reference) => write!(f, "docker://{}", reference.familiar()),
            Self::Layout { folder, tag } => write!(f, "oci:{}{}", folder.display(), named(tag)),
            Self::LayoutArchive { file, tag } => {
                write!(f, "oci-archive:{}{}", file.display(), named(tag))
            }
            Self::DockerArchive { file, name } => {
                write!(f, "docker-archive:{}{}", file.display(), named(name))
            }
            Self::Folder(folder) => write!(f, "dir:{}", folder.display()),
            Self::Store(image) => write!(f, "store:{image}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_back() {
        for text in [
            "docker://127.0.0.1:5000/a/b:1",
            "docker://busybox:latest",
            "oci:/tmp/layout:v1",
            "oci:layout",
            "oci-archive:a.tar:example.com/x:1",
            "docker-archive:/a/b.tar:busybox:1",
            "dir:/tmp/x",
            "store:busybox",
        ] {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), text);
        }
        for bad in [
            "busybox",
            "docker:busybox",
            "docker://",
            "oci:",
            "ftp:x",
            "docker://A",
            "oci::v",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
