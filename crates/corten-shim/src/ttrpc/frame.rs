//! Frames on the wire, decoded from whatever pieces the socket delivers.

/// Bytes before the payload.
pub const HEADER: usize = 10;
/// The largest payload that the protocol allows.
pub const MAX_PAYLOAD: usize = 4 << 20;

pub const REQUEST: u8 = 1;
pub const RESPONSE: u8 = 2;
pub const DATA: u8 = 3;

/// The fields in front of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub length: u32,
    pub stream: u32,
    pub kind: u8,
    pub flags: u8,
}

impl Header {
    fn decode(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, d, e, f, g, h, kind, flags] = *bytes;
        Self {
            length: u32::from_be_bytes([a, b, c, d]),
            stream: u32::from_be_bytes([e, f, g, h]),
            kind,
            flags,
        }
    }
}

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: Header,
    pub payload: Vec<u8>,
}

/// What the decoder found next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Frame(Frame),
    /// A frame above the bound: its payload is skipped, never stored, and the stream can be told.
    Oversized(Header),
}

/// A payload that does not fit into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {len} bytes exceeds ttrpc's bound of {MAX_PAYLOAD}")]
pub struct Oversized {
    pub len: usize,
}

/// One frame as bytes.
pub fn encode(stream: u32, kind: u8, payload: &[u8]) -> Result<Vec<u8>, Oversized> {
    let len = payload.len();
    if len > MAX_PAYLOAD {
        return Err(Oversized { len });
    }
    let mut bytes = Vec::with_capacity(HEADER + len);
    bytes.extend_from_slice(&(len as u32).to_be_bytes());
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(payload);
    Ok(bytes)
}

/// Turns a stream of bytes into frames. Holds at most one payload, and allocates for it
/// as its bytes arrive: a header that promises 4 MiB costs nothing yet.
#[derive(Debug, Default)]
pub struct Decoder {
    header: Vec<u8>,
    payload: Vec<u8>,
    /// Bytes of an oversized payload still to be dropped.
    skip: usize,
}

impl Decoder {
    /// Takes bytes and calls `each` for every frame that they complete.
    pub fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(Event)) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            take(&mut self.header, &mut bytes, HEADER);
            let Ok(header) = <&[u8; HEADER]>::try_from(self.header.as_slice()) else {
                return;
            };
            let header = Header::decode(header);
            let length = header.length as usize;
            if length > MAX_PAYLOAD {
                self.header.clear();
                self.skip = length;
                each(Event::Oversized(header));
                continue;
            }
            take(&mut self.payload, &mut bytes, length);
            if self.payload.len() < length {
                return;
            }
            self.header.clear();
            let payload = std::mem::take(&mut self.payload);
            each(Event::Frame(Frame { header, payload }));
        }
    }
}

/// Moves bytes over until `to` has `want`.
fn take(to: &mut Vec<u8>, from: &mut &[u8], want: usize) {
    let n = (want - to.len().min(want)).min(from.len());
    to.extend_from_slice(&from[..n]);
    *from = &from[n..];
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.feed(piece, |event| found.push(event));
        }
        found
    }

    #[test]
    fn an_oversized_frame_is_skipped_and_the_next_is_read() {
        let mut bytes = (MAX_PAYLOAD as u32 + 1).to_be_bytes().to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 7, REQUEST, 0]);
        bytes.resize(bytes.len() + MAX_PAYLOAD + 1, 0xee);
        bytes.extend(encode(9, REQUEST, b"x").unwrap());
        let found = decode(&[&bytes]);
        assert!(matches!(found[0], Event::Oversized(h) if h.stream == 7));
        assert!(matches!(&found[1], Event::Frame(f) if f.header.stream == 9 && f.payload == b"x"));
    }

    #[test]
    fn the_bound_itself_passes() {
        let bytes = encode(1, RESPONSE, &vec![1; MAX_PAYLOAD]).unwrap();
        assert_eq!(decode(&[&bytes]).len(), 1);
        let len = MAX_PAYLOAD + 1;
        assert_eq!(encode(1, RESPONSE, &vec![1; len]), Err(Oversized { len }));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..4096), cut in 0usize..4096) {
            let cut = cut.min(bytes.len());
            decode(&[&bytes[..cut], &bytes[cut..]]);
        }

        #[test]
        fn frames_survive_any_cut(
            frames in proptest::collection::vec((any::<u32>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300)), 0..8),
            cuts in proptest::collection::vec(1usize..50, 1..100),
        ) {
            let mut bytes = Vec::new();
            for (stream, kind, payload) in &frames {
                bytes.extend(encode(*stream, *kind, payload).unwrap());
            }
            let (mut pieces, mut rest) = (Vec::new(), bytes.as_slice());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, left) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            let found = decode(&pieces);
            prop_assert_eq!(found.len(), frames.len());
            for (event, (stream, kind, payload)) in found.iter().zip(&frames) {
                let Event::Frame(frame) = event else { panic!("oversized") };
                prop_assert_eq!(frame.header.stream, *stream);
                prop_assert_eq!(frame.header.kind, *kind);
                prop_assert_eq!(&frame.payload, payload);
            }
        }
    }
}
