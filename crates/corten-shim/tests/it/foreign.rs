//! Under our supervisor, the shim of others: containerd's for runc, as Debian has it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use corten_shim::attach::{self, Size};
use corten_shim::client::{CreateOptions, CreateRequest, ForeignShim, Health, Restart, Stdio};
use corten_shim::foreign::RuncOptions;
use corten_shim::{ExitRecord, foreign};
use corten_spec::Kind;
use rustix::process::{Pid, Signal, kill_process};

use super::engine::{hello, read_all, text};
use super::rig::{Rig, eventually, process};

const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

/// Whether the peer is there.
fn has_shim() -> bool {
    let found = Path::new(SHIM).exists() && Command::new("runc").arg("-v").output().is_ok();
    if !found {
        println!("skipped: {SHIM} and runc are not installed");
    }
    found
}

impl Rig {
    fn foreign_options(&self) -> CreateOptions {
        let root = self.path("runc").display().to_string();
        CreateOptions {
            foreign: Some(ForeignShim::new(
                Path::new(SHIM),
                Some(foreign::Options::Runc(RuncOptions {
                    root,
                    ..RuncOptions::default()
                })),
                false,
            )),
            ..self.options()
        }
    }

    fn create_foreign(&mut self, terminal: bool) -> Result<u32, corten_shim::Error> {
        let options = self.foreign_options();
        self.create_foreign_with(terminal, options)
    }

    fn create_foreign_with(
        &mut self,
        terminal: bool,
        options: CreateOptions,
    ) -> Result<u32, corten_shim::Error> {
        let root = corten_runtime::rootfs::Mount {
            fstype: "bind".into(),
            source: self.path("rootfs").display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
        };
        let request = CreateRequest {
            checkpoint: Default::default(),
            bundle: self.folder.path().into(),
            rootfs: vec![root],
            stdio: Stdio::attach(terminal),
            options,
        };
        self.client().create(request)
    }

    fn foreign(&self, name: &str) -> PathBuf {
        foreign::folder(self.folder.path(), self.id.as_str()).join(name)
    }

    /// The foreign shim's process: it stays in its bundle.
    fn foreign_pid(&self) -> Pid {
        let found = processes_in(&self.foreign(""));
        assert_eq!(found.len(), 1, "{found:?}");
        found[0]
    }

    fn foreign_socket(&self) -> PathBuf {
        let text = fs::read_to_string(self.foreign("address")).unwrap();
        text.strip_prefix("unix://").unwrap().into()
    }

    /// Nothing of it is left, processes included.
    fn assert_nothing_foreign(&self) {
        self.assert_clean();
        assert!(!self.foreign("order.json").exists());
        let state = self.path("runc/test").join(self.id.as_str());
        assert!(!state.exists(), "{} left", state.display());
        let folder = self.foreign("");
        eventually("the end of its processes", || {
            processes_in(&folder).is_empty() && !processes_named(self.id.as_str())
        });
    }
}

/// The processes whose working folder this is.
fn processes_in(folder: &Path) -> Vec<Pid> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let there = all.filter(|p| fs::read_link(p.path().join("cwd")).is_ok_and(|cwd| cwd == folder));
    let pids = there.filter_map(|p| p.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).collect()
}

/// Whether a process other than our own supervisor has this id among its arguments.
fn processes_named(id: &str) -> bool {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = all.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
    let of = |line: &Vec<u8>| {
        let mut words = line.split(|b| *b == 0);
        let ours = words.next().is_some_and(|w| w.ends_with(b"corten-v2"));
        !ours && words.any(|w| w == id.as_bytes())
    };
    lines.any(|line| of(&line))
}

