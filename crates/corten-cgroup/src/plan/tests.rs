//! Plans as text, and the conversions.

use oci_spec::runtime::LinuxResources;

use super::*;

fn lines(plan: Result<Vec<Write>, Error>) -> String {
    let line = |w: Write| {
        let tree = if w.unified { "unified " } else { "" };
        format!("{tree}{}: {} <- {}\n", w.controller, w.file, w.value)
    };
    plan.unwrap().into_iter().map(line).collect()
}

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

const FULL: &str = r#"{
    "memory":{"limit":1000,"swap":1500,"reservation":500},
    "cpu":{"shares":1024,"quota":50000,"period":100000,"burst":1000,"cpus":"0-1","mems":"0"},
    "pids":{"limit":0},
    "blockIO":{"weight":500,
        "weightDevice":[{"major":8,"minor":0,"weight":10}],
        "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}],
        "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]},
    "hugepageLimits":[{"pageSize":"2MB","limit":9}],
    "rdma":{"mlx5_0":{"hcaHandles":3}}}"#;

#[test]
fn a_full_list_for_v1() {
    let plan = v1::plan(&resources(FULL), &Facts::default());
    assert_eq!(
        lines(plan),
        "memory: memory.limit_in_bytes <- 1000
memory: memory.memsw.limit_in_bytes <- 1500
memory: memory.soft_limit_in_bytes <- 500
cpu: cpu.shares <- 1024
cpu: cpu.cfs_period_us <- 100000
cpu: cpu.cfs_quota_us <- 50000
cpu: cpu.cfs_burst_us <- 1000
cpuset: cpuset.cpus <- 0-1
cpuset: cpuset.mems <- 0
pids: pids.max <- 1
blkio: blkio.weight <- 500
blkio: blkio.weight_device <- 8:0 10
blkio: blkio.throttle.read_bps_device <- 8:0 7
blkio: blkio.throttle.write_iops_device <- 8:0 0
hugetlb: hugetlb.2MB.limit_in_bytes <- 9
rdma: rdma.max <- mlx5_0 hca_handle=3
"
    );
}

#[test]
fn a_full_list_for_v2() {
    let plan = v2::plan(&resources(FULL), &Facts::default());
    assert_eq!(
        lines(plan),
        "memory: memory.max <- 1000
memory: memory.swap.max <- 500
memory: memory.low <- 500
cpu: cpu.weight <- 100
cpu: cpu.max <- 50000 100000
cpu: cpu.max.burst <- 1000
cpuset: cpuset.cpus <- 0-1
cpuset: cpuset.mems <- 0
pids: pids.max <- 1
io: io.weight <- 4950
io: io.weight <- 8:0 1
io: io.max <- 8:0 rbps=7
io: io.max <- 8:0 wiops=max
hugetlb: hugetlb.2MB.max <- 9
rdma: rdma.max <- mlx5_0 hca_handle=3
"
    );
}

