//! The runtime service of `corten serve`, call by call: what it says of itself, lists, statuses, limits, what is not there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use corten_cri::proto::*;
use corten_testkit::{Result, need, tool};
use tonic::Code;

use super::daemon::block;
use super::pods::{Client, Node};

/// A pod with one container that waits to be asked.
pub async fn idle(client: &mut Client, name: &str) -> (String, String) {
    let pod = client.run(&client.pod(name)).await.expect("a pod");
    let container = client.container("c", "sleep 1000");
    let id = client.go(&pod, &container).await;
    (pod, id)
}

#[test]
fn what_it_is_and_whether_it_can_work() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut runtime = node.client().await.runtime;
        let version = runtime.version(VersionRequest::default()).await;
        let version = version.expect("a version").into_inner();
        assert_eq!(version.runtime_name, "corten");
        assert_eq!(version.runtime_api_version, "v1");
        assert_eq!(version.version, "0.1.0");
        let config = runtime.runtime_config(RuntimeConfigRequest {}).await;
        let linux = config.expect("settings").into_inner().linux;
        assert_eq!(
            linux.expect("linux").cgroup_driver(),
            CgroupDriver::Cgroupfs
        );

        let ready = |status: &StatusResponse| -> BTreeMap<String, bool> {
            let all = status.status.clone().unwrap_or_default().conditions;
            all.into_iter().map(|c| (c.r#type, c.status)).collect()
        };
        let ask = StatusRequest { verbose: true };
        let status = runtime.status(ask).await.expect("a status").into_inner();
        assert!(ready(&status).into_values().all(|yes| yes), "{status:?}");
        let config: serde_json::Value = serde_json::from_str(&status.info["config"]).expect("JSON");
        assert_eq!(
            config["root"],
            node.sandbox.root().to_string_lossy().as_ref()
        );
        let handlers: Vec<&str> = status.runtime_handlers.iter().map(|h| &*h.name).collect();
        assert!(handlers.contains(&""), "{handlers:?}");
        assert!(
            status
                .features
                .expect("features")
                .supplemental_groups_policy
        );

        // Without a network the node is not ready, and no pod is made.
        let list = node.sandbox.files().join("cni/10-test.conflist");
        let text = fs::read(&list).expect("a file");
        fs::remove_file(&list).expect("a removal");
        let status = runtime.status(StatusRequest::default()).await;
        let status = status.expect("a status").into_inner();
        assert!(status.info.is_empty());
        assert!(!ready(&status)["NetworkReady"]);
        assert!(ready(&status)["RuntimeReady"]);
        let mut client = node.client().await;
        client
            .run(&client.pod("early"))
            .await
            .expect_err("no network");
        assert!(client.pods().await.is_empty());
        fs::write(&list, text).expect("a file");
        client.run(&client.pod("early")).await.expect("a pod");
    });
    node.finish();
    Ok(())
}

