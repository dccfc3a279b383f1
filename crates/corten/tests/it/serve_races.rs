//! What the daemon's calls meet halfway: each other, kills in their middle, and ends that nobody has asked for.

use std::time::{Duration, Instant};

use corten_cri::proto::*;
use corten_store::{MountedImage, PodRow, Store};
use corten_testkit::Result;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tonic::Code;

use super::SOON;
use super::daemon::block;
use super::pods::{Client, Node};

/// Of a pod or a container, what the daemon tells people.
async fn info(client: &mut Client, pod: Option<&str>, container: Option<&str>) -> Value {
    let mut info = match (pod, container) {
        (Some(pod), _) => {
            let request = PodSandboxStatusRequest {
                pod_sandbox_id: pod.into(),
                verbose: true,
            };
            let answer = client.runtime.pod_sandbox_status(request).await;
            answer.expect("a status").into_inner().info
        }
        (_, container) => {
            let request = ContainerStatusRequest {
                container_id: container.unwrap_or_default().into(),
                verbose: true,
            };
            let answer = client.runtime.container_status(request).await;
            answer.expect("a status").into_inner().info
        }
    };
    serde_json::from_str(&info.remove("info").expect("info")).expect("JSON")
}

fn kill(pid: &Value) {
    let pid = Pid::from_raw(pid.as_i64().expect("a pid") as i32).expect("a pid");
    kill_process(pid, Signal::KILL).expect("kill");
}

/// Changes what is on record of a container, as a kill in the middle of its start leaves it.
fn change(node: &Node, id: &str, with: impl Fn(&mut Value)) {
    let store = Store::open(&node.sandbox.root()).expect("a store");
    let rows = store.pods().list().expect("rows");
    let mut row = rows
        .into_iter()
        .find(|r| r.id.as_str() == id)
        .expect("a row");
    let mut record: Value = serde_json::from_str(&row.record).expect("JSON");
    with(&mut record);
    row.record = record.to_string();
    store.pods().update(&row).expect("an update");
}

async fn not_ready(client: &mut Client, pod: &str) {
    let since = Instant::now();
    while client.pod_status(pod).await.expect("a status").state() == PodSandboxState::SandboxReady {
        assert!(since.elapsed() < SOON);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_start_that_was_cut_has_failed_or_runs() -> Result<()> {
    let mut node = Node::start()?;
    let [never, begun] = block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let never = client.container("never", "sleep 1000");
        let never = client.create(&pod, &never).await.expect("a container");
        let begun = client.container("begun", "sleep 1000");
        [never, client.go(&pod, &begun).await]
    });
    node.daemon.child.kill().expect("kill");
    node.daemon.child.wait().expect("wait");
    for id in [&never, &begun] {
        change(&node, id, |r| r["started"] = json!({"at": 1, "pid": 0}));
    }
    node.again();
    block(async {
        let mut client = node.client().await;
        let status = client.status(&never).await.expect("a status");
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!(status.reason, "StartError");
        assert!(status.message.contains("start was cut"), "{status:?}");
        let status = client.status(&begun).await.expect("a status");
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        let pid = info(&mut client, None, Some(&begun)).await["pid"].clone();
        assert!(pid.as_i64() > Some(1), "{pid}");
        client.stop(&begun, 0).await.expect("a stop");
        assert_eq!(client.ended(&begun).await.exit_code, 137);
    });
    node.finish();
    Ok(())
}

#[test]
fn what_was_never_whole_does_not_keep_its_name() -> Result<()> {
    let node = Node::start()?;
    let store = Store::open(&node.sandbox.root()).expect("a store");
    let row = |id: &str, pod: Option<&str>, name: &str, record: Value| PodRow {
        id: id.parse().expect("an id"),
        pod: pod.map(|p| p.parse().expect("an id")),
        name: name.into(),
        created_at: 1,
        record: record.to_string(),
    };
    let half = json!({"version": 1, "document": "", "runtime": null, "run": null});
    let half = row("aa11", None, "web_test_uid-web_0", half);
    store.pods().insert(&half).expect("a row");
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let digest = format!("sha256:{}", "0".repeat(64));
        let half = json!({
            "version": 1, "document": "", "image": "x", "image_config": digest, "manifest": digest,
            "layers": [],
        });
        let half = row("bb22", Some(&pod), "c_web_test_uid-web_0", half);
        store.pods().insert(&half).expect("a row");
        let made = client.container("c", "true");
        let made = client.go(&pod, &made).await;
        assert_eq!(client.ended(&made).await.exit_code, 0);
        let rows = store.pods().list().expect("rows");
        let ids: Vec<_> = rows.iter().map(|r| r.id.as_str()).collect();
        assert_eq!(ids, [pod.as_str(), made.as_str()]);
    });
    node.finish();
    Ok(())
}

