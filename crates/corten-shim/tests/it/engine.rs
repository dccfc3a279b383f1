//! Through the client, as Corten's engine uses it.

use std::fs;
use std::time::{Duration, Instant};

use corten_shim::ExitRecord;
use corten_shim::attach::{self, Attached, Hello, Size};
use corten_shim::client::{self, CreateOptions, Stdio};
use corten_spec::Kind;

use super::rig::{Rig, eventually, process};

pub fn hello(exec_id: &str) -> Hello {
    Hello {
        exec_id: exec_id.into(),
        stdin: true,
        stdout: true,
        stderr: true,
    }
}

/// Everything until the end of file: stdout and stderr.
pub fn read_all(attached: &mut Attached) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(frame) = attached.read_frame().unwrap() {
        match frame.kind {
            attach::STDOUT => out.extend(frame.payload),
            attach::STDERR => err.extend(frame.payload),
            other => panic!("frame {other}"),
        }
    }
    (out, err)
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_container_from_spawn_to_shutdown() {
    let mut rig = Rig::new("read line; echo \"got $line\"; echo err >&2; exit 3");
    let options = rig.options();
    let pid = rig.create(false, options).unwrap();
    assert_eq!(rig.client().state("").unwrap().status, 1);
    let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
    assert_eq!(rig.client().start("").unwrap(), pid);
    attached.stdin(b"word\n").unwrap();
    let (out, err) = read_all(&mut attached);
    assert_eq!(
        (text(out), text(err)),
        ("got word\n".into(), "err\n".into())
    );
    assert_eq!(rig.client().wait("").unwrap().status, 3);
    let record = ExitRecord::read(&rig.path("exit.json")).unwrap().unwrap();
    assert_eq!(
        (record.pid, record.exit_status, record.oom_killed),
        (pid, 3, false)
    );
    let log = fs::read_to_string(rig.path("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().map(|l| &l[31..]).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F got word"]);
    let again = rig.client().kill("", 9, false).unwrap_err();
    assert_eq!(again.kind(), Kind::NotFound);
    assert!(rig.path("shim.pid").exists());
    rig.finish();
}

#[test]
fn a_missing_program_is_127_and_a_text_is_126() {
    for (program, code) in [("/bin/none", 127), ("/bin/text", 126)] {
        let mut rig = Rig::with("", |s| s["process"]["args"] = serde_json::json!([program]));
        let options = rig.options();
        let failed = rig
            .create(false, options)
            .and_then(|_| rig.client().start(""))
            .unwrap_err();
        let failure = failed.failure().unwrap_or_else(|| panic!("{failed:?}"));
        assert_eq!(failure.exit_code, code, "{failed}");
        if rig.client().state("").is_ok() {
            rig.client().wait("").unwrap();
            rig.client().delete("").unwrap();
        }
        rig.client.take().unwrap().shutdown().unwrap();
        rig.assert_clean();
    }
}

#[test]
fn exec_with_its_own_stdio_and_exit() {
    let mut rig = Rig::new("sleep 1000");
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    let program = process(&["/bin/sh", "-c", "cat; echo end; exit 7"], false);
    rig.client()
        .exec("e1", Stdio::attach(false), &program)
        .unwrap();
    let twice = rig
        .client()
        .exec("e1", Stdio::attach(false), &program)
        .unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    let mut attached = attach::connect(rig.folder.path(), &hello("e1")).unwrap();
    rig.client().start("e1").unwrap();
    attached.stdin(b"input ").unwrap();
    attached.end_stdin().unwrap();
    assert_eq!(text(read_all(&mut attached).0), "input end\n");
    assert_eq!(rig.client().wait("e1").unwrap().status, 7);
    rig.client().delete("e1").unwrap();
    let gone = rig.client().state("e1").unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    // Output that came before the client is not lost.
    let program = process(&["/bin/echo", "early"], false);
    rig.client()
        .exec("e2", Stdio::attach(false), &program)
        .unwrap();
    rig.client().start("e2").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let mut attached = attach::connect(rig.folder.path(), &hello("e2")).unwrap();
    assert_eq!(text(read_all(&mut attached).0), "early\n");
    for (program, code) in [("/bin/none", 127), ("/bin/text", 126)] {
        let id = format!("bad{code}");
        rig.client()
            .exec(&id, Stdio::default(), &process(&[program], false))
            .unwrap();
        let failed = rig.client().start(&id).unwrap_err();
        assert_eq!(failed.failure().unwrap().exit_code, code, "{failed}");
        rig.client().delete(&id).unwrap();
    }
    rig.client().kill("", 9, false).unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 137);
    rig.finish();
}