#[test]
fn lists_are_narrowed() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let (mut pods, mut all) = (vec![], vec![]);
        for name in ["a", "b"] {
            let mut config = client.pod(name);
            config.labels.insert("app".into(), name.into());
            let pod = client.run(&config).await.expect("a pod");
            let mut config = client.container("c", "sleep 1000");
            config.labels.insert("app".into(), name.into());
            all.push(client.create(&pod, &config).await.expect("a container"));
            pods.push(pod);
        }
        client.start(&all[0]).await.expect("a start");
        client.stop_pod(&pods[1]).await.expect("a stop");
        let label = |name: &str| BTreeMap::from([("app".to_owned(), name.to_owned())]);
        let state = |s: PodSandboxState| Some(PodSandboxStateValue { state: s.into() });
        let cases = [
            (PodSandboxFilter::default(), 2),
            (
                PodSandboxFilter {
                    id: pods[0][..13].into(),
                    ..Default::default()
                },
                1,
            ),
            (
                PodSandboxFilter {
                    label_selector: label("b"),
                    ..Default::default()
                },
                1,
            ),
            (
                PodSandboxFilter {
                    label_selector: label("c"),
                    ..Default::default()
                },
                0,
            ),
            (
                PodSandboxFilter {
                    state: state(PodSandboxState::SandboxReady),
                    ..Default::default()
                },
                1,
            ),
            (
                PodSandboxFilter {
                    id: pods[0].clone(),
                    label_selector: label("b"),
                    ..Default::default()
                },
                0,
            ),
        ];
        for (filter, count) in cases {
            let filter = Some(filter);
            let request = ListPodSandboxRequest {
                filter: filter.clone(),
            };
            let listed = client.runtime.list_pod_sandbox(request).await;
            let listed = listed.expect("a list").into_inner().items;
            assert_eq!(listed.len(), count, "{filter:?}");
            let request = StreamPodSandboxesRequest { filter };
            let stream = client.runtime.stream_pod_sandboxes(request).await;
            let mut stream = stream.expect("a stream").into_inner();
            let mut streamed = vec![];
            while let Some(piece) = stream.message().await.expect("a piece") {
                streamed.extend(piece.pod_sandboxes);
            }
            assert_eq!(streamed, listed);
        }
        let state = |s: ContainerState| Some(ContainerStateValue { state: s.into() });
        let cases = [
            (ContainerFilter::default(), 2),
            (
                ContainerFilter {
                    id: all[1][..13].into(),
                    ..Default::default()
                },
                1,
            ),
            (
                ContainerFilter {
                    pod_sandbox_id: pods[0].clone(),
                    ..Default::default()
                },
                1,
            ),
            (
                ContainerFilter {
                    label_selector: label("a"),
                    ..Default::default()
                },
                1,
            ),
            (
                ContainerFilter {
                    state: state(ContainerState::ContainerRunning),
                    ..Default::default()
                },
                1,
            ),
            (
                ContainerFilter {
                    state: state(ContainerState::ContainerExited),
                    ..Default::default()
                },
                0,
            ),
        ];
        for (filter, count) in cases {
            let filter = Some(filter);
            let request = ListContainersRequest {
                filter: filter.clone(),
            };
            let listed = client.runtime.list_containers(request).await;
            let listed = listed.expect("a list").into_inner().containers;
            assert_eq!(listed.len(), count, "{filter:?}");
            let request = StreamContainersRequest { filter };
            let stream = client.runtime.stream_containers(request).await;
            let mut stream = stream.expect("a stream").into_inner();
            let mut streamed = vec![];
            while let Some(piece) = stream.message().await.expect("a piece") {
                streamed.extend(piece.containers);
            }
            assert_eq!(streamed, listed);
        }
    });
    node.finish();
    Ok(())
}

#[test]
fn a_status_tells_all() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let mut config = client.container("c", "sleep 1000");
        let linux = config.linux.as_mut().expect("linux");
        let security = linux.security_context.as_mut().expect("a context");
        security.run_as_user = Some(Int64Value { value: 1000 });
        security.run_as_group = Some(Int64Value { value: 2000 });
        security.supplemental_groups = vec![3000];
        linux.resources = Some(LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        });
        config.mounts = vec![Mount {
            container_path: "/data".into(),
            host_path: node.sandbox.files().join("data").display().to_string(),
            readonly: true,
            ..Default::default()
        }];
        config.annotations.insert("why".into(), "so".into());
        let id = client.go(&pod, &config).await;
        let status = client.status(&id).await.expect("a status");
        let image = node.daemon.image(&client.image).await.expect("an image");
        assert_eq!(
            (&status.image_id, &status.image_ref),
            (&image.id, &image.id)
        );
        assert_eq!(status.metadata, config.metadata);
        assert_eq!(status.annotations, config.annotations);
        assert_eq!(status.mounts, config.mounts);
        let resources = status.resources.expect("resources").linux;
        assert_eq!(resources, config.linux.expect("linux").resources);
        let log = client.logs.join("web/c.log");
        assert_eq!(Path::new(&status.log_path), log);
        let user = status.user.expect("a user").linux.expect("a user");
        assert_eq!((user.uid, user.gid), (1000, 2000));
        // The image has put this user into a group, too.
        assert_eq!(user.supplemental_groups, [50, 2000, 3000]);
        assert_eq!(
            client.says(&id, "id -u; id -g; id -G").await,
            "1000\n2000\n2000 50 3000"
        );
        let info = client.info(&id).await;
        assert_eq!(info["sandboxID"], pod.as_str(), "{info}");
        assert!(info["pid"].as_u64().is_some_and(|p| p > 1), "{info}");
        assert_eq!(
            info["runtimeSpec"]["process"]["user"]["uid"], 1000,
            "{info}"
        );
    });
    node.finish();
    Ok(())
}

