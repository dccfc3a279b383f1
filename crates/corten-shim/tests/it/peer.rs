//! What containerd sees of our shim, beside what it sees of its own for runc, for the same requests.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use corten_shim::proto::task::{
    CloseIoRequest, ContainerRequest, DeleteRequest, ExecProcessRequest, KillRequest,
    ProcessRequest, ResizePtyRequest, UpdateTaskRequest,
};
use corten_shim::ttrpc::status::Code;
use corten_testkit::need;
use prost::Message;
use prost_types::Any;
use serde_json::{Value, json};

use super::containerd::{Containerd, IMAGE};
use super::raw::Raw;
use super::rig::eventually;

const OURS: &str = "io.containerd.corten.v2";
const THEIRS: &str = "io.containerd.runc.v2";
const TASK: &str = "containerd.task.v2.Task";

/// An event's topic and what is in it, but for times, process ids and paths.
fn known(line: &str) -> Option<(String, Value)> {
    let topic = line.split_whitespace().find(|w| w.starts_with("/tasks/"))?;
    let (_, text) = line.split_once(topic)?;
    let mut value: Value = serde_json::from_str(text.trim()).ok()?;
    let fields = value.as_object_mut()?;
    for field in ["pid", "exited_at", "bundle", "rootfs", "io", "checkpoint"] {
        fields.remove(field);
    }
    Some((topic.into(), value))
}

