//! The stdio engine with ordinary child processes in the container's place.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use corten_runtime::Stdio;
use corten_sys::pty;
use rustix::event::{PollFd, Timespec, poll};

use super::prepare::{Plan, prepare};
use super::{Client, Drain, Io, SCRATCH};
use crate::attach::{self, Decoder, Frame, Hello};
use crate::log::Log;

struct Rig {
    folder: tempfile::TempDir,
    io: Io,
    child: Child,
    exited: Option<Instant>,
}

fn plan<'a>(uris: [&'a str; 3]) -> Plan<'a> {
    Plan {
        terminal: false,
        uris,
        id: "test",
        namespace: "test",
        log: None,
        open_stdin: true,
        stdin_once: true,
        await_client: false,
        owner: (0, 0),
        size: None,
        fifos: None,
    }
}

fn start(plan: Plan<'_>, folder: tempfile::TempDir, script: &str) -> Rig {
    let (prepared, stdio) = prepare(plan).unwrap();
    let Stdio::Fds {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        panic!("a terminal");
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", script])
        .stdin(stdin)
        .stdout(stdout)
        .stderr(stderr);
    let child = command.spawn().unwrap();
    drop(command);
    Rig {
        folder,
        io: prepared.finish(None).unwrap(),
        child,
        exited: None,
    }
}

impl Rig {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One turn of the loop, as the shim's.
    fn turn(&mut self) {
        let mut scratch = vec![0; SCRATCH];
        let (mut fds, mut parts) = (Vec::new(), Vec::new());
        self.io.interest(|fd, flags, part| {
            fds.push(PollFd::from_borrowed_fd(fd, flags));
            parts.push(part);
        });
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 2_000_000,
        };
        poll(&mut fds, Some(&limit)).unwrap();
        let ready: Vec<_> = fds
            .iter()
            .zip(parts)
            .filter(|(fd, _)| !fd.revents().is_empty())
            .map(|(_, part)| part)
            .collect();
        for part in ready {
            self.io.ready(part, &mut scratch);
        }
        if self.exited.is_none() && self.child.try_wait().unwrap().is_some() {
            self.exited = Some(Instant::now());
        }
    }

    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !done(self) {
            assert!(Instant::now() < end, "stuck: {:?}", self.io);
            self.turn();
        }
    }

    /// Turns until the child has exited and its output has arrived.
    fn finish(&mut self) {
        self.until(|r| r.exited.is_some() && r.io.drain(&mut [0; SCRATCH]) == Drain::Done);
        self.io.finish();
        self.io.close();
    }
}

fn fifo(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    path.display().to_string()
}

/// Opened for both, so that the opening does not wait; dropped, it is gone.
fn open_nonblock(path: &str, write: bool) -> File {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = OpenOptions::new();
    options
        .custom_flags(nonblock)
        .read(!write)
        .write(write)
        .open(path)
        .unwrap()
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size as u32)
        .flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes())
        .take(size)
        .collect()
}

fn block(file: &File) {
    let flags = rustix::fs::fcntl_getfl(file).unwrap();
    rustix::fs::fcntl_setfl(file, flags - rustix::fs::OFlags::NONBLOCK).unwrap();
}

#[test]
fn a_hundred_megabytes_through_stdin_and_stdout_are_the_same() {
    const SIZE: usize = 100 << 20;
    let folder = tempfile::tempdir().unwrap();
    let (stdin, stdout) = (fifo(folder.path(), "in"), fifo(folder.path(), "out"));
    let reader = open_nonblock(&stdout, false);
    let mut rig = start(plan([&stdin, &stdout, ""]), folder, "cat");
    let mut writer = open_nonblock(&stdin, true);
    block(&writer);
    block(&reader);
    let data = pattern(SIZE);
    let expected = data.clone();
    let writes = std::thread::spawn(move || writer.write_all(&data).unwrap());
    let reads = std::thread::spawn(move || {
        let (mut reader, mut got) = (reader, Vec::with_capacity(SIZE));
        reader.read_to_end(&mut got).unwrap();
        got
    });
    // The writer's hang-up ends the child's input.
    rig.finish();
    writes.join().unwrap();
    assert!(reads.join().unwrap() == expected);
}