#[test]
fn a_terminal_has_a_size_and_an_end() {
    let mut rig = Rig::with("stty size; read x; stty size; echo \"$x\"", |s| {
        s["process"]["terminal"] = true.into();
        s["process"]["consoleSize"] = serde_json::json!({"height": 10, "width": 20});
    });
    let options = rig.options();
    rig.create(true, options).unwrap();
    let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
    rig.client().start("").unwrap();
    let mut seen = String::new();
    while !seen.contains("10 20") {
        seen += &text(attached.read_frame().unwrap().unwrap().payload);
    }
    for rows in 1..=300 {
        attached.resize(Size { rows, cols: 99 }).unwrap();
    }
    rig.client().resize("", 44, 55).unwrap();
    attached.resize(Size { rows: 33, cols: 66 }).unwrap();
    attached.stdin(b"typed\n").unwrap();
    let rest = text(read_all(&mut attached).0);
    assert!(rest.contains("33 66") && rest.contains("typed"), "{rest:?}");
    assert_eq!(rig.client().wait("").unwrap().status, 0);
    rig.finish();
}

#[test]
fn a_hundred_megabytes_both_ways() {
    let mut rig = Rig::new("cat");
    let mut options = rig.options();
    options.log_path = String::new();
    rig.create(false, options).unwrap();
    let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
    rig.client().start("").unwrap();
    let data: Vec<u8> = (0..25 << 20u32)
        .flat_map(|i: u32| i.wrapping_mul(0x9e37_79b9).to_le_bytes())
        .collect();
    let expected = data.clone();
    let mut sender = attached.try_clone().unwrap();
    let sends = std::thread::spawn(move || {
        sender.stdin(&data).unwrap();
        sender.end_stdin().unwrap();
    });
    let (out, _) = read_all(&mut attached);
    sends.join().unwrap();
    assert!(out == expected, "{} of {} bytes", out.len(), expected.len());
    assert_eq!(rig.client().wait("").unwrap().status, 0);
    rig.finish();
}

