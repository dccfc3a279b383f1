//! Limits of cgroup v2 at work: set, read back, and hit. For machines that have nothing else
//! (`cargo xtask test --guest` and `--guest=qemu`).

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use corten_cgroup::{Cgroup, Error, Layout};
use corten_spec::Kind;
use corten_testkit::{Disk, need};
use rustix::event::{PollFd, Timespec, poll};

use super::Scratch;

fn have(controller: &str) -> bool {
    need::pure_v2() && need::controller(controller)
}

fn read(s: &Scratch, file: &str) -> String {
    let path = format!("/sys/fs/cgroup{}/{file}", s.path);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().to_owned()
}

fn has(s: &Scratch, file: &str) -> bool {
    Path::new(&format!("/sys/fs/cgroup{}/{file}", s.path)).exists()
}

#[test]
fn memory_limits_are_read_back() {
    if !have("memory") {
        return;
    }
    let s = Scratch::new("memory");
    s.apply(r#"{"memory":{"limit":67108864,"reservation":33554432}}"#)
        .unwrap();
    assert_eq!(read(&s, "memory.max"), "67108864");
    assert_eq!(read(&s, "memory.low"), "33554432");
    assert_eq!(
        s.group.stats().unwrap().memory.unwrap().limit,
        Some(67_108_864)
    );
    s.apply(r#"{"memory":{"limit":-1}}"#).unwrap();
    assert_eq!(read(&s, "memory.max"), "max");
    let named = s
        .apply(r#"{"memory":{"limit":67108864,"swappiness":10}}"#)
        .unwrap_err();
    assert!(named.to_string().contains("memory.swappiness"), "{named}");
    // Nothing of a list that is refused has been applied.
    assert_eq!(read(&s, "memory.max"), "max");
}

#[test]
fn swap_is_what_is_left_beside_memory() {
    if !have("memory") {
        return;
    }
    let s = Scratch::new("swap2");
    let asked = r#"{"memory":{"limit":67108864,"swap":100663296}}"#;
    if !has(&s, "memory.swap.max") {
        let error = s.apply(asked).unwrap_err();
        assert!(error.to_string().contains("memory.swap.max"), "{error}");
        return need::skip("this kernel does not account for swap");
    }
    s.apply(asked).unwrap();
    assert_eq!(read(&s, "memory.swap.max"), "33554432");
    s.apply(r#"{"memory":{"limit":33554432,"swap":33554432}}"#)
        .unwrap();
    assert_eq!(read(&s, "memory.max"), "33554432");
    assert_eq!(read(&s, "memory.swap.max"), "0");
}

#[test]
fn a_kill_for_memory_wakes_the_watch() {
    if !have("memory") {
        return;
    }
    let s = Scratch::new("oom2");
    s.apply(r#"{"memory":{"limit":16777216}}"#).unwrap();
    if has(&s, "memory.swap.max") {
        s.apply(r#"{"unified":{"memory.swap.max":"0"}}"#).unwrap();
    }
    let watch = s.group.oom_events().unwrap().unwrap();
    assert_eq!(watch.kills().unwrap(), 0);
    // dd holds a block of 64 MB in memory, four times the limit.
    let mut child = s.spawn_ready("dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null");
    let limit = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    // The limit's own event may come first.
    while watch.kills().unwrap() == 0 {
        let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), watch.interest())];
        assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1);
    }
    child.wait().unwrap();
    let memory = s.group.stats().unwrap().memory.unwrap();
    assert!(memory.oom_kills >= 1);
    assert!(memory.failures >= 1, "{memory:?}");
    assert!(!memory.v1);
}

#[test]
fn processor_limits_are_read_back() {
    if !have("cpu") {
        return;
    }
    let s = Scratch::new("cpu");
    s.apply(r#"{"cpu":{"shares":1024,"quota":50000,"period":100000}}"#)
        .unwrap();
    assert_eq!(read(&s, "cpu.max"), "50000 100000");
    let weight: u32 = read(&s, "cpu.weight").parse().unwrap();
    assert!((1..=10_000).contains(&weight), "{weight}");
    // A half that is not given stays.
    s.apply(r#"{"cpu":{"quota":25000}}"#).unwrap();
    assert_eq!(read(&s, "cpu.max"), "25000 100000");
    s.apply(r#"{"cpu":{"period":200000}}"#).unwrap();
    assert_eq!(read(&s, "cpu.max"), "25000 200000");
    s.apply(r#"{"cpu":{"quota":-1}}"#).unwrap();
    assert_eq!(read(&s, "cpu.max"), "max 200000");
    if has(&s, "cpu.idle") {
        s.apply(r#"{"cpu":{"idle":1}}"#).unwrap();
        assert_eq!(read(&s, "cpu.idle"), "1");
    }
}

#[test]
fn a_burst_moves_with_its_quota() {
    if !have("cpu") {
        return;
    }
    let s = Scratch::new("burst");
    if !has(&s, "cpu.max.burst") {
        return need::skip("this kernel has no cpu.max.burst");
    }
    for quota in [20_000, 80_000, 10_000, 40_000] {
        s.apply(&format!(
            r#"{{"cpu":{{"quota":{quota},"period":100000,"burst":{quota}}}}}"#
        ))
        .unwrap();
        assert_eq!(read(&s, "cpu.max"), format!("{quota} 100000"));
        assert_eq!(read(&s, "cpu.max.burst"), quota.to_string());
    }
}

#[test]
fn a_quota_holds_a_busy_process_back() {
    if !have("cpu") {
        return;
    }
    let s = Scratch::new("throttle");
    s.apply(r#"{"cpu":{"quota":10000,"period":100000}}"#)
        .unwrap();
    let mut child = s.spawn_ready("while :; do :; done");
    let before = s.group.stats().unwrap().cpu.unwrap();
    let begun = Instant::now();
    let after = loop {
        std::thread::sleep(Duration::from_millis(200));
        let now = s.group.stats().unwrap().cpu.unwrap();
        if now.throttled_periods >= before.throttled_periods + 5 {
            break now;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{now:?}");
    };
    let wall = begun.elapsed().as_nanos() as u64;
    s.group.kill(9).unwrap();
    child.wait().unwrap();
    assert!(after.throttled > before.throttled);
    // A tenth was given; a half would be no limit at all.
    let used = after.usage - before.usage;
    assert!(used < wall / 2, "{used} of {wall} ns");
}

#[test]
fn more_processes_than_allowed_are_refused() {
    if !have("pids") {
        return;
    }
    let s = Scratch::new("pids");
    s.apply(r#"{"pids":{"limit":5}}"#).unwrap();
    assert_eq!(read(&s, "pids.max"), "5");
    let script = "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done; wait";
    let mut child = s.spawn_ready(&format!("({script}) 2>/dev/null; true"));
    let end = Instant::now() + Duration::from_secs(30);
    let hits = || read(&s, "pids.events") != "max 0";
    while !hits() {
        assert!(Instant::now() < end, "{}", read(&s, "pids.events"));
        std::thread::sleep(Duration::from_millis(10));
    }
    let pids = s.group.stats().unwrap().pids.unwrap();
    assert_eq!(pids.limit, Some(5));
    assert!(pids.current <= 5, "{pids:?}");
    s.group.kill(9).unwrap();
    child.wait().unwrap();
    s.apply(r#"{"pids":{"limit":-1}}"#).unwrap();
    assert_eq!(read(&s, "pids.max"), "max");
}

#[test]
fn a_processor_and_a_memory_node_are_chosen() {
    if !have("cpuset") {
        return;
    }
    let s = Scratch::new("cpuset");
    s.apply(r#"{"cpu":{"cpus":"0","mems":"0"}}"#).unwrap();
    assert_eq!(read(&s, "cpuset.cpus"), "0");
    assert_eq!(read(&s, "cpuset.mems"), "0");
    let mut child = s.spawn_ready("sleep 100");
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    assert_eq!(allowed.map(str::trim), Some("0"));
    s.group.kill(9).unwrap();
    child.wait().unwrap();
    let error = s.apply(r#"{"cpu":{"cpus":"4000"}}"#).unwrap_err();
    let expected = format!("cannot write 4000 to cpuset.cpus of {}", s.path);
    assert_eq!(error.to_string(), expected);
    assert!(matches!(error, Error::Write { .. }));
}

/// The numbers of the disk that the guest's maker gave for this.
fn disk() -> Option<(Disk, u64, u64)> {
    let disk = Disk::take().unwrap()?;
    if !need::file(disk.device()) {
        return None;
    }
    let device = fs::metadata(disk.device()).unwrap().rdev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    Some((disk, major.into(), minor.into()))
}

#[test]
fn writing_to_a_disk_takes_as_long_as_its_limit_says() {
    if !have("io") {
        return;
    }
    let Some((disk, major, minor)) = disk() else {
        return;
    };
    let s = Scratch::new("io");
    let limit = |rate: u64| {
        format!(
            r#"{{"blockIO":{{"throttleWriteBpsDevice":[{{"major":{major},"minor":{minor},"rate":{rate}}}],
                "throttleReadIOPSDevice":[{{"major":{major},"minor":{minor},"rate":{rate}}}]}}}}"#
        )
    };
    if !has(&s, "io.max") {
        let error = s.apply(&limit(1 << 20)).unwrap_err();
        assert!(error.to_string().contains("io.max"), "{error}");
        return need::skip("this kernel cannot throttle block devices");
    }
    s.apply(&limit(1 << 20)).unwrap();
    let line = format!("{major}:{minor} rbps=max wbps=1048576 riops=1048576 wiops=max");
    assert_eq!(read(&s, "io.max"), line);
    let begun = Instant::now();
    let command = format!(
        "dd if=/dev/zero of={} bs=256k count=8 oflag=direct 2>/dev/null",
        disk.device().display()
    );
    let mut child = s.spawn_ready(&command);
    assert!(child.wait().unwrap().success());
    // 2 MiB at 1 MiB a second; the first slice is free.
    assert!(begun.elapsed() > Duration::from_millis(900), "{begun:?}");
    let stats = s.group.stats().unwrap();
    let written = stats
        .io
        .iter()
        .find(|d| (u64::from(d.major), u64::from(d.minor)) == (major, minor));
    assert_eq!(written.unwrap().write_bytes, 2 << 20);
    // 0 lifts a limit, as on v1.
    s.apply(&limit(0)).unwrap();
    assert_eq!(read(&s, "io.max"), "");
}

#[test]
fn a_weight_of_block_io_is_set_or_refused_by_name() {
    if !have("io") {
        return;
    }
    let s = Scratch::new("weight");
    let set = s.apply(r#"{"blockIO":{"weight":300}}"#);
    if has(&s, "io.bfq.weight") {
        set.unwrap();
        assert!(read(&s, "io.bfq.weight").ends_with("300"));
    } else if has(&s, "io.weight") {
        set.unwrap();
        assert!(read(&s, "io.weight").starts_with("default "));
    } else {
        let error = set.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(error.to_string().contains("io.weight"), "{error}");
    }
}

#[test]
fn huge_pages_beyond_the_limit_are_refused() {
    if !have("hugetlb") {
        return;
    }
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    let free: u64 = free.map_or(0, |text| text.trim().parse().unwrap());
    if !need::that(free >= 4, "fewer than four huge pages are set aside") {
        return;
    }
    let s = Scratch::new("huge");
    s.apply(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#)
        .unwrap();
    assert_eq!(read(&s, "hugetlb.2MB.max"), "4194304");
    let folder = format!("/tmp/corten-huge-{}", std::process::id());
    fs::create_dir(&folder).unwrap();
    // A mount namespace of the command's own: nothing of it stays.
    let take = |mib: u32| {
        let command = format!(
            "unshare -m sh -c 'mount -t hugetlbfs none {folder} && fallocate -l {mib}M {folder}/f' 2>/dev/null"
        );
        s.spawn_ready(&command).wait().unwrap().success()
    };
    assert!(take(4));
    assert!(!take(6));
    fs::remove_dir(&folder).unwrap();
    let stats = s.group.stats().unwrap();
    let pages = stats.hugetlb.iter().find(|h| h.page_size == "2MB").unwrap();
    assert_eq!(pages.limit, Some(4_194_304));
    assert!(pages.failures >= 1, "{pages:?}");
}

#[test]
fn a_device_that_is_not_there_is_named_with_rdma() {
    if !have("rdma") {
        return;
    }
    let s = Scratch::new("rdma");
    let error = s
        .apply(r#"{"rdma":{"corten0":{"hcaHandles":3,"hcaObjects":100}}}"#)
        .unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot write corten0 hca_"), "{text}");
    assert!(text.contains("rdma.max"), "{text}");
}

/// Runs a command that is about the whole machine, which a guest is for.
fn prepares(command: &str) -> bool {
    let output = std::process::Command::new("sh")
        .args(["-c", command])
        .output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    need::that(
        output.status.success(),
        format_args!("{command}: {}", said.trim()),
    )
}

#[test]
fn an_rdma_device_has_its_limits() {
    if !have("rdma") {
        return;
    }
    if !need::that(
        std::env::var_os("CORTEN_GUEST").is_some(),
        "an RDMA device is made in guests only",
    ) {
        return;
    }
    // A device made of software, over a link that leads nowhere.
    if !prepares("modprobe rdma_rxe && ip link add corten0 type dummy && ip link set corten0 up")
        || !prepares("rdma link add rxe0 type rxe netdev corten0")
    {
        return;
    }
    let s = Scratch::new("rxe");
    s.apply(r#"{"rdma":{"rxe0":{"hcaHandles":3,"hcaObjects":100}}}"#)
        .unwrap();
    assert_eq!(read(&s, "rdma.max"), "rxe0 hca_handle=3 hca_object=100");
    s.apply(r#"{"rdma":{"rxe0":{"hcaHandles":5}}}"#).unwrap();
    assert_eq!(read(&s, "rdma.max"), "rxe0 hca_handle=5 hca_object=100");
}

#[test]
fn files_of_the_unified_map_are_written_as_they_are() {
    if !have("memory") {
        return;
    }
    let s = Scratch::new("map");
    s.apply(
        r#"{"memory":{"limit":67108864},
            "unified":{"memory.high":"50331648","memory.max":"41943040","cgroup.max.depth":"3","pids.max":"9"}}"#,
    )
    .unwrap();
    assert_eq!(read(&s, "memory.high"), "50331648");
    // The map is the caller's own word, and the last.
    assert_eq!(read(&s, "memory.max"), "41943040");
    assert_eq!(read(&s, "cgroup.max.depth"), "3");
    assert_eq!(read(&s, "pids.max"), "9");
    let refused = |json: &str| s.apply(json).unwrap_err();
    let error = refused(r#"{"unified":{"memory.high":"plenty"}}"#);
    let expected = format!("cannot write plenty to memory.high of {}", s.path);
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.kind(), Kind::Invalid);
    let error = refused(r#"{"unified":{"memory.nonsense":"1"}}"#);
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("memory.nonsense"), "{error}");
    let error = refused(r#"{"unified":{"net_cls.classid":"1"}}"#);
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(error.to_string().contains("net_cls"), "{error}");
    assert_eq!(
        refused(r#"{"unified":{"../memory.max":"1"}}"#).kind(),
        Kind::Invalid
    );
}

#[test]
fn every_controller_of_the_machine_reaches_the_group() {
    if !need::pure_v2() {
        return;
    }
    let s = Scratch::new("all");
    let words = |text: &str| -> Vec<String> {
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        words.sort();
        words
    };
    let root = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    assert_eq!(words(&read(&s, "cgroup.controllers")), words(&root));
}

#[test]
fn a_group_is_made_while_others_remove_its_parent() {
    let layout = Layout::probe().unwrap();
    let parent = format!("/corten-test-{}-busy", std::process::id());
    let one = |name: &str| {
        for _ in 0..100 {
            let group = Cgroup::create(&layout, &format!("{parent}/{name}")).unwrap();
            group.delete().unwrap();
            // Refused while the other's group is in it.
            for folder in roots(&layout) {
                let _ = fs::remove_dir(format!("{folder}{parent}"));
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one("a"));
        scope.spawn(|| one("b"));
    });
    assert!(Cgroup::open(&layout, &parent).is_err());
}

fn roots(layout: &Layout) -> Vec<String> {
    let v1 = layout.hierarchies().iter().map(|h| h.root.as_path());
    let all = v1.chain(layout.unified());
    all.map(|root| root.display().to_string()).collect()
}
