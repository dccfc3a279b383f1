//! Containers where cgroup v2 is all there is (`cargo xtask test --guest`): what config.json says of resources
//! is what the kernel holds the container to.

use std::fs;
use std::time::{Duration, Instant};

use corten_testkit::need;
use serde_json::{Value, json};

use crate::harness::{Bundle, error, stdout, text};

fn have(controller: &str) -> bool {
    need::pure_v2() && need::controller(controller)
}

fn folder(bundle: &Bundle) -> String {
    format!("/sys/fs/cgroup/corten-it/{}", bundle.id)
}

fn read(bundle: &Bundle, file: &str) -> String {
    let path = format!("{}/{file}", folder(bundle));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.trim().to_owned()
}

fn limited(script: &str, resources: Value) -> Bundle {
    let mut bundle = Bundle::script(script);
    bundle.config["linux"]["resources"] = resources;
    bundle
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_container_is_in_its_group_and_sees_it_as_the_root() {
    if !need::pure_v2() {
        return;
    }
    let bundle = Bundle::script("cat /proc/self/cgroup; sleep 100");
    bundle.up();
    let pid = bundle.pid();
    let seen = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = format!("0::/corten-it/{}\n", bundle.id);
    assert_eq!(seen(pid), group);
    assert_eq!(
        bundle.ok(["exec", &bundle.id, "cat", "/proc/self/cgroup"]),
        "0::/\n"
    );
    // Nothing of the runtime's own is left in it.
    assert!(
        read(&bundle, "cgroup.procs")
            .lines()
            .all(|p| seen(p.parse().unwrap()) == group)
    );
}

#[test]
fn limits_are_seen_from_inside() {
    if !have("memory") || !have("cpu") {
        return;
    }
    let bundle = limited(
        "cd /sys/fs/cgroup; cat memory.max memory.low cpu.max pids.max memory.high; test -w memory.max || echo kept",
        json!({
            "memory": {"limit": 67_108_864, "reservation": 33_554_432},
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 512},
            "pids": {"limit": 30},
            "unified": {"memory.high": "50331648"},
        }),
    );
    let expected = "67108864\n33554432\n50000 100000\n30\n50331648\n";
    let out = stdout(&bundle);
    assert!(out.starts_with(expected), "{out}");
}

#[test]
fn a_container_out_of_memory_is_killed() {
    if !have("memory") {
        return;
    }
    let bundle = limited(
        "exec dd if=/dev/zero of=/dev/null bs=64M count=1",
        json!({"memory": {"limit": 16_777_216, "swap": 16_777_216}}),
    );
    // A kernel without swap accounting refuses the pair by name.
    let output = bundle.run();
    let said = text(&output.stderr);
    if said.contains("memory.swap.max") {
        return need::skip("this kernel does not account for swap");
    }
    assert_eq!(output.status.code(), Some(137), "{said}");
}

#[test]
fn a_container_cannot_start_more_processes_than_allowed() {
    if !have("pids") {
        return;
    }
    let bundle = limited(
        "for i in 1 2 3 4 5 6 7 8 9; do sleep 50 & done; echo all",
        json!({"pids": {"limit": 5}}),
    );
    let output = bundle.run();
    let said = text(&output.stderr) + &text(&output.stdout);
    assert!(said.contains("can't fork"), "{said}");
}

#[test]
fn what_is_updated_holds_at_once() {
    if !have("memory") || !have("cpu") {
        return;
    }
    let bundle = limited("sleep 100", json!({"memory": {"limit": 67_108_864}}));
    bundle.up();
    let update = |args: &[&str]| bundle.oci([&["update"], args, &[bundle.id.as_str()]].concat());
    let done = update(&[
        "--memory",
        "33554432",
        "--cpu-quota",
        "20000",
        "--cpu-period",
        "50000",
    ]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(read(&bundle, "memory.max"), "33554432");
    assert_eq!(read(&bundle, "cpu.max"), "20000 50000");
    assert!(update(&["--pids-limit", "-1"]).status.success());
    assert_eq!(read(&bundle, "pids.max"), "max");
    // What was not asked for is as it was.
    assert_eq!(read(&bundle, "memory.max"), "33554432");
}

#[test]
fn a_value_that_the_kernel_refuses_stops_the_start_and_names_its_file() {
    if !have("memory") {
        return;
    }
    for (unified, named) in [
        (
            json!({"memory.high": "plenty"}),
            "cannot write plenty to memory.high",
        ),
        (json!({"memory.nonsense": "1"}), "memory.nonsense"),
        (json!({"net_cls.classid": "1"}), "no net_cls controller"),
    ] {
        let bundle = limited("true", json!({"unified": unified}));
        let message = error(&bundle, 1);
        assert!(message.contains(named), "{message}");
        assert!(message.contains(&bundle.id), "{message}");
        assert!(!fs::exists(folder(&bundle)).unwrap());
    }
}

#[test]
fn a_paused_container_stands_still_and_can_be_killed() {
    if !need::pure_v2() {
        return;
    }
    let bundle = Bundle::script("while :; do echo x >> /ticks; done");
    bundle.up();
    let ticks = || fs::metadata(bundle.root().join("ticks")).map_or(0, |file| file.len());
    until("it never ran", || ticks() > 0);
    bundle.ok(["pause", &bundle.id]);
    assert!(read(&bundle, "cgroup.events").contains("frozen 1"));
    let then = ticks();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(ticks(), then);
    let pid = bundle.pid();
    bundle.ok(["kill", &bundle.id, "KILL"]);
    bundle.wait_stopped(pid);
    bundle.ok(["delete", &bundle.id]);
    assert!(!fs::exists(folder(&bundle)).unwrap());
}

#[test]
fn groups_that_a_container_made_go_with_it() {
    if !need::pure_v2() {
        return;
    }
    let script = "mkdir -p /sys/fs/cgroup/a/b && echo $$ > /sys/fs/cgroup/a/b/cgroup.procs; sleep 100 & sleep 101; true";
    let mut bundle = Bundle::script(script);
    for mount in bundle.config["mounts"].as_array_mut().unwrap() {
        if mount["type"] == "cgroup" {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "rw"]);
        }
    }
    bundle.up();
    let inside = format!("{}/a/b/cgroup.procs", folder(&bundle));
    until("it did not move", || {
        fs::read_to_string(&inside).is_ok_and(|pids| pids.lines().count() == 3)
    });
    let pids = bundle.ok(["ps", "--format", "json", &bundle.id]);
    let pids: Vec<i32> = serde_json::from_str(&pids).unwrap();
    assert_eq!(pids.len(), 3);
    bundle.ok(["delete", "--force", &bundle.id]);
    assert!(!fs::exists(folder(&bundle)).unwrap());
    // The group is empty as soon as they begin to end.
    for pid in pids {
        until("a process runs on", || {
            !fs::exists(format!("/proc/{pid}/ns/pid")).unwrap()
        });
    }
}