#[test]
fn pause_pids_stats_update() {
    let mut rig = Rig::new("sleep 1000 & sleep 1000 & wait");
    let options = rig.options();
    let pid = rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    eventually("three processes", || {
        rig.client().pids().unwrap().len() == 3
    });
    assert!(rig.client().pids().unwrap().contains(&pid));
    rig.client().pause().unwrap();
    assert_eq!(rig.client().state("").unwrap().status, 4);
    rig.client().resume().unwrap();
    assert_eq!(rig.client().state("").unwrap().status, 2);
    let stats = rig.client().stats().unwrap().unwrap();
    assert!(
        stats.type_url.starts_with("io.containerd.cgroups.v"),
        "{}",
        stats.type_url
    );
    assert!(!stats.value.is_empty());
    let limit = serde_json::from_str(r#"{"pids":{"limit":50}}"#).unwrap();
    match rig.client().update(&limit) {
        Ok(()) => {}
        Err(error) => assert_eq!(error.kind(), Kind::Unsupported, "{error}"),
    }
    let busy = rig.client().delete("").unwrap_err();
    assert_eq!(busy.kind(), Kind::Conflict);
    rig.client().kill("", 9, true).unwrap();
    rig.client().wait("").unwrap();
    rig.finish();
}

#[test]
fn an_out_of_memory_kill_is_recorded() {
    let layout = corten_cgroup::Layout::probe().unwrap();
    if layout
        .hierarchies()
        .iter()
        .all(|h| !h.controllers.contains(&"memory".to_string()))
    {
        return;
    }
    let mut rig = Rig::with(
        "dd if=/dev/zero of=/dev/null bs=200M count=1; exit 9",
        |s| {
            s["linux"]["resources"]["memory"] =
                serde_json::json!({"limit": 33554432, "swap": 33554432});
        },
    );
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    rig.client().wait("").unwrap();
    let record = ExitRecord::read(&rig.path("exit.json")).unwrap().unwrap();
    assert!(record.oom_killed, "{record:?}");
    rig.finish();
}

#[test]
fn signals_do_not_end_the_shim_or_its_container() {
    let mut rig = Rig::new("sleep 1000");
    let options = rig.options();
    let pid = rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    use rustix::process::{Pid, Signal, kill_process};
    let shim = Pid::from_raw(rig.shim_pid as i32).unwrap();
    for signal in [
        Signal::TERM,
        Signal::INT,
        Signal::HUP,
        Signal::QUIT,
        Signal::USR1,
    ] {
        kill_process(shim, signal).unwrap();
    }
    assert_eq!(rig.client().state("").unwrap().pid, pid);
    rig.client().kill("", 15, false).unwrap();
    rig.client().kill("", 9, false).unwrap();
    rig.client().wait("").unwrap();
    rig.finish();
}

#[test]
fn a_killed_shim_leaves_a_container_that_can_be_deleted() {
    let mut rig = Rig::new("sleep 1000");
    let options = rig.options();
    let pid = rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    let written: u32 = fs::read_to_string(rig.path("shim.pid"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(written, rig.shim_pid);
    let shim = rustix::process::Pid::from_raw(rig.shim_pid as i32).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(shim), rustix::process::WaitOptions::empty()).unwrap();
    assert!(
        fs::exists(format!("/proc/{pid}")).unwrap(),
        "the container outlives its shim"
    );
    assert!(client::connect(rig.folder.path(), &rig.id).is_err());
    let deleted = std::process::Command::new(super::rig::shim())
        .args(["-namespace", "test", "-id", rig.id.as_str(), "-state-root"])
        .arg(rig.path("state"))
        .arg("delete")
        .current_dir(rig.folder.path())
        .output()
        .unwrap();
    assert!(deleted.status.success(), "{deleted:?}");
    eventually("the end of init", || {
        !fs::exists(format!("/proc/{pid}")).unwrap()
    });
    rig.assert_clean();
}

#[test]
fn the_exit_command_runs_when_nobody_is_left() {
    let mut rig = Rig::new("sleep 0.2");
    let mut options = rig.options();
    let mark = rig.path("mark").display().to_string();
    options.exit_command = ["/bin/sh", "-c", &format!("echo ran >{mark}")]
        .map(String::from)
        .into();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    rig.client = None;
    eventually("the exit command", || {
        fs::read_to_string(&mark).is_ok_and(|t| t == "ran\n")
    });
    assert!(rig.path("exit.json").exists());
    rig.client = Some(client::connect(rig.folder.path(), &rig.id).unwrap());
    assert_eq!(rig.client().wait("").unwrap().status, 0);
    rig.finish();
}

#[test]
fn a_shim_without_container_and_client_ends_by_itself() {
    let mut rig = Rig::new("true");
    let pid = rustix::process::Pid::from_raw(rig.shim_pid as i32).unwrap();
    rig.client = None;
    let begun = Instant::now();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(!rig.path("shim.sock").exists());
}

#[test]
fn a_hundred_short_execs_lose_no_exit() {
    let mut rig = Rig::new("sleep 1000");
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    for n in 0..100 {
        let id = format!("e{n}");
        rig.client()
            .exec(&id, Stdio::default(), &process(&["/bin/true"], false))
            .unwrap();
        rig.client().start(&id).unwrap();
        assert_eq!(rig.client().wait(&id).unwrap().status, 0);
        rig.client().delete(&id).unwrap();
    }
    rig.client().kill("", 9, false).unwrap();
    rig.client().wait("").unwrap();
    rig.finish();
}

#[test]
fn orphans_that_hold_stdout_do_not_hold_the_exit() {
    let mut rig = Rig::new("sleep 1000");
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    let file = format!("file://{}", rig.path("out").display());
    let stdio = Stdio {
        stdout: file,
        ..Stdio::default()
    };
    let program = process(&["/bin/sh", "-c", "sleep 1000 & echo said"], false);
    rig.client().exec("e", stdio, &program).unwrap();
    rig.client().start("e").unwrap();
    let begun = Instant::now();
    rig.client().wait("e").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(fs::read_to_string(rig.path("out")).unwrap(), "said\n");
    rig.client().delete("e").unwrap();
    rig.client().kill("", 9, false).unwrap();
    rig.client().wait("").unwrap();
    rig.finish();
}

#[test]
fn a_fork_bomb_of_orphans_does_not_starve_the_shim() {
    // In the host's PID namespace the shim is who inherits orphans.
    let mut rig = Rig::with("while :; do (true &) ; done", |s| {
        let namespaces = s["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|n| n["type"] != "pid");
    });
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        let one = Instant::now();
        rig.client().state("").unwrap();
        assert!(one.elapsed() < Duration::from_secs(1));
        asked += 1;
    }
    assert!(asked > 10, "{asked}");
    rig.client().kill("", 9, false).unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 137);
    rig.finish();
}

#[test]
fn garbage_on_the_socket_does_not_hurt_others() {
    use std::io::{Read, Write};
    let mut rig = Rig::new("sleep 1000");
    let options = rig.options();
    rig.create(false, options).unwrap();
    for garbage in [
        &[0xff; 5000][..],
        &[0; 10],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0, 0, 0, 2, 0, 0, 0, 1, 1, 0, 0xff, 0xff],
    ] {
        let mut socket = std::os::unix::net::UnixStream::connect(rig.path("shim.sock")).unwrap();
        let _ = socket.write_all(garbage);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
        let mut socket = std::os::unix::net::UnixStream::connect(rig.path("attach.sock")).unwrap();
        let _ = socket.write_all(garbage);
        let _ = socket.shutdown(std::net::Shutdown::Write);
        let _ = socket.read_to_end(&mut Vec::new());
    }
    assert_eq!(rig.client().state("").unwrap().status, 1);
    rig.client().kill("", 9, false).unwrap();
    rig.client().wait("").unwrap();
    rig.finish();
}

