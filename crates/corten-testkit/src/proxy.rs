//! A proxy before a plain registry that breaks what it passes on: cuts, lies,
//! refuses, stalls.
//!
//! One request a connection (`Connection: close`), a thread each. Faults hit
//! only answers to `GET …/blobs/…` (and to manifests for [`Fault::ManifestLies`]),
//! and only as often as asked.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};

/// A layer smaller than this is passed on whole, so that configs and shells arrive.
const SMALL: u64 = 16 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut { after: u64 },
    /// One byte in the middle of the body is another one.
    Flip,
    /// An answer with this status and no body (429 comes with `Retry-After: 0`).
    Status(u16),
    /// The body stops after so many bytes, and the connection stays open.
    Stall { after: u64 },
    /// The manifest says something else than its digest.
    ManifestLies,
    /// The body comes at about so many bytes a second.
    Slow { rate: u64 },
}

#[derive(Debug)]
struct State {
    fault: Option<Fault>,
    times: usize,
    requests: Vec<String>,
    ended: bool,
}

#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    /// Passes on to the registry at this loopback port, without a fault yet.
    pub fn before(registry: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .map_err(Error::system("cannot bind a loopback port"))?;
        let port = listener
            .local_addr()
            .map_err(Error::system("cannot read a socket's address"))?
            .port();
        let state = Arc::new(Mutex::new(State {
            fault: None,
            times: 0,
            requests: Vec::new(),
            ended: false,
        }));
        let shared = Arc::clone(&state);
        thread::spawn(move || accept(&listener, registry, &shared));
        Ok(Proxy { port, state })
    }

    /// The next `times` answers that the fault applies to have it.
    pub fn fail(&self, fault: Fault, times: usize) {
        let mut state = lock(&self.state);
        state.fault = Some(fault);
        state.times = times;
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:latest", self.host())
    }

    /// The requests so far: method, path, and the Range header if there was one.
    pub fn requests(&self) -> Vec<String> {
        lock(&self.state).requests.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        lock(&self.state).ended = true;
        // Wakes the accepting thread, which then sees the flag.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn accept(listener: &TcpListener, registry: u16, state: &Arc<Mutex<State>>) {
    for client in listener.incoming().flatten() {
        if lock(state).ended {
            return;
        }
        let state = Arc::clone(state);
        // A client that goes away in the middle is what some tests do.
        thread::spawn(move || exchange(&client, registry, &state).unwrap_or_default());
    }
}

struct Request {
    line: String,
    headers: Vec<String>,
}

fn exchange(client: &TcpStream, registry: u16, state: &Mutex<State>) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let request = read_head(&mut reader)?;
    if request.line.is_empty() {
        return Ok(());
    }
    let server = TcpStream::connect(("127.0.0.1", registry))?;
    forward(&request, &server)?;
    let mut answer = BufReader::new(&server);
    let head = read_head(&mut answer)?;
    let length = header(&head.headers, "content-length")
        .and_then(|value| value.parse().ok())
        .unwrap_or(0);
    let fault = choose(state, &request, &head, length);
    match fault {
        Some(Fault::Status(code)) => refuse(client, code),
        fault => {
            send_head(client, &head)?;
            if request.line.starts_with("HEAD ") {
                Ok(())
            } else {
                send_body(client, &mut answer, length, fault)
            }
        }
    }?;
    client.shutdown(Shutdown::Both)
}

fn read_head(reader: &mut impl BufRead) -> io::Result<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let line = if lines.is_empty() {
        String::new()
    } else {
        lines.remove(0)
    };
    Ok(Request {
        line,
        headers: lines,
    })
}

fn header<'a>(headers: &'a [String], name: &str) -> Option<&'a str> {
    let named = headers.iter().filter_map(|line| line.split_once(':'));
    named
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .next()
}

fn forward(request: &Request, mut server: &TcpStream) -> io::Result<()> {
    let mut head = format!("{}\r\n", request.line);
    for line in request
        .headers
        .iter()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
    {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head.push_str("Connection: close\r\n\r\n");
    server.write_all(head.as_bytes())
}

/// Records the request, and takes one of the faults that are left if it applies.
fn choose(state: &Mutex<State>, request: &Request, head: &Request, length: u64) -> Option<Fault> {
    let mut state = lock(state);
    let range = header(&request.headers, "range")
        .map(|range| format!(" {range}"))
        .unwrap_or_default();
    let line = request.line.trim_end_matches(" HTTP/1.1");
    state.requests.push(format!("{line}{range}"));
    let good = head.line.contains(" 200 ") || head.line.contains(" 206 ");
    let blob = line.starts_with("GET ") && line.contains("/blobs/") && length > SMALL;
    let manifest = line.starts_with("GET ") && line.contains("/manifests/");
    let applies = match state.fault? {
        Fault::ManifestLies => manifest,
        _ => blob,
    };
    if !good || !applies || state.times == 0 {
        return None;
    }
    state.times -= 1;
    state.fault
}

fn refuse(mut client: &TcpStream, code: u16) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {code} No\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    client.write_all(head.as_bytes())
}

fn send_head(mut client: &TcpStream, head: &Request) -> io::Result<()> {
    let mut text = format!("{}\r\n", head.line);
    for line in head
        .headers
        .iter()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
    {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("Connection: close\r\n\r\n");
    client.write_all(text.as_bytes())
}

fn send_body(
    mut client: &TcpStream,
    body: &mut impl Read,
    length: u64,
    fault: Option<Fault>,
) -> io::Result<()> {
    let mut sent = 0u64;
    let mut buffer = vec![0u8; 16 << 10];
    loop {
        let room = match fault {
            Some(Fault::Cut { after } | Fault::Stall { after }) => {
                (after - sent.min(after)).min(buffer.len() as u64)
            }
            _ => buffer.len() as u64,
        };
        if room == 0 {
            return if matches!(fault, Some(Fault::Stall { .. })) {
                stall(client)
            } else {
                Ok(())
            };
        }
        // `room` is at most the buffer's length.
        let count = body.read(&mut buffer[..room as usize])?;
        if count == 0 {
            return Ok(());
        }
        let middle = length / 2;
        let flips = matches!(fault, Some(Fault::Flip | Fault::ManifestLies));
        if flips && (sent..sent + count as u64).contains(&middle) {
            buffer[(middle - sent) as usize] ^= 1;
        }
        client.write_all(&buffer[..count])?;
        sent += count as u64;
        if let Some(Fault::Slow { rate }) = fault {
            thread::sleep(Duration::from_secs_f64(count as f64 / rate as f64));
        }
    }
}

/// Until the client gives up.
fn stall(mut client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(Duration::from_secs(120)))?;
    client.read(&mut [0]).map(drop)
}
