//! CheckpointContainer, and containers that go on from what it wrote, as far as the criu of this machine goes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use corten_cri::proto::*;
use corten_testkit::{Result, need};
use tonic::{Code, Status};

use super::SOON;
use super::daemon::{Daemon, block, spec};
use super::pods::{Client, Node};

const COUNT: &str =
    "echo mine > /root-file; n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done";

async fn checkpoint(
    client: &mut Client,
    id: &str,
    location: &Path,
    timeout: i64,
) -> std::result::Result<(), Status> {
    let request = CheckpointContainerRequest {
        container_id: id.into(),
        location: location.display().to_string(),
        timeout,
    };
    client.runtime.checkpoint_container(request).await.map(drop)
}

/// It counts on.
async fn assert_counts(client: &mut Client, pod: &str, name: &str) {
    let lines = |client: &Client| client.log(pod, name).lines().count();
    let before = lines(client);
    let since = Instant::now();
    while lines(client) <= before + 2 {
        assert!(
            since.elapsed() < SOON,
            "it stands still after {before} lines"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let names = entries.map(|e| e.expect("an entry").file_name());
    names.map(|n| n.to_string_lossy().into_owned()).collect()
}

#[test]
fn what_cannot_be_checkpointed_is_refused() -> Result<()> {
    let node = Node::start()?;
    let folder = node.sandbox.files().join("checkpoints");
    fs::create_dir_all(&folder).expect("a folder");
    let place = folder.join("a.tar");
    block(async {
        let mut client = node.client().await;
        let error = checkpoint(&mut client, "0123", &place, 0).await;
        assert_eq!(error.expect_err("nobody").code(), Code::NotFound);
        let config = client.pod("web");
        let pod = client.run(&config).await.expect("a pod");
        let container = client.container("c", COUNT);
        let id = client.create(&pod, &container).await.expect("a container");
        let error = checkpoint(&mut client, &id, &place, 0).await;
        let error = error.expect_err("it does not run");
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("not running"), "{error}");
        client.start(&id).await.expect("a start");
        for (location, timeout, why) in [
            ("a/b.tar", 0, "no absolute path"),
            ("", 0, "no absolute path"),
            ("/nowhere/at/all.tar", 0, "does not exist"),
            (&*folder.display().to_string(), 0, "it is a folder"),
            (&*place.display().to_string(), -1, "timeout"),
        ] {
            let error = checkpoint(&mut client, &id, Path::new(location), timeout).await;
            let error = error.expect_err(location);
            assert_eq!(error.code(), Code::InvalidArgument, "{location}: {error}");
            assert!(error.message().contains(why), "{location}: {error}");
        }
        assert_counts(&mut client, "web", "c").await;
        client.stop(&id, 0).await.expect("a stop");
        let error = checkpoint(&mut client, &id, &place, 0).await;
        let error = error.expect_err("it has ended");
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    });
    assert_eq!(names(&folder), [""; 0]);
    node.finish();
    Ok(())
}

#[test]
fn what_is_no_checkpoint_is_not_gone_on_from() -> Result<()> {
    let node = Node::start()?;
    let place = node.sandbox.files().join("bad.tar");
    block(async {
        let mut client = node.client().await;
        let config = client.pod("web");
        let pod = client.run(&config).await.expect("a pod");
        let mut container = client.container("c", COUNT);
        for (content, code, why) in [
            (None, Code::NotFound, "bad.tar"),
            (Some(&b"no tar"[..]), Code::InvalidArgument, "bad.tar"),
            (
                Some(&[0; 1024][..]),
                Code::InvalidArgument,
                "no config.dump",
            ),
        ] {
            if let Some(content) = content {
                fs::write(&place, content).expect("a file");
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(&place, mode).expect("a mode");
            }
            container.image = Some(spec(&place.display().to_string()));
            let error = client.create(&pod, &container).await.expect_err("bad");
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(why), "{error}");
        }
        assert!(client.containers().await.is_empty());
    });
    node.finish();
    Ok(())
}

