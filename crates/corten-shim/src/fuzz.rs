//! Entrances for the fuzzer, and the same entrances tried with its corpus by an ordinary test.
//!
//! One function for each kind of foreign bytes, and for the log, whose reader must get back what was written. None may panic,
//! whatever it is given. Not part of the library: compiled with `--cfg fuzzing` and for the tests only.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use prost::Message;

use crate::attach;
use crate::command::Flags;
use crate::foreign;
use crate::log::{Limits, Log, Stream, follow};
use crate::params;
use crate::proto::bootstrap::{BootstrapParams, BootstrapResult};
use crate::proto::ttrpc::{Request, Response};
use crate::stdio::open;
use crate::toml;
use crate::ttrpc::frame::{self, Decoder, Event};
use crate::ttrpc::{self, status::Status};

/// An entrance, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 5] = [
    ("ttrpc_frames", ttrpc_frames),
    ("shim_bootstrap", shim_bootstrap),
    ("attach_frames", attach_frames),
    ("shim_stdio_uri", shim_stdio_uri),
    ("shim_log", shim_log),
];

/// The bytes behind the first, in pieces whose lengths the first decides.
fn pieces(bytes: &[u8]) -> (&[u8], impl Iterator<Item = &[u8]>) {
    let (seed, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let mut state = u32::from(*seed);
    let mut left = rest;
    let cut = std::iter::from_fn(move || {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        let at = (1 + (state >> 16) as usize % 37).min(left.len());
        let (piece, behind) = left.split_at(at);
        left = behind;
        (!piece.is_empty()).then_some(piece)
    });
    (rest, cut)
}

/// What a connection to the shim carries, and what comes back from one: frames however they are cut, and what is in them.
pub fn ttrpc_frames(bytes: &[u8]) {
    let (rest, cut) = pieces(bytes);
    let (mut whole, mut pieced) = (Vec::new(), Vec::new());
    Decoder::default().feed(rest, |event| whole.push(event));
    let mut decoder = Decoder::default();
    for piece in cut {
        decoder.feed(piece, |event| pieced.push(event));
    }
    assert_eq!(whole, pieced, "a frame depends on how it was cut");
    let mut held = 0;
    for event in &whole {
        let Event::Frame(frame) = event else { continue };
        held += frame.payload.len() + frame::HEADER;
        assert!(frame.payload.len() <= frame::MAX_PAYLOAD);
        if let Ok(request) = Request::decode(frame.payload.as_slice()) {
            let again = Request::decode(request.encode_to_vec().as_slice());
            assert_eq!(again.as_ref(), Ok(&request));
        }
        if let Ok(Response {
            status: Some(status),
            ..
        }) = Response::decode(frame.payload.as_slice())
        {
            let status = Status::from(status);
            let _ = (status.kind(), status.to_owned());
            // What is passed on to another client fits into a frame again.
            let sent = ttrpc::response(1, Err(status));
            assert!(sent.len() <= frame::HEADER + frame::MAX_PAYLOAD);
        }
        let _ = ttrpc::answer(frame);
    }
    assert!(held <= rest.len(), "more than was sent is kept");
}

/// What containerd says to a shim that starts, and what one answers: to us as a shim, and to us who starts another's.
pub fn shim_bootstrap(bytes: &[u8]) {
    let named = Flags {
        id: "web".into(),
        namespace: "default".into(),
        max_version: Some(3),
        ..Flags::default()
    };
    for flags in [Flags::default(), named] {
        let Ok(asked) = params::read(bytes, &flags) else {
            continue;
        };
        // Whatever was asked, our own answer is one that we understand.
        let socket = Path::new("/run/s/socket");
        let answer = foreign::parse_answer(&asked.answer(socket));
        assert!(answer.is_ok_and(|a| a.socket == socket), "{asked:?}");
    }
    if let Ok(answer) = foreign::parse_answer(bytes) {
        assert!(answer.socket.is_absolute());
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = toml::parse(text);
    }
    if let Ok(params) = BootstrapParams::decode(bytes) {
        let again = BootstrapParams::decode(params.encode_to_vec().as_slice());
        assert_eq!(again, Ok(params));
    }
    if let Ok(result) = BootstrapResult::decode(bytes) {
        let again = BootstrapResult::decode(result.encode_to_vec().as_slice());
        assert_eq!(again, Ok(result));
    }
}

/// What an attached client sends, however it is cut.
pub fn attach_frames(bytes: &[u8]) {
    let decode = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let (mut decoder, mut frames) = (attach::Decoder::default(), Vec::new());
        for piece in pieces {
            decoder.feed(piece);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    // The connection ends here.
                    Err(error) => return (frames, Some(error)),
                }
            }
        }
        (frames, None)
    };
    let (rest, mut cut) = pieces(bytes);
    let whole = decode(&mut std::iter::once(rest));
    assert_eq!(whole, decode(&mut cut), "a frame depends on how it was cut");
    let mut encoded = Vec::new();
    for frame in &whole.0 {
        attach::encode(&mut encoded, frame.kind, &frame.payload);
        let _ = serde_json::from_slice::<attach::Hello>(&frame.payload);
        let _ = serde_json::from_slice::<attach::Size>(&frame.payload);
    }
    assert!(rest.starts_with(&encoded), "it reads what is not there");
}