#[test]
fn a_container_from_create_to_delete() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("read line; echo \"got $line\"; echo err >&2; exit 3");
    let pid = rig.create_foreign(false).unwrap();
    assert_eq!(rig.client().state("").unwrap().status, 1);
    let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
    assert_eq!(rig.client().start("").unwrap(), pid);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = rig.foreign("").display().to_string();
    assert!(!mounts.contains(&ours), "its root is seen on the host");
    attached.stdin(b"word\n").unwrap();
    let (out, err) = read_all(&mut attached);
    assert_eq!(
        (text(out), text(err)),
        ("got word\n".into(), "err\n".into())
    );
    assert_eq!(rig.client().wait("").unwrap().status, 3);
    let record = ExitRecord::read(&rig.path("exit.json")).unwrap().unwrap();
    assert_eq!((record.pid, record.exit_status), (pid, 3));
    let log = fs::read_to_string(rig.path("log")).unwrap();
    let mut lines: Vec<&str> = log.lines().map(|l| &l[31..]).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["stderr F err", "stdout F got word"]);
    let again = rig.client().kill("", 9, false).unwrap_err();
    assert_eq!(again.kind(), Kind::NotFound);
    let socket = rig.foreign_socket();
    rig.client().delete("").unwrap();
    let said = fs::read_to_string(rig.path("shim.log")).unwrap();
    assert!(!said.contains("is gone"), "{said}");
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
    eventually("the socket's end", || !socket.exists());
}

#[test]
fn exec_pause_and_numbers() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("sleep 1000");
    rig.create_foreign(false).unwrap();
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
    let running = rig.client().start("e1").unwrap();
    assert!(rig.client().pids().unwrap().contains(&running));
    attached.stdin(b"input ").unwrap();
    attached.end_stdin().unwrap();
    assert_eq!(text(read_all(&mut attached).0), "input end\n");
    assert_eq!(rig.client().wait("e1").unwrap().status, 7);
    rig.client().delete("e1").unwrap();
    assert_eq!(rig.client().state("e1").unwrap_err().kind(), Kind::NotFound);
    rig.client()
        .exec("e2", Stdio::default(), &process(&["/bin/none"], false))
        .unwrap();
    let failed = rig.client().start("e2").unwrap_err();
    assert_eq!(failed.failure().unwrap().exit_code, 127, "{failed}");
    rig.client().delete("e2").unwrap();
    rig.client().pause().unwrap();
    assert_eq!(rig.client().state("").unwrap().status, 4);
    rig.client().resume().unwrap();
    assert_eq!(rig.client().state("").unwrap().status, 2);
    assert!(rig.client().stats().unwrap().is_some());
    let undone = rig.client().delete("").unwrap_err();
    assert_eq!(undone.kind(), Kind::Conflict);
    rig.client().kill("", 9, true).unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 137);
    let names: Vec<_> = fs::read_dir(rig.foreign(""))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.contains("std"))
        .collect();
    assert_eq!(names, Vec::<String>::new(), "FIFOs left");
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
}

#[test]
fn a_terminal_has_a_size_and_an_end() {
    if !has_shim() {
        return;
    }
    let script =
        "while [ \"$(stty size)\" != '33 66' ]; do sleep 0.05; done; read x; echo \"seen $x\"";
    let mut rig = Rig::with(script, |s| s["process"]["terminal"] = true.into());
    rig.create_foreign(true).unwrap();
    let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
    rig.client().start("").unwrap();
    for rows in 1..=100 {
        attached.resize(Size { rows, cols: 99 }).unwrap();
    }
    attached.resize(Size { rows: 33, cols: 66 }).unwrap();
    attached.stdin(b"typed\n").unwrap();
    let all = text(read_all(&mut attached).0);
    assert!(all.contains("seen typed"), "{all:?}");
    assert_eq!(rig.client().wait("").unwrap().status, 0);
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
}

#[test]
fn a_hundred_megabytes_both_ways() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("cat");
    rig.create_foreign(false).unwrap();
    let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
    rig.client().start("").unwrap();
    let mut writer = attached.try_clone().unwrap();
    let block: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let sent = block.clone();
    let sender = std::thread::spawn(move || {
        for _ in 0..250 {
            writer.stdin(&sent).unwrap();
        }
        writer.end_stdin().unwrap();
    });
    let (mut at, mut total) = (0, 0);
    while let Some(frame) = attached.read_frame().unwrap() {
        for byte in frame.payload {
            assert_eq!(byte, block[at], "byte {total}");
            at = (at + 1) % block.len();
            total += 1;
        }
    }
    sender.join().unwrap();
    assert_eq!(total, 100_000_000);
    assert_eq!(rig.client().wait("").unwrap().status, 0);
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
}

