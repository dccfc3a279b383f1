//! A node that is full: 200 pods at once, no room on the disk, no registry.

use std::fs;
use std::io::Write;

use corten_cri::proto::*;
use corten_testkit::{Result, tool, wait};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::daemon::block;
use super::pods::{Client, Node};
use super::{SOON, sandbox};

type Answer<T> = std::result::Result<T, Status>;

const PODS: usize = 200;
const AT_ONCE: usize = 20;

async fn up(mut client: Client, number: usize) -> Answer<(String, String)> {
    let name = format!("p{number}");
    let pod = client.run(&client.pod(&name)).await?;
    let id = client
        .create(&pod, &client.container("c", "echo up; sleep 1000"))
        .await?;
    client.start(&id).await?;
    Ok((pod, id))
}

async fn down(mut client: Client, pod: String) -> Answer<()> {
    client.stop_pod(&pod).await?;
    client.remove_pod(&pod).await
}

#[test]
fn two_hundred_pods() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let (mut tasks, mut all) = (JoinSet::<Answer<_>>::new(), vec![]);
        for number in 0..PODS {
            if tasks.len() == AT_ONCE {
                let done = tasks.join_next().await.expect("a task");
                all.push(done.expect("a task").expect("a pod"));
            }
            tasks.spawn(up(client.clone(), number));
        }
        while let Some(done) = tasks.join_next().await {
            all.push(done.expect("a task").expect("a pod"));
        }
        let pods = client.pods().await;
        assert_eq!(pods.len(), PODS);
        assert!(
            pods.iter()
                .all(|p| p.state() == PodSandboxState::SandboxReady)
        );
        let containers = client.containers().await;
        assert_eq!(containers.len(), PODS);
        assert!(
            containers
                .iter()
                .all(|c| c.state() == ContainerState::ContainerRunning)
        );
        let mut addresses = node.addresses();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), PODS);
        let stats = client
            .runtime
            .list_container_stats(ListContainerStatsRequest::default())
            .await;
        assert_eq!(stats.expect("figures").into_inner().stats.len(), PODS);
        for (_, id) in all.iter().step_by(40) {
            assert_eq!(client.says(id, "echo here").await, "here");
        }
        let mut tasks = JoinSet::<Answer<()>>::new();
        for (pod, _) in all {
            if tasks.len() == AT_ONCE {
                let done = tasks.join_next().await.expect("a task");
                done.expect("a task").expect("a removal");
            }
            tasks.spawn(down(client.clone(), pod));
        }
        while let Some(done) = tasks.join_next().await {
            done.expect("a task").expect("a removal");
        }
        assert!(client.pods().await.is_empty());
        assert_eq!(node.addresses(), Vec::<String>::new());
    });
    node.finish();
    Ok(())
}

#[test]
fn no_room_is_left() -> Result<()> {
    let sandbox = sandbox()?;
    let root = sandbox.root();
    fs::create_dir_all(&root).expect("a folder");
    let place = root.display().to_string();
    tool::call(
        "mount",
        &["-t", "tmpfs", "-o", "size=32m,mode=0711", "full", &place],
    )?;
    let node = Node::within(sandbox, "", &[])?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("lives")).await.expect("a pod");
        let id = client.go(&pod, &client.container("c", "sleep 1000")).await;
        let fill = root.join("fill");
        let mut file = fs::File::create(&fill).expect("a file");
        while file.write_all(&[1; 4096]).is_ok() {}
        drop(file);
        // Refused for what it is; and nothing is left of it.
        let error = client.run(&client.pod("late")).await.expect_err("no room");
        assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
        let error = client.create(&pod, &client.container("late", "true")).await;
        let error = error.expect_err("no room");
        assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
        assert_eq!(
            (client.pods().await.len(), client.containers().await.len()),
            (1, 1)
        );
        assert_eq!(node.addresses().len(), 1);
        // What runs, runs on.
        assert_eq!(client.says(&id, "echo here").await, "here");
        fs::remove_file(&fill).expect("a removal");
        let late = client.run(&client.pod("late")).await.expect("a pod");
        let id = client.go(&late, &client.container("late", "exit 3")).await;
        assert_eq!(client.ended(&id).await.exit_code, 3);
        client.remove_all().await;
    });
    assert!(node.daemon.stop().success());
    tool::call("umount", &[&place])?;
    node.sandbox.finish();
    Ok(())
}

#[test]
fn no_room_is_left_for_logs() -> Result<()> {
    let node = Node::start()?;
    let place = node.sandbox.files().join("logs");
    fs::create_dir_all(&place).expect("a folder");
    let text = place.display().to_string();
    tool::call("mount", &["-t", "tmpfs", "-o", "size=1m", "full", &text])?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let script = "yes | head -c 3000000; touch /all; while :; do echo more; sleep 0.1; done";
        let id = client.go(&pod, &client.container("c", script)).await;
        // Lines are lost; whoever writes them goes on.
        client
            .says(&id, "until test -e /all; do sleep 0.05; done")
            .await;
        let log = place.join("p/c.log");
        fs::remove_file(&log).expect("a removal");
        let request = ReopenContainerLogRequest {
            container_id: id.clone(),
        };
        client
            .runtime
            .reopen_container_log(request)
            .await
            .expect("reopened");
        let more = wait::until("a line", SOON, || {
            client.log("p", "c").contains("more").then_some(())
        });
        more.expect("a line");
        client.remove_all().await;
    });
    tool::call("umount", &["--lazy", &text])?;
    node.finish();
    Ok(())
}

#[test]
fn no_registry_is_needed_for_what_is_there() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        // It has gone since the image came.
        node.daemon
            .pull(&client.image)
            .await
            .expect_err("no registry");
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let id = client.go(&pod, &client.container("c", "exit 4")).await;
        assert_eq!(client.ended(&id).await.exit_code, 4);
    });
    node.finish();
    Ok(())
}
