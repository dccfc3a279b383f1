//! A TCP proxy that breaks things as told. It reads a request's head, asks the script what to do with it,
//! and passes a changed answer on; every answer ends its connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to one answer.
#[derive(Clone, Debug)]
pub enum Fault {
    None,
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// This answer comes instead, byte for byte.
    Instead(String),
    /// A byte of the body is another one.
    Flip(usize),
    /// So many bytes of the body, then silence.
    Stall(usize),
    /// A body without end after this head.
    Endless(String),
    /// The body is passed on chunked, only so far, and properly ended.
    ShortChunked(usize),
    /// `Content-Length` says so many bytes more than there are.
    Longer(usize),
    /// The `Range` header is lost on the way.
    NoRange,
    /// The connection ends before an answer.
    Gone,
    /// The connection ends after so many bytes of the request's body have been passed on.
    CutUpload(usize),
    /// This answer comes after so many bytes of the request's body; the rest is never read.
    Early(usize, String),
    /// The answer gets this line into its head, in the place of one with the same name.
    Header(String),
    /// So many bytes of the body every so often.
    Drip(usize, Duration),
}

/// One request as the script sees it: its line, its head, and how many like it (by method and path) came before.
pub struct Seen<'a> {
    pub line: &'a str,
    pub head: &'a str,
    pub nth: usize,
}

type Script = dyn Fn(&Seen<'_>) -> Fault + Send + Sync;

pub struct Proxy {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    pub fn start(
        upstream: SocketAddr,
        script: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, stopped, script) =
            (heads.clone(), stop.clone(), Arc::new(script) as Arc<Script>);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, script) = (seen.clone(), script.clone());
                let stream = stream.unwrap();
                // What breaks here is meant to, or the client's own doing.
                std::thread::spawn(move || serve(stream, upstream, &seen, &*script));
            }
        });
        Self {
            address,
            heads,
            stop,
            thread: Some(thread),
        }
    }

    /// The heads of the requests whose line contains `what`.
    pub fn seen(&self, what: &str) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads
            .iter()
            .filter(|h| h.lines().next().is_some_and(|l| l.contains(what)))
            .cloned()
            .collect()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

fn read_head(from: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
        if head[0] == 0x16 {
            // A TLS handshake: this proxy is plain.
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    String::from_utf8(head).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

fn length(head: &str) -> usize {
    let value = |l: &str| {
        l.to_ascii_lowercase()
            .strip_prefix("content-length:")
            .map(|v| v.trim().parse().unwrap())
    };
    head.lines().find_map(value).unwrap_or(0)
}

fn serve(
    mut client: TcpStream,
    upstream: SocketAddr,
    heads: &Mutex<Vec<String>>,
    script: &Script,
) -> io::Result<()> {
    let mut head = read_head(&mut client)?;
    let line = head.lines().next().unwrap_or_default().to_owned();
    let nth = {
        let mut heads = heads.lock().unwrap();
        let same = heads.iter().filter(|h| h.starts_with(&line)).count();
        heads.push(head.clone());
        same
    };
    let fault = script(&Seen {
        line: &line,
        head: &head,
        nth,
    });
    let mut body = vec![0; length(&head)];
    if let Fault::CutUpload(n) = fault {
        body.truncate(n);
        client.read_exact(&mut body)?;
        let mut server = TcpStream::connect(upstream)?;
        server.write_all(head.as_bytes())?;
        return server.write_all(&body);
    }
    if let Fault::Early(n, answer) = &fault {
        client.read_exact(&mut body[..*n])?;
        client.write_all(answer.as_bytes())?;
        std::thread::sleep(Duration::from_secs(6));
        return Ok(());
    }
    client.read_exact(&mut body)?;
    match &fault {
        Fault::Gone => return Ok(()),
        Fault::Instead(answer) => return client.write_all(answer.as_bytes()),
        Fault::Endless(answer) => {
            client.write_all(answer.as_bytes())?;
            loop {
                client.write_all(&[b' '; 4096])?;
            }
        }
        Fault::NoRange => {
            head = head
                .lines()
                .filter(|l| !l.starts_with("range:"))
                .map(|l| format!("{l}\r\n"))
                .collect()
        }
        _ => {}
    }
    let closing = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    let mut server = TcpStream::connect(upstream)?;
    server.write_all(closing.as_bytes())?;
    server.write_all(&body)?;
    let answer_head = read_head(&mut server)?;
    let mut answer = Vec::new();
    if !line.starts_with("HEAD ") {
        server.read_to_end(&mut answer)?;
    }
    pass_on(&mut client, &answer_head, answer, fault)
}

fn with_length(head: &str, field: &str) -> String {
    let lines = head.trim_end().lines().map(|l| {
        match l.to_ascii_lowercase().starts_with("content-length:") {
            true => format!("{field}\r\n"),
            false => format!("{l}\r\n"),
        }
    });
    format!("{}\r\n", lines.collect::<String>())
}

fn pass_on(client: &mut TcpStream, head: &str, mut body: Vec<u8>, fault: Fault) -> io::Result<()> {
    match fault {
        Fault::Header(line) => {
            let name = line
                .split(':')
                .next()
                .unwrap_or_default()
                .to_ascii_lowercase();
            let others = head
                .trim_end()
                .lines()
                .filter(|l| l.split(':').next().unwrap_or_default().to_ascii_lowercase() != name);
            let others: String = others.map(|l| format!("{l}\r\n")).collect();
            client.write_all(format!("{others}{line}\r\n\r\n").as_bytes())?;
            return client.write_all(&body);
        }
        Fault::Drip(n, every) => {
            client.write_all(head.as_bytes())?;
            for piece in body.chunks(n) {
                client.write_all(piece)?;
                std::thread::sleep(every);
            }
            return Ok(());
        }
        Fault::Cut(n) => body.truncate(n),
        Fault::Flip(n) => body[n] ^= 1,
        Fault::Stall(n) => {
            client.write_all(head.as_bytes())?;
            client.write_all(&body[..n])?;
            std::thread::sleep(Duration::from_secs(3));
            return Ok(());
        }
        Fault::ShortChunked(n) => {
            client.write_all(with_length(head, "transfer-encoding: chunked").as_bytes())?;
            client.write_all(format!("{n:x}\r\n").as_bytes())?;
            client.write_all(&body[..n])?;
            return client.write_all(b"\r\n0\r\n\r\n");
        }
        Fault::Longer(n) => {
            let field = format!("content-length: {}", body.len() + n);
            client.write_all(with_length(head, &field).as_bytes())?;
            return client.write_all(&body);
        }
        _ => {}
    }
    client.write_all(head.as_bytes())?;
    client.write_all(&body)
}
