//! Tar, as archives of images and exported trees need it. The store has a reader of its own, which makes
//! layers out of entries; [`read`] only finds members, and [`write`] is the other direction.

pub mod read;
pub mod write;

/// A header, and the unit of everything.
pub(crate) const BLOCK: usize = 512;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Hardlink,
    Symlink,
    Char,
    Block,
    Folder,
    Fifo,
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::read::Members;
    use super::write::{Entry, Writer};
    use super::*;

    fn written(paths: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        for (path, content) in paths {
            let entry = Entry::file(path, content.len() as u64);
            writer.entry(&entry, &mut content.as_slice()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn listed(bytes: &[u8]) -> Result<Vec<(Vec<u8>, u64, u64)>, read::TarError> {
        let mut members = Members::new(Cursor::new(bytes));
        let mut out = Vec::new();
        while let Some(m) = members.next()? {
            out.push((m.path, m.offset, m.size));
        }
        Ok(out)
    }

    #[test]
    fn long_names_and_odd_sizes_come_back() {
        let long = [b"folder/".repeat(60), b"n".to_vec()].concat();
        let paths = [
            (b"a".to_vec(), b"x".repeat(511)),
            (long.clone(), b"y".repeat(513)),
            (b"empty".to_vec(), vec![]),
            (b"not-utf8-\xff".to_vec(), b"z".to_vec()),
        ];
        let bytes = written(&paths);
        let found = listed(&bytes).unwrap();
        assert_eq!(found.len(), 4);
        for ((path, content), (name, offset, size)) in paths.iter().zip(&found) {
            assert_eq!(path, name);
            let at = *offset as usize;
            assert_eq!(&bytes[at..at + *size as usize], content);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
            let _ = listed(&bytes);
        }

        #[test]
        fn any_damage_is_survived(at in 0usize..3000, byte: u8, cut in 0usize..4000) {
            let name = b"long/".repeat(50);
            let mut bytes = written(&[(name, b"content".to_vec()), (b"b".to_vec(), vec![1; 700])]);
            let n = bytes.len();
            bytes[at % n] = byte;
            bytes.truncate(cut.max(1));
            let _ = listed(&bytes);
        }
    }
}