#[test]
fn a_slow_reader_slows_the_process_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let stdout = fifo(folder.path(), "out");
    let mut reader = open_nonblock(&stdout, false);
    let mut rig = start(plan(["", &stdout, ""]), folder, "seq 1 60000");
    let begun = Instant::now();
    rig.until(|_| begun.elapsed() > Duration::from_millis(300));
    assert!(rig.exited.is_none(), "seq wrote more than two pipes hold");
    block(&reader);
    let reads = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    });
    rig.finish();
    let text = reads.join().unwrap();
    assert_eq!(text.lines().count(), 60000);
    assert!(text.ends_with("\n60000\n"));
}

#[test]
fn a_fifo_reader_that_dies_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let stdout = fifo(folder.path(), "out");
    let first = open_nonblock(&stdout, false);
    let script = "seq 1 60000; echo done";
    let mut rig = start(plan(["", &stdout, ""]), folder, script);
    let begun = Instant::now();
    rig.until(|_| begun.elapsed() > Duration::from_millis(100));
    drop(first);
    rig.until(|_| begun.elapsed() > Duration::from_millis(200));
    assert!(rig.exited.is_none());
    let mut second = open_nonblock(&stdout, false);
    block(&second);
    let reads = std::thread::spawn(move || {
        let mut text = String::new();
        second.read_to_string(&mut text).unwrap();
        text
    });
    rig.finish();
    assert!(reads.join().unwrap().ends_with("60000\ndone\n"));
}

#[test]
fn close_passes_on_what_was_written_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let stdin = fifo(folder.path(), "in");
    let file = folder.path().join("out").display().to_string();
    let stdout = format!("file://{file}");
    let mut rig = start(plan([&stdin, &stdout, ""]), folder, "cat; echo end");
    let mut writer = open_nonblock(&stdin, true);
    writer.write_all(&pattern(50_000)).unwrap();
    // The writer stays: only CloseIO ends the input.
    rig.io.input.as_mut().unwrap().close(&mut [0; SCRATCH]);
    rig.finish();
    let got = std::fs::read(&file).unwrap();
    assert!(got[..50_000] == pattern(50_000) && &got[50_000..] == b"end\n");
    drop(writer);
}

#[test]
fn a_process_that_closes_its_input_does_not_stop_the_loop() {
    let folder = tempfile::tempdir().unwrap();
    let stdin = fifo(folder.path(), "in");
    let mut rig = start(plan([&stdin, "", ""]), folder, "exec 0<&-; sleep 0.2");
    let mut writer = open_nonblock(&stdin, true);
    let _ = writer.write(&pattern(60_000));
    rig.finish();
}

#[test]
fn a_grandchild_that_holds_stdout_is_reported_as_held() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out").display().to_string();
    let uri = format!("file://{file}");
    let mut rig = start(plan(["", &uri, ""]), folder, "sleep 1 & echo first");
    rig.until(|r| r.exited.is_some());
    assert_eq!(rig.io.drain(&mut [0; SCRATCH]), Drain::Held);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "first\n");
    rig.finish();
}

#[test]
fn the_log_and_a_file_get_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let file = folder.path().join("out").display().to_string();
    let uri = format!("file://{file}");
    let plan = Plan {
        log: Some(Log::open(&log).unwrap()),
        ..plan(["", &uri, ""])
    };
    let mut rig = start(plan, folder, "echo out; echo err >&2; printf end");
    rig.finish();
    assert_eq!(
        std::fs::read_to_string(rig.path("out")).unwrap(),
        "out\nend"
    );
    let log = std::fs::read_to_string(rig.path("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().map(|l| &l[31..]).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F out", "stdout P end"]);
}

#[test]
fn a_logger_program_gets_both_streams_and_its_arguments() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("logger");
    let out = folder.path().join("got").display().to_string();
    std::fs::write(
        &script,
        "#!/bin/sh\nexec >\"$2\"\necho \"$CONTAINER_ID $CONTAINER_NAMESPACE $1\"\nexec 5>&-\ncat <&3\ncat <&4\n",
    )
    .unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let uri = format!("binary://{}?to={out}", script.display());
    let mut rig = start(plan(["", &uri, &uri]), folder, "echo out; echo err >&2");
    rig.finish();
    let end = Instant::now() + Duration::from_secs(10);
    while !std::fs::read_to_string(&out)
        .unwrap_or_default()
        .ends_with("err\n")
    {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(
        std::fs::read_to_string(&out).unwrap(),
        "test test to\nout\nerr\n"
    );
}

