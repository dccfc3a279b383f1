//! Pods on a node that systemd runs: scopes in the slices that kubelet makes, and the daemon as its units run it. Needs systemd as
//! process 1, and changes its units: `cargo xtask test --guest=systemd` runs these.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use corten_cri::proto::*;
use corten_testkit::{IdMaps, Result, need, tool, wait};

use super::SOON;
use super::daemon::{block, signal};
use super::pods::{Client, Node, options, security};
use super::serve_checkpoint::goes_on;
use super::serve_crash::unready;

const ROOT: &str = "/sys/fs/cgroup";
const DRIVER: &str = "cgroup-driver = \"systemd\"\n";

fn here() -> bool {
    if !need::systemd() || !need::guest("systemd") {
        return false;
    }
    // What a test that failed has left is not this one's.
    systemctl(&["stop", "corten-*.scope", "kubepods.slice"]);
    true
}

fn systemctl(args: &[&str]) -> String {
    tool::call("systemctl", args).unwrap_or_else(|e| panic!("systemctl {args:?}: {e}"))
}

fn is_active(unit: &str) -> bool {
    let status = Command::new("systemctl")
        .args(["-q", "is-active", unit])
        .status();
    status.expect("systemctl").success()
}

/// The slice of a pod, as kubelet asks systemd for it, with the limits of the whole pod; and the one that it is in.
fn slice(uid: &str) -> (String, PathBuf) {
    let unit = format!("kubepods-besteffort-pod{}.slice", uid.replace('-', "_"));
    let start = [
        "call",
        "org.freedesktop.systemd1",
        "/org/freedesktop/systemd1",
        "org.freedesktop.systemd1.Manager",
        "StartTransientUnit",
        "ssa(sv)a(sa(sv))",
        &unit,
        "replace",
        "3",
        "MemoryAccounting",
        "b",
        "true",
        "MemoryMax",
        "t",
        "268435456",
        "TasksMax",
        "t",
        "200",
        "0",
    ];
    tool::call("busctl", &start).unwrap_or_else(|e| panic!("{unit}: {e}"));
    let path = format!("/kubepods.slice/kubepods-besteffort.slice/{unit}");
    let folder = Path::new(ROOT).join(path.trim_start_matches('/'));
    let up = wait::until("the slice", SOON, || folder.exists().then_some(()));
    assert!(up.is_ok(), "{}", folder.display());
    (path, folder)
}

fn pod_in(client: &Client, name: &str, parent: &str, uid: &str) -> PodSandboxConfig {
    let mut config = client.pod(name);
    config.metadata.as_mut().expect("a name").uid = uid.into();
    config.linux.as_mut().expect("linux").cgroup_parent = parent.into();
    config
}

/// The unified path of a process.
#[track_caller]
fn group_of(pid: u64) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup"));
    let text = text.unwrap_or_else(|e| panic!("process {pid}: {e}"));
    let path = text.lines().find_map(|l| l.strip_prefix("0::"));
    path.unwrap_or_default().to_owned()
}

async fn pid_of(client: &mut Client, id: &str) -> u64 {
    client.info(id).await["pid"].as_u64().expect("a process")
}

fn supervisor(node: &Node, pod: &str) -> u64 {
    let file = node
        .sandbox
        .run_folder()
        .join("pods")
        .join(pod)
        .join("shim.pid");
    let text = fs::read_to_string(&file).expect("a supervisor");
    text.trim().parse().expect("a number")
}

fn supervisors(node: &Node) -> String {
    let name = node.sandbox.cgroup();
    format!("{}-supervisors.scope", name.trim_start_matches('/'))
}

/// Units of a kind that systemd has in mind, whether they run or have failed.
fn units(pattern: &str) -> String {
    systemctl(&["list-units", "--all", "--plain", "--no-legend", pattern])
}

fn file(folder: &Path, name: &str) -> String {
    let text = fs::read_to_string(folder.join(name));
    let text = text.unwrap_or_else(|e| panic!("{}/{name}: {e}", folder.display()));
    text.trim().to_owned()
}

