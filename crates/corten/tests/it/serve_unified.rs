//! Pods where control groups of version 2 are all there is, as on the nodes of today: every limit against its file, every figure against
//! the files read by hand, who sees which groups, and what is left of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use corten_cri::proto::*;
use corten_testkit::{IdMaps, Result, need, wait};
use tonic::Code;

use super::SOON;
use super::daemon::block;
use super::pods::{Client, Node, options, security};

const ROOT: &str = "/sys/fs/cgroup";

/// The folder of a container's group.
fn group(client: &Client, id: &str) -> PathBuf {
    let parent = client.parent.trim_start_matches('/');
    Path::new(ROOT).join(parent).join(id)
}

#[track_caller]
fn file(group: &Path, name: &str) -> String {
    let text = fs::read_to_string(group.join(name));
    let text = text.unwrap_or_else(|e| panic!("{}/{name}: {e}", group.display()));
    text.trim().to_owned()
}

/// A number of a file that has one.
#[track_caller]
fn number(group: &Path, name: &str) -> u64 {
    let text = file(group, name);
    text.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
}

/// A number of a file of words with numbers.
#[track_caller]
fn field(group: &Path, name: &str, key: &str) -> u64 {
    let text = file(group, name);
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(key)?.strip_prefix(' '));
    let found = line.and_then(|l| l.parse().ok());
    found.unwrap_or_else(|| panic!("{name}: no {key} in {text}"))
}

/// As kubelet makes one for a pod of these resources, before it asks for the pod: with every controller handed down.
struct Kubepods {
    pod: String,
    folders: Vec<PathBuf>,
}

impl Kubepods {
    fn make(client: &Client, uid: &str) -> Self {
        let top = format!("{}-kubepods", client.parent);
        let names = [
            top.clone(),
            format!("{top}/burstable"),
            format!("{top}/burstable/pod{uid}"),
        ];
        let folders = names
            .each_ref()
            .map(|n| Path::new(ROOT).join(n.trim_start_matches('/')));
        let all = fs::read_to_string(format!("{ROOT}/cgroup.controllers")).expect("controllers");
        let down: Vec<String> = all.split_whitespace().map(|c| format!("+{c}")).collect();
        let down = down.join(" ");
        fs::write(format!("{ROOT}/cgroup.subtree_control"), &down)
            .expect("controllers of the root");
        for folder in &folders {
            fs::create_dir(folder).expect("a group");
            fs::write(folder.join("cgroup.subtree_control"), &down).expect("controllers");
        }
        let [.., pod] = names;
        Self {
            pod,
            folders: folders.into(),
        }
    }

    fn folder(&self) -> &Path {
        self.folders.last().expect("a folder")
    }

    /// They are kubelet's, and it takes them away when the pod is gone: nothing of ours is in them then.
    fn remove(self) {
        for folder in self.folders.iter().rev() {
            let gone = fs::remove_dir(folder);
            gone.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        }
    }
}

fn limits(linux: LinuxContainerResources, id: &str) -> UpdateContainerResourcesRequest {
    UpdateContainerResourcesRequest {
        container_id: id.into(),
        linux: Some(linux),
        ..Default::default()
    }
}

fn unified(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    let owned = pairs.iter().map(|(k, v)| (k.to_string(), v.to_string()));
    owned.collect()
}

/// Not every guest can choose processors, which is nothing to leave the rest out for.
fn cpusets() -> bool {
    file(Path::new(ROOT), "cgroup.controllers").contains("cpuset")
}