/// The events of a script of everyday work.
fn story(it: &Containerd, runtime: &str) -> Vec<(String, Value)> {
    let path = it.path().join(format!("events-{runtime}"));
    let file = fs::File::create(&path).unwrap();
    let mut listener = it.command(&["events"]).stdout(file).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let run = |flags: &[&str], id: &str, command: &[&str]| {
        let head = ["run", "--runtime", runtime];
        it.ctr(&[&head, flags, &[IMAGE, id], command].concat())
    };
    let done = || {
        let seen = fs::read_to_string(&path).unwrap();
        seen.lines().filter_map(known).collect::<Vec<_>>()
    };
    let output = run(&["--rm"], "short", &["sh", "-c", "exit 3"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = run(&["-d"], "box", &["sleep", "1000"]);
    assert!(output.status.success(), "{output:?}");
    it.ctr(&[
        "task",
        "exec",
        "--exec-id",
        "e1",
        "box",
        "sh",
        "-c",
        "exit 5",
    ]);
    it.ok(&["task", "pause", "box"]);
    it.ok(&["task", "resume", "box"]);
    it.ctr(&["task", "exec", "--exec-id", "bad", "box", "/bin/none"]);
    // Done where criu can, and refused by both where it cannot.
    let images = it.path().join(format!("images-{runtime}"));
    let images = images.display().to_string();
    it.ctr(&["task", "checkpoint", "--image-path", &images, "box"]);
    let output = run(&["--rm"], "broken", &["/bin/none"]);
    assert!(!output.status.success());
    pod(it, runtime);
    // It is killed with its container, and its exit comes before init's.
    let mut long = it.command(&["task", "exec", "--exec-id", "e2", "box", "sleep", "1000"]);
    let mut long = long.stdout(Stdio::null()).spawn().unwrap();
    eventually("the exec", || {
        done()
            .iter()
            .any(|(t, v)| t == "/tasks/exec-started" && v["exec_id"] == "e2")
    });
    it.end("box");
    let _ = long.wait();
    let output = run(
        &["--rm", "--memory-limit", "20000000"],
        "fat",
        &[
            "sh",
            "-c",
            "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 9",
        ],
    );
    assert!(!output.status.success());
    eventually("the last event", || {
        done()
            .iter()
            .any(|(t, v)| t == "/tasks/delete" && v["container_id"] == "fat")
    });
    std::thread::sleep(Duration::from_millis(300));
    listener.kill().unwrap();
    listener.wait().unwrap();
    done()
}

/// Two containers with one shim, of which the second outlives the first.
fn pod(it: &Containerd, runtime: &str) {
    let group = format!("io.containerd.runc.v2.group={}-pod", it.namespace);
    let flags = ["run", "-d", "--runtime", runtime, "--annotation", &group];
    for id in ["first", "second"] {
        it.ok(&[&flags[..], &[IMAGE, id, "sleep", "1000"]].concat());
    }
    let address = |id: &str| fs::read_to_string(it.bundle(id).join("address")).unwrap();
    assert_eq!(address("first"), address("second"));
    for id in ["first", "second"] {
        if id == "second" {
            it.ok(&["task", "pause", id]);
            it.ok(&["task", "resume", id]);
        }
        it.ok(&["task", "kill", "-s", "KILL", id]);
        eventually("the exit", || {
            let list = it.ok(&["task", "ls"]);
            list.lines()
                .any(|l| l.starts_with(id) && l.contains("STOPPED"))
        });
        it.ctr(&["task", "rm", id]);
        it.ok(&["container", "rm", id]);
    }
}

/// Theirs tells an OOM kill before or after the exit that it causes, as it happens. Ours always before.
fn cause_first(mut events: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let kill = events.iter().position(|(topic, _)| topic == "/tasks/oom");
    let kill = events.remove(kill.expect("no OOM kill was told"));
    let exit = events
        .iter()
        .position(|(t, v)| t == "/tasks/exit" && v["id"] == kill.1["container_id"]);
    events.insert(exit.expect("no exit was told"), kill);
    events
}

#[test]
fn containerd_sees_the_same_events_of_both_shims() {
    let Some(it) = Containerd::start() else {
        return;
    };
    if !need::file("/usr/bin/containerd-shim-runc-v2") || !need::file("/usr/sbin/runc") {
        return;
    }
    if !need::controller("memory") {
        return;
    }
    let (ours, theirs) = (story(&it, OURS), story(&it, THEIRS));
    let lines = |events: &[(String, Value)]| -> Vec<String> {
        events.iter().map(|(t, v)| format!("{t} {v}")).collect()
    };
    assert_eq!(lines(&ours), lines(&cause_first(theirs)));
}

/// The code of every wrong request to a container that runs without a terminal, then is paused, then has exited.
fn refusals(it: &Containerd, runtime: &str) -> Vec<(&'static str, i32)> {
    let output = it.ctr(&[
        "run",
        "-d",
        "--runtime",
        runtime,
        IMAGE,
        "box",
        "sleep",
        "1000",
    ]);
    assert!(output.status.success(), "{output:?}");
    let address = fs::read_to_string(it.bundle("box").join("address")).unwrap();
    let socket = address.strip_prefix("unix://").unwrap().to_string();
    let mut raw = Raw::connect(Path::new(&socket));
    let mut seen = Vec::new();
    let mut ask = |name: &'static str, method: &str, request: &dyn Fn(&mut Raw, &str) -> i32| {
        seen.push((name, request(&mut raw, method)));
    };
    fn of<M: Message + 'static>(message: M) -> impl Fn(&mut Raw, &str) -> i32 {
        move |raw, method| {
            raw.call::<()>(TASK, method, &message)
                .map_or_else(|e| e.code, |()| 0)
        }
    }
    let named = |id: &str, exec: &str| ProcessRequest {
        id: id.into(),
        exec_id: exec.into(),
    };
    let whole = |id: &str| ContainerRequest { id: id.into() };
    let kill = |exec: &str, signal| KillRequest {
        id: "box".into(),
        exec_id: exec.into(),
        signal,
        all: false,
    };
    let delete = |id: &str, exec: &str| DeleteRequest {
        id: id.into(),
        exec_id: exec.into(),
    };
    let resize = || ResizePtyRequest {
        id: "box".into(),
        exec_id: String::new(),
        width: 1,
        height: 1,
    };
    let close = |exec: &str| CloseIoRequest {
        id: "box".into(),
        exec_id: exec.into(),
        stdin: true,
    };
    let exec = |exec: &str| {
        ExecProcessRequest {
        id: "box".into(),
        exec_id: exec.into(),
        spec: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".into(),
            value: json!({"args": ["true"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}).to_string().into(),
        }),
        ..ExecProcessRequest::default()
    }
    };
    ask("state of nobody", "State", &of(named("none", "")));
    ask("state of no process", "State", &of(named("box", "none")));
    ask("kill of no process", "Kill", &of(kill("none", 9)));
    ask("start twice", "Start", &of(named("box", "")));
    ask("delete while it runs", "Delete", &of(delete("box", "")));
    ask("delete of no process", "Delete", &of(delete("box", "none")));
    ask("resume of a running one", "Resume", &of(whole("box")));
    ask("resize without a terminal", "ResizePty", &of(resize()));
    ask("close of no process", "CloseIO", &of(close("none")));
    ask("close once", "CloseIO", &of(close("")));
    ask("close twice", "CloseIO", &of(close("")));
    ask("connect to nobody", "Connect", &of(whole("none")));
    ask("stats of nobody", "Stats", &of(whole("none")));
    ask("pids of nobody", "Pids", &of(whole("none")));
    ask("exec", "Exec", &of(exec("e")));
    ask("exec twice", "Exec", &of(exec("e")));
    ask(
        "kill of an exec that was not started",
        "Kill",
        &of(kill("e", 9)),
    );
    ask(
        "delete of an exec that was not started",
        "Delete",
        &of(delete("box", "e")),
    );
    let update = |id: &str, value: &str| UpdateTaskRequest {
        id: id.into(),
        resources: Some(Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources".into(),
            value: value.into(),
        }),
        ..UpdateTaskRequest::default()
    };
    let limit = r#"{"pids": {"limit": 100}}"#;
    ask("update", "Update", &of(update("box", limit)));
    ask("update of nobody", "Update", &of(update("none", limit)));
    ask("update with nonsense", "Update", &of(update("box", "{")));
    ask("pause", "Pause", &of(whole("box")));
    ask("pause twice", "Pause", &of(whole("box")));
    ask("resume", "Resume", &of(whole("box")));
    ask("shutdown with a container", "Shutdown", &of(whole("box")));
    ask("kill", "Kill", &of(kill("", 9)));
    ask("wait", "Wait", &of(named("box", "")));
    ask("wait after the exit", "Wait", &of(named("box", "")));
    ask("kill after the exit", "Kill", &of(kill("", 9)));
    ask("exec after the exit", "Exec", &of(exec("late")));
    ask("pause after the exit", "Pause", &of(whole("box")));
    ask("resize after the exit", "ResizePty", &of(resize()));
    ask("close after the exit", "CloseIO", &of(close("")));
    ask("start after the exit", "Start", &of(named("box", "")));
    ask("pids after the exit", "Pids", &of(whole("box")));
    ask("a method of tomorrow", "Tomorrow", &of(whole("box")));
    it.ok(&["task", "rm", "box"]);
    it.ok(&["container", "rm", "box"]);
    seen
}

