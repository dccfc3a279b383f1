//! Header blocks: names and values, compressed with one zlib stream for each direction and a dictionary that both know
//! (SPDY/3, section 2.6.10).
//!
//! What we read may be compressed as the peer likes. What we write is always the same, empty block, so it is *stored* (RFC
//! 1951, section 3.2.4): a zlib stream like any other to the peer, and no compressor here.

use std::sync::LazyLock;

use flate2::{Decompress, FlushDecompress, Status};

use super::frame::Broken;

/// The largest block, in bytes before compression. Kubernetes' clients send some hundred.
pub(super) const BLOCK_MAX: usize = 64 << 10;

/// The dictionary's first part: each word behind its length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
    if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// Its second part.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
    404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
    Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// The dictionary's checksum, by which a stream names it.
const DICTIONARY_ID: [u8; 4] = [0xe3, 0xc6, 0xa7, 0xc2];

pub(crate) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split_ascii_whitespace() {
        let word = word.replace('_', " ");
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TEXT.as_bytes());
    bytes
});

/// Names, in lower case, and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub Vec<(String, String)>);

impl Headers {
    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Reads a block that is not compressed.
    pub fn parse(block: &[u8]) -> Result<Self, Broken> {
        let mut rest = block;
        let count = number(&mut rest)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut rest)?;
            let value = text(&mut rest)?;
            let known = headers.iter().any(|(n, _)| *n == name);
            if name.is_empty() || known || name.bytes().any(|b| b.is_ascii_uppercase()) {
                return Err(Broken::Headers);
            }
            // Several values are separated by NUL; nobody here has a use for more than the first.
            let first = value.split('\0').next().unwrap_or_default();
            headers.push((name, first.to_owned()));
        }
        match rest.is_empty() {
            true => Ok(Self(headers)),
            false => Err(Broken::Headers),
        }
    }
}

fn number(rest: &mut &[u8]) -> Result<usize, Broken> {
    let (number, behind) = rest.split_first_chunk().ok_or(Broken::Headers)?;
    *rest = behind;
    Ok(u32::from_be_bytes(*number) as usize)
}

fn text(rest: &mut &[u8]) -> Result<String, Broken> {
    let len = number(rest)?;
    let (text, behind) = rest.split_at_checked(len).ok_or(Broken::Headers)?;
    *rest = behind;
    String::from_utf8(text.to_vec()).map_err(|_| Broken::Headers)
}

/// The peer's direction.
#[derive(Debug)]
pub(crate) struct Inflate(Decompress);

impl Default for Inflate {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflate {
    /// One block, which is everything that `bytes` gives.
    pub fn block(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Broken> {
        let mut block = Vec::with_capacity(1 << 10);
        loop {
            let (before, room) = (self.0.total_in(), block.capacity() - block.len());
            let done = (self.0).decompress_vec(bytes, &mut block, FlushDecompress::Sync);
            let used = (self.0.total_in() - before) as usize;
            bytes = &bytes[used.min(bytes.len())..];
            match done {
                Ok(Status::StreamEnd) => return Err(Broken::Headers),
                Ok(_) if block.len() > BLOCK_MAX => return Err(Broken::TooLong),
                // There may be more where the room was used up.
                Ok(_) if block.len() == block.capacity() => block.reserve(BLOCK_MAX / 4),
                Ok(_) if bytes.is_empty() => return Ok(block),
                Ok(_) if used == 0 && room > 0 => return Err(Broken::Headers),
                Ok(_) => {}
                Err(error)
                    if error.needs_dictionary() == Some(u32::from_be_bytes(DICTIONARY_ID)) =>
                {
                    let set = self.0.set_dictionary(&DICTIONARY);
                    set.map_err(|_| Broken::Headers)?;
                }
                Err(_) => return Err(Broken::Headers),
            }
        }
    }
}

/// Our direction: empty blocks.
#[derive(Debug, Default)]
pub(super) struct Stored {
    begun: bool,
}

impl Stored {
    pub fn empty_block(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !std::mem::replace(&mut self.begun, true) {
            // Deflate with a window of 32 KiB; a dictionary is named.
            bytes.extend_from_slice(&[0x78, 0x20]);
            bytes.extend_from_slice(&DICTIONARY_ID);
        }
        // Not the last block, stored; its length and the complement; no headers.
        bytes.extend_from_slice(&[0, 4, 0, 0xfb, 0xff, 0, 0, 0, 0]);
        // And one without bytes, which is what a sync flush leaves: Go gives out what it has when it meets one, and not before.
        bytes.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
        bytes
    }
}

/// As clients write them.
#[cfg(any(test, fuzzing))]
pub(crate) mod client {
    use flate2::{Compress, Compression, FlushCompress};

