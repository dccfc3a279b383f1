//! Messages and metrics from made-up counters of both versions.

use std::collections::{BTreeMap, BTreeSet};

use corten_cgroup::Stats;
use corten_cgroup::detail::{Pressure, Pressures, Stall};
use corten_cgroup::stats::{Cpu, Hugetlb, Io, Memory, Pids};
use corten_net::link::{Counters, Traffic};

use super::metrics::{Figures, Subject, of_container, of_pod};
use super::*;
use crate::proto::{ContainerAttributes, LinuxContainerResources, Metric, PodSandboxAttributes};

const MB: u64 = 1 << 20;
const AT: i64 = 1_700_000_000_500_000_000;

fn memory(v1: bool) -> Memory {
    let words = match v1 {
        true => [
            "total_rss",
            "total_cache",
            "total_pgfault",
            "total_active_file",
        ],
        false => ["anon", "file", "pgfault", "active_file"],
    };
    let values = [30 * MB, 50 * MB, 7, 20 * MB];
    Memory {
        usage: 80 * MB,
        peak: Some(90 * MB),
        limit: Some(100 * MB),
        swap_usage: if v1 { 85 * MB } else { 5 * MB },
        swap_limit: Some(if v1 { 150 * MB } else { 50 * MB }),
        failures: 2,
        oom_kills: 1,
        inactive_file: 25 * MB,
        detail: words.iter().map(|w| (*w).to_owned()).zip(values).collect(),
        v1,
        ..Memory::default()
    }
}

fn sample(v1: bool) -> Sample {
    let stall = |total| Stall {
        averages: [1.5, 0.5, 0.25],
        total,
    };
    let pressure = Some(Pressure {
        some: stall(3_000_000),
        full: stall(2_000_000),
    });
    Sample {
        at: AT,
        stats: Stats {
            cpu: Some(Cpu {
                usage: 7_500_000_000,
                user: 5_000_000_000,
                system: 2_000_000_000,
                ..Cpu::default()
            }),
            memory: Some(memory(v1)),
            pids: Some(Pids {
                current: 4,
                limit: None,
            }),
            io: vec![Io {
                major: 8,
                minor: 0,
                read_bytes: 1,
                write_bytes: 2,
                reads: 3,
                writes: 4,
            }],
            hugetlb: vec![Hugetlb {
                page_size: "2MB".into(),
                usage: 2 * MB,
                ..Hugetlb::default()
            }],
        },
        pressures: Pressures {
            cpu: pressure,
            memory: pressure,
            io: pressure,
        },
        hugetlb_peaks: vec![("2MB".into(), 4 * MB)],
    }
}

#[test]
fn both_versions_say_the_same_of_one_container() {
    let layer = Layer {
        at: AT,
        mountpoint: "/var/lib/corten".into(),
        bytes: 10,
        inodes: 2,
    };
    let stats = [true, false].map(|v1| {
        let sample = sample(v1);
        usage::container(
            ContainerAttributes::default(),
            Some(&sample),
            Some(9),
            Some(&layer),
        )
    });
    assert_eq!(stats[0], stats[1]);
    let stats = &stats[0];
    let cpu = stats.cpu.as_ref().unwrap();
    assert_eq!(cpu.usage_core_nano_seconds.unwrap().value, 7_500_000_000);
    assert_eq!(cpu.usage_nano_cores.unwrap().value, 9);
    assert_eq!(cpu.psi.as_ref().unwrap().some.unwrap().avg10, 1.5);
    let memory = stats.memory.as_ref().unwrap();
    assert_eq!(memory.working_set_bytes.unwrap().value, 55 * MB);
    assert_eq!(memory.available_bytes.unwrap().value, 45 * MB);
    assert_eq!(memory.rss_bytes.unwrap().value, 30 * MB);
    assert_eq!(memory.page_faults.unwrap().value, 7);
    let swap = stats.swap.as_ref().unwrap();
    assert_eq!(swap.swap_usage_bytes.unwrap().value, 5 * MB);
    assert_eq!(swap.swap_available_bytes.unwrap().value, 45 * MB);
    let layer = stats.writable_layer.as_ref().unwrap();
    assert_eq!(layer.used_bytes.unwrap().value, 10);
}

