//! `kill -9` of the daemon, of pods' supervisors, of containers, of everything at once as when the power fails; then a
//! new daemon: what is there is whole, and what is not has left nothing.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use corten_cri::proto::*;
use corten_testkit::{Result, tool, wait};
use tonic::Status;

use super::SOON;
use super::crash::{Moments, kill, supervisors};
use super::daemon::block;
use super::pods::{Client, Node};

const MOMENTS: usize = 14;

/// A pod's whole life, as fast as it goes.
async fn life(client: &mut Client) -> std::result::Result<(), Status> {
    let pod = client.run(&client.pod("p")).await?;
    let id = client
        .create(&pod, &client.container("c", "sleep 1000"))
        .await?;
    client.start(&id).await?;
    client.exec(&id, "true", 5).await?;
    client.stop(&id, 0).await?;
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await
}

#[test]
fn rows_of_another_version_are_told_of_and_left_alone() -> Result<()> {
    let mut node = Node::start()?;
    let (lost, served, [of_lost, known, strange]) = block(async {
        let mut client = node.client().await;
        let lost = client.run(&client.pod("lost")).await.expect("a pod");
        let of_lost = client.go(&lost, &client.container("c", "sleep 1000")).await;
        let served = client.run(&client.pod("served")).await.expect("a pod");
        let known = client
            .go(&served, &client.container("known", "sleep 1000"))
            .await;
        let strange = client.container("strange", "sleep 1000");
        let strange = client.go(&served, &strange).await;
        (lost, served, [of_lost, known, strange])
    });
    let root = node.sandbox.root();
    let change = |from: &str, to: &str| {
        let store = corten_store::Store::open(&root).expect("the store");
        let pods = store.pods();
        for mut row in pods.list().expect("the rows") {
            if [&lost, &strange].iter().any(|id| *id == row.id.as_str()) {
                assert!(row.record.contains(from), "{}", row.record);
                row.record = row.record.replace(from, to);
                pods.update(&row).expect("an update");
            }
        }
    };
    node.daemon.child.kill().expect("kill");
    node.daemon.child.wait().expect("wait");
    change("\"version\":1,", "\"version\":99,");
    node.again();
    let log = node.daemon.log();
    for id in [&lost, &strange] {
        let told = |line: &&str| line.contains(id.as_str()) && line.contains("version 99");
        assert!(log.lines().any(|line| told(&line)), "{id}: {log}");
    }
    block(async {
        let mut client = node.client().await;
        let found = client.pods().await;
        let state = |id: &str| found.iter().find(|p| p.id == id).map(PodSandbox::state);
        assert_eq!(state(&lost), Some(PodSandboxState::SandboxNotready));
        assert_eq!(state(&served), Some(PodSandboxState::SandboxReady));
        let metadata = found
            .iter()
            .find(|p| p.id == lost)
            .and_then(|p| p.metadata.clone());
        assert_eq!(metadata.expect("names").name, "lost");
        let found = client.containers().await;
        let state = |id: &str| found.iter().find(|c| c.id == id).map(Container::state);
        for id in [&of_lost, &strange] {
            assert_eq!(state(id), Some(ContainerState::ContainerUnknown));
        }
        assert_eq!(state(&known), Some(ContainerState::ContainerRunning));
        let status = client.status(&strange).await.expect("a status");
        assert!(status.message.contains("version 99"), "{status:?}");
        client.pod_status(&lost).await.expect("a status");
        // Everything else works, and nothing of these is touched.
        assert_eq!(client.says(&known, "echo up").await, "up");
        let more = client.run(&client.pod("more")).await.expect("a pod");
        client.remove_pod(&more).await.expect("a removal");
        for refused in [
            client.stop_pod(&lost).await,
            client.remove_pod(&lost).await,
            client.remove_pod(&served).await,
            client.stop(&strange, 0).await,
            client.remove(&of_lost).await,
            client.run(&client.pod("lost")).await.map(drop),
        ] {
            let refused = refused.expect_err("left alone");
            assert!(!refused.message().is_empty(), "{refused}");
        }
    });
    // Whoever knows the version finds all as it was.
    node.daemon.child.kill().expect("kill");
    node.daemon.child.wait().expect("wait");
    change("\"version\":99,", "\"version\":1,");
    node.again();
    block(async {
        let mut client = node.client().await;
        for id in [&lost, &served] {
            let status = client.pod_status(id).await.expect("a status");
            assert_eq!(status.state(), PodSandboxState::SandboxReady);
        }
        for id in [&of_lost, &known, &strange] {
            assert_eq!(client.says(id, "echo up").await, "up");
        }
    });
    node.finish();
    Ok(())
}

