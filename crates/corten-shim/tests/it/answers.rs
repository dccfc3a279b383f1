//! Whoever asks is answered, whatever becomes of what they asked about; and who has nothing to do sleeps.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use corten_shim::attach;
use corten_shim::client::{self, CreateOptions, CreateRequest, Stdio};
use corten_spec::Kind;
use rustix::net::Shutdown;

use super::engine::hello;
use super::rig::{Rig, eventually, process};

fn create(rig: &mut Rig, stdout: &str, options: CreateOptions) -> Result<u32, corten_shim::Error> {
    let bundle = rig.folder.path().into();
    rig.client().create(CreateRequest {
        checkpoint: Default::default(),
        bundle,
        rootfs: Vec::new(),
        stdio: Stdio {
            stdout: stdout.into(),
            ..Stdio::default()
        },
        options,
    })
}

/// On a connection of its own, sent before this returns.
fn wait(rig: &Rig, exec_id: &str) -> mpsc::Receiver<u32> {
    let mut client = client::connect(rig.folder.path(), &rig.id).unwrap();
    let waiting = client.begin_wait(exec_id).unwrap();
    // The answer to another request says that this one was served.
    client.connect_info().unwrap();
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        if let Ok(exit) = client.end_wait(waiting) {
            let _ = tell.send(exit.status);
        }
    });
    told
}

fn answer<T>(told: &mpsc::Receiver<T>) -> Option<T> {
    told.recv_timeout(Duration::from_secs(5)).ok()
}

fn fifo(path: &Path) -> String {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    path.display().to_string()
}

/// One that is there and reads nothing.
fn idle_reader(path: &str) -> File {
    let mut options = File::options();
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    options
        .read(true)
        .custom_flags(nonblock)
        .open(path)
        .unwrap()
}

/// How often the process wakes in a second; a hundredth that it works through counts as ten times.
fn naps(pid: u32) -> u64 {
    let count = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        let slept = line.unwrap().trim().parse::<u64>().unwrap();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        // utime and stime (proc_pid_stat(5)).
        let fields = fields.split_whitespace().skip(11).take(2);
        let worked: u64 = fields.map(|f| f.parse::<u64>().unwrap()).sum();
        slept + 10 * worked
    };
    let before = count();
    std::thread::sleep(Duration::from_secs(1));
    count() - before
}

#[test]
fn a_wait_for_what_is_deleted_before_its_start_is_answered() {
    let mut rig = Rig::new("true");
    create(&mut rig, "", CreateOptions::default()).unwrap();
    rig.client()
        .exec("e", Stdio::default(), &process(&["true"], false))
        .unwrap();
    let (init, exec) = (wait(&rig, ""), wait(&rig, "e"));
    let never = rig.client().delete("e").unwrap().status;
    assert_eq!(answer(&exec), Some(never));
    let killed = rig.client().delete("").unwrap().status;
    assert_eq!(answer(&init), Some(killed));
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_clean();
}

#[test]
fn an_exec_whose_output_is_not_read_has_an_end_before_its_container_goes() {
    let mut rig = Rig::new("sleep 1000");
    create(&mut rig, "", CreateOptions::default()).unwrap();
    rig.client().start("").unwrap();
    let out = fifo(&rig.path("out"));
    let _reader = idle_reader(&out);
    let stdio = Stdio {
        stdout: out,
        ..Stdio::default()
    };
    rig.client()
        .exec("e", stdio, &process(&["sh", "-c", "echo x; exit 6"], false))
        .unwrap();
    let pid = rig.client().start("e").unwrap();
    let exec = wait(&rig, "e");
    // Else it might end with its container.
    let folder = format!("/proc/{pid}");
    eventually("its own end", || !std::path::Path::new(&folder).exists());
    rig.client().kill("", 9, false).unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 137);
    rig.client().delete("").unwrap();
    assert_eq!(answer(&exec), Some(6));
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_clean();
}

#[test]
fn a_reader_that_takes_nothing_costs_no_sleepless_nights() {
    let mut rig = Rig::new("echo x");
    let out = fifo(&rig.path("out"));
    let _reader = idle_reader(&out);
    create(&mut rig, &out, CreateOptions::default()).unwrap();
    rig.client().start("").unwrap();
    // Init waits for its execs' exits no longer than a second.
    std::thread::sleep(Duration::from_millis(1500));
    let naps = naps(rig.shim_pid);
    assert!(naps < 200, "{naps} wake-ups a second");
    assert_eq!(rig.client().wait("").unwrap().status, 0);
    rig.finish();
}

#[test]
fn an_attached_client_that_has_died_wakes_nobody() {
    // One with input that nobody takes, and one that has ended its input and waits for output.
    for half in [false, true] {
        let mut rig = Rig::new("sleep 1000");
        let options = rig.options();
        rig.create(false, options).unwrap();
        rig.client().start("").unwrap();
        let mut attached = attach::connect(rig.folder.path(), &hello("")).unwrap();
        match half {
            false => attached.stdin(&[b'x'; 150_000]).unwrap(),
            true => rustix::net::shutdown(attached.as_fd(), Shutdown::Write).unwrap(),
        }
        std::thread::sleep(Duration::from_millis(200));
        drop(attached);
        let naps = naps(rig.shim_pid);
        assert!(naps < 20, "{naps} wake-ups a second, half closed: {half}");
        rig.client().kill("", 9, false).unwrap();
        assert_eq!(rig.client().wait("").unwrap().status, 137);
        rig.finish();
    }
}