#[test]
fn bad_requests_leave_nothing() {
    let mut rig = Rig::new("true");
    let options = CreateOptions {
        log_path: "/nowhere/at/all".into(),
        ..CreateOptions::default()
    };
    let error = rig.create(false, options).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    fs::write(rig.path("config.json"), "{").unwrap();
    let error = rig.create(false, CreateOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error}");
    let error = rig.client().start("").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_clean();
}

#[test]
fn memory_and_latency() {
    let begun = Instant::now();
    let mut rig = Rig::new("sleep 1000");
    let spawned = begun.elapsed();
    let mut options = rig.options();
    options.attach = false;
    let created = Instant::now();
    rig.create(false, options).unwrap();
    let created = created.elapsed();
    let started = Instant::now();
    rig.client().start("").unwrap();
    let started = started.elapsed();
    // What only the start needed is given back after a calm.
    std::thread::sleep(Duration::from_millis(700));
    let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", rig.shim_pid)).unwrap();
    let pss = rollup
        .lines()
        .find(|l| l.starts_with("Pss:"))
        .unwrap()
        .to_string();
    println!("spawn (with bundle) {spawned:?}, create {created:?}, start {started:?}, {pss}");
    let kib: u64 = pss.split_whitespace().nth(1).unwrap().parse().unwrap();
    let bound = if cfg!(debug_assertions) { 4 } else { 2 };
    assert!(kib < bound << 10, "{pss}");
    let status = fs::read_to_string(format!("/proc/{}/status", rig.shim_pid)).unwrap();
    assert!(status.contains("Threads:\t1\n"));
    rig.client().kill("", 9, false).unwrap();
    rig.client().wait("").unwrap();
    rig.finish();
}

/// `ps` and the like connect to every container's shim to look, and go.
#[test]
fn visitors_who_come_first_and_go_do_not_end_it() {
    use std::os::unix::net::UnixStream;
    use std::sync::atomic::{AtomicBool, Ordering};

    let done = AtomicBool::new(false);
    let folder = std::sync::Mutex::new(None::<std::path::PathBuf>);
    std::thread::scope(|s| {
        s.spawn(|| {
            // The time ends it where the test fails.
            let begun = Instant::now();
            while !done.load(Ordering::SeqCst) && begun.elapsed() < Duration::from_secs(20) {
                let at = folder.lock().unwrap().clone();
                if let Some(at) = at {
                    drop(UnixStream::connect(at.join("shim.sock")));
                }
            }
        });
        for _ in 0..15 {
            let mut rig = Rig::unspawned("exit 0");
            *folder.lock().unwrap() = Some(rig.folder.path().into());
            rig.spawn(Vec::new());
            let err = rig.client().state("").unwrap_err();
            assert_eq!(err.kind(), Kind::NotFound, "{err:?}");
            *folder.lock().unwrap() = None;
        }
        done.store(true, Ordering::SeqCst);
    });
}