#[test]
fn limits_are_what_the_files_say() -> Result<()> {
    if !need::pure_v2() {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let kubepods = Kubepods::make(&client, "1234");
        let mut config = client.pod("web");
        config.linux.as_mut().expect("linux").cgroup_parent = kubepods.pod.clone();
        let pod = client.run(&config).await.expect("a pod");
        client.parent = kubepods.pod.clone();
        let mut config = client.container("c", "sleep 1000");
        config.linux.as_mut().expect("linux").resources = Some(LinuxContainerResources {
            cpu_shares: 1024,
            cpu_quota: 40_000,
            cpu_period: 100_000,
            cpuset_cpus: if cpusets() { "0".into() } else { String::new() },
            memory_limit_in_bytes: 64 << 20,
            unified: unified(&[
                ("memory.high", "50331648"),
                ("memory.min", "1048576"),
                ("memory.oom.group", "1"),
                ("pids.max", "77"),
            ]),
            ..Default::default()
        });
        let running = client.go(&pod, &config).await;
        config.metadata.as_mut().expect("a name").name = "later".into();
        let created = client.create(&pod, &config).await.expect("a container");
        let at = group(&client, &running);
        // 1024 shares are a weight of 100 by the newer curve of runc, which kubelet reckons with too.
        for (name, value) in [
            ("cpu.weight", "100"),
            ("cpu.max", "40000 100000"),
            ("memory.max", "67108864"),
            ("memory.high", "50331648"),
            ("memory.min", "1048576"),
            ("memory.oom.group", "1"),
            ("pids.max", "77"),
        ] {
            assert_eq!(file(&at, name), value, "{name}");
        }
        if cpusets() {
            assert_eq!(file(&at, "cpuset.cpus"), "0");
        }
        // Nothing was said of swap, so there is none, where the kernel counts it.
        let swap = at.join("memory.swap.max").exists();
        if swap {
            assert_eq!(file(&at, "memory.swap.max"), "0");
        }
        let update = LinuxContainerResources {
            cpu_shares: 2048,
            cpu_quota: -1,
            memory_limit_in_bytes: 96 << 20,
            memory_swap_limit_in_bytes: if swap { 128 << 20 } else { 0 },
            unified: unified(&[("memory.high", "max"), ("pids.max", "88")]),
            ..Default::default()
        };
        for id in [&running, &created] {
            let request = limits(update.clone(), id);
            client
                .runtime
                .update_container_resources(request)
                .await
                .expect("an update");
        }
        client.start(&created).await.expect("a start");
        for id in [&running, &created] {
            let at = group(&client, id);
            for (name, value) in [
                ("cpu.max", "max 100000"),
                ("memory.max", "100663296"),
                ("memory.high", "max"),
                ("memory.min", "1048576"),
                ("pids.max", "88"),
            ] {
                assert_eq!(file(&at, name), value, "{name}");
            }
            assert!(number(&at, "cpu.weight") > 100);
            if swap {
                assert_eq!(number(&at, "memory.swap.max"), 32 << 20);
            }
        }
        refused(&mut client, &pod, &running).await;
        // The pod's own group is nobody's to be in: its controllers are handed down.
        assert_eq!(file(kubepods.folder(), "cgroup.procs"), "");
        client.remove_all().await;
        kubepods.remove();
    });
    node.finish();
    Ok(())
}

/// What cannot be honoured is named, and changes nothing.
async fn refused(client: &mut Client, pod: &str, running: &str) {
    let at = group(client, running);
    let before = file(&at, "memory.max");
    for (key, value) in [
        ("cgroup.freeze", "1"),
        ("cgroup.procs", "1"),
        ("../memory.max", "1"),
        ("memory.nothing", "1"),
        ("pids.max", "many"),
    ] {
        let wanted = LinuxContainerResources {
            memory_limit_in_bytes: 80 << 20,
            unified: unified(&[(key, value)]),
            ..Default::default()
        };
        let mut config = client.container("bad", "true");
        config.linux.as_mut().expect("linux").resources = Some(wanted);
        let error = match client.create(pod, &config).await {
            Err(error) => error,
            Ok(id) => {
                let error = client.start(&id).await.expect_err(key);
                client.remove(&id).await.expect("a removal");
                error
            }
        };
        assert!(error.message().contains(key), "{key}: {error}");
        assert_ne!(error.code(), Code::Unknown, "{key}: {error}");
    }
    assert_eq!(file(&at, "memory.max"), before);
    assert_eq!(file(&at, "cgroup.freeze"), "0");
}

