//! runc's command line, as podman, containerd and CRI-O use it: words that they look for, sockets that they listen
//! at, exit codes.

use std::io::Write as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Bundle, ours, runtime, text};

/// With a log, as callers have it; returns its last line.
fn logged(bundle: &Bundle, args: &[&str]) -> (i32, Value) {
    let log = bundle.dir.path().join("calls.json");
    let _ = std::fs::remove_file(&log);
    let global = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let output = bundle.oci([&global[..], args].concat());
    let lines = std::fs::read_to_string(&log).unwrap_or_default();
    let last = lines.lines().last().unwrap_or("null");
    (
        output.status.code().unwrap(),
        serde_json::from_str(last).unwrap(),
    )
}

#[test]
fn signals_that_come_too_late_are_told_in_the_words_that_containerd_knows() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let pid = bundle.pid();
    bundle.ok(["kill", &bundle.id, "0"]);
    bundle.ok(["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped(pid);
    let (code, line) = logged(&bundle, &["kill", &bundle.id, "TERM"]);
    assert_eq!((code, &line["level"]), (1, &json!("error")));
    let message = line["msg"].as_str().unwrap();
    assert!(message.contains("container not running"), "{message}");
    assert!(line["time"].as_str().unwrap().contains('T'));
    bundle.ok(["kill", "--all", &bundle.id, "KILL"]);
    for command in [
        "kill", "delete", "state", "start", "ps", "pause", "resume", "update", "events",
    ] {
        let (code, line) = logged(&bundle, &[command, "it-none"]);
        let message = line["msg"].as_str().unwrap_or_default();
        assert!(message.contains("does not exist"), "{command}: {message}");
        assert_eq!(code, 1, "{command}");
    }
    let (code, line) = logged(&bundle, &["exec", "it-none", "true"]);
    assert!(line["msg"].as_str().unwrap().contains("does not exist"));
    if ours() {
        assert_eq!(code, 255);
    }
    let (_, line) = logged(&bundle, &["kill", &bundle.id, "NOPE"]);
    assert!(
        line["msg"]
            .as_str()
            .unwrap()
            .contains("unknown signal \"NOPE\"")
    );
}

#[test]
fn a_killed_container_without_a_pid_namespace_leaves_nobody() {
    let mut bundle = Bundle::script("sleep 1000 & sleep 1001 & wait");
    bundle.namespaces(|n| n.retain(|n| n["type"] != "pid"));
    bundle.up();
    let mut pids: Vec<i32> = Vec::new();
    while pids.len() < 3 {
        pids = serde_json::from_str(&bundle.ok(["ps", "--format", "json", &bundle.id])).unwrap();
    }
    bundle.ok(["kill", &bundle.id, "KILL"]);
    for pid in pids {
        bundle.wait_stopped(pid);
    }
}

#[test]
fn options_come_before_and_after_the_id() {
    if !ours() {
        return; // crun refuses the latter
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.write();
    let folder = bundle.dir.path().to_str().unwrap();
    let pid_file = bundle.dir.path().join("pid");
    let quiet = |args: &[&str]| {
        let mut command = bundle.command(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "{args:?}");
    };
    quiet(&[
        "create",
        &bundle.id,
        "--bundle",
        folder,
        "--pid-file",
        pid_file.to_str().unwrap(),
    ]);
    assert_eq!(
        std::fs::read_to_string(pid_file).unwrap(),
        bundle.pid().to_string()
    );
    quiet(&["start", &bundle.id]);
    let json = bundle.ok(["ps", &bundle.id, "--format", "json"]);
    assert_eq!(json, bundle.ok(["ps", "-f", "json", &bundle.id]));
    quiet(&["kill", &bundle.id, "--all", "KILL"]);
    bundle.wait_stopped(serde_json::from_str::<Vec<i32>>(&json).unwrap()[0]);
    quiet(&["delete", &bundle.id, "--force"]);
}

/// The descriptor and the bytes that came to a socket.
fn received(socket: &UnixListener) -> (String, OwnedFd) {
    let (stream, _) = socket.accept().unwrap();
    let (mut bytes, mut fds) = ([0; 64], Vec::new());
    let len = corten_sys::socket::receive_fds(&stream, &mut bytes, &mut fds).unwrap();
    (text(&bytes[..len]), fds.pop().unwrap())
}

/// Whose a pidfd is (proc(5), fdinfo).
fn process_of(pidfd: &OwnedFd) -> i32 {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let info = std::fs::read_to_string(path).unwrap();
    let line = info.lines().find_map(|l| l.strip_prefix("Pid:"));
    line.unwrap().trim().parse().unwrap()
}

#[test]
fn a_pidfd_is_sent_to_whom_asks_for_it() {
    if !ours() {
        return; // runc 1.1 has no such option
    }
    let mut bundle = Bundle::new(&["sleep", "100"]);
    let path = bundle.dir.path().join("pidfd.sock");
    let path = path.to_str().unwrap();
    let socket = UnixListener::bind(path).unwrap();
    // crun's way to ask for it.
    bundle.config["annotations"] = json!({"run.oci.pidfd_receiver": path});
    bundle.up();
    let (kind, pidfd) = received(&socket);
    assert_eq!(
        (kind.as_str(), process_of(&pidfd)),
        ("standard", bundle.pid())
    );
    let pid_file = bundle.dir.path().join("exec.pid");
    let mut exec = bundle.command(["exec", "--detach", "--pidfd-socket", path, "--pid-file"]);
    exec.arg(&pid_file)
        .args([&bundle.id, "sleep", "100"])
        .stdout(Stdio::null());
    assert!(exec.status().unwrap().success());
    let (kind, pidfd) = received(&socket);
    let pid = std::fs::read_to_string(pid_file).unwrap();
    assert_eq!(
        (kind.as_str(), process_of(&pidfd).to_string()),
        ("setns", pid)
    );
    let missing = bundle.oci(["exec", "--pidfd-socket", "/no/such", &bundle.id, "true"]);
    assert_eq!(missing.status.code(), Some(255));
    assert!(text(&missing.stderr).contains("pidfd socket"));
}

/// `run` with descriptors 3 and 4 open, as process `$$`.
fn activated(bundle: &Bundle, variables: &str, options: &[&str]) -> Output {
    bundle.write();
    let notes = bundle.dir.path().join("notes");
    std::fs::write(&notes, "three\nfour\n").unwrap();
    let script = format!("exec 3<\"$1\" 4<\"$1\"; shift; {variables} exec \"$@\"");
    let mut command = Command::new("sh");
    command
        .args(["-c", &script, "sh"])
        .arg(notes)
        .arg(runtime());
    command
        .arg("--root")
        .arg(bundle.state_root())
        .arg("run")
        .args(options);
    command
        .arg("--bundle")
        .arg(bundle.dir.path())
        .arg(&bundle.id);
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn sockets_of_systemd_are_handed_on() {
    let bundle =
        Bundle::script("echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4; ls /proc/self/fd | wc -l");
    // 0, 1, 2, what it is to have, and the folder that ls reads.
    let output = activated(
        &bundle,
        "LISTEN_FDS=1 LISTEN_PID=$$",
        &["--preserve-fds", "1"],
    );
    assert_eq!(
        text(&output.stdout),
        "1 1\nthree\nfour\nthree\nfour\n6\n",
        "{}",
        text(&output.stderr)
    );
    // Those of another process are not ours to pass on.
    let bundle = Bundle::script("echo $LISTEN_FDS$LISTEN_PID; cat <&3; ls /proc/self/fd | wc -l");
    let output = activated(&bundle, "LISTEN_FDS=2 LISTEN_PID=1", &[]);
    assert!(
        text(&output.stdout).ends_with("4\n"),
        "{}",
        text(&output.stdout)
    );
    assert!(
        !text(&output.stdout).contains("three"),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn exec_into_a_paused_container_waits_if_it_is_told_to() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    bundle.ok(["pause", &bundle.id]);
    let refused = bundle.oci(["exec", &bundle.id, "true"]);
    assert_eq!(refused.status.code(), Some(255));
    assert!(
        text(&refused.stderr).contains("paused"),
        "{}",
        text(&refused.stderr)
    );
    if !ours() {
        return bundle.ok(["resume", &bundle.id]).clear();
    }
    let mut exec = bundle.command(["exec", "--ignore-paused", &bundle.id, "echo", "awake"]);
    let exec = exec
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(bundle.status(), "paused");
    bundle.ok(["resume", &bundle.id]);
    let output = exec.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout), "awake\n");
}

#[test]
fn exec_into_a_group_below() {
    if !ours() || !Path::new("/sys/fs/cgroup/pids").exists() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let group = Path::new("/sys/fs/cgroup/pids/corten-it").join(&bundle.id);
    std::fs::create_dir(group.join("below")).unwrap();
    let output = bundle.ok([
        "exec",
        "--cgroup",
        "pids:below",
        &bundle.id,
        "cat",
        "/proc/self/cgroup",
    ]);
    let line = |name: &str| {
        output
            .lines()
            .find(|l| l.contains(name))
            .unwrap()
            .to_owned()
    };
    assert!(line(":pids:").ends_with("/below"), "{output}");
    assert!(line(":freezer:").ends_with(":/"), "{output}");
    for (group, message) in [
        ("below", "a controller must be named"),
        ("nope:below", "no hierarchy of this host has the controller"),
        ("pids:no/such", "no/such"),
        ("pids:../..", "relative name"),
        ("pids,pids:below", "named once"),
    ] {
        let output = bundle.oci(["exec", "--cgroup", group, &bundle.id, "true"]);
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(255), "{group}: {error}");
        assert!(error.contains(message), "{group}: {error}");
    }
}

/// Version 2 alone, in a mount namespace of the script's own. The container's init manages groups: it has moved to a
/// leaf, and its own group takes nobody any more.
#[test]
fn exec_goes_where_init_went() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.write();
    let script = r#"
        set -e
        umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup
        own() { "$RUNTIME" --root "$STATE" "$@"; }
        own create --bundle "$BUNDLE" "$ID" >/dev/null 2>&1 </dev/null; own start "$ID"
        group=/sys/fs/cgroup/corten-it/$ID
        mkdir $group/leaf $group/other
        cat $group/cgroup.procs > $group/leaf/cgroup.procs
        grep -q hugetlb $group/cgroup.controllers || { own delete --force "$ID"; echo no controller; exit; }
        echo +hugetlb > $group/cgroup.subtree_control
        own exec "$ID" grep ^0: /proc/self/cgroup
        own exec --cgroup other "$ID" grep ^0: /proc/self/cgroup
        own exec --cgroup / "$ID" true && echo in || echo refused $?
        own delete --force "$ID"
    "#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command
        .env("RUNTIME", runtime())
        .env("STATE", bundle.state_root());
    command
        .env("BUNDLE", bundle.dir.path())
        .env("ID", &bundle.id);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let out = text(&output.stdout);
    if out == "no controller\n" {
        return; // nothing to enforce the rule with
    }
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(
        out,
        "0::/leaf\n0::/other\nrefused 255\n",
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn exit_codes_of_exec() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    for (command, code) in [
        ("no-such", 127),
        ("/etc/passwd", 126),
        ("false", 1),
        ("true", 0),
    ] {
        let output = bundle.oci(["exec", &bundle.id, command]);
        assert_eq!(output.status.code(), Some(code), "{command}");
    }
}

#[test]
fn ps_has_the_columns_that_are_asked_for() {
    if !ours() {
        return;
    }
    let bundle = Bundle::script("sleep 100 & exec sleep 101");
    bundle.up();
    let table = |args: &[&str]| bundle.ok([&["ps", bundle.id.as_str()], args].concat());
    let full = table(&[]);
    assert!(full.starts_with("UID"), "{full}");
    assert_eq!(full.lines().next(), table(&["-ef"]).lines().next());
    assert!(full.contains("sleep 101"), "{full}");
    assert!(table(&["aux"]).starts_with("USER"));
    let pids = table(&["-o", "pid=ID,comm"]);
    assert!(
        pids.starts_with("ID ") && pids.contains(&bundle.pid().to_string()),
        "{pids}"
    );
    let output = bundle.oci(["ps", &bundle.id, "--forest"]);
    assert!(
        text(&output.stderr).contains("--forest of ps"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn limits_are_read_from_stdin_and_from_options() {
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let read = |controller: &str, file: &str| {
        let group = Path::new("/sys/fs/cgroup")
            .join(controller)
            .join("corten-it")
            .join(&bundle.id);
        std::fs::read_to_string(group.join(file))
            .unwrap()
            .trim()
            .to_owned()
    };
    let mut update = bundle.command(["update", "--resources=-", &bundle.id]);
    let mut update = update.stdin(Stdio::piped()).spawn().unwrap();
    let limits = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 77}});
    update
        .stdin
        .take()
        .unwrap()
        .write_all(limits.to_string().as_bytes())
        .unwrap();
    assert!(update.wait().unwrap().success());
    assert_eq!(
        read("memory", "memory.limit_in_bytes"),
        (64 << 20).to_string()
    );
    assert_eq!(read("pids", "pids.max"), "77");
    bundle.ok([
        "update",
        "--memory",
        "128m",
        "--cpu-share",
        "200",
        "--pids-limit",
        "-1",
        &bundle.id,
    ]);
    assert_eq!(
        read("memory", "memory.limit_in_bytes"),
        (128 << 20).to_string()
    );
    assert_eq!(read("cpu", "cpu.shares"), "200");
    assert_eq!(read("pids", "pids.max"), "max");
    if ours() {
        let output = bundle.oci(["update", "--l3-cache-schema", "L3:0=f", &bundle.id]);
        assert!(text(&output.stderr).contains("--l3-cache-schema is not supported"));
        let output = bundle.oci(["update", "--kernel-memory", "64m", &bundle.id]);
        assert!(output.status.success() && text(&output.stderr).contains("obsolete"));
    }
}

#[test]
fn a_log_is_a_file_or_stderr() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["true"]);
    let output = bundle.oci(["--log-format", "json", "state", "it-none"]);
    let line: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(line["msg"], "container it-none does not exist");
    for log in ["journald:it", "syslog:it"] {
        let output = bundle.oci(["--log", log, "state", "it-none"]);
        assert!(text(&output.stderr).contains("as a file only"));
        assert_eq!(output.status.code(), Some(1));
    }
    let file = bundle.dir.path().join("log");
    let form = format!("file:{}", file.display());
    bundle.oci(["--log", &form, "--debug", "state", "it-none"]);
    let line = std::fs::read_to_string(&file).unwrap();
    assert!(
        line.contains("level=error msg=\"container it-none does not exist\""),
        "{line}"
    );
}