/// Where the answers differ: there a size is taken and forgotten, here it is said that there is no terminal to have it.
const DIFFERENT: [(&str, i32, i32); 2] = [
    ("resize without a terminal", 9, 0),
    ("resize after the exit", 9, 0),
];

#[test]
fn wrong_requests_are_answered_as_by_containerds_own_shim() {
    let Some(it) = Containerd::start() else {
        return;
    };
    if !need::file("/usr/bin/containerd-shim-runc-v2") || !need::file("/usr/sbin/runc") {
        return;
    }
    let (ours, theirs) = (refusals(&it, OURS), refusals(&it, THEIRS));
    let mut differences = Vec::new();
    for ((name, our), (_, their)) in ours.iter().zip(&theirs) {
        // What it leaves unclassified we may say better.
        let better = *their == Code::Unknown as i32 && *our != 0;
        if our != their && !better && !DIFFERENT.contains(&(*name, *our, *their)) {
            differences.push(format!("{name}: {our}, theirs {their}"));
        }
    }
    assert!(differences.is_empty(), "{differences:#?}");
}

/// Statistics by their path in the JSON.
fn leaves(value: &Value, at: String, to: &mut Vec<(String, f64)>) {
    match value {
        Value::Object(map) => map
            .iter()
            .for_each(|(k, v)| leaves(v, format!("{at}.{k}"), to)),
        Value::Array(list) => to.push((format!("{at}[]"), list.len() as f64)),
        Value::Number(n) => to.push((at, n.as_f64().unwrap_or(0.0))),
        _ => {}
    }
}

fn statistics(it: &Containerd, runtime: &str) -> Vec<(String, f64)> {
    let script = "dd if=/dev/zero of=/tmp/x bs=1M count=8; dd if=/tmp/x of=/dev/null bs=1M; cat /bin/busybox >/dev/null; \
                  i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; md5sum /tmp/x; sleep 1000";
    let output = it.ctr(&[
        "run",
        "-d",
        "--memory-limit",
        "100000000",
        "--runtime",
        runtime,
        IMAGE,
        "box",
        "sh",
        "-c",
        script,
    ]);
    assert!(output.status.success(), "{output:?}");
    std::thread::sleep(Duration::from_millis(1500));
    let text = it.ok(&["task", "metrics", "--format", "json", "box"]);
    it.end("box");
    let mut found = Vec::new();
    leaves(
        &serde_json::from_str(&text).unwrap(),
        String::new(),
        &mut found,
    );
    found
}

#[test]
fn statistics_have_every_field_that_containerds_own_shim_fills() {
    let Some(it) = Containerd::start() else {
        return;
    };
    if !need::file("/usr/bin/containerd-shim-runc-v2") || !need::file("/usr/sbin/runc") {
        return;
    }
    let (ours, theirs) = (statistics(&it, OURS), statistics(&it, THEIRS));
    let of = |name: &str| ours.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    // What is there at one moment and not at the next, as pages on their way to the disk.
    const FLEETING: [&str; 7] = [
        "dirty",
        "writeback",
        "majfault",
        "maj_fault",
        "active_file",
        "kernel_stack",
        "system_usec",
    ];
    let lasting = |name: &str| !FLEETING.iter().any(|part| name.contains(part));
    let lacking: Vec<String> = theirs
        .iter()
        .filter(|(name, _)| lasting(name))
        .filter(|(name, value)| *value > 0.0 && of(name).is_none_or(|v| v <= 0.0))
        .map(|(name, value)| format!("{name}: {:?}, theirs {value}", of(name)))
        .collect();
    assert!(lacking.is_empty(), "{lacking:#?}");
    assert!(ours.len() > 10, "{ours:?}");
}
