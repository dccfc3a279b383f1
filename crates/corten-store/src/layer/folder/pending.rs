//! What a layer leaves open, for only the layers below can tell: the attributes of folders that it implies and never
//! names, and hard links whose target it does not have. Kept in the layer's row until settled, and after,
//! for another image may put the same layer on other ones.

use std::collections::BTreeSet;

/// The open ends of one layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Parents sort before what is in them.
    folders: BTreeSet<Vec<u8>>,
    /// Name and target, in the order of the tar: one may lead to another.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
}

/// What one entry of a set costs besides its text.
const OVERHEAD: usize = 48;

impl Pending {
    pub fn add_folder(&mut self, path: &[u8]) {
        if self.folders.insert(path.to_vec()) {
            self.bytes += path.len() + OVERHEAD;
        }
    }

    /// An entry names the folder after all.
    pub fn name_folder(&mut self, path: &[u8]) {
        // Most layers imply nothing.
        if !self.folders.is_empty() && self.folders.remove(path) {
            self.bytes -= path.len() + OVERHEAD;
        }
    }

    pub fn add_link(&mut self, path: &[u8], target: &[u8]) {
        self.bytes += path.len() + target.len() + OVERHEAD;
        self.links.push((path.to_vec(), target.to_vec()));
    }

    /// An estimate of the memory held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn folders(&self) -> &BTreeSet<Vec<u8>> {
        &self.folders
    }

    pub fn links(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.links
    }

    /// NUL-terminated texts, each with a letter before it: `d` a folder, `l` a link and `t` its target. No path has a NUL.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut push = |tag: u8, text: &[u8]| {
            out.push(tag);
            out.extend_from_slice(text);
            out.push(0);
        };
        for folder in &self.folders {
            push(b'd', folder);
        }
        for (link, target) in &self.links {
            push(b'l', link);
            push(b't', target);
        }
        out
    }

    /// `None` if these are no such bytes.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut out = Self::default();
        let mut link = None;
        for record in bytes.split_inclusive(|&b| b == 0) {
            let (tag, text) = record.strip_suffix(&[0])?.split_first()?;
            match (tag, link.take()) {
                (b'd', None) => out.add_folder(text),
                (b'l', None) => link = Some(text),
                (b't', Some(name)) => out.add_link(name, text),
                _ => return None,
            }
        }
        link.is_none().then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut p = Pending::default();
        p.add_folder(b"usr");
        p.add_folder(b"usr/bin");
        p.add_link(b"usr/bin/x", b"bin/\xff y");
        assert_eq!(Pending::decode(&p.encode()), Some(p.clone()));
        p.name_folder(b"usr");
        assert_eq!(p.folders().len(), 1);
        assert_eq!(Pending::decode(b""), Some(Pending::default()));
        for bad in [b"d".as_slice(), b"lx\0", b"tx\0", b"q\0", b"\0"] {
            assert_eq!(Pending::decode(bad), None, "{bad:?}");
        }
    }
}