fn attached(rig: &mut Rig, hello: Hello) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut client = Client::new(rig.io.clients.len() as u32, OwnedFd::from(ours));
    client.welcome(hello);
    rig.io.add_client(client, &mut [0; SCRATCH]);
    theirs
}

fn frames(mut socket: UnixStream) -> Vec<Frame> {
    let (mut bytes, mut decoder, mut frames) = (Vec::new(), Decoder::default(), Vec::new());
    socket.read_to_end(&mut bytes).unwrap();
    decoder.feed(&bytes);
    while let Some(frame) = decoder.next_frame().unwrap() {
        frames.push(frame);
    }
    frames
}

fn all() -> Hello {
    Hello {
        stdin: true,
        stdout: true,
        stderr: true,
        ..Hello::default()
    }
}

fn bytes_of(frames: &[Frame], kind: u8) -> Vec<u8> {
    frames
        .iter()
        .filter(|f| f.kind == kind)
        .flat_map(|f| f.payload.clone())
        .collect()
}

#[test]
fn attached_clients_get_everything_and_a_slow_one_slows() {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        await_client: true,
        ..plan(["attach:", "attach:", "attach:"])
    };
    let mut rig = start(plan, folder, "cat; echo err >&2");
    let fast = attached(&mut rig, all());
    let slow = attached(
        &mut rig,
        Hello {
            stdin: false,
            ..all()
        },
    );
    let data = pattern(3 << 20);
    let mut input = Vec::new();
    attach::encode(&mut input, attach::STDIN, &data);
    attach::encode(&mut input, attach::STDIN_END, &[]);
    let mut sender = fast.try_clone().unwrap();
    let sends = std::thread::spawn(move || sender.write_all(&input).unwrap());
    let first = std::thread::spawn(move || frames(fast));
    let begun = Instant::now();
    rig.until(|_| begun.elapsed() > Duration::from_millis(200));
    assert!(rig.exited.is_none(), "the slow client has read nothing");
    let second = std::thread::spawn(move || frames(slow));
    rig.finish();
    sends.join().unwrap();
    for reader in [first, second] {
        let frames = reader.join().unwrap();
        assert_eq!(frames[0].kind, attach::HELLO);
        assert!(bytes_of(&frames, attach::STDOUT) == data);
        assert_eq!(bytes_of(&frames, attach::STDERR), b"err\n");
    }
}

#[test]
fn a_client_that_vanishes_lets_the_process_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(plan(["", "attach:", ""]), folder, "seq 1 100000");
    let client = attached(&mut rig, all());
    let begun = Instant::now();
    rig.until(|_| begun.elapsed() > Duration::from_millis(100));
    assert!(rig.exited.is_none());
    drop(client);
    rig.finish();
}

#[test]
fn a_client_of_another_protocol_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let mut rig = start(plan(["attach:", "attach:", ""]), folder, "cat");
    let mut client = attached(&mut rig, all());
    client.write_all(&[77; 100]).unwrap();
    rig.until(|r| r.io.clients.is_empty());
    rig.finish();
}

#[test]
fn the_end_of_a_terminal_is_the_end_of_its_output() {
    let devpts = rustix::fs::open(
        "/dev/pts",
        rustix::fs::OFlags::PATH,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let terminal = pty::open(&devpts).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("out").display().to_string();
    let uri = format!("file://{file}");
    let (prepared, _) = prepare(Plan {
        terminal: true,
        ..plan(["attach:", &uri, ""])
    })
    .unwrap();
    let slave = || terminal.slave.try_clone().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "stty size; read x; echo got $x"]);
    command.stdin(slave()).stdout(slave()).stderr(slave());
    let child = command.spawn().unwrap();
    drop(command);
    let mut rig = Rig {
        folder,
        io: prepared.finish(Some(terminal.master)).unwrap(),
        child,
        exited: None,
    };
    rig.io.resize(attach::Size { rows: 33, cols: 77 }).unwrap();
    drop(terminal.slave);
    let mut client = attached(&mut rig, all());
    let mut input = Vec::new();
    attach::encode(&mut input, attach::STDIN, b"word\n");
    client.write_all(&input).unwrap();
    rig.finish();
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains("got word"), "{text:?}");
}
