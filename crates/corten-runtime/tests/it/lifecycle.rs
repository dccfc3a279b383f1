//! Verbs and states, as engines use them.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::{Bundle, ours, stdout, text};

#[test]
fn a_life_from_create_to_delete() {
    let bundle = Bundle::new(&["sleep", "100"]);
    let (code, log) = bundle.create();
    assert_eq!(code, 0, "{log}");
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], bundle.id.as_str());
    assert_eq!(state["bundle"], bundle.dir.path().to_str().unwrap());
    let pid = bundle.pid();
    bundle.ok(["start", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    assert_eq!(name, "sleep\n");
    assert!(!bundle.oci(["start", &bundle.id]).status.success());
    assert!(!bundle.oci(["delete", &bundle.id]).status.success());
    bundle.ok(["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped(pid);
    assert_eq!(bundle.status(), "stopped");
    let late = bundle.oci(["kill", &bundle.id, "TERM"]);
    assert!(
        text(&late.stderr).contains("container not running"),
        "{}",
        text(&late.stderr)
    );
    bundle.ok(["delete", &bundle.id]);
    let gone = bundle.oci(["state", &bundle.id]);
    assert!(
        text(&gone.stderr).contains("does not exist"),
        "{}",
        text(&gone.stderr)
    );
}

#[test]
fn an_id_is_taken_once() {
    let bundle = Bundle::new(&["sleep", "100"]);
    assert_eq!(bundle.create().0, 0);
    let (code, log) = bundle.create();
    assert_ne!(code, 0);
    assert!(log.contains("exist"), "{log}");
    assert_eq!(bundle.status(), "created");
}

#[test]
fn a_failed_create_leaves_nothing() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.mount(
        json!({"destination": "/x", "type": "bind", "source": "/no/such", "options": ["bind"]}),
    );
    let (code, log) = bundle.create();
    assert_ne!(code, 0);
    assert!(log.contains("/no/such"), "{log}");
    assert!(!bundle.oci(["state", &bundle.id]).status.success());
}

#[test]
fn exec_adds_a_process() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let exec = |args: &[&str]| bundle.oci([&["exec", bundle.id.as_str()], args].concat());
    let output = exec(&["sh", "-c", "echo in; exit 7"]);
    assert_eq!(
        (output.status.code(), text(&output.stdout).as_str()),
        (Some(7), "in\n")
    );
    let status = text(&exec(&["cat", "/proc/self/status"]).stdout);
    assert!(status.contains("CapEff:\t0000000020000420"), "{status}");
    assert!(status.contains("CapInh:\t0000000000000000"), "{status}");
    // The same namespaces, cgroup and descriptors as init's child would have.
    let inside = text(
        &exec(&[
            "sh",
            "-c",
            "readlink /proc/1/ns/net; readlink /proc/self/ns/net; cat /proc/self/cgroup",
        ])
        .stdout,
    );
    let lines: Vec<&str> = inside.lines().collect();
    assert_eq!(lines[0], lines[1]);
    assert!(lines[2..].iter().all(|l| l.ends_with(":/")), "{inside}");
    let open = text(&exec(&["sh", "-c", "ls /proc/self/fd | wc -l"]).stdout);
    assert_eq!(open, "4\n");
    if ours() {
        assert_eq!(exec(&["nope"]).status.code(), Some(127));
        assert_eq!(exec(&["/etc/passwd"]).status.code(), Some(126));
    }
}

#[test]
fn exec_takes_options_and_documents() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let args = [
        "exec",
        "--user",
        "1000:1001",
        "--cwd",
        "/etc",
        "--env",
        "A=b",
        &bundle.id,
    ];
    let script = ["sh", "-c", "id -u; id -g; pwd; echo $A"];
    assert_eq!(
        bundle.ok([&args[..], &script[..]].concat()),
        "1000\n1001\n/etc\nb\n"
    );
    let file = bundle.dir.path().join("process.json");
    let document = json!({"args": ["sh", "-c", "id -u; cat /proc/self/oom_score_adj"], "cwd": "/",
        "user": {"uid": 7, "gid": 7}, "env": ["PATH=/bin"], "oomScoreAdj": 500});
    std::fs::write(&file, document.to_string()).unwrap();
    let out = bundle.ok(["exec", "--process", file.to_str().unwrap(), &bundle.id]);
    assert!(out.starts_with("7\n"), "{out}");
    let pid_file = bundle.dir.path().join("exec.pid");
    let mut command = bundle.command(["exec", "--detach", "--pid-file"]);
    command.arg(&pid_file).arg(&bundle.id).args(["sleep", "50"]);
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    assert!(quiet.status().unwrap().success());
    let pid: i32 = std::fs::read_to_string(pid_file)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let pids: Value =
        serde_json::from_str(&bundle.ok(["ps", "--format", "json", &bundle.id])).unwrap();
    assert!(pids.as_array().unwrap().contains(&json!(pid)), "{pids}");
}

