//! Entrances of the fuzzer: what clients send after the upgrade.
//!
//! Bytes come over a socket in pieces that no one chooses; what they say may not depend on that, and a client that sends little
//! may not make us keep much.

use super::resize::Sizes;
use super::spdy::frame::{self as spdy, Frame as Spdy};
use super::spdy::header::client::Deflate;
use super::websocket::frame::{self as websocket, Frame as WebSocket};

/// Decodes the whole, and then piece by piece; parts of data that follow each other are joined.
fn both_ways<F: PartialEq + std::fmt::Debug, E: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    decode: impl Fn(&mut dyn Iterator<Item = &[u8]>) -> (Vec<F>, Option<E>),
) -> Vec<F> {
    let (seed, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let whole = decode(&mut std::iter::once(rest));
    let pieces = rest.chunks(1 + usize::from(*seed) % 37);
    let pieces = decode(&mut std::iter::once(&rest[..0]).chain(pieces));
    assert_eq!(whole, pieces, "a frame depends on how it was cut");
    whole.0
}

/// Frames of SPDY, as they are and with a client's header blocks in front.
pub(crate) fn spdy_frames(bytes: &[u8]) {
    let opened = spdy::client::open(1, 0, &[("streamtype", "error")], &mut Deflate::default());
    for before in [&[][..], &opened] {
        let decode = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let (mut decoder, mut frames) = (spdy::Decoder::default(), Vec::<Spdy>::new());
            decoder.buffer().extend_from_slice(before);
            for piece in pieces {
                decoder.buffer().extend_from_slice(piece);
                loop {
                    match decoder.next_frame() {
                        Ok(Some(frame)) => join_spdy(&mut frames, frame),
                        Ok(None) => break,
                        Err(error) => return (frames, Some(error)),
                    }
                }
                assert!(decoder.buffer().len() < spdy::HEADER + spdy::CONTROL_MAX);
            }
            (frames, None)
        };
        both_ways(bytes, decode);
    }
}

fn join_spdy(frames: &mut Vec<Spdy>, frame: Spdy) {
    if let Spdy::Data { stream, bytes, fin } = &frame
        && let Some(Spdy::Data {
            stream: last,
            bytes: before,
            fin: ended @ false,
        }) = frames.last_mut()
        && last == stream
    {
        *before = [&before[..], bytes].concat().into();
        *ended = *fin;
        return;
    }
    frames.push(frame);
}

/// Frames of WebSocket: messages are never out of order, and control frames stay small.
pub(crate) fn websocket_frames(bytes: &[u8]) {
    let decode = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut frames) = (websocket::Decoder::default(), Vec::<WebSocket>::new());
        for piece in pieces {
            decoder.buffer().extend_from_slice(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => join_websocket(&mut frames, frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
            // A head, or a control frame that is not whole.
            assert!(decoder.buffer().len() < 14 + 125);
        }
        (frames, None)
    };
    let mut open = false;
    for frame in both_ways(bytes, decode) {
        match frame {
            WebSocket::Part { first, last, .. } => {
                assert_eq!(first, !open, "a message begins within another");
                open = !last;
            }
            WebSocket::Ping(payload) => assert!(websocket::pong(&payload).len() <= 127),
            WebSocket::Pong | WebSocket::Close => {}
        }
    }
}

fn join_websocket(frames: &mut Vec<WebSocket>, frame: WebSocket) {
    if let WebSocket::Part {
        first: false,
        bytes,
        last,
    } = &frame
        && let Some(WebSocket::Part {
            bytes: before,
            last: ended @ false,
            ..
        }) = frames.last_mut()
    {
        *before = [&before[..], bytes].concat().into();
        *ended = *last;
        return;
    }
    frames.push(frame);
}

/// What a client says of its terminal.
pub(crate) fn resizes(bytes: &[u8]) {
    let decode = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut sizes, mut last) = (Sizes::default(), Vec::new());
        for piece in pieces {
            match sizes.feed(piece) {
                Ok(size) => last = size.map_or(last, |size| vec![size]),
                Err(error) => return (Vec::new(), Some(error)),
            }
        }
        (last, None)
    };
    both_ways(bytes, decode);
}
