//! Frames of RFC 6455: bytes of a connection to what they say, and back. No I/O.
//!
//! A message is handed on in parts as it comes, however long or fragmented it is; control frames come whole, and between the
//! parts. Written here and not taken from a crate: those collect whole messages in memory, of a length that the peer
//! chooses.

use bytes::{Buf as _, Bytes, BytesMut};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
/// The largest payload of a control frame (section 5.5).
const CONTROL_MAX: usize = 125;

/// Codes of a close frame.
pub(crate) const NORMAL: u16 = 1000;
pub(crate) const PROTOCOL_ERROR: u16 = 1002;
pub(crate) const TOO_BIG: u16 = 1009;

/// What the client has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A part of a message.
    Part {
        first: bool,
        bytes: Bytes,
        last: bool,
    },
    Ping(Bytes),
    Pong,
    Close,
}

/// The client does not speak this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a client's frame is not masked")]
    Unmasked,
    #[error("a frame has bits or a type that were not agreed on")]
    Unknown,
    #[error("a control frame is fragmented or too long")]
    Control,
    #[error("a message is continued that has not begun, or begun before the last has ended")]
    Order,
    #[error("a frame is longer than can be")]
    TooLong,
}

/// A data frame that is being handed on.
#[derive(Debug)]
struct Data {
    left: u64,
    mask: [u8; 4],
    /// Whether none of the message was handed on.
    first: bool,
    fin: bool,
}

/// Collects bytes until they are frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: BytesMut,
    data: Option<Data>,
    /// A message has begun, and not all of its frames have come.
    fragmented: bool,
}

struct Head {
    kind: u8,
    fin: bool,
    len: u64,
    mask: [u8; 4],
    size: usize,
}

impl Decoder {
    /// Where bytes are read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next frame or part of one, if its bytes are here.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        loop {
            if self.data.is_some() {
                return Ok(self.part());
            }
            let Some(head) = head(&self.bytes)? else {
                return Ok(None);
            };
            if head.kind < CLOSE {
                self.begin(&head)?;
                continue;
            }
            if !head.fin || head.len > CONTROL_MAX as u64 {
                return Err(Broken::Control);
            }
            let whole = head.size + head.len as usize;
            if self.bytes.len() < whole {
                return Ok(None);
            }
            let mut payload = self.bytes.split_to(whole).split_off(head.size);
            unmask(&mut payload, head.mask);
            return Ok(Some(match head.kind {
                PING => Frame::Ping(payload.freeze()),
                PONG => Frame::Pong,
                _ => Frame::Close,
            }));
        }
    }

    fn begin(&mut self, head: &Head) -> Result<(), Broken> {
        let first = head.kind != CONTINUATION;
        if first == self.fragmented {
            return Err(Broken::Order);
        }
        self.fragmented = !head.fin;
        self.bytes.advance(head.size);
        self.data = Some(Data {
            left: head.len,
            mask: head.mask,
            first,
            fin: head.fin,
        });
        Ok(())
    }

    fn part(&mut self) -> Option<Frame> {
        let data = self.data.as_mut()?;
        let here = data.left.min(self.bytes.len() as u64);
        if here == 0 && data.left > 0 {
            return None;
        }
        let mut bytes = self.bytes.split_to(here as usize);
        unmask(&mut bytes, data.mask);
        data.mask.rotate_left(here as usize % 4);
        data.left -= here;
        let part = Frame::Part {
            first: std::mem::take(&mut data.first),
            bytes: bytes.freeze(),
            last: data.fin && data.left == 0,
        };
        if data.left == 0 {
            self.data = None;
        }
        Some(part)
    }
}