/// Where the machine has pages of 2 MB.
#[test]
fn huge_pages_are_limited() -> Result<()> {
    if !need::pure_v2()
        || !need::controller("hugetlb")
        || !need::file("/sys/kernel/mm/hugepages/hugepages-2048kB")
    {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let mut config = client.container("c", "sleep 1000");
        let limit = |limit| HugepageLimit {
            page_size: "2MB".into(),
            limit,
        };
        config.linux.as_mut().expect("linux").resources = Some(LinuxContainerResources {
            hugepage_limits: vec![limit(4 << 20)],
            ..Default::default()
        });
        let id = client.go(&pod, &config).await;
        let at = group(&client, &id);
        assert_eq!(number(&at, "hugetlb.2MB.max"), 4 << 20);
        assert_eq!(number(&at, "hugetlb.2MB.rsvd.max"), 4 << 20);
        let update = LinuxContainerResources {
            hugepage_limits: vec![limit(2 << 20)],
            ..Default::default()
        };
        let request = limits(update, &id);
        client
            .runtime
            .update_container_resources(request)
            .await
            .expect("an update");
        assert_eq!(number(&at, "hugetlb.2MB.max"), 2 << 20);
    });
    node.finish();
    Ok(())
}

/// Within a tenth, and a megabyte: what is read by hand is read a little later.
#[track_caller]
fn near(what: &str, told: u64, read: u64) {
    let slack = read / 10 + (1 << 20);
    assert!(
        told.abs_diff(read) <= slack,
        "{what}: {told}, and {read} in the file"
    );
}

#[track_caller]
fn value(found: &Option<UInt64Value>) -> u64 {
    found.as_ref().expect("a value").value
}

#[test]
fn figures_are_those_of_the_files() -> Result<()> {
    if !need::pure_v2() {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let kubepods = Kubepods::make(&client, "56-78");
        let mut config = client.pod("web");
        config.metadata.as_mut().expect("a name").uid = "56-78".into();
        config.linux.as_mut().expect("linux").cgroup_parent = kubepods.pod.clone();
        let pod = client.run(&config).await.expect("a pod");
        client.parent = kubepods.pod.clone();
        // Memory of its own, page cache, processes, and time of the processor.
        let script = "dd if=/dev/zero of=/big bs=1M count=8 2>/dev/null; \
                      (x=$(head -c 4000000 /dev/zero | tr '\\0' a); sleep 1000; echo $x) & \
                      i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo done; exec sleep 1000";
        let mut config = client.container("c", script);
        config.linux.as_mut().expect("linux").resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            ..Default::default()
        });
        let id = client.go(&pod, &config).await;
        client.logged("web", "c", "done");
        let at = group(&client, &id);
        // The shell that is a sleep by now, the one with the memory, and its own sleep.
        let settled = wait::until("its processes", SOON, || {
            let (anon, pids) = (
                field(&at, "memory.stat", "anon"),
                number(&at, "pids.current"),
            );
            (anon > 4_000_000 && pids == 3).then_some(())
        });
        assert!(settled.is_ok(), "{}", file(&at, "cgroup.procs"));
        let request = ContainerStatsRequest {
            container_id: id.clone(),
        };
        let stats = client.runtime.container_stats(request).await;
        let stats = stats.expect("figures").into_inner().stats.expect("figures");
        let cpu = stats.cpu.expect("cpu");
        near(
            "cpu",
            value(&cpu.usage_core_nano_seconds) / 1000,
            field(&at, "cpu.stat", "usage_usec"),
        );
        let memory = stats.memory.expect("memory");
        compare(&memory, &at);
        let request = PodSandboxStatsRequest {
            pod_sandbox_id: pod.clone(),
        };
        let stats = client.runtime.pod_sandbox_stats(request).await;
        let linux = stats
            .expect("figures")
            .into_inner()
            .stats
            .expect("figures")
            .linux
            .expect("linux");
        // The pod's are those of kubelet's group, not a sum.
        let whole = kubepods.folder();
        near(
            "cpu of the pod",
            value(&linux.cpu.expect("cpu").usage_core_nano_seconds) / 1000,
            field(whole, "cpu.stat", "usage_usec"),
        );
        near(
            "memory of the pod",
            value(&linux.memory.expect("memory").usage_bytes),
            number(whole, "memory.current"),
        );
        let process = linux.process.expect("processes");
        assert_eq!(value(&process.process_count), number(&at, "pids.current"));
        pressure(&stats_of(&mut client, &id).await, &at);
        metrics(&mut client, &id, &at).await;
        client.remove_all().await;
        kubepods.remove();
    });
    node.finish();
    Ok(())
}

