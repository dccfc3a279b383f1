//! Just enough of gRPC for unary calls to a daemon on a Unix socket: HTTP/2 with one stream at a time, headers written
//! plainly, those of answers not read. A call has succeeded if a message came (gRPC over HTTP/2, "Responses": a failure
//! is trailers alone).

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use prost::Message;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub struct Grpc {
    socket: UnixStream,
    stream: u32,
    service: &'static str,
    /// What containerd's own services want to know of each call.
    namespace: String,
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Grpc {
    /// To the runtime's side of CRI.
    pub fn connect(path: &Path) -> Self {
        Self::to(path, "runtime.v1.RuntimeService", "k8s.io")
    }

    pub fn to(path: &Path, service: &'static str, namespace: &str) -> Self {
        let mut socket = UnixStream::connect(path).unwrap();
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            .unwrap();
        let mut it = Self {
            socket,
            stream: 1,
            service,
            namespace: namespace.into(),
        };
        it.send(SETTINGS, 0, 0, &[]).unwrap();
        it
    }

    /// The answer, or `None` for a failure, whatever it was, the daemon's death included.
    pub fn call<T: Message + Default>(
        &mut self,
        method: &str,
        request: &impl Message,
    ) -> Option<T> {
        let stream = self.stream;
        self.stream += 2;
        let head = headers(self.service, method, &self.namespace);
        self.send(HEADERS, END_HEADERS, stream, &head)?;
        let message = request.encode_to_vec();
        let mut data = vec![0];
        data.extend((message.len() as u32).to_be_bytes());
        data.extend(message);
        self.send(DATA, END_STREAM, stream, &data)?;
        let mut answer = Vec::new();
        loop {
            let frame = self.receive()?;
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[])?,
                PING if frame.flags & ACK == 0 => self.send(PING, ACK, 0, &frame.payload)?,
                GO_AWAY => panic!("{method}: the daemon goes away"),
                DATA if frame.stream == stream => {
                    let size = frame.payload.len() as u32;
                    if size > 0 {
                        self.send(WINDOW, 0, 0, &size.to_be_bytes())?;
                    }
                    answer.extend(frame.payload);
                }
                _ => {}
            }
            if frame.stream == stream && frame.flags & END_STREAM != 0 && frame.kind <= HEADERS {
                let message = answer.get(5..)?;
                return Some(T::decode(message).unwrap());
            }
        }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Option<()> {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.socket.write_all(&frame).ok()
    }

    fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).ok()?;
        let [a, b, c, kind, flags, d, e, f, g] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.socket.read_exact(&mut payload).ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes([d, e, f, g]) & 0x7fff_ffff,
            payload,
        })
    }
}

/// Literal fields without indexing (RFC 7541, 6.2.2); all are shorter than a length's first byte can say.
fn headers(service: &str, method: &str, namespace: &str) -> Vec<u8> {
    let path = format!("/{service}/{method}");
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path.as_str()),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("containerd-namespace", namespace),
    ] {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.as_bytes());
        }
    }
    block
}