async fn assert_gone(node: &Node, slices: &str) {
    let scope = supervisors(node);
    let gone = wait::until("the scopes' end", SOON, || {
        let left = units("corten-*.scope");
        (!left.contains(".scope")).then_some(())
    });
    assert!(gone.is_ok(), "{}", units("corten-*.scope"));
    assert!(!is_active(&scope));
    systemctl(&["stop", slices]);
    let gone = wait::until("the slices' end", SOON, || {
        (!Path::new(ROOT).join(slices).exists()).then_some(())
    });
    assert!(gone.is_ok(), "{slices}");
}

#[test]
fn containers_are_scopes_in_kubelets_slices() -> Result<()> {
    if !here() {
        return Ok(());
    }
    let node = Node::with(DRIVER, &[])?;
    block(async {
        let mut client = node.client().await;
        let config = client.runtime.runtime_config(RuntimeConfigRequest {}).await;
        let linux = config.expect("settings").into_inner().linux.expect("linux");
        assert_eq!(linux.cgroup_driver(), CgroupDriver::Systemd);
        let (path, folder) = slice("12-34");
        let pod = client.run(&pod_in(&client, "web", &path, "12-34")).await;
        let pod = pod.expect("a pod");
        let mut config = client.container("c", "sleep 1000");
        config.linux.as_mut().expect("linux").resources = Some(LinuxContainerResources {
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 64 << 20,
            unified: [("pids.max".to_owned(), "60".to_owned())].into(),
            ..Default::default()
        });
        let id = client.go(&pod, &config).await;
        let scope = format!("corten-{id}.scope");
        let pid = pid_of(&mut client, &id).await;
        assert_eq!(group_of(pid), format!("{path}/{scope}"));
        assert!(is_active(&scope));
        assert_eq!(client.says(&id, "cat /proc/self/cgroup").await, "0::/");
        let at = folder.join(&scope);
        let read = |name: &str| file(&at, name);
        assert_eq!(
            (read("memory.max"), read("pids.max")),
            ((64 << 20).to_string(), "60".into())
        );
        assert_eq!(read("cpu.max"), "50000 100000");
        // Other limits, and systemd reads all of its units anew: what it knows is what is so.
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(LinuxContainerResources {
                cpu_quota: 20_000,
                cpu_period: 100_000,
                memory_limit_in_bytes: 80 << 20,
                ..Default::default()
            }),
            ..Default::default()
        };
        client
            .runtime
            .update_container_resources(request)
            .await
            .expect("an update");
        systemctl(&["daemon-reload"]);
        assert_eq!(
            (read("memory.max"), read("pids.max")),
            ((80 << 20).to_string(), "60".into())
        );
        assert_eq!(read("cpu.max"), "20000 100000");
        // Nobody of ours is in the pod's own group, or in the group of whoever has started the daemon.
        assert_eq!(file(&folder, "cgroup.procs"), "");
        let shim = supervisor(&node, &pod);
        assert_eq!(
            group_of(shim),
            format!("/system.slice/{}", supervisors(&node))
        );
        figures(&mut client, &pod, &folder).await;
        client.stop(&id, 0).await.expect("a stop");
        client.remove(&id).await.expect("a removal");
        assert!(!at.exists());
        assert!(!units(&scope).contains(&scope), "{}", units(&scope));
        client.remove_all().await;
        assert_gone(&node, "kubepods.slice").await;
    });
    node.finish();
    Ok(())
}

/// The pod's are those of its slice.
async fn figures(client: &mut Client, pod: &str, slice: &Path) {
    let request = PodSandboxStatsRequest {
        pod_sandbox_id: pod.into(),
    };
    let stats = client.runtime.pod_sandbox_stats(request).await;
    let stats = stats.expect("figures").into_inner().stats.expect("figures");
    let linux = stats.linux.expect("linux");
    let told = linux
        .memory
        .expect("memory")
        .usage_bytes
        .expect("usage")
        .value;
    let read: u64 = file(slice, "memory.current").parse().expect("a number");
    assert!(
        told.abs_diff(read) < 4 << 20,
        "{told}, and {read} in the file"
    );
    // Only the slice has a limit from which something could be left.
    let again = client
        .runtime
        .list_pod_sandbox_stats(ListPodSandboxStatsRequest::default())
        .await;
    let again = again.expect("figures").into_inner().stats;
    let memory = again[0].linux.as_ref().and_then(|l| l.memory.as_ref());
    assert!(
        memory.is_some_and(|m| m.available_bytes.is_some()),
        "{memory:?}"
    );
}