async fn stats_of(client: &mut Client, id: &str) -> ContainerStats {
    let request = ContainerStatsRequest {
        container_id: id.into(),
    };
    let stats = client.runtime.container_stats(request).await;
    stats.expect("figures").into_inner().stats.expect("figures")
}

fn compare(memory: &MemoryUsage, at: &Path) {
    let usage = number(at, "memory.current");
    near("usage", value(&memory.usage_bytes), usage);
    near(
        "rss",
        value(&memory.rss_bytes),
        field(at, "memory.stat", "anon"),
    );
    let working = usage - field(at, "memory.stat", "inactive_file");
    near("working set", value(&memory.working_set_bytes), working);
    near(
        "available",
        value(&memory.available_bytes),
        (128 << 20) - working,
    );
    near(
        "faults",
        value(&memory.page_faults),
        field(at, "memory.stat", "pgfault"),
    );
    assert_eq!(
        value(&memory.major_page_faults),
        field(at, "memory.stat", "pgmajfault")
    );
    // The file was written by the container: its pages are the container's.
    assert!(value(&memory.usage_bytes) > 8 << 20, "{memory:?}");
}

/// Told exactly where the kernel counts it.
fn pressure(stats: &ContainerStats, at: &Path) {
    let psi = |name: &str| fs::read_to_string(at.join(name)).is_ok();
    let cpu = stats.cpu.as_ref().and_then(|c| c.psi.as_ref());
    let memory = stats.memory.as_ref().and_then(|m| m.psi.as_ref());
    let io = stats.io.as_ref().and_then(|i| i.psi.as_ref());
    assert_eq!(cpu.is_some(), psi("cpu.pressure"));
    assert_eq!(memory.is_some(), psi("memory.pressure"));
    assert_eq!(io.is_some(), psi("io.pressure"));
    if let Some(cpu) = cpu {
        let text = file(at, "cpu.pressure");
        let total = text.lines().find_map(|l| {
            l.strip_prefix("some ")?
                .split("total=")
                .nth(1)?
                .parse()
                .ok()
        });
        near(
            "stalls",
            cpu.some.expect("some").total,
            total.expect("a total"),
        );
    }
}

/// Every metric of a container that its controllers count, by its value.
async fn metrics(client: &mut Client, id: &str, at: &Path) {
    let listed = client
        .runtime
        .list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {})
        .await;
    let listed = listed.expect("a list").into_inner().pod_metrics;
    let of = listed.iter().flat_map(|p| &p.container_metrics);
    let of = of.filter(|c| c.container_id == id).flat_map(|c| &c.metrics);
    let mut found: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for metric in of {
        found
            .entry(&metric.name)
            .or_default()
            .push(value(&metric.value));
    }
    let one = |name: &str| {
        found
            .get(name)
            .unwrap_or_else(|| panic!("no {name} among {:?}", found.keys()))[0]
    };
    near(
        "memory",
        one("container_memory_usage_bytes"),
        number(at, "memory.current"),
    );
    near(
        "rss",
        one("container_memory_rss"),
        field(at, "memory.stat", "anon"),
    );
    near(
        "cache",
        one("container_memory_cache"),
        field(at, "memory.stat", "file"),
    );
    near(
        "kernel",
        one("container_memory_kernel_usage"),
        field(at, "memory.stat", "kernel"),
    );
    assert_eq!(one("container_spec_memory_limit_bytes"), 128 << 20);
    assert_eq!(one("container_processes"), number(at, "pids.current"));
    let descriptors = client
        .runtime
        .list_metric_descriptors(ListMetricDescriptorsRequest {})
        .await;
    let descriptors = descriptors.expect("a list").into_inner().descriptors;
    for name in found.keys() {
        assert!(
            descriptors.iter().any(|d| d.name == *name),
            "{name} is not described"
        );
    }
}

/// A group below the root as it is seen from there.
fn below_root(group: &Path) -> String {
    format!("/{}", group.strip_prefix(ROOT).expect("below").display())
}