#[test]
fn memory_is_written_in_the_order_that_the_kernel_takes() {
    let up = resources(r#"{"memory":{"limit":2000,"swap":2000}}"#);
    let facts = |now| Facts {
        memory_and_swap: Some(now),
        ..Facts::default()
    };
    let raise = lines(v1::plan(&up, &facts(1000)));
    assert!(raise.starts_with("memory: memory.memsw"), "{raise}");
    let lower = lines(v1::plan(&up, &facts(3000)));
    assert!(lower.starts_with("memory: memory.limit"), "{lower}");
    let free = lines(v1::plan(
        &resources(r#"{"memory":{"limit":-1}}"#),
        &facts(1000),
    ));
    assert_eq!(
        free,
        "memory: memory.memsw.limit_in_bytes <- -1\nmemory: memory.limit_in_bytes <- -1\n"
    );
    // No swap accounting: there is no second file to write.
    let none = lines(v1::plan(
        &resources(r#"{"memory":{"limit":-1}}"#),
        &Facts::default(),
    ));
    assert_eq!(none, "memory: memory.limit_in_bytes <- -1\n");
}

#[test]
fn a_shorter_period_comes_after_its_smaller_quota() {
    let cpu = resources(r#"{"cpu":{"quota":5000,"period":10000}}"#);
    let facts = Facts {
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        ..Facts::default()
    };
    assert_eq!(
        lines(v1::plan(&cpu, &facts)),
        "cpu: cpu.cfs_quota_us <- 5000\ncpu: cpu.cfs_period_us <- 10000\n"
    );
    let half = resources(r#"{"cpu":{"period":20000}}"#);
    assert_eq!(
        lines(v2::plan(&half, &facts)),
        "cpu: cpu.max <- 50000 20000\n"
    );
}

#[test]
fn what_means_not_set_writes_nothing() {
    let unset = resources(
        r#"{"memory":{"limit":0,"swap":0,"reservation":0},"cpu":{"shares":0,"quota":0,"period":0,"cpus":""},"blockIO":{"weight":0}}"#,
    );
    assert_eq!(lines(v1::plan(&unset, &Facts::default())), "");
    assert_eq!(lines(v2::plan(&unset, &Facts::default())), "");
}

#[test]
fn what_cannot_be_applied_is_refused_by_name() {
    for (json, v1_refuses, name) in [
        (r#"{"memory":{"limit":-2}}"#, true, "memory.limit"),
        (r#"{"memory":{"limit":100,"swap":50}}"#, true, "memory.swap"),
        (r#"{"memory":{"swap":50}}"#, true, "memory.swap"),
        (r#"{"memory":{"kernel":50}}"#, true, "memory.kernel"),
        (
            r#"{"memory":{"swappiness":101}}"#,
            true,
            "memory.swappiness",
        ),
        (
            r#"{"memory":{"swappiness":10}}"#,
            false,
            "memory.swappiness",
        ),
        (
            r#"{"memory":{"disableOOMKiller":true}}"#,
            false,
            "memory.disableOOMKiller",
        ),
        (
            r#"{"cpu":{"realtimeRuntime":5}}"#,
            false,
            "cpu.realtimeRuntime",
        ),
        (r#"{"pids":{"limit":-2}}"#, true, "pids.limit"),
        (r#"{"blockIO":{"weight":5}}"#, true, "blockIO.weight"),
        (
            r#"{"blockIO":{"leafWeight":50}}"#,
            false,
            "blockIO.leafWeight",
        ),
        (r#"{"network":{"classID":5}}"#, false, "network"),
        (r#"{"cpu":{"idle":2}}"#, true, "cpu.idle"),
        (r#"{"rdma":{"mlx5_0":{}}}"#, true, "rdma"),
        (
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-2}]}"#,
            true,
            "hugepageLimits.limit",
        ),
        (r#"{"unified":{"../x":"1"}}"#, true, "unified"),
        (r#"{"unified":{"..":"1"}}"#, true, "unified"),
        (r#"{"unified":{"memory.":"1"}}"#, true, "unified"),
        (r#"{"unified":{"memory.high/../x":"1"}}"#, true, "unified"),
        (r#"{"unified":{"cgroup.procs":"0"}}"#, true, "cgroup.procs"),
        (r#"{"unified":{"cgroup.kill":"1"}}"#, true, "cgroup.kill"),
        (
            r#"{"unified":{"cgroup.subtree_control":"-memory"}}"#,
            true,
            "cgroup.subtree_control",
        ),
        (r#"{"unified":{"memory":"1"}}"#, true, "unified"),
        (
            r#"{"hugepageLimits":[{"pageSize":"3XB","limit":9}]}"#,
            true,
            "hugepageLimits.pageSize",
        ),
    ] {
        let facts = Facts::default();
        let refused = v2::plan(&resources(json), &facts).unwrap_err().to_string();
        assert!(refused.contains(name), "{refused}");
        assert_eq!(
            v1::plan(&resources(json), &facts).is_err(),
            v1_refuses,
            "{json}"
        );
    }
}

#[test]
fn swap_alone_is_about_the_memory_that_the_group_has() {
    let swap = resources(r#"{"memory":{"swap":1500}}"#);
    let facts = Facts {
        memory_limit: Some(1000),
        memory_and_swap: Some(1200),
        ..Facts::default()
    };
    assert_eq!(
        lines(v2::plan(&swap, &facts)),
        "memory: memory.swap.max <- 500\n"
    );
    assert_eq!(
        lines(v1::plan(&swap, &facts)),
        "memory: memory.memsw.limit_in_bytes <- 1500\n"
    );
    let less = resources(r#"{"memory":{"swap":900}}"#);
    assert!(v1::plan(&less, &facts).is_err() && v2::plan(&less, &facts).is_err());
}

#[test]
fn without_swap_in_the_kernel_none_and_no_limit_are_both_so() {
    let facts = Facts {
        no_swap: true,
        ..Facts::default()
    };
    let none = resources(r#"{"memory":{"limit":1000,"swap":1000}}"#);
    assert_eq!(
        lines(v2::plan(&none, &facts)),
        "memory: memory.max <- 1000\n"
    );
    // What cannot be had is asked for, and the kernel's refusal told.
    let some = resources(r#"{"memory":{"limit":1000,"swap":1500}}"#);
    assert!(lines(v2::plan(&some, &facts)).contains("memory.swap.max <- 500"));
}

#[test]
fn an_idle_group_is_woken_before_its_weight_is_set() {
    let woken = resources(r#"{"cpu":{"idle":0,"shares":1024}}"#);
    assert_eq!(
        lines(v2::plan(&woken, &Facts::default())),
        "cpu: cpu.idle <- 0\ncpu: cpu.weight <- 100\n"
    );
    let idle = resources(r#"{"cpu":{"idle":1,"shares":1024}}"#);
    assert_eq!(
        lines(v1::plan(&idle, &Facts::default())),
        "cpu: cpu.shares <- 1024\ncpu: cpu.idle <- 1\n"
    );
}

#[test]
fn a_shorter_realtime_period_comes_after_its_budget() {
    let cpu = resources(r#"{"cpu":{"realtimeRuntime":1000,"realtimePeriod":10000}}"#);
    let facts = Facts {
        realtime_period: Some(1_000_000),
        ..Facts::default()
    };
    assert_eq!(
        lines(v1::plan(&cpu, &facts)),
        "cpu: cpu.rt_runtime_us <- 1000\ncpu: cpu.rt_period_us <- 10000\n"
    );
    let first = lines(v1::plan(&cpu, &Facts::default()));
    assert!(first.starts_with("cpu: cpu.rt_period_us"), "{first}");
}

#[test]
fn huge_pages_are_limited_as_they_are_reserved() {
    let limit = resources(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#);
    let facts = Facts {
        hugetlb_reservations: true,
        ..Facts::default()
    };
    assert_eq!(
        lines(v2::plan(&limit, &facts)),
        "hugetlb: hugetlb.2MB.max <- max\nhugetlb: hugetlb.2MB.rsvd.max <- max\n"
    );
    assert_eq!(
        lines(v1::plan(&limit, &facts)),
        "hugetlb: hugetlb.2MB.limit_in_bytes <- -1\nhugetlb: hugetlb.2MB.rsvd.limit_in_bytes <- -1\n"
    );
}

#[test]
fn what_v1_alone_has() {
    let only = resources(
        r#"{"memory":{"swappiness":10,"disableOOMKiller":true,"kernelTCP":7,"useHierarchy":true},
            "cpu":{"realtimeRuntime":5},
            "blockIO":{"leafWeight":50,"weightDevice":[{"major":8,"minor":0,"leafWeight":20}]},
            "network":{"classID":1048577,"priorities":[{"name":"eth0","priority":3}]}}"#,
    );
    assert_eq!(
        lines(v1::plan(&only, &Facts::default())),
        "memory: memory.kmem.tcp.limit_in_bytes <- 7
memory: memory.swappiness <- 10
memory: memory.oom_control <- 1
cpu: cpu.rt_runtime_us <- 5
blkio: blkio.leaf_weight <- 50
blkio: blkio.leaf_weight_device <- 8:0 20
net_cls: net_cls.classid <- 1048577
net_prio: net_prio.ifpriomap <- eth0 3
"
    );
}

#[test]
fn weights_have_the_files_of_the_scheduler_that_is_there() {
    let io = resources(
        r#"{"blockIO":{"weight":300,"weightDevice":[{"major":8,"minor":0,"weight":20}]}}"#,
    );
    let bfq = Facts {
        bfq: true,
        ..Facts::default()
    };
    assert_eq!(
        lines(v2::plan(&io, &bfq)),
        "io: io.bfq.weight <- 300\nio: io.bfq.weight <- 8:0 20\n"
    );
    assert_eq!(
        lines(v1::plan(&io, &bfq)),
        "blkio: blkio.bfq.weight <- 300\nblkio: blkio.bfq.weight_device <- 8:0 20\n"
    );
}

#[test]
fn unified_goes_to_the_unified_tree_line_by_line() {
    let own = resources(
        r#"{"pids":{"limit":-1},"unified":{"io.max":"8:0 rbps=1\n8:16 rbps=2\n","cgroup.max.depth":"3"}}"#,
    );
    for plan in [v1::plan, v2::plan] {
        let text = lines(plan(&own, &Facts::default()));
        let mut sorted: Vec<&str> = text.lines().collect();
        sorted.sort();
        assert_eq!(
            sorted,
            [
                "pids: pids.max <- max",
                "unified cgroup: cgroup.max.depth <- 3",
                "unified io: io.max <- 8:0 rbps=1",
                "unified io: io.max <- 8:16 rbps=2",
            ]
        );
    }
}

#[test]
fn check_before_update_asks_the_usage() {
    let update = resources(r#"{"memory":{"limit":100,"checkBeforeUpdate":true}}"#);
    let facts = |usage| Facts {
        memory_usage: Some(usage),
        ..Facts::default()
    };
    assert!(v2::plan(&update, &facts(101)).is_err());
    assert!(v2::plan(&update, &facts(100)).is_ok());
}

#[test]
fn shares_and_weight_map_ends_and_defaults() {
    for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000)] {
        assert_eq!(weight_from_shares(shares), weight);
        assert_eq!(shares_from_weight(weight), shares);
    }
    assert_eq!(weight_from_shares(0), 1);
    assert_eq!(weight_from_shares(u64::MAX), 10_000);
}

#[test]
fn weight_grows_with_shares() {
    let mut last = 0;
    for shares in (2..=262_144).step_by(37) {
        let weight = weight_from_shares(shares);
        assert!(weight >= last, "{shares}: {weight} after {last}");
        last = weight;
    }
}

#[test]
fn blkio_ends() {
    assert_eq!(io_weight_from_blkio(10), 1);
    assert_eq!(io_weight_from_blkio(1000), 10_000);
}

#[test]
fn a_page_size_cannot_leave_its_file_name() {
    let limit = |size: &str| -> LinuxHugepageLimit {
        serde_json::from_value(serde_json::json!({"pageSize": size, "limit": 1})).unwrap()
    };
    assert_eq!(hugepage_size(&limit("2MB")).unwrap(), "2MB");
    for bad in ["", "MB", "2", "02MB", "2mb", "../../x", "2MB/..", "2TB"] {
        assert!(hugepage_size(&limit(bad)).is_err(), "{bad}");
    }
}