#[test]
fn what_is_not_counted_is_absent() {
    let nothing = Sample {
        at: AT,
        ..Sample::default()
    };
    let stats = usage::container(ContainerAttributes::default(), Some(&nothing), None, None);
    assert_eq!(stats.cpu, None);
    assert_eq!(stats.memory, None);
    assert_eq!(stats.swap, None);
    assert_eq!(stats.io, None);
    let mut unlimited = sample(true);
    unlimited.stats.memory.as_mut().unwrap().limit = None;
    let stats = usage::container(ContainerAttributes::default(), Some(&unlimited), None, None);
    assert_eq!(stats.memory.unwrap().available_bytes, None);
    assert_eq!(stats.swap.unwrap().swap_available_bytes, None);
    let gone = usage::container(ContainerAttributes::default(), None, None, None);
    assert_eq!((gone.cpu, gone.memory), (None, None));
}

fn interfaces() -> Vec<network::Interface> {
    let counters = |n| Counters {
        received: Traffic {
            packets: n,
            bytes: n + 1,
            errors: n + 2,
            dropped: n + 3,
        },
        sent: Traffic::default(),
    };
    vec![
        ("net1".to_owned(), counters(10)),
        ("eth0".to_owned(), counters(20)),
    ]
}

#[test]
fn a_pod_has_its_interfaces_and_its_containers() {
    let sample = sample(false);
    let all = interfaces();
    let stats = usage::pod(
        PodSandboxAttributes::default(),
        &sample,
        None,
        Some(&all),
        12,
        vec![],
    );
    let linux = stats.linux.unwrap();
    let network = linux.network.unwrap();
    let default = network.default_interface.unwrap();
    assert_eq!(default.name, "eth0");
    assert_eq!(default.rx_bytes.unwrap().value, 21);
    assert_eq!(default.rx_errors.unwrap().value, 22);
    assert_eq!(network.interfaces.len(), 2);
    assert_eq!(linux.process.unwrap().process_count.unwrap().value, 12);
    let host = usage::pod(
        PodSandboxAttributes::default(),
        &sample,
        None,
        None,
        0,
        vec![],
    );
    assert_eq!(host.linux.unwrap().network, None);
    assert_eq!(
        network::usage(&all[..1], 0).default_interface.unwrap().name,
        "net1"
    );
}

#[test]
fn containers_add_up_to_a_pod() {
    let one = sample(true);
    let mut other = sample(true);
    other.at = AT + 1;
    let sum = Sample::sum([&one, &other]);
    assert_eq!(sum.at, AT + 1);
    assert_eq!(sum.stats.cpu.unwrap().usage, 15_000_000_000);
    let both = usage::memory(&sum).unwrap();
    assert_eq!(both.working_set_bytes.unwrap().value, 110 * MB);
    assert_eq!(both.rss_bytes.unwrap().value, 60 * MB);
    assert_eq!(both.available_bytes, None);
    assert_eq!(sum.stats.pids.unwrap().current, 8);
    assert!(Sample::sum([]).stats.cpu.is_none());
}

fn all_metrics(v1: bool) -> Vec<Metric> {
    let subject = Subject {
        pod: "web",
        namespace: "default",
        container: "nginx",
        id: "c1",
        image: "nginx:1",
    };
    let sample = sample(v1);
    let processes = Processes {
        count: 3,
        descriptors: 20,
        sockets: 5,
        max_files: Some(1024),
    };
    let figures = Figures {
        sample: &sample,
        processes: &processes,
        layer: Some(&Layer::default()),
        file_system: Some(&FileSystem {
            device: "/dev/sda1".into(),
            ..FileSystem::default()
        }),
        devices: &BTreeMap::from([((8, 0), "/dev/sda".to_owned())]),
        resources: Some(&LinuxContainerResources {
            cpu_period: 100_000,
            cpu_quota: 20_000,
            cpu_shares: 1024,
            memory_limit_in_bytes: 64,
            unified: [("memory.high".to_owned(), "60".to_owned())].into(),
            ..Default::default()
        }),
        started: 1_600_000_000_000_000_000,
    };
    let mut all = of_container(&subject, &figures);
    all.extend(of_pod(&subject, &interfaces(), AT));
    all
}

