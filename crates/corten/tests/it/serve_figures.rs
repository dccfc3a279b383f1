//! What the runtime service tells while containers run: their logs over rotations, stats, metrics, events.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use corten_cri::proto::*;
use corten_testkit::{Result, wait};
use tonic::Code;

use super::SOON;
use super::daemon::block;
use super::pods::{Client, Node};
use super::serve_calls::idle;

#[test]
fn no_line_is_lost_when_logs_are_rotated() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); [ $((i%300)) = 0 ] && sleep 0.1; done";
        let id = client.go(&pod, &client.container("c", script)).await;
        let log = client.logs.join("web/c.log");
        for turn in 0..3 {
            tokio::time::sleep(Duration::from_millis(150)).await;
            fs::rename(&log, log.with_extension(turn.to_string())).expect("a rename");
            let request = ReopenContainerLogRequest {
                container_id: id.clone(),
            };
            client
                .runtime
                .reopen_container_log(request)
                .await
                .expect("reopened");
            assert!(log.exists());
        }
        client.ended(&id).await;
        let all = || {
            let files = ["0", "1", "2", "log"].map(|e| log.with_extension(e));
            let texts = files.map(|f| fs::read_to_string(f).unwrap_or_default());
            texts.concat()
        };
        let whole = wait::until("the last line", SOON, || {
            all().contains("line 2999").then(all)
        });
        let whole = whole.expect("the last line");
        let lines: Vec<&str> = whole
            .lines()
            .filter_map(|l| l.split_once(" F line "))
            .map(|l| l.1)
            .collect();
        let wanted: Vec<String> = (0..3000).map(|i| i.to_string()).collect();
        assert_eq!(lines, wanted);
        let request = ReopenContainerLogRequest {
            container_id: id.clone(),
        };
        let late = client
            .runtime
            .reopen_container_log(request)
            .await
            .expect_err("ended");
        assert_eq!(late.code(), Code::FailedPrecondition);
    });
    node.finish();
    Ok(())
}

/// A container that has its pod's folder of logs tries to have its output written into a folder of the host's.
#[test]
fn logs_stay_in_their_pods_folder() -> Result<()> {
    let node = Node::start()?;
    let host = node.sandbox.files().join("host");
    fs::create_dir(&host).expect("a folder");
    block(async {
        let mut client = node.client().await;
        let config = client.pod("web");
        let logs = std::path::PathBuf::from(&config.log_directory);
        let pod = client.run(&config).await.expect("a pod");
        // As kubelet does.
        fs::create_dir(logs.join("c")).expect("a folder");
        let script = format!(
            "echo first; mv /logs/c /logs/away && ln -s {0} /logs/c && mkdir /logs/d && ln -s {0}/0.log /logs/d/0.log; \
             while :; do echo more; sleep 0.05; done",
            host.display()
        );
        let mut container = client.container("c", &script);
        container.log_path = "c/0.log".into();
        container.mounts = vec![Mount {
            container_path: "/logs".into(),
            host_path: logs.display().to_string(),
            ..Mount::default()
        }];
        let id = client.go(&pod, &container).await;
        let ready = || logs.join("d/0.log").is_symlink().then_some(());
        wait::until("the links", SOON, ready).expect("the links");
        let request = ReopenContainerLogRequest {
            container_id: id.clone(),
        };
        let refused = client.runtime.reopen_container_log(request).await;
        refused.expect_err("a link in the folder's place");
        for path in ["c/1.log", "d/0.log"] {
            let mut next = client.container(&path.replace('/', "-"), "echo here");
            next.log_path = path.into();
            let next = client.create(&pod, &next).await.expect("a container");
            client.start(&next).await.expect_err(path);
        }
        assert_eq!(fs::read_dir(&host).expect("a list").count(), 0);
        // What it prints still goes where it went.
        let log = || fs::read_to_string(logs.join("away/0.log")).unwrap_or_default();
        let before = log().len();
        let more = || (log().len() > before).then_some(());
        wait::until("more of the log", SOON, more).expect("more of the log");
        assert!(log().contains(" F first"), "{}", log());
        client.stop(&id, 0).await.expect("a stop");
    });
    node.finish();
    Ok(())
}

