//! A connection to the server, from the request to the upgrade, and a server to connect to.

use std::sync::Arc;
use std::time::Duration;

use corten_cri::stream::{ExecAsk, ForwardAsk, Server, Settings};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::backend::Fake;

/// A server that ends with the test.
pub struct Served {
    pub server: Server,
    pub backend: Arc<Fake>,
    _stop: oneshot::Sender<()>,
}

pub async fn serve(settings: Settings) -> Served {
    let backend = Arc::new(Fake::default());
    let server = Server::bind(settings, backend.clone()).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(server.clone().run(async move { drop(stopped.await) }));
    Served {
        server,
        backend,
        _stop: stop,
    }
}

impl Served {
    /// A URL for a command; `flags` are of i, o, e and t.
    pub fn exec(&self, flags: &str, command: &[&str]) -> String {
        let ask = ExecAsk {
            container: "one".into(),
            command: command.iter().map(|c| c.to_string()).collect(),
            tty: flags.contains('t'),
            stdin: flags.contains('i'),
            stdout: flags.contains('o'),
            stderr: flags.contains('e'),
        };
        self.server.exec(ask).unwrap()
    }

    pub fn forward(&self, ports: &[u16]) -> String {
        let ask = ForwardAsk {
            pod: "pod".into(),
            ports: ports.to_vec(),
        };
        self.server.port_forward(ask).unwrap()
    }
}

/// A URL's `host:port` and path.
pub fn split(url: &str) -> (&str, &str) {
    let (_, rest) = url.split_once("://").unwrap();
    let at = rest.find('/').unwrap();
    rest.split_at(at)
}

/// Sends a head and reads the answer's.
pub async fn request(url: &str, method: &str, headers: &[&str]) -> (TcpStream, String) {
    let (host, path) = split(url);
    let mut socket = TcpStream::connect(host).await.unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    for header in headers {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let answer = answer(&mut socket).await;
    (socket, answer)
}

/// An answer's head, and not a byte more.
pub async fn answer<R: tokio::io::AsyncRead + Unpin>(socket: &mut R) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => answer.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(answer).unwrap()
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).map_or(0, |s| s.parse().unwrap())
}

/// The value of a header, in any case.
pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines().filter_map(|l| l.split_once(':'));
    let mut found = lines.filter(|(n, _)| n.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}

/// Waits until it is so.
pub async fn until(mut so: impl FnMut() -> bool) {
    let wait = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), wait).await;
    waited.expect("it never comes to be so");
}