#[test]
fn every_metric_is_described_and_every_description_met() {
    let described: BTreeMap<String, usize> = descriptors()
        .into_iter()
        .map(|d| (d.name, d.label_keys.len()))
        .collect();
    assert_eq!(described.len(), descriptors().len(), "one is there twice");
    for v1 in [true, false] {
        let all = all_metrics(v1);
        for metric in &all {
            assert_eq!(
                described.get(&metric.name),
                Some(&metric.label_values.len()),
                "{}",
                metric.name
            );
        }
        let names: BTreeSet<_> = all.iter().map(|m| &m.name).collect();
        let missing: Vec<_> = described.keys().filter(|d| !names.contains(d)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn values_are_in_the_units_of_their_names() {
    let all = all_metrics(true);
    let of = |name: &str| {
        let name = format!("container_{name}");
        let mut found = all.iter().filter(move |m| m.name == name);
        found.next().unwrap().value.unwrap().value
    };
    assert_eq!(of("cpu_usage_seconds_total"), 7);
    assert_eq!(of("last_seen"), 1_700_000_000);
    assert_eq!(of("start_time_seconds"), 1_600_000_000);
    assert_eq!(of("memory_swap"), 5 * MB);
    assert_eq!(of("pressure_cpu_waiting_seconds_total"), 3);
    assert_eq!(of("pressure_io_stalled_seconds_total"), 2);
    assert_eq!(of("spec_memory_swap_limit_bytes"), 64);
    assert_eq!(of("spec_memory_reservation_limit_bytes"), 60);
    assert_eq!(of("network_receive_packets_total"), 20);
    assert_eq!(of("threads_max"), 0);
    let write = all.iter().find(|m| {
        m.name == "container_blkio_device_usage_total"
            && m.label_values.last().is_some_and(|o| o == "Write")
    });
    let write = write.unwrap();
    assert_eq!(write.label_values[5..], ["/dev/sda", "8", "0", "Write"]);
    assert_eq!(write.value.unwrap().value, 2);
}

/// The whole way from the kernel: a group of this test's own, with one process in it.
#[test]
fn a_group_of_this_host_is_read() {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use corten_cgroup::{Cgroup, Layout};

    let layout = Layout::probe().unwrap();
    let path = format!("/corten-test-{}-stats", std::process::id());
    let group = Cgroup::create(&layout, &path).unwrap();
    let v1 = layout.hierarchies().iter().map(|h| h.root.as_path());
    let roots = v1.chain(layout.unified());
    let join: String = roots
        .map(|root| format!("echo $$ > {}{path}/cgroup.procs; ", root.display()))
        .collect();
    // It has worked by the time that it echoes.
    let script = format!("{join} i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo; read x");
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();

    let sample = Sample::read(&group).unwrap();
    let pids = group.pids().unwrap();
    let processes = Processes::read(&pids);
    let stats = usage::container(ContainerAttributes::default(), Some(&sample), None, None);
    let figures = Figures {
        sample: &sample,
        processes: &processes,
        layer: None,
        file_system: Some(&FileSystem::read(std::path::Path::new("/")).unwrap()),
        devices: &devices(&sample.stats),
        resources: None,
        started: sample.at,
    };
    let metrics = of_container(&Subject::default(), &figures);

    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child.wait().unwrap();
    group.delete().unwrap();

    assert_eq!(pids, [i32::try_from(child.id()).unwrap()]);
    assert_eq!(processes.count, 1);
    assert!(processes.descriptors >= 3, "{processes:?}");
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 1_000_000);
    let names: BTreeSet<_> = metrics.iter().map(|m| m.name.as_str()).collect();
    assert!(names.contains("container_cpu_usage_seconds_total"));
    assert!(names.contains("container_fs_limit_bytes"));
    // Not every host has these controllers; where one does, it counts.
    if let Some(memory) = stats.memory {
        assert!(memory.usage_bytes.unwrap().value > 0);
        // Page faults are added up every two seconds, which is too long for a test.
        assert!(names.contains("container_memory_working_set_bytes"));
    }
    if sample.stats.pids.is_some() {
        assert!(names.contains("container_threads"));
    }
}
