//! Frames: bytes of a connection to what they say, and back. No I/O.
//!
//! ```text
//!   control   1 version:15 type:16   flags:8 length:24   payload       SYN_STREAM SYN_REPLY RST_STREAM PING GOAWAY HEADERS
//!   data      0 stream:31            flags:8 length:24   bytes         handed on as they come, however long the frame is
//! ```
//!
//! SETTINGS, WINDOW_UPDATE and types that nobody knows are passed over: no peer of ours keeps windows.

use bytes::{Buf as _, Bytes, BytesMut};

use super::header::{Headers, Inflate, Stored};

pub(crate) const HEADER: usize = 8;
/// The largest payload of a control frame, in bytes.
pub(crate) const CONTROL_MAX: usize = 64 << 10;
const VERSION: u16 = 3;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

const FIN: u8 = 1;
const UNIDIRECTIONAL: u8 = 2;

/// Statuses of RST_STREAM.
pub(crate) const PROTOCOL_ERROR: u32 = 1;
pub(crate) const REFUSED_STREAM: u32 = 3;
pub(crate) const CANCEL: u32 = 5;

/// What a peer has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    /// A new stream.
    Open {
        stream: u32,
        fin: bool,
        /// Its opener wants no answer on it.
        one_way: bool,
        headers: Headers,
    },
    /// Headers of a stream that is open: its end, perhaps.
    More {
        stream: u32,
        fin: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// Bytes of a stream: a part of a frame, or all of it. The last part has its flag.
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
}

/// The peer does not speak this protocol, and the connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a control frame is not of SPDY/3")]
    Version,
    #[error("a control frame or its headers are too long")]
    TooLong,
    #[error("a control frame is too short")]
    TooShort,
    #[error("a header block makes no sense")]
    Headers,
    #[error("a frame is of stream 0")]
    StreamZero,
}

/// Collects bytes until they are frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    bytes: BytesMut,
    inflate: Inflate,
    /// A data frame that is being handed on, and how much of it is to come.
    data: Option<(u32, bool, usize)>,
    /// What is left of a frame that is passed over.
    skip: usize,
}

impl Decoder {
    /// Where bytes are read into.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next frame, if its bytes are here.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Broken> {
        loop {
            let skipped = self.skip.min(self.bytes.len());
            self.bytes.advance(skipped);
            self.skip -= skipped;
            if self.data.is_some() {
                return Ok(self.data());
            }
            let Some(head) = self.bytes.first_chunk::<HEADER>() else {
                return Ok(None);
            };
            let [a, b, c, d, flags, len @ ..] = *head;
            let len = u32::from_be_bytes([0, len[0], len[1], len[2]]) as usize;
            if a & 0x80 == 0 {
                let stream = u32::from_be_bytes([a, b, c, d]);
                if stream == 0 {
                    return Err(Broken::StreamZero);
                }
                self.bytes.advance(HEADER);
                self.data = Some((stream, flags & FIN != 0, len));
                continue;
            }
            if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
                return Err(Broken::Version);
            }
            let kind = u16::from_be_bytes([c, d]);
            if !matches!(kind, SYN_STREAM..=RST_STREAM | PING..=HEADERS) {
                self.skip = HEADER + len;
                continue;
            }
            if len > CONTROL_MAX {
                return Err(Broken::TooLong);
            }
            if self.bytes.len() < HEADER + len {
                return Ok(None);
            }
            let frame = self.bytes.split_to(HEADER + len);
            if let Some(frame) = self.control(kind, flags, &frame[HEADER..])? {
                return Ok(Some(frame));
            }
        }
    }

    /// What has come of the data frame. An empty one says something only by its flag.
    fn data(&mut self) -> Option<Frame> {
        let (stream, fin, left) = self.data?;
        let here = left.min(self.bytes.len());
        if here == 0 && left > 0 {
            return None;
        }
        let bytes = self.bytes.split_to(here).freeze();
        let last = here == left;
        self.data = Some((stream, fin, left - here)).filter(|_| !last);
        let fin = fin && last;
        Some(Frame::Data { stream, bytes, fin })
    }

    fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) -> Result<Option<Frame>, Broken> {
        let (id, rest) = payload.split_first_chunk().ok_or(Broken::TooShort)?;
        let stream = u32::from_be_bytes(*id) & 0x7fff_ffff;
        let fin = flags & FIN != 0;
        if stream == 0 && matches!(kind, SYN_STREAM..=RST_STREAM | HEADERS) {
            return Err(Broken::StreamZero);
        }
        Ok(match kind {
            SYN_STREAM => {
                // The associated stream, the priority and the slot are of no use here.
                let block = rest.get(6..).ok_or(Broken::TooShort)?;
                let headers = Headers::parse(&self.inflate.block(block)?)?;
                Some(Frame::Open {
                    stream,
                    fin,
                    one_way: flags & UNIDIRECTIONAL != 0,
                    headers,
                })
            }
            SYN_REPLY | HEADERS => {
                // Unpacked even so: later blocks refer to it.
                Headers::parse(&self.inflate.block(rest)?)?;
                Some(Frame::More { stream, fin })
            }
            RST_STREAM => Some(Frame::Reset { stream }),
            PING => Some(Frame::Ping {
                id: u32::from_be_bytes(*id),
            }),
            GOAWAY => Some(Frame::GoAway),
            _ => None,
        })
    }
}

