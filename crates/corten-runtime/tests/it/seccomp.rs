//! Seccomp beyond the plain policy: agents that answer calls, flags, old and foreign ABIs.

use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use corten_sys::Errno;
use corten_sys::seccomp::listener::{Answer, answer, next};
use serde_json::{Value, json};

use crate::harness::{Bundle, error, ours, text};

/// Answers calls until nobody is left to make any: `mkdir` does nothing and succeeds, what else is asked about goes on.
struct Agent {
    path: PathBuf,
    /// The state document, and how many calls were answered.
    thread: JoinHandle<(Value, usize)>,
}

const MKDIR: u32 = 83;

impl Agent {
    fn listen(bundle: &Bundle) -> Self {
        let path = bundle.dir.path().join("agent.sock");
        let _ = std::fs::remove_file(&path);
        let socket = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (stream, _) = socket.accept().unwrap();
            let (state, listener) = hear(stream);
            let mut count = 0;
            while wait(&listener) {
                let Ok(waiting) = next(&listener) else {
                    continue; // interrupted before we took it up
                };
                count += 1;
                let verdict = match waiting.call.number {
                    MKDIR => Answer::Value(0),
                    _ => Answer::Continue,
                };
                match answer(&listener, waiting.id, verdict) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => panic!("{errno}"),
                }
            }
            (state, count)
        });
        Self { path, thread }
    }

    fn end(self) -> (Value, usize) {
        self.thread.join().unwrap()
    }
}

/// One state to a connection, with one descriptor.
fn hear(mut stream: UnixStream) -> (Value, OwnedFd) {
    let mut bytes = [0; 4096];
    let mut fds = Vec::new();
    let len = corten_sys::socket::receive_fds(&stream, &mut bytes, &mut fds).unwrap();
    let mut text = bytes[..len].to_vec();
    stream.read_to_end(&mut text).unwrap();
    (serde_json::from_slice(&text).unwrap(), fds.pop().unwrap())
}

/// `false`: every process under the filter has ended.
fn wait(listener: &OwnedFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    assert_ne!(poll(&mut fds, Some(&limit)).unwrap(), 0, "nobody calls");
    !fds[0].revents().contains(PollFlags::HUP)
}

fn ask(bundle: &mut Bundle, agent: &Agent, names: &[&str]) {
    bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_LOG"],
            "listenerPath": agent.path,
            "listenerMetadata": "MKDIR=\"yes\"",
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
        }),
    );
}

#[test]
fn an_agent_answers_what_run_asks() {
    if !ours() {
        return; // runc 1.1 knows neither flag
    }
    // By the trampoline, and by init itself.
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::script("mkdir /tmp/x && ls /tmp && echo done");
        let agent = Agent::listen(&bundle);
        ask(&mut bundle, &agent, &["mkdir", "execve"]);
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges));
        bundle.config["annotations"] = json!({"a": "b"});
        let output = bundle.run();
        assert_eq!(text(&output.stdout), "done\n", "{}", text(&output.stderr));
        let (state, count) = agent.end();
        assert!(count >= 2, "mkdir and execve: {count}");
        assert_eq!(state["fds"], json!(["seccompFd"]));
        assert_eq!(state["metadata"], "MKDIR=\"yes\"");
        assert_eq!(state["pid"], state["state"]["pid"]);
        assert_eq!(state["state"]["id"], bundle.id.as_str());
        assert_eq!(state["state"]["status"], "creating");
        assert_eq!(state["state"]["annotations"]["a"], "b");
    }
}

#[test]
fn an_agent_answers_what_a_started_container_and_exec_ask() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script("mkdir /tmp/x && while :; do sleep 1; done");
    let agent = Agent::listen(&bundle);
    ask(&mut bundle, &agent, &["mkdir"]);
    bundle.up();
    let pid = bundle.pid();
    let own = Agent::listen(&bundle);
    let output = bundle.oci([
        "exec",
        &bundle.id,
        "sh",
        "-c",
        "mkdir /tmp/y && ls /tmp; echo ok",
    ]);
    assert_eq!(text(&output.stdout), "ok\n", "{}", text(&output.stderr));
    let (state, count) = own.end();
    assert_eq!(count, 1);
    assert_ne!(state["pid"], json!(pid));
    assert_eq!(state["state"]["pid"], json!(pid));
    assert_eq!(state["state"]["status"], "running");
    bundle.ok(["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped(pid);
    let (state, count) = agent.end();
    assert_eq!((&state["pid"], count), (&json!(pid), 1));
}

#[test]
fn without_its_agent_nothing_starts() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::new(&["sleep", "100"]);
    let nobody = Agent {
        path: bundle.dir.path().join("no.sock"),
        thread: std::thread::spawn(|| (Value::Null, 0)),
    };
    ask(&mut bundle, &nobody, &["mkdir"]);
    assert!(error(&bundle, 1).contains("seccomp agent"));
    let (code, log) = bundle.create();
    assert_eq!(code, 0, "{log}");
    let output = bundle.oci(["start", &bundle.id]);
    assert!(text(&output.stderr).contains("seccomp agent"));
    assert_eq!(bundle.status(), "created");
}

#[test]
fn an_agent_that_hangs_up_ends_the_process() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script("echo never");
    let path = bundle.dir.path().join("agent.sock");
    let socket = UnixListener::bind(&path).unwrap();
    let deaf = Agent {
        path,
        thread: std::thread::spawn(|| (Value::Null, 0)),
    };
    // It asks about execve, so the program cannot have begun.
    ask(&mut bundle, &deaf, &["execve"]);
    let shut = std::thread::spawn(move || drop(socket.accept().unwrap()));
    let output = bundle.run();
    shut.join().unwrap();
    assert_ne!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn names_that_no_kernel_knows_are_left_out() {
    let mut bundle = Bundle::script("mkdir /tmp/x || echo denied");
    bundle.set(
        "/linux/seccomp",
        json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_ARM", "SCMP_ARCH_S390X"],
            "syscalls": [{
                "names": ["no_such_call", "mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13,
            }],
        }),
    );
    assert_eq!(crate::harness::stdout(&bundle), "denied\n");
}
