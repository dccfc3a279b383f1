//! On the host's own layout.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use corten_cgroup::{Cgroup, Error, Layout};
use corten_spec::Kind;
use corten_testkit::need;
use rustix::event::{PollFd, Timespec, poll};
use rustix::fs::{Mode, OFlags, openat};

use super::Scratch;

fn read(scratch: &Scratch, controller: &str, file: &str) -> String {
    let layout = Layout::probe().unwrap();
    let h = layout
        .hierarchies()
        .iter()
        .find(|h| h.controllers.iter().any(|c| c == controller))
        .unwrap();
    let path = format!("{}{}/{file}", h.root.display(), scratch.group.path());
    fs::read_to_string(path).unwrap().trim().to_string()
}

#[test]
fn limits_are_what_the_kernel_reads_back() {
    if !need::v1() {
        return;
    }
    let s = Scratch::new("limits");
    s.apply(
        r#"{"memory":{"limit":67108864,"swap":67108864,"reservation":33554432,"disableOOMKiller":false},
            "cpu":{"shares":512,"quota":50000,"period":100000},
            "pids":{"limit":17},
            "blockIO":{"weight":0},
            "devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}]}"#,
    )
    .unwrap();
    assert_eq!(read(&s, "memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(
        read(&s, "memory", "memory.memsw.limit_in_bytes"),
        "67108864"
    );
    assert_eq!(read(&s, "memory", "memory.soft_limit_in_bytes"), "33554432");
    assert_eq!(read(&s, "cpu", "cpu.shares"), "512");
    assert_eq!(read(&s, "cpu", "cpu.cfs_quota_us"), "50000");
    assert_eq!(read(&s, "pids", "pids.max"), "17");
    assert_eq!(read(&s, "devices", "devices.list"), "c 1:3 rw");
    assert!(!read(&s, "cpuset", "cpuset.cpus").is_empty());
}

#[test]
fn memory_and_swap_go_up_and_down_together() {
    if !need::v1() {
        return;
    }
    let s = Scratch::new("swap");
    for mib in [64, 256, 32, 128] {
        let bytes = mib << 20;
        s.apply(&format!(
            r#"{{"memory":{{"limit":{bytes},"swap":{bytes}}}}}"#
        ))
        .unwrap();
        assert_eq!(
            read(&s, "memory", "memory.memsw.limit_in_bytes"),
            bytes.to_string()
        );
    }
    s.apply(r#"{"memory":{"limit":-1}}"#).unwrap();
    assert!(read(&s, "memory", "memory.memsw.limit_in_bytes").len() > 18);
}

#[test]
fn a_refused_value_is_named_with_its_file_and_group() {
    if !need::v1() {
        return;
    }
    let s = Scratch::new("refused");
    let error = s.apply(r#"{"cpu":{"cpus":"4000"}}"#).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("cannot write 4000 to cpuset.cpus of {}", s.group.path())
    );
    assert!(matches!(error, Error::Write { .. }));
    let error = s.apply(r#"{"network":{"classID":5}}"#).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("net_cls"), "{error}");
    let error = s.apply(r#"{"unified":{"memory.high":"5"}}"#).unwrap_err();
    // memory is a v1 controller here, which has no such file.
    assert_eq!(error.kind(), Kind::Unsupported, "{error}");
}

#[test]
fn freeze_pids_kill_delete() {
    let s = Scratch::new("life");
    let mut child = s.spawn_ready("sleep 1000 & sleep 1000 & wait");
    let end = Instant::now() + Duration::from_secs(10);
    while s.group.pids().unwrap().len() < 3 {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    s.group.freeze().unwrap();
    assert!(s.group.is_frozen().unwrap());
    s.group.thaw().unwrap();
    assert!(!s.group.is_frozen().unwrap());
    let again = Cgroup::create(&Layout::probe().unwrap(), s.group.path()).unwrap_err();
    assert_eq!(again.kind(), Kind::AlreadyExists);
    s.group.freeze().unwrap();
    s.group.kill(9).unwrap();
    child.wait().unwrap();
    s.group.delete().unwrap();
    let gone = Cgroup::open(&Layout::probe().unwrap(), s.group.path()).unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound);
    s.group.delete().unwrap();
}

/// What a container with groups of its own can make to be overlooked: deeper than anybody nests, and named by no text.
#[test]
fn groups_of_any_depth_and_name_are_found_and_removed() {
    let s = Scratch::new("deep");
    let hierarchy = s.layout.unified().map(Path::to_path_buf);
    let hierarchy = hierarchy.unwrap_or_else(|| s.layout.hierarchies()[0].root.clone());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = format!("{}{}", hierarchy.display(), s.path);
    let mut at = rustix::fs::open(top, flags, Mode::empty()).unwrap();
    for level in 0..300 {
        for name in [c"\xff\xfe", c"beside"] {
            rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)).unwrap();
        }
        let name = if level % 2 == 0 {
            c"\xff\xfe"
        } else {
            c"beside"
        };
        at = openat(&at, name, flags, Mode::empty()).unwrap();
    }
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let procs = openat(&at, "cgroup.procs", OFlags::WRONLY, Mode::empty()).unwrap();
    rustix::io::write(&procs, child.id().to_string().as_bytes()).unwrap();
    assert_eq!(s.group.pids().unwrap(), [child.id() as i32]);
    s.group.kill(15).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(s.group.pids().unwrap().is_empty());
    drop((at, procs));
    s.group.delete().unwrap();
}

#[test]
fn a_fork_bomb_is_bounded_and_killed_whole() {
    let s = Scratch::new("bomb");
    s.apply(r#"{"pids":{"limit":60}}"#).unwrap();
    let mut child =
        s.spawn_ready("f() { f 2>/dev/null | f 2>/dev/null & }; f; while :; do :; done");
    let end = Instant::now() + Duration::from_secs(5);
    while s.group.pids().unwrap().len() < 20 && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(5));
    }
    s.group.kill(9).unwrap();
    child.wait().unwrap();
    s.group.delete().unwrap();
}

#[test]
fn a_plain_signal_reaches_every_process() {
    let s = Scratch::new("term");
    let mut child = s.spawn_ready("sleep 1000 & sleep 1000 & wait");
    let end = Instant::now() + Duration::from_secs(10);
    while s.group.pids().unwrap().len() < 3 && Instant::now() < end {
        std::thread::yield_now();
    }
    s.group.kill(15).unwrap();
    child.wait().unwrap();
    s.group.delete().unwrap();
    assert_eq!(s.group.kill(0).unwrap_err().kind(), Kind::Invalid);
}

#[test]
fn an_oom_kill_wakes_the_watch_and_is_counted() {
    if !need::v1() {
        return;
    }
    let s = Scratch::new("oom");
    s.apply(r#"{"memory":{"limit":16777216,"swap":16777216}}"#)
        .unwrap();
    let watch = s.group.oom_events().unwrap().unwrap();
    assert_eq!(watch.kills().unwrap(), 0);
    // dd holds a block of 64 MB in memory, four times the limit.
    let mut child = s.spawn_ready("dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null");
    let limit = Timespec {
        tv_sec: 20,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), watch.interest())];
    assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1);
    child.wait().unwrap();
    assert!(watch.kills().unwrap() >= 1);
    let stats = s.group.stats().unwrap();
    let memory = stats.memory.unwrap();
    assert!(memory.oom_kills >= 1);
    assert_eq!(memory.limit, Some(16 << 20));
    assert!(stats.cpu.unwrap().usage > 0);
}

