//! PAX extended headers: `LENGTH KEY=VALUE\n`, one after another.

use std::collections::BTreeMap;

use super::header;
use super::sparse::{Map, Segment};
use crate::layer::LayerError;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// The records of one header, or of all global ones, in the order seen. A later one of the same key wins; an
/// empty value takes back what a global header said.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Pax {
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Adds the records of one header.
    pub fn extend(&mut self, mut bytes: &[u8], offset: u64) -> Result<(), LayerError> {
        let bad = |why| LayerError::Header { offset, why };
        // Some archivers pad the last record with NULs.
        while !bytes.is_empty() && bytes.iter().any(|&b| b != 0) {
            let space = bytes
                .iter()
                .take(20)
                .position(|&b| b == b' ')
                .ok_or_else(|| bad("a PAX record has no length"))?;
            let length = decimal(&bytes[..space])
                .and_then(|n| usize::try_from(n).ok())
                .filter(|&n| n > space + 1 && n <= bytes.len())
                .ok_or_else(|| bad("a PAX record has a wrong length"))?;
            let record = bytes[space + 1..length]
                .strip_suffix(b"\n")
                .ok_or_else(|| bad("a PAX record does not end with a newline"))?;
            let equals = record
                .iter()
                .position(|&b| b == b'=')
                .filter(|&i| i > 0)
                .ok_or_else(|| bad("a PAX record has no key"))?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            if wanted(key) {
                self.records.push((key.to_vec(), value.to_vec()));
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }

    /// Global records gather over the whole archive, and are looked through for each entry: there may be fewer of them.
    pub fn check_size(&self, limit: u64) -> Result<(), LayerError> {
        let limit = limit / 16;
        let total: usize = self.records.iter().map(|(k, v)| k.len() + v.len()).sum();
        match total as u64 > limit {
            true => Err(LayerError::Limit {
                what: "bytes of global headers",
                limit,
            }),
            false => Ok(()),
        }
    }

    /// These records on top of `global` ones.
    pub fn over(self, global: &Self) -> Self {
        match global.is_empty() {
            true => self,
            false => Self {
                records: global.records.iter().cloned().chain(self.records).collect(),
            },
        }
    }

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, value) = self.records.iter().rev().find(|(k, _)| k == key)?;
        (!value.is_empty()).then_some(value)
    }

    /// The name; GNU's sparse files have the real one apart, and a made-up one in `path`.
    pub fn path(&self) -> Option<&[u8]> {
        self.get(b"GNU.sparse.name").or_else(|| self.get(b"path"))
    }

    pub fn link(&self) -> Option<&[u8]> {
        self.get(b"linkpath")
    }

    pub fn size(&self, offset: u64) -> Result<Option<u64>, LayerError> {
        self.number(b"size", offset)
    }

    pub fn uid(&self, offset: u64) -> Result<Option<u32>, LayerError> {
        self.id(b"uid", offset)
    }

    pub fn gid(&self, offset: u64) -> Result<Option<u32>, LayerError> {
        self.id(b"gid", offset)
    }

    /// `SECONDS[.FRACTION]`, perhaps negative; digits beyond nanoseconds are cut off.
    pub fn mtime(&self, offset: u64) -> Result<Option<(i64, u32)>, LayerError> {
        let Some(text) = self.get(b"mtime") else {
            return Ok(None);
        };
        match time(text) {
            Some(t) => Ok(Some(t)),
            None => Err(LayerError::Header {
                offset,
                why: "its PAX mtime is no time",
            }),
        }
    }

    /// The last value of each, by name.
    pub fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = self
            .records
            .iter()
            .filter_map(|(k, v)| Some((k.strip_prefix(XATTR)?, v)));
        let last: BTreeMap<&[u8], &Vec<u8>> = all.collect();
        last.into_iter()
            .map(|(k, v)| (k.to_vec(), v.clone()))
            .collect()
    }

    /// GNU sparse 0.0 (pairs of records), 0.1 (one record) or 1.0 (the map is in the data).
    pub fn sparse(&self, offset: u64) -> Result<Option<Map>, LayerError> {
        let bad = |why| LayerError::Header { offset, why };
        if self.get(b"GNU.sparse.major").is_some() {
            if self.get(b"GNU.sparse.major") != Some(b"1")
                || self.get(b"GNU.sparse.minor") != Some(b"0")
            {
                return Err(bad("its sparse format is newer than 1.0"));
            }
            let size = self
                .number(b"GNU.sparse.realsize", offset)?
                .ok_or_else(|| bad("it is sparse and says no size"))?;
            return Ok(Some(Map::in_data(size)));
        }
        let Some(size) = self.number(b"GNU.sparse.size", offset)? else {
            return Ok(None);
        };
        let pairs = match self.get(b"GNU.sparse.map") {
            Some(map) => map
                .split(|&b| b == b',')
                .map(decimal)
                .collect::<Option<Vec<u64>>>(),
            None => self.sparse_pairs(),
        }
        .filter(|n| n.len() % 2 == 0)
        .ok_or_else(|| bad("its sparse map is malformed"))?;
        let segments = pairs
            .chunks_exact(2)
            .map(|p| Segment {
                offset: p[0],
                length: p[1],
            })
            .collect();
        Ok(Some(Map::new(size, segments)))
    }

    /// 0.0 alternates `offset` and `numbytes`; strictly so.
    fn sparse_pairs(&self) -> Option<Vec<u64>> {
        let mut out = Vec::new();
        for (key, value) in &self.records {
            let place = match key.as_slice() {
                b"GNU.sparse.offset" => 0,
                b"GNU.sparse.numbytes" => 1,
                _ => continue,
            };
            if out.len() % 2 != place {
                return None;
            }
            out.push(decimal(value)?);
        }
        Some(out)
    }

    fn id(&self, key: &[u8], offset: u64) -> Result<Option<u32>, LayerError> {
        match self.number(key, offset)? {
            Some(n) => header::id(i64::try_from(n).unwrap_or(-1), offset).map(Some),
            None => Ok(None),
        }
    }

    fn number(&self, key: &[u8], offset: u64) -> Result<Option<u64>, LayerError> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        match decimal(text) {
            Some(n) => Ok(Some(n)),
            None => Err(LayerError::Header {
                offset,
                why: "a number in its PAX header is none",
            }),
        }
    }
}

/// Comments, user names and access times have no place in a tree.
fn wanted(key: &[u8]) -> bool {
    matches!(
        key,
        b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime"
    ) || key.starts_with(XATTR)
        || key.starts_with(b"GNU.sparse.")
}

/// Digits only, at most 63 bits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n = text.iter().fold(0u64, |n, &b| n * 10 + u64::from(b - b'0'));
    (n <= i64::MAX.cast_unsigned()).then_some(n)
}

fn time(text: &[u8]) -> Option<(i64, u32)> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let dot = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let seconds = decimal(&text[..dot])?.cast_signed();
    let fraction = text.get(dot + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |i| fraction.get(i).map_or(0, |b: &u8| u32::from(b - b'0'));
    let nanos = (0..9).fold(0u32, |n, i| n * 10 + digit(i));
    Some(match (negative, nanos) {
        (false, n) => (seconds, n),
        (true, 0) => (-seconds, 0),
        // -1.25 s is 0.75 s after -2 s.
        (true, n) => (-seconds - 1, 1_000_000_000 - n),
    })
}