#[test]
fn a_container_sees_its_own_groups_and_a_privileged_one_the_hosts() -> Result<()> {
    if !need::pure_v2() {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let mut config = client.pod("web");
        let linux = config.linux.as_mut().expect("linux");
        linux
            .security_context
            .as_mut()
            .expect("a context")
            .privileged = true;
        let pod = client.run(&config).await.expect("a pod");
        let plain = client
            .go(&pod, &client.container("plain", "sleep 1000"))
            .await;
        let look = "cat /proc/self/cgroup; ls -d /sys/fs/cgroup/cgroup.*; grep cgroup /proc/mounts";
        let seen = client.says(&plain, look).await;
        assert!(seen.starts_with("0::/\n"), "{seen}");
        // A group has a type, the root has none; and it may not be written to.
        assert!(seen.contains("/sys/fs/cgroup/cgroup.type"), "{seen}");
        assert!(seen.contains("/sys/fs/cgroup cgroup2 ro,"), "{seen}");
        let tried = client
            .exec(
                &plain,
                "mkdir /sys/fs/cgroup/x; echo 1 > /sys/fs/cgroup/pids.max",
                20,
            )
            .await;
        assert_ne!(tried.expect("an exec").exit_code, 0);
        assert_eq!(file(&group(&client, &plain), "pids.max"), "max");

        let mut config = client.container("privileged", "sleep 1000");
        security(&mut config).privileged = true;
        let id = client.go(&pod, &config).await;
        let own = below_root(&group(&client, &id));
        let seen = client.says(&id, look).await;
        assert!(seen.starts_with(&format!("0::{own}\n")), "{seen}");
        assert!(!seen.contains("/sys/fs/cgroup/cgroup.type"), "{seen}");
        assert!(seen.contains("/sys/fs/cgroup cgroup2 rw,"), "{seen}");
        // It may make groups, as systemd or a docker in it does: its own hands controllers down then, and takes no process.
        let nest = format!(
            "cd /sys/fs/cgroup{own} && mkdir leaf && for p in $(cat cgroup.procs); do echo $p > leaf/cgroup.procs; done; \
             echo +pids > cgroup.subtree_control && mkdir more && echo 50 > more/pids.max && cat more/pids.max"
        );
        assert_eq!(client.says(&id, &nest).await, "50");
        // Those who come later are where its first process is.
        let later = client.says(&id, "cat /proc/self/cgroup").await;
        assert_eq!(later, format!("0::{own}/leaf"));
        let at = group(&client, &id);
        assert!(at.join("more").exists());
        assert!(
            value(
                &stats_of(&mut client, &id)
                    .await
                    .memory
                    .expect("memory")
                    .usage_bytes
            ) > 0
        );
        client.stop(&id, 0).await.expect("a stop");
        client.remove(&id).await.expect("a removal");
        assert!(!at.exists(), "{}", at.display());
    });
    node.finish();
    Ok(())
}

#[test]
fn ends_for_memory_are_told() -> Result<()> {
    if !need::pure_v2() || !need::controller("memory") {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        // Its first process; one of its processes, and kubelet has asked for all of them to go with it; and one alone.
        for (name, script, whole, code) in [
            ("first", "exec tail /dev/zero", false, 137),
            ("group", "tail /dev/zero & wait; sleep 1000", true, 137),
            ("child", "tail /dev/zero; exit 3", false, 3),
        ] {
            let mut config = client.container(name, script);
            let word = if whole { "1" } else { "0" };
            config.linux.as_mut().expect("linux").resources = Some(LinuxContainerResources {
                memory_limit_in_bytes: 16 << 20,
                unified: unified(&[("memory.oom.group", word)]),
                ..Default::default()
            });
            let id = client.go(&pod, &config).await;
            let ended = client.ended(&id).await;
            assert_eq!(
                (ended.exit_code, ended.reason.as_str()),
                (code, "OOMKilled"),
                "{name}"
            );
        }
    });
    node.finish();
    Ok(())
}

