//! Inflating: gzip of one or many members, zstd of one or many frames, or nothing.
//!
//! The first bytes say which. The media type has to be one of a layer, and is not believed further: registries
//! hold plain tars that are labelled gzip, and the diff id proves the outcome either way.

use std::io::{self, BufRead, Read};

use corten_spec::media;
use zstd::stream::read::Decoder;

use super::LayerError;
use super::gzip::Gzip;

/// How the bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// By the first bytes, of which there should be four or all.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, as zstd:chunked and others put before or between the real ones.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The unpacked bytes of `R`.
pub struct Unpacked<R: BufRead>(Inner<R>);

enum Inner<R: BufRead> {
    Plain(R),
    Gzip(Box<Gzip<R>>),
    Zstd(Box<Decoder<'static, R>>),
}

impl<R: BufRead> Unpacked<R> {
    pub fn new(source: R, packing: Packing) -> io::Result<Self> {
        Ok(Self(match packing {
            Packing::Plain => Inner::Plain(source),
            Packing::Gzip => Inner::Gzip(Box::new(Gzip::new(source))),
            Packing::Zstd => Inner::Zstd(Box::new(Decoder::with_buffer(source)?)),
        }))
    }

    /// What a read error means, if the source itself is well.
    pub fn fault(packing: Packing, source: io::Error) -> LayerError {
        let packing_name = packing.name();
        match source.kind() {
            io::ErrorKind::UnexpectedEof => LayerError::TruncatedStream {
                packing: packing_name,
            },
            _ => LayerError::Corrupt {
                packing: packing_name,
                source,
            },
        }
    }
}

impl<R: BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::Plain(r) => r.read(buffer),
            Inner::Gzip(r) => r.read(buffer),
            Inner::Zstd(r) => r.read(buffer),
        }
    }
}

/// Reads to the end or the first fault, but at most so many bytes; whatever is read twice must be read alike.
#[cfg(any(test, fuzzing))]
pub(crate) fn inflate_all(bytes: &[u8], most: u64) {
    let read = |room: usize| {
        let unpacked = Unpacked::new(
            io::BufReader::with_capacity(room, bytes),
            Packing::of(bytes),
        );
        let Ok(unpacked) = unpacked else {
            return (Vec::new(), true);
        };
        let mut out = Vec::new();
        let failed = unpacked.take(most).read_to_end(&mut out).is_err();
        (out, failed)
    };
    let (small, large) = (read(61), read(1 << 16));
    assert_eq!(small.1, large.1);
    assert!(small.1 || small.0 == large.0);
}

/// Is this a layer at all?
pub fn check_media_type(media_type: &str) -> Result<(), LayerError> {
    match media::layer_compression(media_type) {
        Some(_) => Ok(()),
        None => Err(LayerError::MediaType(media_type.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        e.write_all(bytes).unwrap();
        e.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<u8>, LayerError> {
        let packing = Packing::of(bytes);
        let mut u = Unpacked::new(bytes, packing).unwrap();
        let mut out = Vec::new();
        match u.read_to_end(&mut out) {
            Ok(_) => Ok(out),
            Err(e) => Err(Unpacked::<&[u8]>::fault(packing, e)),
        }
    }

    fn text() -> Vec<u8> {
        (0..200_000u32).flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn every_packing_unpacks() {
        let t = text();
        assert_eq!(unpack(&t).unwrap(), t);
        assert_eq!(unpack(&gzip(&t)).unwrap(), t);
        assert_eq!(unpack(&zstd::encode_all(&t[..], 1).unwrap()).unwrap(), t);
        assert_eq!(unpack(b"").unwrap(), b"");
    }

    #[test]
    fn members_and_frames_are_joined() {
        let (a, b) = (text(), b"tail".to_vec());
        let both = [a.clone(), b.clone()].concat();
        assert_eq!(unpack(&[gzip(&a), gzip(&b)].concat()).unwrap(), both);
        let z = |x: &[u8]| zstd::encode_all(x, 1).unwrap();
        let skippable = [0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3].to_vec();
        let frames = [&skippable, &z(&a), &skippable, &z(&b), &skippable].map(|f| f.clone());
        assert_eq!(unpack(&frames.concat()).unwrap(), both);
    }

    /// eStargz: a member for each file, a list of contents as the last file, and a member without contents that says where that is.
    #[test]
    fn estargz_is_a_gzip_like_any_other() {
        let files = [text(), b"small".to_vec(), b"{\"entries\":[]}".to_vec()];
        let mut packed: Vec<u8> = files.iter().flat_map(|f| gzip(f)).collect();
        let place = [b"SG\x16\x00".as_slice(), b"0000000000000400STARGZ"].concat();
        let footer = flate2::GzBuilder::new()
            .extra(place)
            .write(Vec::new(), flate2::Compression::none());
        packed.extend(footer.finish().unwrap());
        assert_eq!(unpack(&packed).unwrap(), files.concat());
    }

    #[test]
    fn cut_anywhere_is_truncated() {
        let t = text();
        for (packed, name) in [
            (gzip(&t), "gzip"),
            (zstd::encode_all(&t[..], 1).unwrap(), "zstd"),
        ] {
            for cut in [5, 12, packed.len() / 2, packed.len() - 4, packed.len() - 1] {
                match unpack(&packed[..cut]) {
                    Err(LayerError::TruncatedStream { packing }) => assert_eq!(packing, name),
                    other => panic!("{name} cut at {cut}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn what_follows_the_end_is_an_error() {
        let t = text();
        for packed in [gzip(&t), zstd::encode_all(&t[..], 1).unwrap()] {
            let trailing = [packed, b"more, which is neither".to_vec()].concat();
            assert!(matches!(unpack(&trailing), Err(LayerError::Corrupt { .. })));
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut packed = gzip(&text());
        let n = packed.len();
        packed[n - 6] ^= 1;
        assert!(matches!(unpack(&packed), Err(LayerError::Corrupt { .. })));
    }
}