    use super::DICTIONARY;

    pub(crate) struct Deflate(Compress);

    impl Default for Deflate {
        fn default() -> Self {
            let mut deflate = Compress::new(Compression::best(), true);
            deflate.set_dictionary(&DICTIONARY).expect("it is new");
            Self(deflate)
        }
    }

    impl Deflate {
        pub fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                plain.extend_from_slice(text.as_bytes());
            }
            self.bytes(&plain)
        }

        pub fn bytes(&mut self, plain: &[u8]) -> Vec<u8> {
            let mut packed = Vec::with_capacity(plain.len() + 1024);
            let done = self.0.compress_vec(plain, &mut packed, FlushCompress::Sync);
            done.expect("there is room");
            packed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::client::Deflate;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_dictionary_is_the_standards() {
        assert_eq!(DICTIONARY.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in DICTIONARY.iter() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((b << 16 | a).to_be_bytes(), DICTIONARY_ID);
    }

    #[test]
    fn blocks_of_one_stream_are_read_in_turn() {
        let (mut deflate, mut inflate) = (Deflate::default(), Inflate::default());
        for port in ["80", "443", "80"] {
            let block = deflate.block(&[("streamtype", "data"), ("port", port)]);
            let headers = Headers::parse(&inflate.block(&block).unwrap()).unwrap();
            assert_eq!(headers.get("port"), Some(port));
            assert_eq!(headers.get("streamtype"), Some("data"));
            assert_eq!(headers.get("requestid"), None);
        }
    }

    #[test]
    fn what_we_write_is_read_by_a_decompressor() {
        let (mut stored, mut inflate) = (Stored::default(), Inflate::default());
        for _ in 0..3 {
            let block = inflate.block(&stored.empty_block()).unwrap();
            assert_eq!(Headers::parse(&block), Ok(Headers::default()));
        }
    }

    #[test]
    fn a_bomb_is_not_unpacked() {
        let bomb = Deflate::default().bytes(&vec![0; 10 << 20]);
        assert!(bomb.len() < 11 << 10, "{}", bomb.len());
        assert_eq!(Inflate::default().block(&bomb), Err(Broken::TooLong));
        let most = Deflate::default().bytes(&vec![0; BLOCK_MAX]);
        assert_eq!(
            Inflate::default().block(&most).map(|b| b.len()),
            Ok(BLOCK_MAX)
        );
    }

    #[test]
    fn bad_blocks_are_refused() {
        for (why, block) in [
            ("short", &b"\0\0\0"[..]),
            ("count", b"\0\0\0\x01"),
            ("huge count", b"\xff\xff\xff\xff"),
            ("huge name", b"\0\0\0\x01\xff\xff\xff\xffa"),
            ("no name", b"\0\0\0\x01\0\0\0\0\0\0\0\0"),
            ("upper case", b"\0\0\0\x01\0\0\0\x01A\0\0\0\0"),
            ("twice", b"\0\0\0\x02\0\0\0\x01a\0\0\0\0\0\0\0\x01a\0\0\0\0"),
            ("no text", b"\0\0\0\x01\0\0\0\x01\xff\0\0\0\0"),
            ("more", b"\0\0\0\0x"),
        ] {
            assert_eq!(Headers::parse(block), Err(Broken::Headers), "{why}");
        }
        assert_eq!(Inflate::default().block(b"no zlib"), Err(Broken::Headers));
        let other = [0x78, 0x20, 1, 2, 3, 4, 0];
        assert_eq!(Inflate::default().block(&other), Err(Broken::Headers));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut inflate = Inflate::default();
            let start = [0x78, 0x20].into_iter().chain(DICTIONARY_ID);
            let bytes: Vec<u8> = start.chain(bytes).collect();
            if let Ok(block) = inflate.block(&bytes) {
                let _ = Headers::parse(&block);
            }
            let _ = Headers::parse(&bytes);
        }
    }
}
