//! Small fields of the spec, one by one: honoured, or refused by name.

use serde_json::json;

use crate::harness::{Bundle, error, ours, stdout, text};

#[test]
fn the_affinity_is_of_added_processes_and_not_of_init() {
    if !ours() || std::thread::available_parallelism().map_or(1, |n| n.get()) < 2 {
        return;
    }
    let list = "grep Cpus_allowed_list /proc/self/status";
    let mut bundle = Bundle::script(&format!("{list}; sleep 100"));
    bundle.set(
        "/process/execCPUAffinity",
        json!({"initial": "1", "final": "0"}),
    );
    let mut init = Bundle::script(list);
    init.set(
        "/process/execCPUAffinity",
        json!({"initial": "1", "final": "0"}),
    );
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own
        .lines()
        .find(|l| l.starts_with("Cpus_allowed_list"))
        .unwrap();
    assert_eq!(stdout(&init).trim(), own);
    bundle.up();
    let added = bundle.ok(["exec", &bundle.id, "sh", "-c", list]);
    assert_eq!(added, "Cpus_allowed_list:\t0\n");
}

#[test]
fn the_scheduler_is_set_with_the_specifications_words() {
    // Fields 19 and 41 of stat(5): nice value, policy (3 is SCHED_BATCH).
    let mut bundle = Bundle::new(&["cat", "/proc/self/stat"]);
    bundle.set(
        "/process/scheduler",
        json!({"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
    );
    if !ours() {
        return;
    }
    let out = stdout(&bundle);
    let fields: Vec<&str> = out.split(' ').collect();
    assert_eq!((fields[18], fields[40]), ("5", "3"), "{out}");
    for (policy, named) in [
        ("SCHED_ISO", "SCHED_ISO"),
        ("SCHED_DEADLINE", "set the scheduler"),
    ] {
        bundle.set("/process/scheduler", json!({"policy": policy}));
        let message = error(&bundle, 1);
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn the_io_priority_is_the_groups() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.set(
        "/process/ioPriority",
        json!({"class": "IOPRIO_CLASS_BE", "priority": 6}),
    );
    assert_eq!(bundle.run().status.code(), Some(0));
    if ours() {
        bundle.set("/process/ioPriority/priority", json!(8));
        assert!(error(&bundle, 1).contains("process.ioPriority.priority"));
    }
}

#[test]
fn an_unknown_capability_is_a_warning() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script("grep CapBnd /proc/self/status");
    bundle.set(
        "/process/capabilities/bounding",
        json!(["CAP_KILL", "CAP_TIME_TRAVEL"]),
    );
    let output = bundle.run();
    assert_eq!(text(&output.stdout), "CapBnd:\t0000000000000020\n");
    assert!(
        text(&output.stderr).contains("CAP_TIME_TRAVEL"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn every_limit_can_be_set() {
    // Order of the kernel's numbers, 0 to 15; all as low as a program can live with.
    let names = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    let mut bundle = Bundle::new(&["cat", "/proc/self/limits"]);
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    let hard = |line: usize| -> u64 {
        let words: Vec<&str> = own.lines().nth(line).unwrap()[47..]
            .split_whitespace()
            .collect();
        words[0].parse().unwrap_or(1 << 40)
    };
    // The lines of that file are in the same order.
    let limits = names.iter().enumerate().map(|(n, name)| {
        let value = hard(n + 1).min(1 << 40);
        json!({"type": format!("RLIMIT_{name}"), "soft": value, "hard": value})
    });
    bundle.set("/process/rlimits", limits.collect());
    let out = stdout(&bundle);
    for n in 1..=names.len() {
        let value = hard(n).min(1 << 40).to_string();
        let line = out.lines().nth(n).unwrap();
        assert_eq!(
            line.split_whitespace().filter(|w| *w == value).count(),
            2,
            "{line}"
        );
    }
    if ours() {
        let twice = json!({"type": "RLIMIT_CORE", "soft": 0, "hard": 0});
        bundle.set("/process/rlimits", json!([twice, twice]));
        assert!(error(&bundle, 1).contains("RLIMIT_CORE twice"));
    }
}

#[test]
fn devices_in_the_hosts_dev_must_be_there() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::new(&["true"]);
    for target in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.unmount(target);
    }
    bundle.mount(json!({"destination": "/dev", "source": "/dev", "options": ["rbind", "ro"]}));
    let zero = json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 5}]);
    bundle.set("/linux/devices", zero);
    stdout(&bundle);
    bundle.set("/linux/devices/0/minor", json!(3));
    assert!(error(&bundle, 1).contains("make the device \"dev/zero\""));
    bundle.set("/linux/devices/0/path", json!("/dev/not-there"));
    assert!(error(&bundle, 1).contains("make the device \"dev/not-there\""));
}

#[test]
fn a_look_alike_of_a_device_is_an_error() {
    let mut bundle = Bundle::new(&["true"]);
    std::fs::write(bundle.root().join("node"), "").unwrap();
    bundle.set(
        "/linux/devices",
        json!([{"path": "/node", "type": "c", "major": 1, "minor": 5}]),
    );
    if ours() {
        assert!(error(&bundle, 1).contains("make the device \"node\": file exists"));
    }
}

#[test]
fn versions_are_read_as_semver() {
    for (version, good) in [
        ("1.0.0", true),
        ("1.0.0-rc5+x", true),
        ("1.3.0", true),
        ("1.2", false),
        ("1.x.0", false),
        ("2.0.0", false),
        ("", false),
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.set("/ociVersion", json!(version));
        if ours() {
            assert_eq!(bundle.run().status.success(), good, "{version}");
        }
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.set("/ociVersion", json!("1.99.0"));
    let output = bundle.run();
    if ours() {
        assert!(output.status.success());
        assert!(
            text(&output.stderr).contains("1.99.0"),
            "{}",
            text(&output.stderr)
        );
    }
}

#[test]
fn what_is_for_others_is_left_alone_and_what_is_for_us_is_not() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["unknown"] = json!({"a": [1]});
    bundle.config["process"]["unknown"] = json!(true);
    bundle.config["annotations"] = json!({"org.unknown": ""});
    bundle.config["zos"] = json!({});
    bundle.config["windows"] = json!({"layerFolders": []});
    stdout(&bundle);
    if !ours() {
        return;
    }
    bundle.config["annotations"] = json!({"": "x"});
    assert!(error(&bundle, 1).contains("annotations"));
    bundle.config["annotations"] = json!({});
    bundle.config["vm"] = json!({"kernel": {"path": "/k"}});
    assert!(error(&bundle, 1).contains("vm is not supported"));
}

#[test]
fn limits_of_a_user_namespace_are_its_own_sysctls() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::script("cat /proc/sys/user/max_net_namespaces");
    bundle.set("/linux/sysctl", json!({"user.max_net_namespaces": "7"}));
    assert!(error(&bundle, 1).contains("user.max_net_namespaces"));
    bundle.namespaces(|n| n.push(json!({"type": "user"})));
    let ids = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
    bundle
        .set("/linux/uidMappings", ids.clone())
        .set("/linux/gidMappings", ids);
    std::os::unix::fs::chown(bundle.root(), Some(200_000), Some(200_000)).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bundle.dir.path(), open).unwrap();
    assert_eq!(stdout(&bundle), "7\n");
}