#[test]
fn the_daemon_dies_at_any_moment() -> Result<()> {
    let mut node = Node::start()?;
    let mut moments = Moments::new();
    let usual = block(async {
        let mut client = node.client().await;
        let since = Instant::now();
        life(&mut client).await.expect("a life");
        since.elapsed()
    });
    for round in 0..MOMENTS {
        let moment = moments.within(usual);
        block(async {
            let mut client = node.client().await;
            // The names of the last round are free again, whatever became of it.
            let ended = tokio::time::timeout(moment, life(&mut client)).await;
            if let Ok(done) = ended {
                done.unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
        });
        node.again();
        block(async { whole(&node, &format!("round {round}, {moment:?}")).await });
    }
    node.finish();
    Ok(())
}

/// What is on the lists works, and goes; then there is nothing.
async fn whole(node: &Node, when: &str) {
    let mut client = node.client().await;
    let pods = client.pods().await;
    assert!(pods.len() <= 1, "{when}: {pods:?}");
    for container in client.containers().await {
        assert_eq!(container.pod_sandbox_id, pods[0].id, "{when}");
        let status = client.status(&container.id).await.expect("a status");
        match status.state() {
            ContainerState::ContainerRunning => {
                assert_eq!(
                    client.says(&container.id, "echo here").await,
                    "here",
                    "{when}"
                );
            }
            ContainerState::ContainerExited => {
                assert_ne!(status.exit_code, 0, "{when}");
            }
            _ => {}
        }
    }
    for pod in &pods {
        if pod.state() == PodSandboxState::SandboxReady {
            let more = client
                .go(&pod.id, &client.container("more", "exit 3"))
                .await;
            assert_eq!(client.ended(&more).await.exit_code, 3, "{when}");
        }
    }
    client.remove_all().await;
    assert!(client.containers().await.is_empty(), "{when}");
    let daemon = node.daemon.child.id();
    let mut left = vec![];
    let gone = wait::until("everything to end", SOON, || {
        left = node.sandbox.processes();
        left.retain(|pid| *pid != daemon);
        left.is_empty().then_some(())
    });
    assert!(gone.is_ok(), "{when}: {left:?} are left");
    assert_eq!(node.addresses(), Vec::<String>::new(), "{when}");
    for folder in ["pods", "exits", "shims"] {
        let path = node.sandbox.run_folder().join(folder);
        let entries = fs::read_dir(&path).into_iter().flatten().flatten();
        let names: Vec<_> = entries.map(|e| e.file_name()).collect();
        assert!(names.is_empty(), "{when}: {} has {names:?}", path.display());
    }
}

/// As a kill leaves it in the middle of a snapshot's making.
#[test]
fn a_snapshot_of_nobodys_goes_with_the_next_start() -> Result<()> {
    let mut node = Node::start()?;
    node.daemon.child.kill().expect("kill");
    node.daemon.child.wait().expect("wait");
    let lost = node.sandbox.root().join("snapshots/0123456789ab");
    fs::create_dir_all(lost.join("fs")).expect("a folder");
    node.again();
    assert!(!lost.exists());
    let log = node.daemon.log();
    assert!(log.contains(&lost.display().to_string()), "{log}");
    node.finish();
    Ok(())
}

#[test]
fn a_supervisor_dies_at_any_moment() -> Result<()> {
    let node = Node::start()?;
    let mut moments = Moments::new();
    block(async {
        let mut client = node.client().await;
        let since = Instant::now();
        life(&mut client).await.expect("a life");
        let usual = since.elapsed();
        for round in 0..MOMENTS {
            let moment = moments.within(usual);
            let mut other = client.clone();
            let life = tokio::spawn(async move { life(&mut other).await });
            tokio::time::sleep(moment).await;
            supervisors(&node.sandbox).into_iter().for_each(kill);
            // It fails or not, but it ends.
            let ended = tokio::time::timeout(SOON, life).await;
            let _either = ended.expect("an end").expect("a task");
            let when = format!("round {round}, {moment:?}");
            for pod in client.pods().await {
                unready(&mut client, &pod.id).await;
            }
            whole(&node, &when).await;
        }
    });
    node.finish();
    Ok(())
}

/// Waits until a pod's end has been noticed.
pub async fn unready(client: &mut Client, pod: &str) {
    let since = Instant::now();
    while client.pod_status(pod).await.expect("a status").state() == PodSandboxState::SandboxReady {
        assert!(since.elapsed() < SOON, "the pod is ready for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_supervisor_dies() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let other = client.run(&client.pod("q")).await.expect("a pod");
        let id = client.go(&pod, &client.container("c", "sleep 1000")).await;
        let near = client
            .go(&other, &client.container("c", "sleep 1000"))
            .await;
        let shim = client.pod_info(&pod).await["supervisorPid"]
            .as_u64()
            .expect("a number");
        kill(shim as u32);
        unready(&mut client, &pod).await;
        let ended = client.ended(&id).await;
        assert!([137, 255].contains(&ended.exit_code), "{ended:?}");
        // As kubelet does then.
        client.stop_pod(&pod).await.expect("a stop");
        client.remove_pod(&pod).await.expect("a removal");
        assert_eq!(node.addresses().len(), 1);
        let again = client.run(&client.pod("p")).await.expect("a pod");
        let id = client.go(&again, &client.container("c", "exit 2")).await;
        assert_eq!(client.ended(&id).await.exit_code, 2);
        assert_eq!(client.says(&near, "echo here").await, "here");
    });
    node.finish();
    Ok(())
}

#[test]
fn a_container_is_killed_from_outside() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let id = client.go(&pod, &client.container("c", "sleep 1000")).await;
        let pid = client.info(&id).await["pid"].as_u64().expect("a number");
        kill(pid as u32);
        let ended = client.ended(&id).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "Error"));
        // The next attempt, as kubelet makes it.
        client.remove(&id).await.expect("a removal");
        let mut next = client.container("c", "exit 0");
        next.metadata.as_mut().expect("metadata").attempt = 1;
        let id = client.go(&pod, &next).await;
        assert_eq!(client.ended(&id).await.reason, "Completed");
    });
    node.finish();
    Ok(())
}

