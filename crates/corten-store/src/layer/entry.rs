//! What a tar entry means in an image: something to make, or a mark on what lies below (OCI Image
//! Specification, "Image Layer Filesystem Changeset", Whiteouts). Also which names are names at all.

use super::LayerError;
use super::tar::{Entry, Type};

/// A folder's own mark: everything below it in lower layers is hidden.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Names of AUFS's own bookkeeping; they are no part of the image.
const META: &[u8] = b".wh..wh.";
const WHITEOUT: &[u8] = b".wh.";

/// PATH_MAX without its NUL.
const LONGEST_PATH: usize = 4095;
/// NAME_MAX.
const LONGEST_NAME: usize = 255;

/// What to do. The paths are clean: relative, no empty, `.` or `..` component; empty is the root.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// The entry's own path and, of a hardlink, its target are clean.
    Make(Entry),
    /// Hide what lower layers have at this path. What this same layer has there stays, whichever came first.
    Hide(Vec<u8>),
    /// Hide what lower layers have in this folder.
    HideContents(Vec<u8>),
    Nothing,
}

/// Decides.
///
/// # Errors
/// [`LayerError::Refused`] for names that lead out of the layer or that no file system can hold.
pub fn action(mut entry: Entry) -> Result<Action, LayerError> {
    let path = clean(&entry.path).map_err(|why| LayerError::refused(&entry.path, why))?;
    let refused = |why| Err(LayerError::refused(&entry.path, why));
    let (parent, name) = split(&path);
    if name == OPAQUE {
        return Ok(Action::HideContents(parent.to_vec()));
    }
    if path.split(|&b| b == b'/').any(|c| c.starts_with(META)) {
        return Ok(Action::Nothing);
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        return match hidden {
            b"" | b"." | b".." => refused("it is a whiteout of no name"),
            _ => Ok(Action::Hide(join(parent, hidden))),
        };
    }
    if path.is_empty() && entry.kind != Type::Folder {
        return refused("the root of a layer is a folder");
    }
    match entry.kind {
        Type::Hardlink => {
            let target = match clean(&entry.link) {
                Ok(target) if target.is_empty() => return refused("it is a hard link to the root"),
                Ok(target) if target == path => return refused("it is a hard link to itself"),
                Ok(target) => target,
                Err(why) => return refused(link_fault(why)),
            };
            entry.link = target;
        }
        Type::Symlink if entry.link.is_empty() => return refused("it is a symlink to nothing"),
        Type::Symlink if entry.link.len() > LONGEST_PATH => {
            return refused("its target is longer than 4095 bytes");
        }
        // That is how the overlay writes a whiteout, and would read this.
        Type::Char if entry.device == (0, 0) => return Ok(Action::Hide(path)),
        _ => {}
    }
    entry.path = path;
    Ok(Action::Make(entry))
}

/// Strips what is redundant. A leading slash is: names are relative to the layer's root.
fn clean(raw: &[u8]) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::with_capacity(raw.len());
    for part in raw.split(|&b| b == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err("it has .. in its path"),
            _ if part.len() > LONGEST_NAME => {
                return Err("a name in its path is longer than 255 bytes");
            }
            _ => {}
        }
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(part);
    }
    match out.len() {
        0..=LONGEST_PATH => Ok(out),
        _ => Err("its path is longer than 4095 bytes"),
    }
}

fn link_fault(why: &'static str) -> &'static str {
    match why {
        "it has .. in its path" => "it is a hard link through ..",
        _ => "the target of its hard link is too long",
    }
}

/// Folder and name. The root is in itself, with no name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (b"", path),
    }
}

pub fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    match folder {
        b"" => name.to_vec(),
        _ => [folder, b"/", name].concat(),
    }
}

/// The names of a path or of a symlink's target, last first, without the redundant; `..` is one of them.
pub fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&b| b == b'/')
        .filter(|c| !c.is_empty() && c != b".")
        .rev()
        .map(<[u8]>::to_vec)
        .collect()
}

/// What both forms of a layer say of a walk that would leave it.
pub fn escape(entry: &[u8]) -> LayerError {
    LayerError::refused(
        entry,
        "its path goes through a symlink that leads out of the layer",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Type, path: &str, link: &str) -> Entry {
        Entry {
            path: path.into(),
            link: link.into(),
            kind,
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            size: 0,
            xattrs: Vec::new(),
            sparse: None,
        }
    }

    fn file(path: &str) -> Result<Action, LayerError> {
        action(entry(Type::File, path, ""))
    }

    #[test]
    fn names_are_cleaned() {
        for (raw, clean) in [("./a//b/", "a/b"), ("/etc/x", "etc/x"), ("a/./b", "a/b")] {
            let Ok(Action::Make(e)) = file(raw) else {
                panic!("{raw}")
            };
            assert_eq!(e.path, clean.as_bytes());
        }
        let Ok(Action::Make(e)) = action(entry(Type::Folder, "./", "")) else {
            panic!()
        };
        assert_eq!(e.path, b"");
    }

    #[test]
    fn whiteouts_are_told_apart() {
        assert_eq!(file("a/.wh.b").unwrap(), Action::Hide(b"a/b".into()));
        assert_eq!(
            file("a/.wh..wh..opq").unwrap(),
            Action::HideContents(b"a".into())
        );
        assert_eq!(
            file(".wh..wh..opq").unwrap(),
            Action::HideContents(b"".into())
        );
        assert_eq!(file(".wh..wh.plnk/1.2").unwrap(), Action::Nothing);
        assert_eq!(
            file(".wh..hidden").unwrap(),
            Action::Hide(b".hidden".into())
        );
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        let why = |e: Entry| match action(e) {
            Err(LayerError::Refused { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        for path in ["../x", "a/../../x", "/..", "a/.."] {
            assert_eq!(why(entry(Type::File, path, "")), "it has .. in its path");
        }
        for path in ["a/.wh.", "a/.wh..", "a/.wh..."] {
            assert_eq!(
                why(entry(Type::File, path, "")),
                "it is a whiteout of no name"
            );
        }
        assert_eq!(
            why(entry(Type::Hardlink, "x", "../y")),
            "it is a hard link through .."
        );
        assert_eq!(
            why(entry(Type::Hardlink, "x", "./x")),
            "it is a hard link to itself"
        );
        assert_eq!(
            why(entry(Type::File, "/", "")),
            "the root of a layer is a folder"
        );
        let long = "n".repeat(256);
        assert_eq!(
            why(entry(Type::File, &long, "")),
            "a name in its path is longer than 255 bytes"
        );
    }
}
