//! A systemd that checks what it is sent down to the signatures, and can misbehave.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use super::super::client::Address;
use super::super::message::{FIXED, Kind, Message};
use super::super::value::{Value, signature};
use super::super::{MANAGER, Manager, PATH};
use crate::Error;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mood {
    Kind,
    /// Not a bus, but systemd's own socket.
    Direct,
    /// As that, of before 246.
    Old,
    /// Signals before replies.
    SignalFirst,
    /// One byte at a time.
    Drip,
    /// So many signals of other jobs first.
    Crowd(usize),
    ExistsOnce,
    Exists,
    JobFails,
    /// Another client says "done" before systemd says "failed".
    Impostor,
    Silent,
    Rejects,
    Garbage,
    /// A line of the authentication that never ends.
    Endless,
    HangsUp,
    /// Knows no unit.
    Forgetful,
}

impl Mood {
    fn is_direct(self) -> bool {
        matches!(self, Self::Direct | Self::Old)
    }
}

pub struct Fake {
    path: PathBuf,
    mood: Mood,
    thread: JoinHandle<Vec<String>>,
}

impl Fake {
    pub fn start(mood: Mood) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("corten-fake-systemd-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut served = Served {
                stream,
                mood,
                log: Vec::new(),
                jobs: 0,
                serial: 0,
            };
            served.serve();
            served.log
        });
        Self { path, mood, thread }
    }

    pub fn manager(&self) -> Result<Manager, Error> {
        let place = Address::Path(self.path.to_str().unwrap().into());
        Manager::at(&place, false, self.mood.is_direct())
    }

    /// What was asked of it, once the client is gone.
    pub fn end(self) -> Vec<String> {
        std::fs::remove_file(&self.path).unwrap();
        self.thread.join().unwrap()
    }
}

struct Served {
    stream: UnixStream,
    mood: Mood,
    log: Vec<String>,
    jobs: u32,
    serial: u32,
}

const OWNER: &str = ":1.1";

impl Served {
    fn serve(&mut self) {
        if !self.authenticate() {
            return;
        }
        while let Some(call) = self.read() {
            assert_eq!(call.kind, Kind::Call);
            assert!(call.destination.is_some() && call.sender.is_none());
            self.answer(&call);
        }
    }

    fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }

    fn authenticate(&mut self) -> bool {
        assert_eq!(self.line(), "\0AUTH EXTERNAL\r\n");
        match self.mood {
            Mood::HangsUp => return false,
            Mood::Endless => {
                let _ = self.stream.write_all(&[b'x'; 4096]);
                return false;
            }
            Mood::Rejects => {
                self.stream.write_all(b"REJECTED EXTERNAL\r\n").unwrap();
                return false;
            }
            // An older systemd asks for nothing more.
            Mood::Old => {
                self.stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
                assert_eq!(self.line(), "BEGIN\r\n");
                return true;
            }
            _ => {
                self.stream.write_all(b"DATA\r\n").unwrap();
                assert_eq!(self.line(), "DATA\r\n");
            }
        }
        // systemd loses what follows a late BEGIN, so here it must be there before the answer.
        assert_eq!(self.line(), "BEGIN\r\n");
        self.stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
        true
    }

    fn read(&mut self) -> Option<Message> {
        let mut bytes = vec![0; FIXED];
        self.stream.read_exact(&mut bytes).ok()?;
        let length = Message::length(bytes.first_chunk().unwrap()).unwrap();
        bytes.resize(length, 0);
        self.stream.read_exact(&mut bytes[FIXED..]).unwrap();
        Some(Message::decode(&bytes).unwrap())
    }

    /// A client that has given up is its own affair.
    fn write(&mut self, mut message: Message) {
        self.serial += 1;
        message.serial = self.serial;
        let bytes = message.encode();
        let step = if self.mood == Mood::Drip {
            1
        } else {
            bytes.len()
        };
        for chunk in bytes.chunks(step) {
            let _ = self.stream.write_all(chunk);
        }
    }

    fn reply(&mut self, call: &Message, body: Vec<Value>) {
        self.write(Message {
            kind: Kind::Return,
            reply_to: Some(call.serial),
            sender: Some(OWNER.into()),
            body,
            ..Message::default()
        });
    }

    fn refuse(&mut self, call: &Message, name: &str, text: &str) {
        self.write(Message {
            kind: Kind::Error,
            reply_to: Some(call.serial),
            sender: Some(OWNER.into()),
            error: Some(format!("org.freedesktop.systemd1.{name}")),
            body: vec![Value::text(text)],
            ..Message::default()
        });
    }

    fn removed(&mut self, job: u32, unit: &str, result: &str, sender: &str) {
        self.write(Message {
            kind: Kind::Signal,
            path: Some(PATH.into()),
            interface: Some(MANAGER.into()),
            member: Some("JobRemoved".into()),
            sender: Some(sender.into()),
            body: vec![
                Value::U32(job),
                Value::Path(format!("/org/freedesktop/systemd1/job/{job}")),
                Value::text(unit),
                Value::text(result),
            ],
            ..Message::default()
        });
    }

    fn answer(&mut self, call: &Message) {
        let member = call.member.clone().unwrap();
        let texts: Vec<String> = call
            .body
            .iter()
            .filter_map(|v| v.as_text())
            .map(String::from)
            .collect();
        let of_body = signature(&call.body);
        if self.log.is_empty() && !self.mood.is_direct() {
            assert_eq!(member, "Hello", "a bus is greeted first");
        }
        match (member.as_str(), of_body.as_str()) {
            ("Hello", "") => {
                self.log.push(member);
                if self.mood == Mood::Garbage {
                    let _ = self.stream.write_all(&[0xee; 64]);
                    return;
                }
                self.reply(call, vec![Value::text(":1.9")]);
            }
            ("Get", "ss") => {
                self.log.push(format!("Get {}", texts[1]));
                assert_eq!(texts[0], MANAGER);
                let text = match texts[1].as_str() {
                    "Version" => "252.39-1~deb12u2",
                    "ControlGroup" => "/the.slice",
                    other => panic!("property {other}"),
                };
                self.reply(call, vec![Value::Variant(Box::new(Value::text(text)))]);
            }
            ("AddMatch", "s") => {
                assert!(
                    texts[0].contains("sender='org.freedesktop.systemd1'"),
                    "{texts:?}"
                );
                self.log.push("AddMatch JobRemoved".into());
                self.reply(call, vec![]);
            }
            ("Subscribe", "") => {
                self.log.push(member);
                self.reply(call, vec![]);
            }
            ("StartTransientUnit", "ssa(sv)a(sa(sv))") => self.start_unit(call, &texts),
            ("SetUnitProperties", "sba(sv)") => {
                let names = names(&call.body[2]);
                self.log.push(format!("{member} {} {names}", texts[0]));
                self.reply(call, vec![]);
            }
            ("AttachProcessesToUnit", "ssau") => {
                self.log.push(format!("{member} {} 3 4", texts[0]));
                assert_eq!(call.body[2].to_string(), "@au [uint32 3, uint32 4]");
                self.reply(call, vec![]);
            }
            ("StopUnit", "ss") => {
                self.log.push(format!("{member} {}", texts.join(" ")));
                match self.mood {
                    Mood::Forgetful => self.refuse(call, "NoSuchUnit", "Unit not loaded."),
                    _ => self.job(call, &texts[0]),
                }
            }
            ("ResetFailedUnit", "s") => {
                self.log.push(format!("{member} {}", texts[0]));
                match self.mood {
                    Mood::ExistsOnce => self.reply(call, vec![]),
                    // A transient unit that did not fail is forgotten as it stops.
                    _ => self.refuse(call, "NoSuchUnit", "Unit not loaded."),
                }
            }
            other => panic!("call of {other:?}"),
        }
    }

    fn start_unit(&mut self, call: &Message, texts: &[String]) {
        if !self.mood.is_direct() {
            for needed in ["AddMatch JobRemoved", "Subscribe"] {
                assert!(
                    self.log.iter().any(|l| l == needed),
                    "{needed} comes before a job"
                );
            }
        }
        let properties = names(&call.body[2]);
        assert!(properties.contains("PIDs"), "a scope has processes");
        assert_eq!(call.body[3].to_string(), "@a(sa(sv)) []");
        let line = format!("StartTransientUnit {} {properties}", texts.join(" "));
        let again = self.log.contains(&line);
        self.log.push(line);
        match self.mood {
            Mood::Exists | Mood::ExistsOnce if !again || self.mood == Mood::Exists => {
                self.refuse(call, "UnitExists", "Unit x-y.scope exists.");
            }
            _ => self.job(call, &texts[0]),
        }
    }

    fn job(&mut self, call: &Message, unit: &str) {
        self.jobs += 1;
        let job = self.jobs;
        if let Mood::Crowd(count) = self.mood {
            for other in 0..count {
                self.removed(1000 + other as u32, "other.service", "done", OWNER);
            }
        }
        if self.mood == Mood::SignalFirst {
            self.removed(job, unit, "done", OWNER);
        }
        let path = Value::Path(format!("/org/freedesktop/systemd1/job/{job}"));
        self.reply(call, vec![path]);
        match self.mood {
            Mood::SignalFirst | Mood::Silent => {}
            Mood::JobFails => self.removed(job, unit, "failed", OWNER),
            Mood::Impostor => {
                self.removed(job, unit, "done", ":1.66");
                self.removed(job, unit, "failed", OWNER);
            }
            _ => {
                self.removed(job + 1, unit, "failed", OWNER);
                self.removed(job, unit, "done", OWNER);
            }
        }
    }
}

fn names(properties: &Value) -> String {
    let Value::Array(of, properties) = properties else {
        panic!("{properties}");
    };
    assert_eq!(of, "(sv)");
    let name = |p: &Value| match p {
        Value::Struct(pair) => pair[0].as_text().unwrap().to_owned(),
        other => panic!("{other}"),
    };
    properties.iter().map(name).collect::<Vec<_>>().join(" ")
}