/// Where a client wants stdio to come from and go to. Nothing is opened.
pub fn shim_stdio_uri(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match open::parse(text) {
        Ok(open::Target::Path(path) | open::Target::File(path)) => assert!(path.is_absolute()),
        Ok(open::Target::Binary(logger)) => {
            assert!(logger.path.is_absolute());
            let null = |a: &String| a.is_empty() || a.contains('\0');
            assert!(!logger.arguments.iter().any(null));
        }
        Ok(_) => {}
        Err(error) => drop((error.kind(), error.to_string())),
    }
    let _ = open::loggers([text, text]);
}

/// Output in pieces, a log with a limit, and now and then a new writer or a file moved aside: every byte comes back.
pub fn shim_log(bytes: &[u8]) {
    let [size, rest @ ..] = bytes else { return };
    let folder = folder();
    let path = folder.join("log");
    let limits = Limits {
        // Few records a file, and yet not a file for each: a rotation moves them all.
        max_size: 400 + u64::from(*size) * 16,
        max_files: 1000,
    };
    let open = || Log::open(&path, limits).expect("a log in an empty folder");
    let (mut log, mut sent, mut moved) = (open(), [Vec::new(), Vec::new()], Vec::new());
    let (_, cut) = pieces(rest);
    for piece in cut.take(100) {
        let stream = match piece[0] & 1 {
            0 => Stream::Stdout,
            _ => Stream::Stderr,
        };
        match piece[0] {
            0xf0 => {
                log.finish().expect("there is room");
                log = open();
            }
            0xf1 => {
                moved.extend(read(&path));
                std::fs::remove_file(&path).expect("it is ours");
                log.reopen().expect("its folder is there");
            }
            _ => {
                log.write(stream, piece).expect("there is room");
                sent[stream as usize].extend_from_slice(piece);
            }
        }
    }
    log.finish().expect("there is room");
    let mut records = Vec::new();
    for file in follow::files(&path) {
        records.push(std::fs::read(file).expect("it was listed"));
    }
    let _ = std::fs::remove_dir_all(&folder);
    if !moved.is_empty() {
        return; // older files may stand behind what was moved: order is another test's
    }
    for stream in [Stream::Stdout, Stream::Stderr] {
        let mut back = Vec::new();
        for record in records.concat().split_inclusive(|b| *b == b'\n') {
            let text = &record[..record.len() - 1];
            let of = &text[31..37]
                == if stream == Stream::Stdout {
                    b"stdout"
                } else {
                    b"stderr"
                };
            if of {
                back.extend_from_slice(&text[40..]);
                back.extend(Some(b'\n').filter(|_| text[38] == b'F'));
            }
        }
        assert!(back == sent[stream as usize], "bytes were lost or torn");
    }
}

fn read(path: &std::path::Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("it is ours");
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"));
    // So that a file moved while empty counts too.
    [bytes, vec![0]].concat()
}

fn folder() -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("corten-shim-log-{}-{count}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Every input that has ever shown something new, or broken something.
    #[test]
    fn the_corpus_is_survived() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let folder = folder.join(name);
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{folder:?} is empty");
        }
    }
}