#[test]
fn pods_with_a_first_process_and_users_of_their_own() -> Result<()> {
    if !here() {
        return Ok(());
    }
    let disk = IdMaps::find()?;
    let node = Node::below(&disk.folder(), DRIVER)?;
    block(async {
        let mut client = node.client().await;
        let (path, folder) = slice("a");
        // By its name alone, too.
        let name = path.rsplit('/').next().expect("a name");
        let mut config = pod_in(&client, "shared", name, "a");
        options(&mut config).pid = NamespaceMode::Pod.into();
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
        let pod = client.run(&config).await.expect("a pod");
        let mut config = client.container("c", "sleep 1000");
        let context = security(&mut config);
        let of = context.namespace_options.as_mut().expect("options");
        of.pid = NamespaceMode::Pod.into();
        of.userns_options = Some(users);
        let id = client.go(&pod, &config).await;
        assert_eq!(
            client.says(&id, "cat /proc/self/cgroup; id -u").await,
            "0::/\n0"
        );
        for scope in [&id, &pod] {
            let scope = format!("corten-{scope}.scope");
            assert!(is_active(&scope), "{scope}");
            assert!(folder.join(&scope).exists(), "{scope}");
        }
        // A parent of the other driver is refused by its field.
        let error = client
            .run(&pod_in(&client, "other", "/kubepods/b", "b"))
            .await;
        let error = error.expect_err("no slice");
        assert!(error.message().contains("linux.cgroup_parent"), "{error}");
        client.remove_all().await;
        assert_gone(&node, "kubepods.slice").await;
    });
    node.finish();
    Ok(())
}

#[test]
fn a_supervisor_dies_and_no_scope_is_left() -> Result<()> {
    if !here() {
        return Ok(());
    }
    let node = Node::with(DRIVER, &[])?;
    block(async {
        let mut client = node.client().await;
        let (path, folder) = slice("d");
        let pod = client.run(&pod_in(&client, "web", &path, "d")).await;
        let pod = pod.expect("a pod");
        let id = client.go(&pod, &client.container("c", "sleep 1000")).await;
        let scope = format!("corten-{id}.scope");
        assert!(is_active(&scope));
        let shim = supervisor(&node, &pod).to_string();
        tool::call("kill", &["-KILL", &shim]).expect("kill");
        client.ended(&id).await;
        unready(&mut client, &pod).await;
        client.remove_all().await;
        assert!(!folder.join(&scope).exists());
        assert_gone(&node, "kubepods.slice").await;
    });
    node.finish();
    Ok(())
}

#[test]
fn a_checkpoint_goes_on_in_a_scope() -> Result<()> {
    if !here() || !need::file("/usr/sbin/criu") {
        return Ok(());
    }
    let node = Node::with(DRIVER, &[])?;
    block(async {
        let mut client = node.client().await;
        let (path, folder) = slice("c");
        let [one, two] = ["one", "two"].map(|name| pod_in(&client, name, &path, "c"));
        if let Some((_, id)) = goes_on(&node, &mut client, &one, &two).await {
            let scope = format!("corten-{id}.scope");
            assert!(is_active(&scope));
            let pid = pid_of(&mut client, &id).await;
            assert_eq!(group_of(pid), format!("{path}/{scope}"));
            let own = file(&folder.join(&scope), "cgroup.procs");
            assert!(own.lines().any(|l| l == pid.to_string()), "{own}");
        }
        client.remove_all().await;
        assert_gone(&node, "kubepods.slice").await;
    });
    node.finish();
    Ok(())
}

/// As `corten system install` lays them, on the folders of the test.
struct Units(Vec<PathBuf>);

impl Units {
    fn lay(node: &Node) -> Self {
        let programs = node.sandbox.files().join("bin").display().to_string();
        let args = [
            "system",
            "install",
            "--systemd",
            "/etc/systemd/system",
            "--bin",
            &programs,
        ];
        let laid = node.sandbox.corten(&args).ok();
        let units = laid.lines().filter(|l| l.starts_with("/etc/systemd/"));
        let units: Vec<PathBuf> = units.map(PathBuf::from).collect();
        assert_eq!(units.len(), 4, "{laid}");
        systemctl(&["daemon-reload"]);
        let mut verify = Command::new("systemd-analyze");
        let said = verify
            .arg("verify")
            .args(&units)
            .output()
            .expect("systemd-analyze");
        let said = (
            said.status.success(),
            String::from_utf8_lossy(&said.stderr).into_owned(),
        );
        assert_eq!(said, (true, String::new()));
        Self(units)
    }