#[test]
fn figures_grow_and_are_described() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let script = "dd if=/dev/zero of=/big bs=1M count=3 2>/dev/null; while :; do :; done";
        let id = client.go(&pod, &client.container("c", script)).await;
        let busy = |stats: &ContainerStats| {
            let cpu = stats.cpu.unwrap_or_default();
            cpu.usage_core_nano_seconds.map_or(0, |v| v.value)
        };
        let request = ContainerStatsRequest {
            container_id: id.clone(),
        };
        tokio::time::sleep(Duration::from_millis(300)).await;
        let first = client.runtime.container_stats(request.clone()).await;
        let first = first.expect("figures").into_inner().stats.expect("figures");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let second = client.runtime.container_stats(request).await;
        let second = second
            .expect("figures")
            .into_inner()
            .stats
            .expect("figures");
        assert!(
            busy(&second) > busy(&first) && busy(&first) > 0,
            "{first:?} {second:?}"
        );
        let memory = second.memory.expect("memory");
        assert!(
            memory.working_set_bytes.is_some_and(|v| v.value > 0),
            "{memory:?}"
        );
        let layer = second.writable_layer.expect("a layer");
        assert!(
            layer.used_bytes.is_some_and(|v| v.value >= 3 << 20),
            "{layer:?}"
        );

        let filter = Some(ContainerStatsFilter {
            pod_sandbox_id: pod.clone(),
            ..Default::default()
        });
        let request = ListContainerStatsRequest {
            filter: filter.clone(),
        };
        let listed = client.runtime.list_container_stats(request).await;
        assert_eq!(listed.expect("a list").into_inner().stats.len(), 1);
        let stream = client
            .runtime
            .stream_container_stats(StreamContainerStatsRequest { filter })
            .await;
        let piece = stream
            .expect("a stream")
            .into_inner()
            .message()
            .await
            .expect("a piece");
        let id_of = |s: &ContainerStats| s.attributes.clone().unwrap_or_default().id;
        assert_eq!(id_of(&piece.expect("a piece").container_stats[0]), id);

        let request = PodSandboxStatsRequest {
            pod_sandbox_id: pod.clone(),
        };
        let stats = client
            .runtime
            .pod_sandbox_stats(request)
            .await
            .expect("figures")
            .into_inner();
        let linux = stats.stats.expect("figures").linux.expect("figures");
        assert_eq!(linux.containers.len(), 1);
        assert!(
            linux
                .process
                .expect("processes")
                .process_count
                .is_some_and(|c| c.value >= 1)
        );
        let network = linux
            .network
            .expect("network")
            .default_interface
            .expect("an interface");
        assert_eq!(network.name, "eth0");
        let listed = client
            .runtime
            .list_pod_sandbox_stats(ListPodSandboxStatsRequest::default())
            .await;
        assert_eq!(listed.expect("a list").into_inner().stats.len(), 1);
        let stream = client
            .runtime
            .stream_pod_sandbox_stats(StreamPodSandboxStatsRequest::default())
            .await;
        let piece = stream
            .expect("a stream")
            .into_inner()
            .message()
            .await
            .expect("a piece");
        assert_eq!(piece.expect("a piece").pod_sandbox_stats.len(), 1);

        described(&mut client, &pod, &id).await;
    });
    node.finish();
    Ok(())
}