#[test]
fn what_does_not_start_says_why_and_leaves_nothing() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::with("true", |s| {
        s["process"]["args"] = serde_json::json!(["/bin/none"])
    });
    let error = rig.create_foreign(false).unwrap_err();
    assert!(error.to_string().contains("/bin/none"), "{error}");
    assert_eq!(error.failure().unwrap().exit_code, 127);
    foreign::clean(rig.folder.path(), &rig.id).unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();

    let mut rig = Rig::new("true");
    let mut options = rig.foreign_options();
    let shim = options.foreign.as_mut().unwrap();
    shim.binary = "/bin/false".into();
    let error = rig.create(false, options).unwrap_err();
    assert!(
        error.to_string().contains("/bin/false start failed with 1"),
        "{error}"
    );
    rig.client.take().unwrap().shutdown().unwrap();
}

#[test]
fn a_killed_shim_takes_its_container_along() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("sleep 1000");
    let pid = rig.create_foreign(false).unwrap();
    rig.client().start("").unwrap();
    kill_process(rig.foreign_pid(), Signal::KILL).unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 137);
    let record = ExitRecord::read(&rig.path("exit.json")).unwrap().unwrap();
    assert_eq!((record.pid, record.exit_status), (pid, 137));
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    foreign::clean(rig.folder.path(), &rig.id).unwrap();
    rig.assert_nothing_foreign();
}

#[test]
fn a_killed_supervisor_leaves_what_can_be_cleaned() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("sleep 1000");
    let init = rig.create_foreign(false).unwrap();
    rig.client().start("").unwrap();
    let supervisor = Pid::from_raw(rig.shim_pid as i32).unwrap();
    kill_process(supervisor, Signal::KILL).unwrap();
    rustix::process::waitpid(Some(supervisor), rustix::process::WaitOptions::empty()).unwrap();
    drop(rig.client.take());
    assert!(Path::new(&format!("/proc/{init}")).exists(), "it runs on");
    let socket = rig.foreign_socket();
    foreign::clean(rig.folder.path(), &rig.id).unwrap();
    assert!(!socket.exists());
    rig.assert_nothing_foreign();
    foreign::clean(rig.folder.path(), &rig.id).unwrap();
}

#[test]
fn an_out_of_memory_kill_is_recorded() {
    if !has_shim() {
        return;
    }
    let script = "x=$(yes | head -c 100000000); echo $?";
    let mut rig = Rig::with(script, |s| {
        s["linux"]["resources"]["memory"] = serde_json::json!({"limit": 16 << 20});
    });
    rig.create_foreign(false).unwrap();
    rig.client().start("").unwrap();
    rig.client().wait("").unwrap();
    let record = ExitRecord::read(&rig.path("exit.json")).unwrap().unwrap();
    assert!(record.oom_killed, "{record:?}");
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
}

#[test]
fn a_foreign_container_is_started_again_in_the_same_supervisor() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("echo run; exit 5");
    let options = || CreateOptions {
        restart: Some(Restart {
            policy: "always".into(),
            max_retries: 0,
            command: ["/bin/sleep", "1000"].map(Into::into).to_vec(),
            stopped: rig.path("stopped").display().to_string(),
        }),
        ..rig.foreign_options()
    };
    for (run, options) in (1..).zip([options(), options(), options()]) {
        rig.create_foreign_with(false, options).unwrap();
        rig.client().start("").unwrap();
        // The command that this start was for has nothing more to do.
        let done = sleepers(rig.shim_pid);
        done.into_iter()
            .for_each(|pid| kill_process(pid, Signal::KILL).unwrap());
        assert_eq!(rig.client().wait("").unwrap().status, 5);
        let record = ExitRecord::read(&rig.path("exit.json")).unwrap().unwrap();
        assert_eq!(record.restarting.map(|r| r.count), Some(run));
        eventually("the command", || !sleepers(rig.shim_pid).is_empty());
        rig.client().delete("").unwrap();
        let gone = rig.client().state("").unwrap_err();
        assert_eq!(gone.kind(), Kind::NotFound);
        // The bundle is its client's: a new one for each run.
        fs::remove_dir_all(rig.foreign("")).unwrap();
    }
    let log = fs::read_to_string(rig.path("log")).unwrap();
    assert_eq!(log.lines().filter(|l| l.ends_with("run")).count(), 3);
    let command = sleepers(rig.shim_pid);
    rig.client.take().unwrap().shutdown().unwrap();
    command
        .into_iter()
        .for_each(|pid| kill_process(pid, Signal::KILL).unwrap());
    rig.assert_nothing_foreign();
}