/// A file of a container's group in a version 1 hierarchy.
fn limit(client: &Client, id: &str, file: &str) -> String {
    let kind = file.split('.').next().unwrap_or_default();
    let group = client.parent.trim_start_matches('/');
    let path = PathBuf::from("/sys/fs/cgroup")
        .join(kind)
        .join(group)
        .join(id)
        .join(file);
    let text = fs::read_to_string(&path);
    text.unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .trim()
        .to_owned()
}

#[test]
fn limits_change_while_it_runs_and_before() -> Result<()> {
    if !need::v1() {
        return Ok(());
    }
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let (pod, running) = idle(&mut client, "web").await;
        let config = client.container("d", "sleep 1000");
        let created = client.create(&pod, &config).await.expect("a container");
        for id in [&running, &created] {
            let request = UpdateContainerResourcesRequest {
                container_id: id.clone(),
                linux: Some(LinuxContainerResources {
                    cpu_shares: 300,
                    cpu_quota: 50_000,
                    cpu_period: 100_000,
                    memory_limit_in_bytes: 48 << 20,
                    ..Default::default()
                }),
                ..Default::default()
            };
            client
                .runtime
                .update_container_resources(request)
                .await
                .expect("an update");
        }
        client.start(&created).await.expect("a start");
        for id in [&running, &created] {
            assert_eq!(
                limit(&client, id, "memory.limit_in_bytes"),
                (48 << 20).to_string()
            );
            assert_eq!(limit(&client, id, "cpu.shares"), "300");
            assert_eq!(limit(&client, id, "cpu.cfs_quota_us"), "50000");
            let status = client.status(id).await.expect("a status");
            let linux = status.resources.expect("resources").linux.expect("linux");
            assert_eq!(
                (linux.cpu_shares, linux.memory_limit_in_bytes),
                (300, 48 << 20)
            );
        }
        // What is not named stays as it is.
        let request = UpdateContainerResourcesRequest {
            container_id: running.clone(),
            linux: Some(LinuxContainerResources {
                cpu_shares: 200,
                ..Default::default()
            }),
            ..Default::default()
        };
        client
            .runtime
            .update_container_resources(request)
            .await
            .expect("an update");
        assert_eq!(limit(&client, &running, "cpu.shares"), "200");
        assert_eq!(
            limit(&client, &running, "memory.limit_in_bytes"),
            (48 << 20).to_string()
        );
        let request = UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod.clone(),
            resources: Some(LinuxContainerResources {
                cpu_shares: 2000,
                ..Default::default()
            }),
            ..Default::default()
        };
        client
            .runtime
            .update_pod_sandbox_resources(request.clone())
            .await
            .expect("an update");
        client.stop_pod(&pod).await.expect("a stop");
        let late = client.runtime.update_pod_sandbox_resources(request).await;
        assert_eq!(
            late.expect_err("not ready").code(),
            Code::FailedPrecondition
        );
    });
    node.finish();
    Ok(())
}

