//! A client of SPDY/3.1, as small as can be: whole frames, read in turn.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{header, request, status};

pub const FIN: u8 = 1;

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Reply(u32),
    Data(u32, Vec<u8>),
    /// With the bytes of its last frame.
    End(u32, Vec<u8>),
    Reset(u32, u32),
    Ping(u32),
    GoAway(u32),
    Closed,
}

pub struct Spdy<S> {
    pub io: S,
    deflate: Compress,
    inflate: Decompress,
    next: u32,
}

/// Connects to a session of commands by version 4, to one of ports by the only version.
pub async fn connect(url: &str, version: &str) -> Spdy<TcpStream> {
    let headers = [
        "Connection: Upgrade",
        "Upgrade: SPDY/3.1",
        &format!("X-Stream-Protocol-Version: {version}"),
    ];
    let (socket, answer) = request(url, "POST", &headers).await;
    assert_eq!(status(&answer), 101, "{answer}");
    assert_eq!(header(&answer, "x-stream-protocol-version"), Some(version));
    Spdy::new(socket)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Spdy<S> {
    pub fn new(io: S) -> Self {
        Self {
            io,
            // No dictionary: a zlib stream need not have one.
            deflate: Compress::new(Compression::best(), true),
            inflate: Decompress::new(true),
            next: 1,
        }
    }

    pub async fn control(&mut self, kind: u16, flags: u8, payload: &[u8]) {
        let mut frame = vec![0x80, 3];
        frame.extend(kind.to_be_bytes());
        frame.extend((u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
        frame.extend(payload);
        self.io.write_all(&frame).await.unwrap();
    }

    /// Asks for a stream; the answer comes later.
    pub async fn ask(&mut self, headers: &[(&str, &str)]) -> u32 {
        let (id, mut plain) = (self.next, Vec::new());
        self.next += 2;
        plain.extend((headers.len() as u32).to_be_bytes());
        for text in headers.iter().flat_map(|(n, v)| [n, v]) {
            plain.extend((text.len() as u32).to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut payload = [&id.to_be_bytes()[..], &[0; 6]].concat();
        payload.reserve(1000 + plain.len());
        let packed = (self.deflate).compress_vec(&plain, &mut payload, FlushCompress::Sync);
        packed.unwrap();
        self.control(1, 0, &payload).await;
        id
    }

    /// Opens a stream of this type and waits for the answer.
    pub async fn open(&mut self, kind: &str) -> u32 {
        let id = self.ask(&[("streamtype", kind)]).await;
        assert_eq!(self.hear().await, Heard::Reply(id), "{kind}");
        id
    }

    pub async fn data(&mut self, stream: u32, flags: u8, bytes: &[u8]) -> std::io::Result<()> {
        let mut frame = stream.to_be_bytes().to_vec();
        frame.extend((u32::from(flags) << 24 | bytes.len() as u32).to_be_bytes());
        frame.extend(bytes);
        self.io.write_all(&frame).await
    }

    pub async fn send(&mut self, stream: u32, flags: u8, bytes: &[u8]) {
        self.data(stream, flags, bytes).await.unwrap();
    }

    pub async fn hear(&mut self) -> Heard {
        hear(&mut self.io, &mut self.inflate).await
    }

    /// All that is said until the connection is closed, by stream.
    pub async fn rest(&mut self) -> Rest {
        let mut rest = Rest::default();
        loop {
            match self.hear().await {
                Heard::Data(id, bytes) => rest.of(id).extend(bytes),
                Heard::End(id, bytes) => {
                    rest.of(id).extend(bytes);
                    rest.ended.push(id);
                }
                Heard::Closed => return rest,
                Heard::GoAway(status) => assert_eq!(status, 0),
                other => panic!("{other:?}"),
            }
        }
    }

    /// The two directions, to be used at once.
    pub fn split(self) -> (Spdy<SendHalf<S>>, Spdy<HearHalf<S>>) {
        let (read, write) = tokio::io::split(self.io);
        let sending = Spdy {
            io: tokio::io::join(tokio::io::empty(), write),
            deflate: self.deflate,
            inflate: Decompress::new(true),
            next: self.next,
        };
        let hearing = Spdy {
            io: tokio::io::join(read, tokio::io::sink()),
            deflate: Compress::new(Compression::fast(), true),
            inflate: self.inflate,
            next: 0,
        };
        (sending, hearing)
    }
}

pub type SendHalf<S> = tokio::io::Join<tokio::io::Empty, tokio::io::WriteHalf<S>>;
pub type HearHalf<S> = tokio::io::Join<tokio::io::ReadHalf<S>, tokio::io::Sink>;

#[derive(Debug, Default)]
pub struct Rest {
    streams: std::collections::HashMap<u32, Vec<u8>>,
    pub ended: Vec<u32>,
}

impl Rest {
    pub fn of(&mut self, id: u32) -> &mut Vec<u8> {
        self.streams.entry(id).or_default()
    }

    pub fn text(&mut self, id: u32) -> String {
        String::from_utf8(self.of(id).clone()).unwrap()
    }
}

async fn hear<S: AsyncRead + Unpin>(io: &mut S, inflate: &mut Decompress) -> Heard {
    let mut head = [0; 8];
    if io.read_exact(&mut head).await.is_err() {
        return Heard::Closed;
    }
    let [a, b, c, d, flags, len @ ..] = head;
    let len = u32::from_be_bytes([0, len[0], len[1], len[2]]) as usize;
    let mut payload = vec![0; len];
    io.read_exact(&mut payload).await.unwrap();
    if a & 0x80 == 0 {
        let stream = u32::from_be_bytes([a, b, c, d]);
        return match flags {
            FIN => Heard::End(stream, payload),
            _ => Heard::Data(stream, payload),
        };
    }
    let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
    assert_eq!([a, b, c], [0x80, 3, 0]);
    match d {
        2 => {
            let mut block = Vec::with_capacity(1000);
            let done = inflate.decompress_vec(&payload[4..], &mut block, FlushDecompress::Sync);
            if let Err(error) = done {
                // The dictionary's name is that of SPDY/3; there is nothing in the block that needs it.
                assert_eq!(error.needs_dictionary(), Some(0xe3c6a7c2));
            } else {
                assert_eq!(block, [0; 4]);
            }
            Heard::Reply(number(0))
        }
        3 => Heard::Reset(number(0), number(4)),
        6 => Heard::Ping(number(0)),
        7 => Heard::GoAway(number(4)),
        other => panic!("control frame {other}"),
    }
}