#[test]
fn exec_users_are_numbers_only() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    for bad in [
        "root",
        "1x",
        "",
        "-1",
        "4294967295",
        "1:",
        ":1",
        "1:2:3",
        " 1",
    ] {
        let output = bundle.oci(["exec", "--user", bad, &bundle.id, "true"]);
        assert!(!output.status.success(), "{bad:?}");
        assert!(
            text(&output.stderr).contains("user and group ids"),
            "{bad:?}"
        );
    }
}

/// Receives the terminal that a runtime sends to a console socket.
fn receive(listener: &UnixListener) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let mut io = [std::io::IoSliceMut::new(&mut name)];
    recvmsg(&stream, &mut io, &mut control, RecvFlags::empty()).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.unwrap()
}

fn read_until(terminal: &OwnedFd, wanted: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !text(&seen).contains(wanted) {
        match rustix::io::read(terminal, &mut buffer) {
            Ok(len) if len > 0 => seen.extend_from_slice(&buffer[..len]),
            end => panic!("{end:?} before {wanted:?} in {:?}", text(&seen)),
        }
    }
    text(&seen)
}

#[test]
fn a_terminal_comes_by_the_console_socket() {
    let mut bundle = Bundle::script("tty; stty size; read line; echo got $line; sleep 100");
    bundle
        .set("/process/terminal", json!(true))
        .set("/process/consoleSize", json!({"height": 33, "width": 99}));
    bundle.write();
    let path = bundle.dir.path().join("console.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut command = bundle.command(["create", "--console-socket"]);
    command
        .arg(&path)
        .arg("--bundle")
        .arg(bundle.dir.path())
        .arg(&bundle.id);
    let mut create = command.spawn().unwrap();
    let terminal = receive(&listener);
    assert!(create.wait().unwrap().success());
    bundle.ok(["start", &bundle.id]);
    let seen = read_until(&terminal, "33 99");
    assert!(
        seen.contains("/dev/pts/0") || seen.contains("/dev/console"),
        "{seen}"
    );
    rustix::io::write(&terminal, b"hello\n").unwrap();
    read_until(&terminal, "got hello");
    let mut command = bundle.command(["exec", "--tty", "--detach", "--console-socket"]);
    command
        .arg(&path)
        .arg(&bundle.id)
        .args(["sh", "-c", "tty; sleep 100"]);
    let mut exec = command.spawn().unwrap();
    let second = receive(&listener);
    assert!(exec.wait().unwrap().success());
    read_until(&second, "/dev/pts/1");
}

#[test]
fn pause_and_resume() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    bundle.ok(["pause", &bundle.id]);
    assert_eq!(bundle.status(), "paused");
    assert!(!bundle.oci(["exec", &bundle.id, "true"]).status.success());
    bundle.ok(["resume", &bundle.id]);
    assert_eq!(bundle.status(), "running");
    bundle.ok(["pause", &bundle.id]);
    bundle.ok(["delete", "--force", &bundle.id]);
}