#[test]
fn the_daemon_and_supervisors_die_at_once() -> Result<()> {
    let mut node = Node::start()?;
    let (pod, [runs, ends]) = block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let runs = client
            .go(&pod, &client.container("runs", "sleep 1000"))
            .await;
        let ends = client.go(&pod, &client.container("ends", "exit 5")).await;
        client.ended(&ends).await;
        (pod, [runs, ends])
    });
    node.daemon.child.kill().expect("kill");
    supervisors(&node.sandbox).into_iter().for_each(kill);
    node.again();
    block(async {
        let mut client = node.client().await;
        unready(&mut client, &pod).await;
        let ended = client.ended(&runs).await;
        assert!([137, 255].contains(&ended.exit_code), "{ended:?}");
        assert_eq!(client.ended(&ends).await.exit_code, 5);
        whole(&node, "all are dead").await;
    });
    node.finish();
    Ok(())
}

/// Ends all processes of a node, and takes away what does not outlive a boot.
fn power_fails(node: &mut Node) {
    node.daemon.child.kill().expect("kill");
    node.daemon.child.wait().expect("wait");
    supervisors(&node.sandbox).into_iter().for_each(kill);
    let gone = wait::until("everything to end", SOON, || {
        let left = node.sandbox.processes();
        left.iter().copied().for_each(kill);
        left.is_empty().then_some(())
    });
    gone.expect("everything to end");
    let run = node.sandbox.run_folder();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let below: Vec<&str> = points
        .filter(|p| Path::new(p).starts_with(node.sandbox.folder()))
        .collect();
    for point in below.into_iter().rev() {
        tool::call("umount", &["--lazy", point]).expect("umount");
    }
    fs::remove_dir_all(&run).expect("a removal");
    for group in node.sandbox.cgroups() {
        for container in fs::read_dir(&group).into_iter().flatten().flatten() {
            if container.path().is_dir() {
                fs::remove_dir(container.path()).expect("an empty group");
            }
        }
    }
}

#[test]
fn the_power_fails() -> Result<()> {
    let mut node = Node::start()?;
    let (pod, [runs, made]) = block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let runs = client
            .go(&pod, &client.container("runs", "sleep 1000"))
            .await;
        let made = client.container("made", "sleep 1000");
        let made = client.create(&pod, &made).await.expect("a container");
        (pod, [runs, made])
    });
    power_fails(&mut node);
    node.daemon = super::daemon::Daemon::start(&node.sandbox, &[]);
    block(async {
        let mut client = node.client().await;
        let status = client.pod_status(&pod).await.expect("a status");
        assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        let status = client.status(&runs).await.expect("a status");
        assert_eq!(
            status.state(),
            ContainerState::ContainerExited,
            "{status:?}"
        );
        assert!([137, 255].contains(&status.exit_code), "{status:?}");
        client.start(&made).await.expect_err("its pod is not ready");
        client.stop_pod(&pod).await.expect("a stop");
        client.remove(&runs).await.expect("a removal");
        client.remove_pod(&pod).await.expect("a removal");
        assert!(client.containers().await.is_empty());
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let id = client.go(&pod, &client.container("runs", "exit 6")).await;
        assert_eq!(client.ended(&id).await.exit_code, 6);
    });
    node.finish();
    Ok(())
}