    fn take_away(self) {
        systemctl(&["stop", "corten.service", "corten.socket"]);
        for unit in &self.0 {
            fs::remove_file(unit).expect("a removal");
        }
        systemctl(&["daemon-reload"]);
        systemctl(&["reset-failed"]);
    }
}

fn main_pid() -> u64 {
    let text = systemctl(&["show", "--property=MainPID", "--value", "corten.service"]);
    text.trim().parse().expect("a number")
}

/// A new process of the unit's, which is ready.
fn began_after(old: u64) {
    let up = wait::until("the daemon's start", SOON * 3, || {
        let new = main_pid();
        (new != 0 && new != old && is_active("corten.service")).then_some(())
    });
    assert!(up.is_ok(), "{}", systemctl(&["show", "corten.service"]));
}

async fn runs(node: &Node, id: &str, pid: u64) {
    let mut client = node.client().await;
    let status = client.status(id).await.expect("a status");
    assert_eq!(status.state(), ContainerState::ContainerRunning);
    assert_eq!(pid_of(&mut client, id).await, pid);
    assert_eq!(client.says(id, "echo yes").await, "yes");
}

#[test]
fn the_units_start_the_daemon_and_nothing_of_it_ends_a_pod() -> Result<()> {
    if !here() {
        return Ok(());
    }
    let mut node = Node::with(DRIVER, &[])?;
    signal(&node.daemon.child, "TERM");
    assert!(node.daemon.ended().success());
    let units = Units::lay(&node);
    // The first call starts it.
    systemctl(&["start", "corten.socket"]);
    assert!(!is_active("corten.service"));
    let (path, _) = slice("f");
    let (pod, id, pid) = block(async {
        let mut client = node.client().await;
        let version = client.runtime.version(VersionRequest::default()).await;
        version.expect("a version");
        assert!(is_active("corten.service"));
        let pod = client.run(&pod_in(&client, "web", &path, "f")).await;
        let pod = pod.expect("a pod");
        let id = client.go(&pod, &client.container("c", "sleep 1000")).await;
        let pid = pid_of(&mut client, &id).await;
        (pod, id, pid)
    });
    // The unit has its daemon, and nobody else whom a kill of the unit could reach.
    let own = Path::new(ROOT).join("system.slice/corten.service");
    assert_eq!(file(&own, "cgroup.procs"), main_pid().to_string());
    let shim = supervisor(&node, &pod);
    assert_eq!(
        group_of(shim),
        format!("/system.slice/{}", supervisors(&node))
    );

    for how in [
        &["kill", "--signal=KILL", "corten.service"][..],
        &["restart", "corten.service"],
        &["daemon-reload"],
        &["daemon-reexec"],
    ] {
        let old = main_pid();
        systemctl(how);
        if !how[0].starts_with("daemon") {
            began_after(old);
        }
        block(runs(&node, &id, pid));
        assert_eq!(supervisor(&node, &pod), shim, "{how:?}");
    }
    // Stopped it is not there; the next call starts it again, and the pod was there all the time.
    systemctl(&["stop", "corten.service"]);
    assert!(!is_active("corten.service"));
    assert_eq!(group_of(pid), format!("{path}/corten-{id}.scope"));
    block(runs(&node, &id, pid));
    // Two supervisors are in one scope, which ends with the second.
    block(async {
        let mut client = node.client().await;
        let other = client.run(&pod_in(&client, "other", &path, "f")).await;
        let other = other.expect("a pod");
        assert_eq!(group_of(supervisor(&node, &other)), group_of(shim));
        client.stop_pod(&other).await.expect("a stop");
        client.remove_pod(&other).await.expect("a removal");
        assert!(is_active(&supervisors(&node)));
        client.remove_all().await;
        assert_gone(&node, "kubepods.slice").await;
    });
    units.take_away();
    node.again();
    node.finish();
    Ok(())
}