#[test]
fn limits_are_applied_and_updated() {
    let mut bundle = Bundle::new(&["sleep", "100"]);
    bundle.set("/linux/resources/pids", json!({"limit": 40}));
    bundle.up();
    let limit = || {
        let script = "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null";
        text(&bundle.oci(["exec", &bundle.id, "sh", "-c", script]).stdout)
    };
    assert_eq!(limit(), "40\n");
    bundle.ok(["update", "--pids-limit", "50", &bundle.id]);
    assert_eq!(limit(), "50\n");
    let mut command = bundle.command(["update", "--resources", "-", &bundle.id]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(br#"{"pids":{"limit":60}}"#)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(limit(), "60\n");
}

#[test]
fn intel_rdt_is_refused_where_there_is_none() {
    if std::path::Path::new("/sys/fs/resctrl/schemata").exists() || !ours() {
        println!("skipped: resctrl is mounted here");
        return;
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.set("/linux/intelRdt", json!({"closID": "gold"}));
    let (code, log) = bundle.create();
    assert_eq!(code, 1);
    assert!(
        log.contains("cannot use Intel RDT: cannot apply linux.intelRdt: this host has no resctrl"),
        "{log}"
    );
}

#[test]
fn hooks_run_in_their_order_and_places() {
    let mut bundle = Bundle::script("echo main >> /order");
    let order = bundle.root().join("order");
    let hook = |name: &str| {
        let script = format!("cat > /dev/null; echo {name} >> {}", order.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/state; echo startContainer >> /order"],
        "env": ["PATH=/bin"]}]);
    bundle.config["hooks"] = json!({
        "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
        "createContainer": hook("createContainer"), "startContainer": inside,
        "poststart": hook("poststart"), "poststop": hook("poststop"),
    });
    let (code, log) = bundle.create();
    assert_eq!(code, 0, "{log}");
    let pid = bundle.pid();
    bundle.ok(["start", &bundle.id]);
    bundle.wait_stopped(pid);
    bundle.ok(["delete", &bundle.id]);
    let seen = std::fs::read_to_string(&order).unwrap();
    let mut lines: Vec<&str> = seen.lines().collect();
    // main and poststart are at the same time.
    let main = lines.iter().position(|l| *l == "main").unwrap();
    assert!(main >= 4, "{seen}");
    lines.remove(main);
    if !ours() {
        lines.sort_unstable(); // runc runs poststart before the program has been told to start.
    }
    let mut expected = [
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    if !ours() {
        expected.sort_unstable();
    }
    assert_eq!(lines, expected);
    let state = std::fs::read_to_string(bundle.root().join("tmp/state")).unwrap();
    let state: Value = serde_json::from_str(&state).unwrap();
    assert_eq!(state["id"], bundle.id.as_str());
}

#[test]
fn a_failed_hook_fails_the_create() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    let (code, log) = bundle.create();
    assert_ne!(code, 0);
    assert!(log.contains("hook"), "{log}");
    bundle.config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]});
    assert_ne!(bundle.create().0, 0);
}

#[test]
fn delete_force_cleans_damaged_state() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let pid = bundle.pid();
    let state = bundle.state_root().join(&bundle.id).join("state.json");
    std::fs::write(&state, "{\"version\":1,").unwrap();
    let message = text(&bundle.oci(["state", &bundle.id]).stderr);
    assert!(message.contains("is damaged"), "{message}");
    assert!(!bundle.oci(["delete", &bundle.id]).status.success());
    assert!(bundle.ok(["list"]).contains("stopped"));
    bundle.ok(["delete", "--force", &bundle.id]);
    bundle.wait_stopped(pid);
    std::fs::create_dir_all(bundle.state_root().join(&bundle.id)).unwrap();
    bundle.ok(["delete", "--force", &bundle.id]);
}

