//! Version 4 signatures (RFC 4880 §5.2.3).

use super::hash::{Hash, Numbers};
use super::packet::Input;

/// What kind of signature (§5.2.1).
pub const BINARY: u8 = 0x00;
pub const CERTIFIES: std::ops::RangeInclusive<u8> = 0x10..=0x13;
pub const BINDS_SUBKEY: u8 = 0x18;
pub const BINDS_PRIMARY: u8 = 0x19;
pub const DIRECT: u8 = 0x1f;
pub const REVOKES_KEY: u8 = 0x20;
pub const REVOKES_SUBKEY: u8 = 0x28;
pub const REVOKES_USER: u8 = 0x30;

/// The bit of key flags that allows signing data (§5.2.3.21).
const MAY_SIGN: u8 = 0x02;
/// Subpackets that may be critical, as they are obeyed here or cannot matter.
const KNOWN: [u8; 17] = [2, 3, 4, 5, 6, 7, 9, 11, 16, 21, 22, 23, 25, 27, 30, 32, 33];

#[derive(Clone, Debug)]
pub struct Signature {
    pub kind: u8,
    hash: u8,
    /// The packet up to the end of the hashed subpackets.
    hashed: Vec<u8>,
    numbers: Vec<u8>,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds from then on.
    pub expires: Option<u64>,
    /// Of the key, seconds from its own making.
    pub key_expires: Option<u64>,
    flags: Option<u8>,
    /// Key ids that it says it is by.
    pub issuers: Vec<[u8; 8]>,
    /// The signature of a subkey that it will be bound.
    pub embedded: Option<Box<Signature>>,
    fault: Option<String>,
}

impl Signature {
    /// `Ok(None)`: of another version, which proves nothing.
    pub fn parse(body: &[u8]) -> Result<Option<Self>, String> {
        Self::parse_within(body, 0)
    }

    fn parse_within(body: &[u8], depth: u32) -> Result<Option<Self>, String> {
        let damaged = || "a signature in it is damaged".to_owned();
        let mut input = Input(body);
        if input.byte() != Some(4) {
            return Ok(None);
        }
        let (kind, _, hash) = (input.byte(), input.byte(), input.byte());
        let (Some(kind), Some(hash)) = (kind, hash) else {
            return Err(damaged());
        };
        let mut signature = Self {
            kind,
            hash,
            hashed: Vec::new(),
            numbers: Vec::new(),
            created: 0,
            expires: None,
            key_expires: None,
            flags: None,
            issuers: Vec::new(),
            embedded: None,
            fault: None,
        };
        let length = input.number(2).ok_or_else(damaged)? as usize;
        let hashed = input.take(length).ok_or_else(damaged)?;
        signature.hashed = body[..6 + length].to_vec();
        signature
            .subpackets(hashed, true, depth)
            .ok_or_else(damaged)?;
        let length = input.number(2).ok_or_else(damaged)? as usize;
        let unhashed = input.take(length).ok_or_else(damaged)?;
        signature
            .subpackets(unhashed, false, depth)
            .ok_or_else(damaged)?;
        // The first two bytes of the hash are there to be quick, and prove nothing.
        input.take(2).ok_or_else(damaged)?;
        signature.numbers = input.0.to_vec();
        Ok(Some(signature))
    }

    /// §5.2.3.1. Of those that are not hashed, the issuer alone is looked at, and a signature that proves itself.
    fn subpackets(&mut self, bytes: &[u8], hashed: bool, depth: u32) -> Option<()> {
        let mut input = Input(bytes);
        while !input.0.is_empty() {
            let first = input.byte()?;
            let length = match first {
                0..=191 => usize::from(first),
                192..=254 => (usize::from(first) - 192) * 256 + usize::from(input.byte()?) + 192,
                255 => input.number(4)? as usize,
            };
            let mut content = Input(input.take(length)?);
            let tag = content.byte()?;
            let (critical, tag) = (tag & 0x80 != 0, tag & 0x7f);
            match tag {
                2 if hashed => self.created = content.number(4)?.into(),
                3 if hashed => self.expires = Some(content.number(4)?.into()).filter(|e| *e != 0),
                9 if hashed => {
                    self.key_expires = Some(content.number(4)?.into()).filter(|e| *e != 0)
                }
                27 if hashed => self.flags = Some(content.byte().unwrap_or(0)),
                16 => self.issuers.push(content.take(8)?.try_into().ok()?),
                33 => {
                    // Version 4's fingerprints end with the key's id.
                    let id = content.0.last_chunk::<8>()?;
                    self.issuers.push(*id);
                }
                32 if depth == 0 => {
                    self.embedded = Self::parse_within(content.0, 1).ok()?.map(Box::new);
                }
                _ => {}
            }
            if critical && hashed && !KNOWN.contains(&tag) {
                self.fault = Some(format!(
                    "it has a condition (number {tag}) that is not known here"
                ));
            }
        }
        Some(())
    }

    pub fn may_sign(&self) -> Option<bool> {
        self.flags.map(|f| f & MAY_SIGN != 0)
    }

    /// Is it by that key, on that data? What is hashed is the data, then the signature's own head (§5.2.4).
    pub fn verify(&self, key: &Numbers, data: &[u8]) -> Result<bool, String> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let hash = Hash::of(self.hash)?;
        let length = u32::try_from(self.hashed.len()).unwrap_or(u32::MAX);
        let tail = [&[0x04, 0xff], length.to_be_bytes().as_slice()].concat();
        let message = [data, &self.hashed, &tail].concat();
        Ok(key.verifies(hash, &message, &self.numbers))
    }
}