#[test]
fn pods_with_users_have_groups_of_their_own() -> Result<()> {
    if !need::pure_v2() {
        return Ok(());
    }
    let disk = IdMaps::find()?;
    let node = Node::below(&disk.folder(), "")?;
    block(async {
        let mut client = node.client().await;
        let mut config = client.pod("web");
        let range = IdMapping {
            container_id: 0,
            host_id: 231_072,
            length: 65_536,
        };
        let users = UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: vec![range],
            gids: vec![range],
        };
        options(&mut config).userns_options = Some(users.clone());
        let linux = config.linux.as_mut().expect("linux");
        linux
            .security_context
            .as_mut()
            .expect("a context")
            .privileged = true;
        let pod = client.run(&config).await.expect("a pod");
        let mut config = client.container("c", "sleep 1000");
        let context = security(&mut config);
        let of = context.namespace_options.as_mut().expect("options");
        of.userns_options = Some(users);
        config.linux.as_mut().expect("linux").resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 32 << 20,
            ..Default::default()
        });
        let id = client.go(&pod, &config).await;
        let look = "cat /proc/self/cgroup; stat -c '%u %a' /sys/fs/cgroup/cgroup.procs; cat /sys/fs/cgroup/memory.max";
        let seen = client.says(&id, look).await;
        let lines: Vec<&str> = seen.lines().collect();
        assert_eq!((lines[0], lines[2]), ("0::/", "33554432"), "{seen}");
        let tried = client
            .exec(&id, "echo max > /sys/fs/cgroup/memory.max", 20)
            .await;
        assert_ne!(tried.expect("an exec").exit_code, 0);
        let at = group(&client, &id);
        assert_eq!(number(&at, "memory.max"), 32 << 20);
        nested(&mut client, &pod, &config).await;
        client.stop(&id, 0).await.expect("a stop");
        client.remove(&id).await.expect("a removal");
        assert!(!at.exists());
    });
    node.finish();
    Ok(())
}

/// A privileged one of such a pod is root among its own groups, and nowhere else: it makes some, and cannot change its limits.
async fn nested(client: &mut Client, pod: &str, plain: &ContainerConfig) {
    let mut config = plain.clone();
    config.metadata.as_mut().expect("a name").name = "privileged".into();
    security(&mut config).privileged = true;
    let id = client.go(pod, &config).await;
    let seen = client.says(&id, "cat /proc/self/cgroup; id -u").await;
    assert_eq!(seen, "0::/\n0");
    let nest = "cd /sys/fs/cgroup && mkdir leaf && \
                for p in $(cat cgroup.procs); do echo $p > leaf/cgroup.procs; done; \
                echo +memory > cgroup.subtree_control && mkdir more && echo 1000000 > more/memory.max && \
                cat leaf/cgroup.procs | head -1";
    assert_eq!(client.says(&id, nest).await, "1");
    for limit in [
        "echo max > /sys/fs/cgroup/memory.max",
        "echo 0 > /sys/fs/cgroup/memory.min",
    ] {
        let tried = client.exec(&id, limit, 20).await;
        assert_ne!(tried.expect("an exec").exit_code, 0, "{limit}");
    }
    let at = group(client, &id);
    assert_eq!(number(&at, "memory.max"), 32 << 20);
    assert_eq!(client.says(&id, "cat /proc/self/cgroup").await, "0::/leaf");
    client.stop(&id, 0).await.expect("a stop");
    client.remove(&id).await.expect("a removal");
    assert!(!at.exists());
}

/// What holds a pod whose containers share their processes has a group beside theirs, and goes with the pod.
#[test]
fn a_pods_first_process_is_in_nobodys_way() -> Result<()> {
    if !need::pure_v2() {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let kubepods = Kubepods::make(&client, "9");
        let mut config = client.pod("web");
        config.linux.as_mut().expect("linux").cgroup_parent = kubepods.pod.clone();
        options(&mut config).pid = NamespaceMode::Pod.into();
        let pod = client.run(&config).await.expect("a pod");
        let mut config = client.container("c", "sleep 1000");
        let context = security(&mut config);
        context.namespace_options.as_mut().expect("options").pid = NamespaceMode::Pod.into();
        client.go(&pod, &config).await;
        let groups = fs::read_dir(kubepods.folder()).expect("a folder").flatten();
        let groups = groups.filter(|e| e.path().is_dir()).count();
        assert_eq!(groups, 2);
        assert_eq!(file(kubepods.folder(), "cgroup.procs"), "");
        client.remove_all().await;
        kubepods.remove();
    });
    node.finish();
    Ok(())
}
