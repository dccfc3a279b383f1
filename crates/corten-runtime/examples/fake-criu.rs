//! A criu for tests: it speaks the protocol by a script and makes no images.
//!
//! `FAKE_CRIU` names a folder. There it leaves the last request as `request` and the answers to notifications as
//! `acks`, and there it finds `version` (default `3.17.1`) and `script`, of these lines:
//!
//! ```text
//! notify NAME    a step; waits for the answer
//! console        the step orphan-pts-master, with a new terminal's master
//! spawn          a process that sleeps, as a restored init: a child of the caller
//! rename PATH X  the UTS namespace at PATH has X as its host's name, as criu sets it in what it joins
//! ok             success
//! fail ERRNO     refusal
//! garbage        bytes that are no message
//! die            an end without a word
//! hang           nothing more, until the caller has gone
//! ```

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use corten_sys::namespace::{Namespaces, enter, set_hostname};
use rustix::net::{RecvFlags, SendFlags, recv, send};

const VERSION: u64 = 10;
const FEATURES: u64 = 9;
const NOTIFY: u64 = 6;

fn main() {
    let folder = PathBuf::from(std::env::var_os("FAKE_CRIU").expect("FAKE_CRIU"));
    assert_eq!(std::env::args().nth(1).as_deref(), Some("swrk"));
    let socket = corten_sys::spawn::inherited(1).unwrap().remove(0);
    while let Some(request) = hear(&socket) {
        match kind(&request) {
            VERSION => {
                let text = fs::read_to_string(folder.join("version")).unwrap_or("3.17.1".into());
                let part = |n| text.trim().split('.').nth(n).unwrap().parse().unwrap();
                say(
                    &socket,
                    &answer(VERSION, 10, &[(1, part(0)), (2, part(1)), (4, part(2))]),
                );
            }
            FEATURES => {
                let has = u64::from(!folder.join("featureless").exists());
                say(&socket, &answer(FEATURES, 8, &[(1, has), (2, has)]));
            }
            kind => {
                fs::write(folder.join("request"), &request).unwrap();
                perform(&folder, &socket, kind);
                return;
            }
        }
    }
}

fn perform(folder: &std::path::Path, socket: &OwnedFd, kind: u64) {
    let script = fs::read_to_string(folder.join("script")).unwrap();
    let mut acks = Vec::new();
    let mut pid = 0;
    for line in script.lines() {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "notify" => say(socket, &notification(rest, pid)),
            "console" => {
                let flags = rustix::pty::OpenptFlags::RDWR;
                let master = rustix::pty::openpt(flags).unwrap();
                let message = notification("orphan-pts-master", 0);
                corten_sys::socket::send_fd(socket, &message, master.as_fd()).unwrap();
            }
            "spawn" => pid = sleeper(),
            "rename" => {
                let (path, name) = rest.split_once(' ').unwrap();
                let namespace = fs::File::open(path).unwrap();
                enter(&namespace, Namespaces::UTS).unwrap();
                set_hostname(name.as_bytes()).unwrap();
            }
            "ok" => say(socket, &[varint(kind).as_slice(), b"\x10\x01"].concat()),
            "fail" => {
                let errno = varint(rest.parse().unwrap());
                let head = [varint(kind).as_slice(), b"\x10\x00\x38"].concat();
                say(socket, &[head, errno[1..].to_vec()].concat());
            }
            "garbage" => say(socket, b"\x08"),
            "die" => std::process::exit(9),
            "hang" => while hear(socket).is_some() {},
            other => panic!("{other}"),
        }
        if matches!(word, "notify" | "console") {
            let Some(ack) = hear(socket) else { break };
            acks.push(format!(
                "{} {ack:?}\n",
                if word == "console" { word } else { rest }
            ));
        }
    }
    fs::write(folder.join("acks"), acks.concat()).unwrap();
}

/// A child of our parent: what criu makes with `rst_sibling`.
fn sleeper() -> u64 {
    let request = corten_sys::process::Clone {
        sibling: true,
        ..Default::default()
    };
    let child = corten_sys::process::clone(&request, || {
        std::thread::sleep(std::time::Duration::from_secs(600));
        0
    });
    child.unwrap().pid.into()
}

fn hear(socket: &OwnedFd) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 1 << 16];
    let len = recv(socket, &mut bytes[..], RecvFlags::empty()).ok()?.1;
    bytes.truncate(len);
    (len > 0).then_some(bytes)
}

fn say(socket: &OwnedFd, message: &[u8]) {
    // The caller may have gone; then there is nobody to tell.
    let _ = send(socket, message, SendFlags::NOSIGNAL);
}

/// Field 1, an integer below 128 here, is the first of every request.
fn kind(request: &[u8]) -> u64 {
    assert_eq!(request[0], 0x08);
    request[1].into()
}

/// Field 1 with a number.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = vec![0x08];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn notification(script: &str, pid: u64) -> Vec<u8> {
    let mut inner = [b"\x0a", &[script.len() as u8][..], script.as_bytes()].concat();
    let mut number = varint(pid);
    number[0] = 0x10;
    inner.extend(number);
    let head = [varint(NOTIFY).as_slice(), b"\x10\x01\x2a"].concat();
    [head, vec![inner.len() as u8], inner].concat()
}

fn answer(kind: u64, field: u8, numbers: &[(u8, u64)]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (number, value) in numbers {
        let mut part = varint(*value);
        part[0] = number << 3;
        inner.extend(part);
    }
    let head = [varint(kind).as_slice(), b"\x10\x01"].concat();
    [head, vec![field << 3 | 2, inner.len() as u8], inner].concat()
}