#[test]
fn a_foreign_containers_processes_have_every_signal_open() {
    if !has_shim() {
        return;
    }
    let script = "while read a b; do [ $a = SigBlk: ] && echo $b; done </proc/self/status";
    let mut rig = Rig::new(script);
    rig.create_foreign(false).unwrap();
    let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
    rig.client().start("").unwrap();
    assert_eq!(text(read_all(&mut attached).0), "0000000000000000\n");
    rig.client().wait("").unwrap();
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
}

#[test]
fn an_update_of_any_length_reaches_a_foreign_container() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("sleep 1000");
    rig.create_foreign(false).unwrap();
    rig.client().start("").unwrap();
    // Its length takes two bytes on the wire.
    let resources = serde_json::json!({
        "memory": {"limit": 100 << 20},
        "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
        "unified": {},
        "pids": {"limit": 100},
        "blockIO": {"weight": 100},
    });
    let resources = serde_json::from_value(resources).unwrap();
    assert!(serde_json::to_vec(&resources).unwrap().len() > 127);
    rig.client().update(&resources).unwrap();
    let layout = corten_cgroup::Layout::probe().unwrap();
    let group = format!("/corten-shimtest/{}", rig.id.as_str());
    let stats = corten_cgroup::Cgroup::open(&layout, &group)
        .unwrap()
        .stats();
    assert_eq!(stats.unwrap().memory.unwrap().limit, Some(100 << 20));
    rig.client().kill("", 9, true).unwrap();
    rig.client().wait("").unwrap();
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
}

#[test]
fn a_foreign_containers_logger_that_does_not_end_holds_up_nobody() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("sleep 1000");
    let logger = rig.path("logger");
    fs::write(&logger, "#!/bin/sh\nexec 5>&-\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
    let stdio = || Stdio {
        stdout: format!("binary://{}", logger.display()),
        ..Stdio::default()
    };
    let options = rig.foreign_options();
    let bundle = rig.folder.path().into();
    let root = corten_runtime::rootfs::Mount {
        fstype: "bind".into(),
        source: rig.path("rootfs").display().to_string(),
        options: vec!["rbind".into(), "rw".into()],
    };
    let request = CreateRequest {
        checkpoint: Default::default(),
        bundle,
        rootfs: vec![root],
        stdio: stdio(),
        options,
    };
    rig.client().create(request).unwrap();
    rig.client().start("").unwrap();
    let program = process(&["true"], false);
    rig.client().exec("e", stdio(), &program).unwrap();
    rig.client().start("e").unwrap();
    rig.client().wait("e").unwrap();
    rig.client().delete("e").unwrap();
    rig.client().kill("", 9, true).unwrap();
    rig.client().wait("").unwrap();
    rig.client().delete("").unwrap();
    rig.wait_for_shim();
    rig.assert_nothing_foreign();
}

#[test]
fn a_foreign_container_has_no_health_checks() {
    if !has_shim() {
        return;
    }
    let mut rig = Rig::new("sleep 1000");
    let mut options = rig.foreign_options();
    options.health = Some(Health::default());
    let refused = rig.create_foreign_with(false, options).unwrap_err();
    assert_eq!(refused.kind(), Kind::Unsupported, "{refused}");
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_nothing_foreign();
}

/// The commands that a supervisor runs to start its container again: children of it that sleep.
fn sleepers(parent: u32) -> Vec<Pid> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    let sleeps = |pid: &&str| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"/bin/sleep")
    };
    let pids = text.split_whitespace().filter(sleeps);
    pids.filter_map(|p| Pid::from_raw(p.parse().ok()?))
        .collect()
}