#[test]
fn kill_all_reaches_every_process() {
    let bundle = Bundle::script("sleep 100 & sleep 100 & sleep 100");
    bundle.up();
    let pid = bundle.pid();
    bundle.ok(["kill", "--all", &bundle.id, "9"]);
    bundle.wait_stopped(pid);
    assert_eq!(bundle.status(), "stopped");
}

#[test]
fn a_shared_pid_namespace_is_emptied_by_delete() {
    let mut bundle = Bundle::script("sleep 1000 & exec sleep 1001");
    bundle.namespaces(|n| n.retain(|n| n["type"] != "pid"));
    bundle.up();
    let pids: Vec<i32> =
        serde_json::from_str(&bundle.ok(["ps", "-f", "json", &bundle.id])).unwrap();
    bundle.ok(["delete", "--force", &bundle.id]);
    for pid in pids {
        bundle.wait_stopped(pid);
    }
}

#[test]
fn documents_for_callers() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["true"]);
    let version = bundle.ok(["--version"]);
    let lines: Vec<&str> = version.lines().collect();
    assert!(lines[0].starts_with("corten-oci version "), "{version}");
    assert!(
        lines[1].starts_with("commit: ") && lines[2].starts_with("spec: 1."),
        "{version}"
    );
    let features: Value = serde_json::from_str(&bundle.ok(["features"])).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    bundle.ok(["spec", "--bundle", bundle.dir.path().to_str().unwrap()]);
    let spec = std::fs::read(bundle.dir.path().join("config.json")).unwrap();
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&spec).unwrap();
    assert_eq!(spec, corten_runtime::spec::default());
}

#[test]
fn errors_are_told_to_callers() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["true"]);
    let log = bundle.dir.path().join("log.json");
    let log_args = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let call = |args: &[&str]| {
        let output = bundle.oci([&log_args[..], args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let log = std::fs::read_to_string(&log).unwrap();
        let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
        assert_eq!(last["level"], "error");
        last["msg"].as_str().unwrap().to_owned()
    };
    assert_eq!(call(&["state", "none"]), "container none does not exist");
    assert_eq!(
        call(&["--cgroup-manager", "disabled", "start", "x"]),
        "--cgroup-manager: only cgroupfs and systemd are supported"
    );
    assert_eq!(call(&["create", "--nope", "x"]), "unknown option --nope");
    assert_eq!(call(&["frob"]), "unknown command \"frob\"");
    assert!(call(&["state", "../x"]).contains("container id"));
    assert!(call(&["create", "--bundle", "/no/such", "x"]).contains("/no/such"));
    assert!(call(&["kill", "x", "SIGNOPE"]).contains("SIGNOPE"));
}

#[test]
fn a_terminal_in_the_foreground_is_relayed() {
    if !ours() {
        return; // runc wants a terminal of its own for that.
    }
    let mut bundle = Bundle::script("tty; echo out");
    bundle.set("/process/terminal", json!(true));
    let out = stdout(&bundle);
    assert!(out.contains("out\r\n"), "{out:?}");
    assert!(out.contains("/dev/"), "{out:?}");
}

#[test]
fn list_and_quiet() {
    let bundle = Bundle::new(&["sleep", "100"]);
    assert_eq!(bundle.ok(["list", "-q"]), "");
    bundle.up();
    assert_eq!(bundle.ok(["list", "-q"]), format!("{}\n", bundle.id));
    let all: Value = serde_json::from_str(&bundle.ok(["list", "--format", "json"])).unwrap();
    assert_eq!(all[0]["status"], "running");
}

#[test]
fn a_long_state_folder_has_a_gate_too() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.write();
    let deep = bundle.dir.path().join("d".repeat(120));
    let call = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::harness::runtime());
        command
            .arg("--root")
            .arg(&deep)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command.status().unwrap().success()
    };
    assert!(call(&[
        "create",
        "-b",
        bundle.dir.path().to_str().unwrap(),
        &bundle.id
    ]));
    assert!(call(&["start", &bundle.id]));
    assert!(call(&["delete", "--force", &bundle.id]));
}
