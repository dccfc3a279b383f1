//! A WebSocket client, as small as can be.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::client::{header, request, status};

#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    Binary(Vec<u8>),
    Text(String),
    Pong(Vec<u8>),
    Close(u16),
    Closed,
}

pub struct WebSocket<S = TcpStream> {
    pub io: S,
}

pub async fn connect(url: &str, protocol: &str) -> WebSocket {
    let named = format!("Sec-WebSocket-Protocol: {protocol}");
    let mut headers = vec![
        "Connection: keep-alive, Upgrade",
        "Upgrade: WebSocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];
    headers.extend(Some(&*named).filter(|_| !protocol.is_empty()));
    let (io, answer) = request(url, "GET", &headers).await;
    assert_eq!(status(&answer), 101, "{answer}");
    assert_eq!(
        header(&answer, "sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    assert_eq!(
        header(&answer, "sec-websocket-protocol").unwrap_or_default(),
        protocol
    );
    WebSocket { io }
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![first];
    match payload.len() {
        len @ 0..126 => frame.push(0x80 | len as u8),
        len @ 126..65536 => {
            frame.push(0x80 | 126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(0x80 | 127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
    frame
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocket<S> {
    pub async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
    }

    pub async fn binary(&mut self, payload: &[u8]) {
        self.raw(&frame(0x82, payload)).await;
    }

    pub async fn text(&mut self, text: &str) {
        self.raw(&frame(0x81, text.as_bytes())).await;
    }

    pub async fn hear(&mut self) -> Heard {
        let Ok(first) = self.io.read_u8().await else {
            return Heard::Closed;
        };
        let len = match self.io.read_u8().await.unwrap() {
            126 => self.io.read_u16().await.unwrap().into(),
            127 => self.io.read_u64().await.unwrap(),
            short @ 0..126 => short.into(),
            masked => panic!("a server's frame has length {masked}"),
        };
        let mut payload = vec![0; len as usize];
        self.io.read_exact(&mut payload).await.unwrap();
        match first {
            0x82 => Heard::Binary(payload),
            0x81 => Heard::Text(String::from_utf8(payload).unwrap()),
            0x8a => Heard::Pong(payload),
            0x88 => Heard::Close(u16::from_be_bytes([payload[0], payload[1]])),
            other => panic!("a frame begins with {other:#x}"),
        }
    }

    /// All that comes on binary channels until the close, which must be a normal one.
    pub async fn rest(&mut self) -> Vec<(u8, Vec<u8>)> {
        let mut rest: Vec<(u8, Vec<u8>)> = Vec::new();
        loop {
            match self.hear().await {
                Heard::Binary(payload) => match rest.iter_mut().find(|(c, _)| *c == payload[0]) {
                    Some((_, bytes)) => bytes.extend(&payload[1..]),
                    None => rest.push((payload[0], payload[1..].to_vec())),
                },
                Heard::Close(1000) => return rest,
                other => panic!("{other:?}"),
            }
        }
    }
}