#[test]
fn of_two_pods_of_one_name_at_once_there_is_one() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut clients = [node.client().await, node.client().await];
        let config = clients[0].pod("web");
        let [one, other] = &mut clients;
        let (one, other) = tokio::join!(one.run(&config), other.run(&config));
        let error = match (one, other) {
            (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
            both => panic!("{both:?}"),
        };
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        assert_eq!(clients[0].pods().await.len(), 1);
    });
    node.finish();
    Ok(())
}

#[test]
fn nothing_runs_in_a_pod_that_was_stopped_while_it_started() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let (mut starter, mut stopper) = (node.client().await, node.client().await);
        // The first one says how long a start takes; the others are stopped at every part of it.
        let mut whole = Duration::ZERO;
        for part in 0..=16 {
            let mut config = starter.pod("web");
            config.metadata.as_mut().expect("metadata").attempt = part;
            let pod = starter.run(&config).await.expect("a pod");
            let container = starter.container("c", "sleep 1000");
            let id = starter.create(&pod, &container).await.expect("a container");
            let since = Instant::now();
            let delay = whole * part / 16;
            let stop = async {
                tokio::time::sleep(delay).await;
                stopper.stop_pod(&pod).await
            };
            let stopped = match part {
                0 => {
                    starter.start(&id).await.expect("a start");
                    whole = since.elapsed();
                    stop.await
                }
                _ => tokio::join!(starter.start(&id), stop).1,
            };
            stopped.expect("a stop");
            let status = starter.status(&id).await.expect("a status");
            assert_ne!(status.state(), ContainerState::ContainerRunning, "{part}");
            starter.remove_pod(&pod).await.expect("a removal");
        }
    });
    node.finish();
    Ok(())
}

#[test]
fn a_pod_ends_with_its_first_process() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let mut config = client.pod("web");
        let linux = config.linux.as_mut().expect("linux");
        linux.security_context = None;
        let pod = client.run(&config).await.expect("a pod");
        let mut container = client.container("c", "sleep 1000");
        container.linux = None;
        let id = client.go(&pod, &container).await;
        kill(&info(&mut client, Some(&pod), None).await["pid"]);
        not_ready(&mut client, &pod).await;
        assert_eq!(client.ended(&id).await.exit_code, 137);
        let error = client.create(&pod, &client.container("d", "true")).await;
        assert_eq!(
            error.expect_err("not ready").code(),
            Code::FailedPrecondition
        );
    });
    node.finish();
    Ok(())
}

#[test]
fn processes_are_shared_with_who_runs_at_the_start() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let target = client.container("target", "exec sleep 1000");
        let target = client.go(&pod, &target).await;
        let beside = |name: &str| {
            let mut beside =
                client.container(name, r"tr '\0' ' ' </proc/1/cmdline; echo; sleep 1000");
            let linux = beside.linux.as_mut().expect("linux");
            let security = linux.security_context.as_mut().expect("security");
            security.namespace_options = Some(NamespaceOption {
                pid: NamespaceMode::Target.into(),
                target_id: target.clone(),
                ..NamespaceOption::default()
            });
            beside
        };
        let (sees, late) = (beside("sees"), beside("late"));
        client.go(&pod, &sees).await;
        client.logged("web", "sees", "sleep 1000 ");
        let late = client.create(&pod, &late).await.expect("a container");
        client.stop(&target, 0).await.expect("a stop");
        let error = client.start(&late).await.expect_err("nobody's processes");
        assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
        assert!(error.message().contains("does not run"), "{error}");
        let status = client.status(&late).await.expect("a status");
        assert_eq!(status.reason, "StartError");
    });
    node.finish();
    Ok(())
}

#[test]
fn a_volume_that_no_container_has_goes_with_the_next_start() -> Result<()> {
    let mut node = Node::start()?;
    let store = Store::open(&node.sandbox.root()).expect("a store");
    let key = format!("volume-{}", "0".repeat(64));
    store
        .add_mounted(&MountedImage {
            path: node.sandbox.run_folder().join("images").join(&key),
            reference: "x".into(),
            key,
        })
        .expect("a row");
    node.again();
    assert_eq!(store.mounted().expect("rows"), []);
    node.finish();
    Ok(())
}

#[test]
fn logs_stay_in_the_folder_of_their_pod() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let mut container = client.container("c", "true");
        container.log_path = "../../c.log".into();
        let error = client.create(&pod, &container).await.expect_err("outside");
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        assert!(error.message().contains("log_path"), "{error}");
        assert!(client.containers().await.is_empty());
    });
    node.finish();
    Ok(())
}