#[test]
fn the_node_gets_a_network_of_ours() -> Result<()> {
    if !need::nat() {
        return Ok(());
    }
    let mut node = Node::start()?;
    // The bridge has one name on a host: it is one that is not there yet, or somebody else's network.
    if !need::that(
        !Path::new("/sys/class/net/corten-pods0").exists(),
        "there is a corten-pods0 already",
    ) {
        node.finish();
        return Ok(());
    }
    let cni = node.sandbox.files().join("own-cni");
    let settings = format!("[cni]\nconf-dir = {cni:?}\nbin-dirs = []\nown-network = true\n");
    fs::write(node.sandbox.etc().join("serve.toml"), settings).expect("a file");
    node.again();
    block(async {
        let mut client = node.client().await;
        let update = |cidr: &str| UpdateRuntimeConfigRequest {
            runtime_config: Some(RuntimeConfig {
                network_config: Some(NetworkConfig {
                    pod_cidr: cidr.into(),
                }),
            }),
        };
        let bad = client
            .runtime
            .update_runtime_config(update("10.0.0.0/99"))
            .await;
        assert_eq!(bad.expect_err("no subnet").code(), Code::InvalidArgument);
        assert!(!cni.exists());
        client
            .runtime
            .update_runtime_config(update("100.127.250.0/24"))
            .await
            .expect("an update");
        assert!(cni.join("10-corten.conflist").exists());
        let pod = client.run(&client.pod("web")).await.expect("a pod");
        let ip = client
            .pod_status(&pod)
            .await
            .expect("a status")
            .network
            .expect("a network")
            .ip;
        assert!(ip.starts_with("100.127.250."), "{ip}");
        // Another range: pods to come have it, pods that are there keep theirs.
        let file = cni.join("10-corten.conflist");
        for _ in 0..2 {
            let again = update("100.127.251.0/24");
            client
                .runtime
                .update_runtime_config(again)
                .await
                .expect("an update");
        }
        let text = fs::read_to_string(&file).expect("a file");
        assert!(
            text.contains("100.127.251.0/24") && text.contains("corten-pods1"),
            "{text}"
        );
        let next = client.run(&client.pod("next")).await.expect("a pod");
        let status = client.pod_status(&next).await.expect("a status");
        let next_ip = status.network.expect("a network").ip;
        assert!(next_ip.starts_with("100.127.251."), "{next_ip}");
        let status = client.pod_status(&pod).await.expect("a status");
        assert_eq!(status.network.expect("a network").ip, ip);
        for (pod, gateway) in [(&pod, "100.127.250.1"), (&next, "100.127.251.1")] {
            let ping = client.container("ping", &format!("ping -c 1 -W 5 {gateway}"));
            let ping = client.go(pod, &ping).await;
            assert_eq!(client.ended(&ping).await.exit_code, 0, "{gateway}");
        }
        client.remove_all().await;
        // Nobody is on the first one's bridge any more.
        let again = update("100.127.251.0/24");
        client
            .runtime
            .update_runtime_config(again)
            .await
            .expect("an update");
        assert!(!Path::new("/sys/class/net/corten-pods0").exists());
    });
    // The bridge is the node's, and stays with its rules. Who deletes it by hand leaves those to the next start.
    tool::call("ip", &["link", "delete", "corten-pods1"])?;
    let rules = || tool::call("nft", &["list", "ruleset"]);
    assert!(rules()?.contains("100.127.251.0/24"));
    node.again();
    let rules = rules()?;
    assert!(
        !rules.contains("corten-pods1") && !rules.contains("100.127.25"),
        "{rules}"
    );
    node.finish();
    Ok(())
}

#[test]
fn what_is_not_there_is_not_found() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let none = "0123456789abcdef";
        // To stop and to remove what is not there is done already.
        client.stop_pod(none).await.expect("a stop");
        client.remove_pod(none).await.expect("a removal");
        client.stop(none, 1).await.expect("a stop");
        client.remove(none).await.expect("a removal");
        let found = [
            client.pod_status(none).await.map(drop),
            client.status(none).await.map(drop),
            client.start(none).await,
            client.exec(none, "true", 1).await.map(drop),
            client
                .create(none, &client.container("c", "true"))
                .await
                .map(drop),
        ];
        for answer in found {
            assert_eq!(answer.expect_err("nothing").code(), Code::NotFound);
        }
        let (pod, _) = idle(&mut client, "web").await;
        let mut bad = client.container("bad", "true");
        bad.image = Some(super::daemon::spec("example.invalid/none:1"));
        let error = client.create(&pod, &bad).await.expect_err("no image");
        assert_eq!(error.code(), Code::NotFound, "{error}");
        let mut bad = client.container("bad", "true");
        bad.mounts = vec![Mount {
            container_path: "relative/path".into(),
            host_path: "/tmp".into(),
            image: Some(super::daemon::spec("example.invalid/none:1")),
            ..Default::default()
        }];
        client.create(&pod, &bad).await.expect_err("a bad mount");
        let mut bad = client.container("bad", "true");
        let security = bad.linux.as_mut().and_then(|l| l.security_context.as_mut());
        security.expect("a context").privileged = true;
        client
            .create(&pod, &bad)
            .await
            .expect_err("privileged, and the pod is not");
        assert_eq!(client.containers().await.len(), 1);
        // Nothing is left of the name.
        client.go(&pod, &client.container("bad", "true")).await;
        let request = RunPodSandboxRequest {
            config: Some(client.pod("other")),
            runtime_handler: "kata".into(),
        };
        let error = client
            .runtime
            .run_pod_sandbox(request)
            .await
            .expect_err("no handler");
        assert_eq!(error.code(), Code::NotFound, "{error}");
        assert_eq!(client.pods().await.len(), 1);
    });
    node.finish();
    Ok(())
}