/// Whoever made such an image decides as whom its processes run: it takes an administrator's word.
#[test]
fn checkpoints_from_registries_need_a_setting() -> Result<()> {
    for (settings, code, why) in [
        ("", Code::FailedPrecondition, "images.restore-checkpoints"),
        (
            "[images]\nrestore-checkpoints = true\n",
            Code::InvalidArgument,
            "no config.dump",
        ),
    ] {
        let node = Node::with(settings, &[])?;
        let empty = [0; 1024];
        let label = "LABEL org.criu.checkpoint.container.name=web";
        let args = ["import", "--change", label, "-", "web:checkpoint"];
        let done = node.sandbox.corten_with(&args, &empty);
        assert_eq!(done.code, 0, "{done:?}");
        block(async {
            let mut client = node.client().await;
            let config = client.pod("web");
            let pod = client.run(&config).await.expect("a pod");
            let mut container = client.container("c", COUNT);
            container.image = Some(spec("web:checkpoint"));
            let error = client.create(&pod, &container).await.expect_err("no");
            assert_eq!(error.code(), code, "{error}");
            assert!(error.message().contains(why), "{error}");
            assert!(client.containers().await.is_empty());
        });
        node.finish();
    }
    Ok(())
}

/// A node whose PATH has this one criu, or none.
fn node_with(criu: Option<&str>) -> Result<Node> {
    let mut node = Node::start()?;
    node.daemon.child.kill().expect("kill");
    node.daemon.child.wait().expect("wait");
    let programs = node.sandbox.files().join("bin");
    fs::create_dir_all(&programs).expect("a folder");
    if let Some(script) = criu {
        let path = programs.join("criu");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let mut command = node.sandbox.command();
    command.args(["--log-level", "info", "serve"]);
    command.env("PATH", programs);
    node.daemon = Daemon::spawn(&node.sandbox, command);
    Ok(node)
}

fn own_folder(node: &Node, pod: &str, id: &str) -> PathBuf {
    let pod = node.sandbox.root().join("pods").join(pod);
    pod.join("containers").join(id)
}

#[test]
fn without_criu_it_is_refused_by_name() -> Result<()> {
    let node = node_with(None)?;
    let place = node.sandbox.files().join("c.tar");
    block(async {
        let mut client = node.client().await;
        let config = client.pod("web");
        let pod = client.run(&config).await.expect("a pod");
        let container = client.container("c", COUNT);
        let id = client.go(&pod, &container).await;
        let error = checkpoint(&mut client, &id, &place, 0).await;
        let error = error.expect_err("no criu");
        assert_eq!(error.code(), Code::Unimplemented, "{error}");
        assert!(error.message().contains("criu"), "{error}");
        assert!(!place.exists());
        assert_eq!(names(&own_folder(&node, &pod, &id)), ["config.json"]);
        assert_counts(&mut client, "web", "c").await;
    });
    node.finish();
    Ok(())
}

/// The answer comes in time; what was under way ends behind it, and leaves nothing. A second one waits for it.
#[test]
fn a_criu_that_hangs_is_not_waited_for() -> Result<()> {
    let node = node_with(Some("exec /bin/sleep 3"))?;
    let place = node.sandbox.files().join("c.tar");
    block(async {
        let mut client = node.client().await;
        let config = client.pod("web");
        let pod = client.run(&config).await.expect("a pod");
        let container = client.container("c", COUNT);
        let id = client.go(&pod, &container).await;
        assert_counts(&mut client, "web", "c").await;
        let since = Instant::now();
        let error = checkpoint(&mut client, &id, &place, 1).await;
        let error = error.expect_err("a criu that hangs");
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        assert!(since.elapsed() < Duration::from_millis(2500));
        let error = checkpoint(&mut client, &id, &place, 0).await;
        let error = error.expect_err("the same criu");
        // It has ended without a word, which is nobody's refusal.
        assert_eq!(error.code(), Code::Internal, "{error}");
        assert!(error.message().contains("criu"), "{error}");
        assert!(
            since.elapsed() > Duration::from_millis(5500),
            "both at once"
        );
        assert!(!place.exists());
        assert_eq!(names(&own_folder(&node, &pod, &id)), ["config.json"]);
        assert_counts(&mut client, "web", "c").await;
    });
    node.finish();
    Ok(())
}

#[test]
fn what_a_killed_daemon_was_checkpointing_runs_on() -> Result<()> {
    let mut node = node_with(Some("exec /bin/sleep 2"))?;
    let place = node.sandbox.files().join("c.tar");
    let (pod, id) = block(async {
        let mut client = node.client().await;
        let config = client.pod("web");
        let pod = client.run(&config).await.expect("a pod");
        let container = client.container("c", COUNT);
        let id = client.go(&pod, &container).await;
        let error = checkpoint(&mut client, &id, &place, 1).await;
        assert_eq!(
            error.expect_err("a criu that hangs").code(),
            Code::DeadlineExceeded
        );
        (pod, id)
    });
    let own = own_folder(&node, &pod, &id);
    assert!(own.join("dump").exists());
    node.again();
    assert_eq!(names(&own), ["config.json"]);
    let log = node.daemon.log();
    assert!(log.contains("half a checkpoint of container"), "{log}");
    block(async {
        let mut client = node.client().await;
        assert_counts(&mut client, "web", "c").await;
    });
    node.finish();
    Ok(())
}

/// Whole where criu works; where it does not, as it often does not on a kernel newer than itself, the refusal, which leaves nothing.
#[test]
fn a_container_goes_on_in_another_pod() -> Result<()> {
    if !need::file("/usr/sbin/criu") {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let [one, two] = ["one", "two"].map(|name| client.pod(name));
        goes_on(&node, &mut client, &one, &two).await;
    });
    node.finish();
    Ok(())
}