#[test]
fn a_processor_is_chosen() {
    if !have("cpuset") {
        return;
    }
    let bundle = limited(
        "grep Cpus_allowed_list /proc/self/status",
        json!({"cpu": {"cpus": "0", "mems": "0"}}),
    );
    assert_eq!(stdout(&bundle), "Cpus_allowed_list:\t0\n");
    let refused = limited("true", json!({"cpu": {"cpus": "4000"}}));
    let message = error(&refused, 1);
    assert!(
        message.contains("cannot write 4000 to cpuset.cpus"),
        "{message}"
    );
}

#[test]
fn a_container_without_a_cgroup_namespace_is_shown_its_own_group() {
    if !need::pure_v2() {
        return;
    }
    let mut bundle = Bundle::script("cat /proc/self/cgroup; ls /sys/fs/cgroup/cgroup.procs");
    bundle.namespaces(|all| all.retain(|one| one["type"] != "cgroup"));
    let expected = format!("0::/corten-it/{}\n/sys/fs/cgroup/cgroup.procs\n", bundle.id);
    assert_eq!(stdout(&bundle), expected);
}

/// config-linux.md, "Cgroup ownership": a group that the container has to itself and may write to is its user's.
#[test]
fn a_group_is_given_to_who_may_write_to_it() {
    use std::os::unix::fs::MetadataExt as _;
    if !need::pure_v2() {
        return;
    }
    for (access, own, owner) in [("rw", true, 231_072), ("ro", true, 0), ("rw", false, 0)] {
        let mut bundle = Bundle::script("sleep 100");
        let ids = json!([{"containerID": 0, "hostID": 231_072, "size": 65_536}]);
        bundle
            .set("/linux/uidMappings", ids.clone())
            .set("/linux/gidMappings", ids);
        bundle.namespaces(|all| {
            all.push(json!({"type": "user"}));
            if !own {
                all.retain(|one| one["type"] != "cgroup");
            }
        });
        let mounts = bundle.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|m| m["destination"] != "/sys/fs/cgroup");
        mounts.push(json!({
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", access],
        }));
        bundle.give(231_072);
        bundle.up();
        let of = |file: &str| {
            let path = format!("{}/{file}", folder(&bundle));
            fs::metadata(&path).unwrap().uid()
        };
        let case = format!("{access} {own}");
        for file in [
            "",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.subtree_control",
        ] {
            assert_eq!(of(file), owner, "{case} {file}");
        }
        // What is a limit stays the host's.
        for file in ["cgroup.freeze", "cgroup.max.depth", "pids.max"] {
            assert_eq!(of(file), 0, "{case} {file}");
        }
        let made = bundle.oci(["exec", &bundle.id, "mkdir", "/sys/fs/cgroup/below"]);
        assert_eq!(
            made.status.success(),
            owner != 0,
            "{case} {}",
            text(&made.stderr)
        );
        let at = folder(&bundle);
        bundle.ok(["delete", "--force", &bundle.id]);
        assert!(!fs::exists(&at).unwrap());
    }
}

/// A container that freezes its own first process has nobody wait for it: whoever comes later is refused, as in one that is paused.
#[test]
fn who_would_be_frozen_at_once_is_refused() {
    if !have("pids") {
        return;
    }
    let mut bundle = Bundle::script("sleep 100");
    let mounts = bundle.config["mounts"].as_array_mut().unwrap();
    mounts.retain(|m| m["destination"] != "/sys/fs/cgroup");
    mounts.push(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"],
    }));
    bundle.up();
    let script = "cd /sys/fs/cgroup && mkdir leaf && for p in $(cat cgroup.procs); do echo $p > leaf/cgroup.procs; done; \
                  echo +pids > cgroup.subtree_control";
    bundle.ok(["exec", &bundle.id, "sh", "-c", script]);
    bundle.ok(["exec", &bundle.id, "true"]);
    fs::write(format!("{}/leaf/cgroup.freeze", folder(&bundle)), "1").unwrap();
    until("it is frozen", || {
        read(&bundle, "leaf/cgroup.events").contains("frozen 1")
    });
    let refused = bundle.oci(["exec", &bundle.id, "true"]);
    let said = text(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("paused"),
        "{said}"
    );
    bundle.ok(["delete", "--force", &bundle.id]);
}