/// Every metric that appears has a descriptor with as many labels.
async fn described(client: &mut Client, pod: &str, id: &str) {
    let answer = client
        .runtime
        .list_metric_descriptors(ListMetricDescriptorsRequest {})
        .await;
    let descriptors = answer.expect("a list").into_inner().descriptors;
    let labels: BTreeMap<&str, usize> = descriptors
        .iter()
        .map(|d| (&*d.name, d.label_keys.len()))
        .collect();
    assert_eq!(labels.len(), descriptors.len(), "a name twice");
    let answer = client
        .runtime
        .list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {})
        .await;
    let listed = answer.expect("a list").into_inner().pod_metrics;
    let stream = client
        .runtime
        .stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {})
        .await;
    let piece = stream
        .expect("a stream")
        .into_inner()
        .message()
        .await
        .expect("a piece");
    let streamed = piece.expect("a piece").pod_sandbox_metrics;
    for metrics in [&listed[0], &streamed[0]] {
        assert_eq!(metrics.pod_sandbox_id, pod);
        assert_eq!(metrics.container_metrics[0].container_id, id);
        let of_containers = metrics.container_metrics.iter().flat_map(|c| &c.metrics);
        let all: Vec<&Metric> = metrics.metrics.iter().chain(of_containers).collect();
        assert!(all.len() > 20, "{}", all.len());
        for metric in all {
            let wanted = labels.get(&*metric.name);
            assert_eq!(wanted, Some(&metric.label_values.len()), "{metric:?}");
        }
    }
}

#[test]
fn a_start_that_fails_is_told_as_an_end() -> Result<()> {
    use ContainerEventType::*;
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let stream = client
            .runtime
            .get_container_events(GetEventsRequest {})
            .await;
        let mut stream = stream.expect("a stream").into_inner();
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let mut container = client.container("c", "true");
        container.command = vec!["/not/there".into()];
        let id = client.create(&pod, &container).await.expect("a container");
        client.start(&id).await.expect_err("no such program");
        // A second try tells nothing more.
        client.start(&id).await.expect_err("started already");
        client.remove(&id).await.expect("a removal");
        let wanted = [
            (&pod, ContainerCreatedEvent),
            (&pod, ContainerStartedEvent),
            (&id, ContainerCreatedEvent),
            (&id, ContainerStoppedEvent),
            (&id, ContainerDeletedEvent),
        ];
        for (id, kind) in wanted {
            let event = tokio::time::timeout(SOON, stream.message()).await;
            let event = event
                .expect("in time")
                .expect("a stream")
                .expect("an event");
            let found = (&event.container_id, event.container_event_type());
            assert_eq!(found, (id, kind));
            if kind == ContainerStoppedEvent {
                let status = &event.containers_statuses[0];
                assert_eq!(status.state(), ContainerState::ContainerExited);
                assert_ne!(status.exit_code, 0);
                assert_eq!(status.reason, "StartError");
            }
        }
        client.remove_all().await;
    });
    node.finish();
    Ok(())
}

#[test]
fn events_come_in_order() -> Result<()> {
    use ContainerEventType::*;
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let stream = client
            .runtime
            .get_container_events(GetEventsRequest {})
            .await;
        let mut stream = stream.expect("a stream").into_inner();
        let (pod, id) = idle(&mut client, "web").await;
        client.stop(&id, 0).await.expect("a stop");
        client.remove(&id).await.expect("a removal");
        client.stop_pod(&pod).await.expect("a stop");
        client.remove_pod(&pod).await.expect("a removal");
        let wanted = [
            (&pod, ContainerCreatedEvent),
            (&pod, ContainerStartedEvent),
            (&id, ContainerCreatedEvent),
            (&id, ContainerStartedEvent),
            (&id, ContainerStoppedEvent),
            (&id, ContainerDeletedEvent),
            (&pod, ContainerStoppedEvent),
            (&pod, ContainerDeletedEvent),
        ];
        for (at, (id, kind)) in wanted.into_iter().enumerate() {
            let event = tokio::time::timeout(SOON, stream.message()).await;
            let event = event
                .expect("in time")
                .expect("an event")
                .expect("an event");
            assert_eq!(
                (&event.container_id, event.container_event_type()),
                (id, kind),
                "{at}"
            );
            assert_eq!(event.pod_sandbox_status.is_some(), at != 7);
        }
    });
    node.finish();
    Ok(())
}
