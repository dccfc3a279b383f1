//! Packets: RFC 4880 §4, of both formats, and the armor around them (§6).

use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// What one packet may unpack to, and a whole message hold.
const BYTES_MAX: u64 = 4 << 20;
const PACKETS_MAX: usize = 4096;

#[derive(Clone, Debug)]
pub struct Packet {
    pub tag: u8,
    pub body: Vec<u8>,
}

pub const SIGNATURE: u8 = 2;
pub const ONE_PASS: u8 = 4;
pub const PUBLIC_KEY: u8 = 6;
pub const COMPRESSED: u8 = 8;
pub const MARKER: u8 = 10;
pub const LITERAL: u8 = 11;
pub const TRUST: u8 = 12;
pub const USER_ID: u8 = 13;
pub const SUBKEY: u8 = 14;
pub const USER_ATTRIBUTE: u8 = 17;

/// All packets; a cut one is an error.
pub fn packets(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let mut out = Vec::new();
    let mut input = Input(bytes);
    while !input.0.is_empty() {
        if out.len() >= PACKETS_MAX {
            return Err("it has too many packets".into());
        }
        out.push(
            input
                .packet()
                .ok_or("it is no OpenPGP message, or was cut")?,
        );
    }
    Ok(out)
}

/// A reader that never goes beyond its bytes.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    /// Big endian, of `n` bytes at most four.
    pub fn number(&mut self, n: usize) -> Option<u32> {
        let bytes = self.take(n)?;
        Some(bytes.iter().fold(0, |v, &b| v << 8 | u32::from(b)))
    }

    /// A number of many bits (§3.2), without zeros before it.
    pub fn mpi(&mut self) -> Option<&'a [u8]> {
        let bits = self.number(2)? as usize;
        let bytes = self.take(bits.div_ceil(8))?;
        let zeros = bytes.iter().take_while(|&&b| b == 0).count();
        Some(&bytes[zeros..])
    }

    fn packet(&mut self) -> Option<Packet> {
        let head = self.byte()?;
        if head & 0x80 == 0 {
            return None;
        }
        if head & 0x40 == 0 {
            let body = match head & 3 {
                3 => self.take(self.0.len())?,
                n => {
                    let length = self.number(1 << n)? as usize;
                    self.take(length)?
                }
            };
            let tag = (head >> 2) & 0xf;
            return Some(Packet {
                tag,
                body: body.to_vec(),
            });
        }
        let mut body = Vec::new();
        loop {
            let (length, last) = self.length()?;
            body.extend_from_slice(self.take(length)?);
            if last {
                return Some(Packet {
                    tag: head & 0x3f,
                    body,
                });
            }
        }
    }

    /// §4.2.2; `false` where more parts follow.
    fn length(&mut self) -> Option<(usize, bool)> {
        let first = self.byte()?;
        Some(match first {
            0..=191 => (first.into(), true),
            192..=223 => {
                let second = usize::from(self.byte()?);
                ((usize::from(first) - 192) * 256 + second + 192, true)
            }
            224..=254 => (1 << (first & 0x1f), false),
            255 => (self.number(4)? as usize, true),
        })
    }
}

/// The packets inside a compressed one (§5.6).
pub fn decompress(body: &[u8]) -> Result<Vec<u8>, String> {
    let (algorithm, data) = body.split_first().ok_or("it is cut")?;
    let mut out = Vec::new();
    let read = match algorithm {
        0 => return Ok(data.to_vec()),
        1 => flate2::read::DeflateDecoder::new(data)
            .take(BYTES_MAX + 1)
            .read_to_end(&mut out),
        2 => flate2::read::ZlibDecoder::new(data)
            .take(BYTES_MAX + 1)
            .read_to_end(&mut out),
        n => return Err(format!("its compression (number {n}) is not known here")),
    };
    read.map_err(|e| format!("it cannot be unpacked ({e})"))?;
    match out.len() as u64 > BYTES_MAX {
        true => Err("it unpacks to more than a signature is".into()),
        false => Ok(out),
    }
}

/// A literal's content (§5.9): behind its format, its name and its date.
pub fn literal(body: &[u8]) -> Option<&[u8]> {
    let mut input = Input(body);
    input.byte()?;
    let name = input.byte()?;
    input.take(name.into())?;
    input.take(4)?;
    Some(input.0)
}

/// Takes the armor off, if there is any.
pub fn dearmored(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let begins = bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP ");
    if !begins {
        return Ok(bytes.to_vec());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "its armor is no text")?;
    let mut out = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if !line.starts_with("-----BEGIN PGP ") {
            continue;
        }
        // Headers end with an empty line.
        let body = lines.by_ref().skip_while(|l| !l.is_empty());
        let mut block = String::new();
        let mut ended = false;
        for line in body {
            if line.starts_with("-----END PGP ") {
                ended = true;
                break;
            }
            // The checksum finds accidents only, and RFC 9580 has it ignored.
            if !line.starts_with('=') {
                block.push_str(line);
            }
        }
        if !ended {
            return Err("its armor is cut off".into());
        }
        out.extend(
            STANDARD
                .decode(block)
                .map_err(|_| "its armor is no base64")?,
        );
    }
    Ok(out)
}