fn control(kind: u16, flags: u8, payload: &[&[u8]]) -> Bytes {
    let len: usize = payload.iter().map(|p| p.len()).sum();
    let mut frame = BytesMut::with_capacity(HEADER + len);
    frame.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(&(u32::from(flags) << 24 | len as u32).to_be_bytes());
    payload.iter().for_each(|p| frame.extend_from_slice(p));
    frame.freeze()
}

/// The answer to a new stream.
pub(super) fn reply(stream: u32, headers: &mut Stored) -> Bytes {
    let block = headers.empty_block();
    control(SYN_REPLY, 0, &[&stream.to_be_bytes(), &block])
}

pub(crate) fn reset(stream: u32, status: u32) -> Bytes {
    let (stream, status) = (stream.to_be_bytes(), status.to_be_bytes());
    control(RST_STREAM, 0, &[&stream, &status])
}

pub(crate) fn ping(id: u32) -> Bytes {
    control(PING, 0, &[&id.to_be_bytes()])
}

/// No more streams. A status of 1 says that the peer is to blame.
pub(crate) fn go_away(last: u32, status: u32) -> Bytes {
    let (last, status) = (last.to_be_bytes(), status.to_be_bytes());
    control(GOAWAY, 0, &[&last, &status])
}

/// What stands before the bytes of a data frame.
pub(crate) fn data_head(stream: u32, len: usize, fin: bool) -> Bytes {
    let mut head = BytesMut::with_capacity(HEADER);
    head.extend_from_slice(&stream.to_be_bytes());
    head.extend_from_slice(&(u32::from(fin) << 24 | len as u32).to_be_bytes());
    head.freeze()
}

/// As clients write them.
#[cfg(any(test, fuzzing))]
pub(crate) mod client {
    use super::*;
    use crate::stream::spdy::header::client::Deflate;

    pub(crate) fn open(
        stream: u32,
        flags: u8,
        headers: &[(&str, &str)],
        deflate: &mut Deflate,
    ) -> Bytes {
        let block = deflate.block(headers);
        control(SYN_STREAM, flags, &[&stream.to_be_bytes(), &[0; 6], &block])
    }

    #[cfg(test)]
    pub(crate) fn of_type(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
        control(kind, flags, &[payload])
    }
}

#[cfg(test)]
mod tests {
    use super::client::{of_type, open};
    use super::*;
    use crate::stream::spdy::header::client::Deflate;
    use proptest::prelude::*;

    fn all(pieces: &[&[u8]]) -> (Vec<Frame>, Option<Broken>) {
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

    /// Parts of one data frame, joined.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut joined: Vec<Frame> = Vec::new();
        for frame in frames {
            match (joined.last_mut(), frame) {
                (
                    Some(Frame::Data {
                        stream: a,
                        bytes,
                        fin: fin @ false,
                    }),
                    Frame::Data {
                        stream: b,
                        bytes: more,
                        fin: last,
                    },
                ) if *a == b => {
                    *bytes = [&bytes[..], &more].concat().into();
                    *fin = last;
                }
                (_, frame) => joined.push(frame),
            }
        }
        joined
    }