/// A container of the first pod is written down, and goes on in the second, whose id and the container's are returned. `None`: criu
/// does not work here, and has been seen to say so.
pub async fn goes_on(
    node: &Node,
    client: &mut Client,
    one: &PodSandboxConfig,
    two: &PodSandboxConfig,
) -> Option<(String, String)> {
    let folder = node.sandbox.files().join("checkpoints");
    fs::create_dir_all(&folder).expect("a folder");
    let place = folder.join("c.tar");
    let check = Command::new("criu").arg("check").output().expect("criu");
    let pod = client.run(one).await.expect("a pod");
    let container = client.container("c", COUNT);
    let id = client.go(&pod, &container).await;
    assert_counts(client, "one", "c").await;
    let done = checkpoint(client, &id, &place, 60).await;
    // In any case it runs on, and criu's images are gone.
    assert_counts(client, "one", "c").await;
    assert_eq!(names(&own_folder(node, &pod, &id)), ["config.json"]);
    if !check.status.success() {
        let error = done.expect_err("criu refuses this kernel");
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("criu"), "{error}");
        assert_eq!(names(&folder), [""; 0]);
        need::skip("criu does not work on this kernel: only its refusal was seen");
        return None;
    }
    done.expect("a checkpoint");
    assert_eq!(names(&folder), ["c.tar"]);
    assert_whole(&place);
    let last = client.log("one", "c").lines().count();
    client.remove(&id).await.expect("a removal");

    let pod = client.run(two).await.expect("a pod");
    let mut container = client.container("c", "exit 3");
    container.image = Some(spec(&place.display().to_string()));
    let id = client.go(&pod, &container).await;
    assert_counts(client, "two", "c").await;
    let first = client.log("two", "c");
    let first = first.lines().next().and_then(|l| l.parse().ok());
    let first: usize = first.expect("a number");
    assert!(first > 3 && first < last + 100, "{first} after {last}");
    assert_eq!(client.says(&id, "cat /root-file").await, "mine");
    // It is where any other container of the new pod is.
    let beside = client.container("beside", "sleep 1000");
    let beside = client.go(&pod, &beside).await;
    let look = "hostname; for n in ipc net uts; do readlink /proc/1/ns/$n; done";
    let seen = client.says(&id, look).await;
    assert_eq!(seen, client.says(&beside, look).await);
    assert!(seen.starts_with("two\n"), "{seen}");
    Some((pod, id))
}

/// An archive as others know it, for root alone.
fn assert_whole(place: &Path) {
    let mode = place.metadata().expect("an archive").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let listed = Command::new("tar").arg("tf").arg(place).output();
    let listed = listed.expect("tar");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for member in [
        "config.dump",
        "spec.dump",
        "status.dump",
        "rootfs-diff.tar",
        "checkpoint/inventory.img",
        "container.log",
    ] {
        assert!(listed.lines().any(|l| l == member), "{member}: {listed}");
    }
}