fn head(bytes: &[u8]) -> Result<Option<Head>, Broken> {
    let Some(([a, b], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let kind = a & 0x0f;
    // Bits 1 to 3 belong to extensions, and none was agreed on.
    if a & 0x70 != 0 || !matches!(kind, CONTINUATION..=BINARY | CLOSE..=PONG) {
        return Err(Broken::Unknown);
    }
    if b & MASKED == 0 {
        return Err(Broken::Unmasked);
    }
    let long = match b & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let Some((mask, _)) = rest.get(long..).and_then(<[u8]>::split_first_chunk) else {
        return Ok(None);
    };
    let len = match long {
        0 => u64::from(b & 0x7f),
        _ => rest[..long].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
    };
    if len >> 63 != 0 {
        return Err(Broken::TooLong);
    }
    Ok(Some(Head {
        kind,
        fin: a & FIN != 0,
        len,
        mask: *mask,
        size: 2 + long + 4,
    }))
}

pub(crate) fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    // Eight at a time: the compiler makes vectors of it.
    let wide = u64::from_ne_bytes([mask, mask].concat().try_into().unwrap_or_default());
    let (eights, rest) = bytes.as_chunks_mut::<8>();
    for eight in eights {
        *eight = (u64::from_ne_bytes(*eight) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

/// What stands before a message of ours.
pub(crate) fn message_head(len: usize, text: bool) -> BytesMut {
    let kind = if text { TEXT } else { BINARY };
    let mut head = BytesMut::with_capacity(11);
    head.extend_from_slice(&[FIN | kind]);
    match len {
        0..126 => head.extend_from_slice(&[len as u8]),
        126..65536 => {
            head.extend_from_slice(&[126]);
            head.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            head.extend_from_slice(&[127]);
            head.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    head
}

fn control(kind: u8, payload: &[u8]) -> Bytes {
    let payload = &payload[..payload.len().min(CONTROL_MAX)];
    let head = [FIN | kind, payload.len() as u8];
    [&head[..], payload].concat().into()
}

pub(crate) fn ping() -> Bytes {
    control(PING, b"")
}

pub(crate) fn pong(payload: &[u8]) -> Bytes {
    control(PONG, payload)
}

pub(crate) fn close(code: u16) -> Bytes {
    control(CLOSE, &code.to_be_bytes())
}

/// As clients write them.
#[cfg(test)]
pub(crate) mod client {
    use super::*;

    pub(crate) fn frame(fin: bool, kind: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = message_head(payload.len(), false).to_vec();
        frame[0] = kind | if fin { FIN } else { 0 };
        frame[1] |= MASKED;
        frame.extend_from_slice(&mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::client::frame;
    use super::*;
    use proptest::prelude::*;

    fn all<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<Broken>) {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.buffer().extend_from_slice(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(broken) => return (frames, Some(broken)),
                }
            }
        }
        (frames, None)
    }

    /// The messages, whole, with what came between their parts before them.
    fn messages(frames: Vec<Frame>) -> (Vec<Vec<u8>>, usize) {
        let (mut messages, mut open, mut others) = (Vec::new(), None::<Vec<u8>>, 0);
        for frame in frames {
            let Frame::Part { first, bytes, last } = frame else {
                others += 1;
                continue;
            };
            assert_eq!(first, open.is_none());
            let message = open.get_or_insert_default();
            message.extend_from_slice(&bytes);
            if last {
                messages.extend(open.take());
            }
        }
        assert_eq!(open, None);
        (messages, others)
    }

    #[test]
    fn frames_say_what_they_say() {
        let mask = [1, 2, 3, 4];
        let bytes = [
            frame(false, TEXT, b"he", mask),
            frame(true, PING, b"there?", mask),
            frame(true, CONTINUATION, b"llo", mask),
            frame(true, BINARY, b"", mask),
            frame(true, PONG, b"", mask),
            frame(true, CLOSE, &[3, 232], mask),
        ];
        let part = |first, bytes: &'static str, last| Frame::Part {
            first,
            bytes: bytes.into(),
            last,
        };
        let expected = [
            part(true, "he", false),
            Frame::Ping("there?".into()),
            part(false, "llo", true),
            part(true, "", true),
            Frame::Pong,
            Frame::Close,
        ];
        assert_eq!(all([&bytes.concat()[..]]), (expected.to_vec(), None));
    }

    #[test]
    fn what_a_client_may_not_send_ends_the_connection() {
        let mask = [0; 4];
        let unmasked = message_head(1, false).to_vec();
        let reserved = [0xc2, 0x80, 0, 0, 0, 0].to_vec();
        let long = [0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].to_vec();
        for (bytes, expected) in [
            (unmasked, Broken::Unmasked),
            (reserved, Broken::Unknown),
            (frame(true, 3, b"", mask), Broken::Unknown),
            (frame(true, 11, b"", mask), Broken::Unknown),
            (frame(false, PING, b"", mask), Broken::Control),
            (frame(true, PING, &[0; 126], mask), Broken::Control),
            (frame(true, CONTINUATION, b"", mask), Broken::Order),
            (
                [frame(false, TEXT, b"", mask), frame(true, TEXT, b"", mask)].concat(),
                Broken::Order,
            ),
            (long, Broken::TooLong),
        ] {
            assert_eq!(all([&bytes[..]]).1, Some(expected), "{bytes:?}");
        }
    }

    #[test]
    fn our_frames_are_as_long_as_they_say() {
        for len in [0, 125, 126, 65535, 65536, 70000] {
            let message = client::frame(true, BINARY, &vec![7; len], [9, 8, 7, 6]);
            let (frames, broken) = all([&message[..]]);
            assert_eq!(broken, None);
            assert_eq!(messages(frames).0, [vec![7; len]]);
        }
        assert_eq!(close(NORMAL)[..], [0x88, 2, 3, 232]);
        assert_eq!(pong(b"x")[..], [0x8a, 1, b'x']);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            all([&bytes[..]]);
        }

        #[test]
        fn messages_survive_fragments_and_any_cut(
            sent in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..5),
            fragment in 1usize..200,
            cut in 1usize..50,
            mask in any::<[u8; 4]>(),
        ) {
            let (mut bytes, mut pings) = (Vec::new(), 0);
            for message in &sent {
                let pieces: Vec<&[u8]> = match message.is_empty() {
                    true => vec![&[]],
                    false => message.chunks(fragment).collect(),
                };
                for (at, piece) in pieces.iter().enumerate() {
                    let kind = if at == 0 { BINARY } else { CONTINUATION };
                    bytes.extend(frame(at + 1 == pieces.len(), kind, piece, mask));
                    bytes.extend(frame(true, PING, b"?", mask));
                    pings += 1;
                }
            }
            let (frames, broken) = all(bytes.chunks(cut));
            prop_assert_eq!(broken, None);
            prop_assert_eq!(messages(frames), (sent, pings));
        }
    }
}