#[test]
fn groups_are_listed_for_recovery() {
    let s = Scratch::new("list");
    let parent = s.path.rsplit_once('/').unwrap().0;
    let layout = Layout::probe().unwrap();
    assert_eq!(layout.list(parent).unwrap(), std::slice::from_ref(&s.path));
    assert!(layout.list("/corten-test-nowhere").unwrap().is_empty());
}

#[test]
fn a_path_cannot_leave_its_root() {
    let layout = Layout::probe().unwrap();
    for path in [
        "",
        "/",
        "a",
        "/../x",
        "/a/../../b",
        "/a//b",
        "/a\nb",
        "/./a",
    ] {
        let error = Cgroup::create(&layout, path).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{path:?}: {error}");
    }
}

#[test]
fn a_process_of_the_entry_files_is_inside() {
    let s = Scratch::new("entry");
    let entry = s.group.entry().unwrap();
    assert_eq!(entry.v2.is_some(), s.layout.unified().is_some());
    assert_eq!(entry.v1_tasks.len(), s.layout.hierarchies().len());
}

#[test]
fn nested_groups_go_with_their_parent() {
    let s = Scratch::new("nest");
    let nested = format!("{}/x/y", s.path);
    Cgroup::create(&s.layout, &nested).unwrap();
    s.group.delete().unwrap();
    assert!(Cgroup::open(&s.layout, &nested).is_err());
}

