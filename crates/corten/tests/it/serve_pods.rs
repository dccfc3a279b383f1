//! Pods and containers of `corten serve`, by a client such as kubelet's.

use corten_cri::proto::*;
use corten_testkit::Result;
use tonic::Code;

use super::daemon::block;
use super::pods::Node;

#[test]
fn a_pod_from_run_to_removal() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let mut config = client.pod("web");
        config.labels.insert("app".into(), "web".into());
        config.annotations.insert("a/b".into(), "{\"c\": 1}".into());
        let pod = client.run(&config).await.expect("a pod");
        let status = client.pod_status(&pod).await.expect("a status");
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        assert_eq!(status.metadata, config.metadata);
        assert_eq!(status.labels, config.labels);
        assert_eq!(status.annotations, config.annotations);
        let address = status.network.expect("a network").ip;
        let script = "echo out; echo err >&2; hostname; ip -o -4 addr show eth0 | cat; exit 7";
        let container = client.container("c", script);
        let id = client.create(&pod, &container).await.expect("a container");
        let made = client.status(&id).await.expect("a status");
        assert_eq!(made.state(), ContainerState::ContainerCreated);
        assert_eq!((made.started_at, made.finished_at), (0, 0));
        client.start(&id).await.expect("a start");
        let ended = client.ended(&id).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (7, "Error"));
        assert!(ended.created_at <= ended.started_at && ended.started_at <= ended.finished_at);
        let log = client.log("web", "c");
        assert!(
            log.contains("out\n") && log.contains("web\n") && log.contains("err"),
            "{log}"
        );
        assert!(log.contains(&format!("{address}/24")), "{log} {address}");

        // The same name is taken for as long as the pod is there.
        let error = client.run(&config).await.expect_err("a name twice");
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        let error = client
            .create(&pod, &container)
            .await
            .expect_err("a name twice");
        assert_eq!(error.code(), Code::AlreadyExists, "{error}");
        // What has run is not started again.
        assert_eq!(
            client.start(&id).await.expect_err("again").code(),
            Code::FailedPrecondition
        );

        for _ in 0..2 {
            client.stop_pod(&pod).await.expect("a stop");
            let status = client.pod_status(&pod).await.expect("a status");
            assert_eq!(status.state(), PodSandboxState::SandboxNotready);
        }
        let error = client.create(&pod, &client.container("d", "true")).await;
        assert_eq!(
            error.expect_err("not ready").code(),
            Code::FailedPrecondition
        );
        for _ in 0..2 {
            client.remove(&id).await.expect("a removal");
            client.remove_pod(&pod).await.expect("a removal");
        }
        assert_eq!(
            client.pod_status(&pod).await.expect_err("gone").code(),
            Code::NotFound
        );
        assert_eq!(
            client.status(&id).await.expect_err("gone").code(),
            Code::NotFound
        );
        assert!(client.pods().await.is_empty() && client.containers().await.is_empty());
    });
    node.finish();
    Ok(())
}

#[test]
fn a_daemon_that_is_killed_loses_no_pod() -> Result<()> {
    let mut node = Node::start()?;
    let (pod, [lives, ends]) = block(async {
        let mut client = node.client().await;
        let config = client.pod("web");
        let pod = client.run(&config).await.expect("a pod");
        let lives = client.container("lives", "echo up; sleep 1000");
        let lives = client.go(&pod, &lives).await;
        let ends = client.container("ends", "sleep 0.5; echo down; exit 3");
        let ends = client.go(&pod, &ends).await;
        (pod, [lives, ends])
    });
    node.daemon.child.kill().expect("kill");
    node.daemon.child.wait().expect("wait");
    std::thread::sleep(std::time::Duration::from_millis(1000));
    node.again();
    block(async {
        let mut client = node.client().await;
        let status = client.pod_status(&pod).await.expect("a status");
        assert_eq!(status.state(), PodSandboxState::SandboxReady);
        let status = client.status(&lives).await.expect("a status");
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        let ended = client.status(&ends).await.expect("a status");
        assert_eq!(ended.state(), ContainerState::ContainerExited);
        assert_eq!((ended.exit_code, ended.reason.as_str()), (3, "Error"));
        client.logged("web", "ends", "down");
        // The next ones are made in the same pod.
        let more = client.container("more", "hostname");
        let more = client.go(&pod, &more).await;
        assert_eq!(client.ended(&more).await.exit_code, 0);
        client.logged("web", "more", "web");
        // Its files of /etc, too, which are nowhere on disk; and a bound is on what is written to them.
        let script = "test \"$(cat /etc/hostname)\" = web && echo 192.0.2.1 x >> /etc/hosts && \
                      ! dd if=/dev/zero of=/etc/resolv.conf bs=64k count=64 2>/dev/null";
        let etc = client.go(&pod, &client.container("etc", script)).await;
        assert_eq!(client.ended(&etc).await.exit_code, 0);
        let text = client.says(&lives, "tail -n 1 /etc/hosts").await;
        assert_eq!(text, "192.0.2.1 x");
        client.stop(&lives, 1).await.expect("a stop");
        assert_eq!(client.ended(&lives).await.exit_code, 137);
    });
    node.finish();
    Ok(())
}