    #[test]
    fn frames_say_what_they_say() {
        let mut deflate = Deflate::default();
        let opened = open(1, 0, &[("streamtype", "stdin")], &mut deflate);
        let ended = open(3, FIN | UNIDIRECTIONAL, &[], &mut deflate);
        let settings = of_type(4, 1, &[0; 100]);
        let window = of_type(9, 0, &[0; 8]);
        let unknown = of_type(77, 0, &[0; 300]);
        let data = [&data_head(1, 3, true)[..], b"abc"].concat();
        let bytes = [
            &opened[..],
            &ended,
            &settings,
            &window,
            &unknown,
            &data,
            &ping(7),
            &reset(3, CANCEL),
            &go_away(0, 0),
        ];
        let (frames, broken) = all(&[&bytes.concat()]);
        assert_eq!(broken, None);
        let headers = Headers(vec![("streamtype".into(), "stdin".into())]);
        let expected = [
            Frame::Open {
                stream: 1,
                fin: false,
                one_way: false,
                headers,
            },
            Frame::Open {
                stream: 3,
                fin: true,
                one_way: true,
                headers: Headers::default(),
            },
            Frame::Data {
                stream: 1,
                bytes: "abc".into(),
                fin: true,
            },
            Frame::Ping { id: 7 },
            Frame::Reset { stream: 3 },
            Frame::GoAway,
        ];
        assert_eq!(frames, expected);
    }

    #[test]
    fn our_replies_are_read() {
        let mut stored = Stored::default();
        let bytes = [reply(1, &mut stored), reply(3, &mut stored)].concat();
        let more = |stream| Frame::More { stream, fin: false };
        assert_eq!(all(&[&bytes]), (vec![more(1), more(3)], None));
    }

    #[test]
    fn a_long_data_frame_is_handed_on_as_it_comes() {
        let head = data_head(5, (1 << 24) - 1, true);
        let (frames, broken) = all(&[&head, b"one", b"two"]);
        assert_eq!(broken, None);
        let part = |b: &'static str| Frame::Data {
            stream: 5,
            bytes: b.into(),
            fin: false,
        };
        assert_eq!(frames, [part("one"), part("two")]);
    }

    #[test]
    fn other_protocols_end_the_connection() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], None), // a data frame of a stream that nobody has opened
            (
                b"\x80\x02\x00\x06\0\0\0\x04\0\0\0\x01",
                Some(Broken::Version),
            ),
            (b"\x80\x03\x00\x01\0\x01\x00\x01", Some(Broken::TooLong)),
            (b"\x80\x03\x00\x06\0\0\0\x03\0\0\0", Some(Broken::TooShort)),
            (
                b"\x80\x03\x00\x01\0\0\0\x08\0\0\0\x01\0\0\0\0",
                Some(Broken::TooShort),
            ),
            (
                b"\x80\x03\x00\x03\0\0\0\x08\0\0\0\0\0\0\0\x05",
                Some(Broken::StreamZero),
            ),
            (b"\0\0\0\0\0\0\0\x01a", Some(Broken::StreamZero)),
            (
                b"\x80\x03\x00\x01\0\0\0\x0c\0\0\0\x01\0\0\0\0\0\0xx",
                Some(Broken::Headers),
            ),
        ] {
            assert_eq!(all(&[bytes]).1, expected, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            all(&[&bytes]);
        }

        #[test]
        fn frames_survive_any_cut(
            streams in proptest::collection::vec((1u32..100, proptest::collection::vec(any::<u8>(), 0..200), any::<bool>()), 0..8),
            cut in 1usize..50,
        ) {
            let (mut deflate, mut bytes, mut expected) = (Deflate::default(), Vec::new(), Vec::new());
            for (stream, data, fin) in streams {
                let name = data.len().to_string();
                bytes.extend_from_slice(&open(stream, 0, &[("port", &name)], &mut deflate));
                let headers = Headers(vec![("port".into(), name)]);
                expected.push(Frame::Open { stream, fin: false, one_way: false, headers });
                bytes.extend_from_slice(&data_head(stream, data.len(), fin));
                bytes.extend_from_slice(&data);
                expected.push(Frame::Data { stream, bytes: data.into(), fin });
            }
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            let (frames, broken) = all(&pieces);
            prop_assert_eq!(broken, None);
            prop_assert_eq!(joined(frames), expected);
        }
    }
}