/// podman and others remove the parent when its last container ends, which is when the next one may be on its way in.
#[test]
fn a_parent_that_is_removed_meanwhile_is_made_again() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let layout = Layout::probe().unwrap();
    let parent = format!("corten-cgroup-race-{}", std::process::id());
    let roots = layout.hierarchies().iter().map(|h| h.root.clone());
    let roots: Vec<_> = roots.chain(layout.unified().map(Into::into)).collect();
    let remove = || {
        for root in &roots {
            // Not empty, or not there: both are the point.
            let _ = fs::remove_dir(root.join(&parent));
        }
    };
    let over = AtomicBool::new(false);
    let failed = std::thread::scope(|scope| {
        // One each: all of a hierarchy's folders are behind one lock.
        for root in &roots {
            scope.spawn(|| {
                let folder = root.join(&parent);
                while !over.load(Ordering::Relaxed) {
                    let _ = fs::remove_dir(&folder);
                }
            });
        }
        let failed = (0..250).find_map(|n| {
            let made = Cgroup::create(&layout, &format!("/{parent}/{n}"));
            made.and_then(|group| group.delete()).err()
        });
        over.store(true, Ordering::Relaxed);
        failed
    });
    remove();
    assert!(failed.is_none(), "{failed:?}");
}

#[test]
fn pressure_and_time_of_a_busy_group_are_counted() {
    let layout = Layout::probe().unwrap();
    let unified = layout.unified();
    let counted = unified.is_some_and(|root| root.join("cpu.pressure").exists());
    if !need::that(counted, "this kernel counts no pressure of groups") {
        return;
    }
    let s = Scratch::new("pressure");
    // More that want to run than there are CPUs: some wait.
    let many = 2 * std::thread::available_parallelism().unwrap().get();
    let script =
        format!("for i in $(seq {many}); do timeout 1 sh -c 'while :; do :; done' & done; wait");
    s.spawn_ready(&script).wait().unwrap();
    let pressures = s.group.pressures().unwrap();
    let cpu = pressures.cpu.unwrap();
    assert!(cpu.some.total > 0, "{cpu:?}");
    assert!(pressures.memory.is_some() && pressures.io.is_some());
    let used = s.group.stats().unwrap().cpu.unwrap().usage;
    assert!(used > 100_000_000, "{used}");
}

#[test]
fn the_layout_says_what_can_be_limited() {
    let layout = Layout::probe().unwrap();
    let s = Scratch::new("controls");
    for controller in ["memory", "cpu", "pids"] {
        let there = s.group.stats().unwrap();
        let counted = match controller {
            "memory" => there.memory.is_some(),
            "pids" => there.pids.is_some(),
            _ => there.cpu.is_some(),
        };
        assert!(counted || !layout.controls(controller), "{controller}");
    }
    assert!(!layout.controls("nonsense"));
}