#[test]
fn a_fifo_that_nobody_reads_in_the_place_of_a_file_is_refused_at_once() {
    for log in [false, true] {
        let mut rig = Rig::new("true");
        let path = fifo(&rig.path("pipe"));
        let (stdout, log_path) = match log {
            true => (String::new(), path),
            false => (format!("file://{path}"), String::new()),
        };
        let options = CreateOptions {
            log_path,
            ..CreateOptions::default()
        };
        let (tell, told) = mpsc::channel();
        let mut client = rig.client.take();
        let bundle = rig.folder.path().to_path_buf();
        std::thread::spawn(move || {
            let refused = client.as_mut().unwrap().create(CreateRequest {
                checkpoint: Default::default(),
                bundle,
                rootfs: Vec::new(),
                stdio: Stdio {
                    stdout,
                    ..Stdio::default()
                },
                options,
            });
            let _ = tell.send((client, refused.map_err(|e| e.to_string())));
        });
        let (client, refused) = answer(&told).expect("the shim waits for a reader");
        rig.client = client;
        let text = refused.unwrap_err();
        assert!(text.contains("/pipe"), "{text}");
        rig.client.take().unwrap().shutdown().unwrap();
        rig.assert_clean();
    }
}

#[test]
fn a_create_that_waits_for_its_logger_ends_with_the_shim() {
    let mut rig = Rig::new("true");
    let logger = rig.path("logger");
    fs::write(&logger, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&logger, fs::Permissions::from_mode(0o755)).unwrap();
    let mut other = client::connect(rig.folder.path(), &rig.id).unwrap();
    let (tell, told) = mpsc::channel();
    let (bundle, uri) = (
        rig.folder.path().to_path_buf(),
        format!("binary://{}", logger.display()),
    );
    std::thread::spawn(move || {
        let refused = other.create(CreateRequest {
            checkpoint: Default::default(),
            bundle,
            rootfs: Vec::new(),
            stdio: Stdio {
                stdout: uri,
                ..Stdio::default()
            },
            options: CreateOptions::default(),
        });
        let _ = tell.send(refused);
    });
    let pid = rig.shim_pid;
    eventually("the logger", || {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        !children.unwrap().is_empty()
    });
    let began = Instant::now();
    rig.client.take().unwrap().shutdown().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    let refused = answer(&told).unwrap().unwrap_err();
    assert!(
        refused.to_string().contains("the shim is told to end"),
        "{refused}"
    );
    assert_eq!(refused.kind(), Kind::Unavailable);
    rig.assert_clean();
}

/// What cp(1) finds in a folder or file of its own process, run as the exit command: a shell would clear its mask.
fn copied_by_command(what: &str) -> (Rig, std::path::PathBuf) {
    let mut rig = Rig::new("true");
    let seen = rig.path("seen");
    let command = ["/bin/cp", "-a", what, &seen.display().to_string()];
    let options = CreateOptions {
        exit_command: command.map(Into::into).to_vec(),
        ..CreateOptions::default()
    };
    create(&mut rig, "", options).unwrap();
    rig.client().start("").unwrap();
    let children = format!("/proc/{0}/task/{0}/children", rig.shim_pid);
    eventually("the command's end", || {
        seen.exists() && fs::read_to_string(&children).unwrap().is_empty()
    });
    (rig, seen)
}

#[test]
fn commands_begin_with_every_signal_open() {
    let (rig, seen) = copied_by_command("/proc/self/status");
    let status = fs::read_to_string(seen).unwrap();
    assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
    rig.finish();
}

#[test]
fn commands_get_no_descriptor_of_the_shim() {
    let (rig, seen) = copied_by_command("/proc/self/fd");
    for file in fs::read_dir(seen).unwrap() {
        let target = fs::read_link(file.unwrap().path()).unwrap();
        let text = target.to_string_lossy();
        let is_shims = text.starts_with("socket:") || text.starts_with("anon_inode:");
        assert!(!is_shims, "{text}");
    }
    rig.finish();
}

#[test]
fn who_finds_no_descriptor_left_waits_and_the_shim_sleeps() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let mut rig = Rig::new("sleep 1000");
    create(&mut rig, "", CreateOptions::default()).unwrap();
    let pid = Pid::from_raw(rig.shim_pid as i32);
    let is_open = |n: &u64| fs::read_link(format!("/proc/{}/fd/{n}", rig.shim_pid)).is_ok();
    let few = Rlimit {
        current: (0..).find(|n| !is_open(n)),
        maximum: Some(1024),
    };
    prlimit(pid, Resource::Nofile, few).unwrap();
    let mut late = client::connect(rig.folder.path(), &rig.id).unwrap();
    let naps = naps(rig.shim_pid);
    assert!(naps < 50, "{naps} wake-ups a second");
    let enough = Rlimit {
        current: Some(1024),
        maximum: Some(1024),
    };
    prlimit(pid, Resource::Nofile, enough).unwrap();
    assert_eq!(late.connect_info().unwrap().0, rig.shim_pid);
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    rig.assert_clean();
}
