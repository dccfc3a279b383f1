//! gzip (RFC 1952), one member after another, around a raw inflater.
//!
//! Why not flate2's own: its check sum is the slow one, some 5 % of a pull. Ours is the processor's (crc32fast).

use std::io::{self, BufRead, Read};

use crc32fast::Hasher;
use flate2::{Decompress, FlushDecompress, Status};

/// Bits of the header's fourth byte.
const HAS_CRC: u8 = 2;
const HAS_EXTRA: u8 = 4;
const HAS_NAME: u8 = 8;
const HAS_COMMENT: u8 = 16;
const RESERVED: u8 = 0xe0;
const DEFLATE: u8 = 8;

enum State {
    /// A header, or the end, comes next.
    Between,
    Inside,
    Ended,
}

/// The inflated bytes of `R`.
pub struct Gzip<R> {
    source: R,
    inflate: Decompress,
    state: State,
    is_first: bool,
    crc: Hasher,
    length: u32,
}

impl<R: BufRead> Gzip<R> {
    pub fn new(source: R) -> Self {
        Self {
            source,
            inflate: Decompress::new(false),
            state: State::Between,
            is_first: true,
            crc: Hasher::new(),
            length: 0,
        }
    }

    /// Reads a member's header; `false` at the end.
    fn header(&mut self) -> io::Result<bool> {
        if self.source.fill_buf()?.is_empty() && !self.is_first {
            return Ok(false);
        }
        let [a, b, method, flags, ..] = self.bytes::<10>()?;
        if (a, b) != (0x1f, 0x8b) {
            return Err(bad("what follows is no member"));
        }
        if method != DEFLATE || flags & RESERVED != 0 {
            return Err(bad("a member is packed in no known way"));
        }
        if flags & HAS_EXTRA != 0 {
            for _ in 0..u16::from_le_bytes(self.bytes()?) {
                self.bytes::<1>()?;
            }
        }
        for text in [HAS_NAME, HAS_COMMENT] {
            if flags & text != 0 {
                while self.bytes()? != [0] {}
            }
        }
        if flags & HAS_CRC != 0 {
            self.bytes::<2>()?;
        }
        self.is_first = false;
        self.inflate.reset(false);
        self.crc = Hasher::new();
        self.length = 0;
        Ok(true)
    }

    fn bytes<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut out = [0; N];
        self.source.read_exact(&mut out)?;
        Ok(out)
    }

    /// The check sum and the length, modulo 2^32.
    fn trailer(&mut self) -> io::Result<()> {
        let crc = u32::from_le_bytes(self.bytes()?);
        let length = u32::from_le_bytes(self.bytes()?);
        let sum = std::mem::take(&mut self.crc).finalize();
        match (crc, length) == (sum, self.length) {
            true => Ok(()),
            false => Err(bad("a member's check sum or length is wrong")),
        }
    }

    /// Some bytes of the member; 0 at its end.
    fn inflate(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let input = self.source.fill_buf()?;
            let is_end = input.is_empty();
            let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, out, FlushDecompress::None)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            // Neither is more than a buffer.
            let taken = (self.inflate.total_in() - in_before) as usize;
            let made = (self.inflate.total_out() - out_before) as usize;
            self.source.consume(taken);
            if made > 0 {
                return Ok(made);
            }
            match status {
                Status::StreamEnd => return Ok(0),
                _ if is_end => return Err(io::ErrorKind::UnexpectedEof.into()),
                Status::Ok | Status::BufError => {}
            }
        }
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                State::Ended => return Ok(0),
                State::Between => {
                    self.state = match self.header()? {
                        true => State::Inside,
                        false => State::Ended,
                    };
                }
                State::Inside => match self.inflate(out)? {
                    0 => {
                        self.trailer()?;
                        self.state = State::Between;
                    }
                    n => {
                        self.crc.update(&out[..n]);
                        self.length = self.length.wrapping_add(n as u32);
                        return Ok(n);
                    }
                },
            }
        }
    }
}

fn bad(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, GzBuilder};

    use super::*;

    fn unpack(bytes: &[u8], room: usize) -> io::Result<Vec<u8>> {
        let mut gzip = Gzip::new(io::BufReader::with_capacity(7, bytes));
        let (mut out, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match gzip.read(&mut buffer)? {
                0 => return Ok(out),
                n => out.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// With everything that a header can have.
    fn member(bytes: &[u8]) -> Vec<u8> {
        let mut e = GzBuilder::new()
            .filename("name")
            .comment("comment")
            .extra(vec![1; 300])
            .mtime(7)
            .write(Vec::new(), Compression::fast());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    #[test]
    fn members_are_read_in_whatever_pieces() {
        let text: Vec<u8> = (0..50_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let both = [member(&text), member(b""), member(b"tail")].concat();
        for room in [1, 13, 4096, 1 << 20] {
            assert_eq!(unpack(&both, room).unwrap(), [&text[..], b"tail"].concat());
        }
        assert_eq!(unpack(&member(b""), 10).unwrap(), b"");
    }

    #[test]
    fn damage_is_told() {
        let whole = member(b"some text");
        for (at, kind) in [
            (0, io::ErrorKind::InvalidData),
            (2, io::ErrorKind::InvalidData),
            (3, io::ErrorKind::InvalidData),
            (whole.len() - 8, io::ErrorKind::InvalidData),
            (whole.len() - 1, io::ErrorKind::InvalidData),
        ] {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x81;
            assert_eq!(unpack(&damaged, 64).unwrap_err().kind(), kind, "{at}");
        }
        for cut in 0..whole.len() {
            let e = unpack(&whole[..cut], 64).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
    }
}
