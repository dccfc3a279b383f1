//! What a pod and a container ask for, seen from inside: namespaces, users, mounts, profiles, ends.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use corten_cri::proto::*;
use corten_testkit::registry::free_port;
use corten_testkit::{IdMaps, Result, need, tool};
use serde_json::json;

use super::daemon::{block, http, spec};
use super::pods::{Node, options, security};

#[test]
fn networks_names_and_sysctls() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let mut config = client.pod("host");
        config.hostname.clear();
        options(&mut config).network = NamespaceMode::Node.into();
        let pod = client.run(&config).await.expect("a pod");
        let network = client.pod_status(&pod).await.expect("a status").network;
        assert_eq!(network.unwrap_or_default().ip, "");
        let mut container = client.container("c", "sleep 1000");
        let inside = security(&mut container)
            .namespace_options
            .as_mut()
            .expect("options");
        inside.network = NamespaceMode::Node.into();
        let id = client.go(&pod, &container).await;
        let own = fs::read_link("/proc/self/ns/net").expect("a link");
        assert_eq!(
            client.says(&id, "readlink /proc/self/ns/net").await,
            own.to_string_lossy()
        );
        assert_eq!(node.addresses(), Vec::<String>::new());

        let mut config = client.pod("own");
        config.dns_config = Some(DnsConfig {
            servers: vec!["192.0.2.53".into()],
            searches: vec!["test.example".into()],
            options: vec!["ndots:3".into()],
        });
        let linux = config.linux.as_mut().expect("linux");
        let name = "net.ipv4.ip_unprivileged_port_start";
        linux.sysctls = BTreeMap::from([(name.into(), "77".into())])
            .into_iter()
            .collect();
        let pod = client.run(&config).await.expect("a pod");
        let id = client.go(&pod, &client.container("c", "sleep 1000")).await;
        let text = client.says(&id, "cat /etc/resolv.conf").await;
        for line in [
            "nameserver 192.0.2.53",
            "search test.example",
            "options ndots:3",
        ] {
            assert!(text.lines().any(|l| l == line), "{text}");
        }
        let text = client
            .says(&id, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
            .await;
        assert_eq!(text, "77");
        // One that is the host's is refused, and nothing is left.
        let mut config = client.pod("bad");
        let linux = config.linux.as_mut().expect("linux");
        linux.sysctls = [("kernel.panic".into(), "1".into())].into_iter().collect();
        client.run(&config).await.expect_err("the host's");
        assert_eq!(client.pods().await.len(), 2);
    });
    node.finish();
    Ok(())
}

#[test]
fn a_port_of_the_host_leads_into_a_pod() -> Result<()> {
    if !need::nat() {
        return Ok(());
    }
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    let node = Node::with("", &[portmap])?;
    let port = free_port()?;
    block(async {
        let mut client = node.client().await;
        let mut config = client.pod("web");
        config.port_mappings = vec![PortMapping {
            container_port: 8080,
            host_port: port.into(),
            ..Default::default()
        }];
        let pod = client.run(&config).await.expect("a pod");
        let script = "mkdir /w; echo served > /w/index.html; httpd -p 8080 -h /w; sleep 1000";
        let id = client.go(&pod, &client.container("c", script)).await;
        client
            .says(&id, "until wget -qO /dev/null http://127.0.0.1:8080/index.html 2>/dev/null; do sleep 0.05; done")
            .await;
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let answer = http(stream, "GET", "/index.html");
        assert!(answer.contains("served"), "{answer}");
        client.stop_pod(&pod).await.expect("a stop");
        TcpStream::connect(("127.0.0.1", port)).expect_err("nobody is there");
    });
    node.finish();
    Ok(())
}

#[test]
fn a_plugin_that_fails_leaves_nothing() -> Result<()> {
    let broken = json!({"type": "tuning", "sysctl": {"net.no.such.thing": "1"}});
    let node = Node::with("", &[broken])?;
    block(async {
        let mut client = node.client().await;
        for _ in 0..2 {
            let error = client.run(&client.pod("p")).await.expect_err("a failure");
            assert!(
                error.message().contains("net.no.such.thing") || error.message().contains("tuning"),
                "{error}"
            );
            assert!(client.pods().await.is_empty());
            assert_eq!(node.addresses(), Vec::<String>::new());
        }
    });
    node.finish();
    Ok(())
}

#[test]
fn processes_are_shared_as_asked() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let mut config = client.pod("shared");
        options(&mut config).pid = NamespaceMode::Pod.into();
        let pod = client.run(&config).await.expect("a pod");
        let mut ids = vec![];
        for (name, script) in [("a", "sleep 4321"), ("b", "sleep 1234")] {
            let mut config = client.container(name, script);
            let inside = security(&mut config)
                .namespace_options
                .as_mut()
                .expect("options");
            inside.pid = NamespaceMode::Pod.into();
            ids.push(client.go(&pod, &config).await);
        }
        client
            .says(
                &ids[1],
                "until ps | grep -q '[s]leep 4321'; do sleep 0.05; done",
            )
            .await;

        let pod = client.run(&client.pod("apart")).await.expect("a pod");
        let first = client
            .go(&pod, &client.container("first", "sleep 4321"))
            .await;
        let second = client
            .go(&pod, &client.container("second", "sleep 1000"))
            .await;
        assert_eq!(
            client
                .says(&second, "ps | grep -c '[s]leep 4321' || true")
                .await,
            "0"
        );
        let mut config = client.container("debug", "sleep 1000");
        let inside = security(&mut config)
            .namespace_options
            .as_mut()
            .expect("options");
        inside.pid = NamespaceMode::Target.into();
        inside.target_id = first.clone();
        let debug = client.go(&pod, &config).await;
        assert_eq!(
            client.says(&debug, "ps | grep -c '[s]leep 4321'").await,
            "1"
        );
        // Of another pod there is no target.
        let mut config = client.container("far", "true");
        let inside = security(&mut config)
            .namespace_options
            .as_mut()
            .expect("options");
        inside.pid = NamespaceMode::Target.into();
        inside.target_id = ids[0].clone();
        client
            .create(&pod, &config)
            .await
            .expect_err("of another pod");
    });
    node.finish();
    Ok(())
}

#[test]
fn a_pod_has_users_of_its_own() -> Result<()> {
    let disk = IdMaps::find()?;
    let node = Node::below(&disk.folder(), "")?;
    let data = node.sandbox.files().join("data");
    fs::create_dir_all(&data).expect("a folder");
    fs::write(data.join("old"), "").expect("a file");
    block(async {
        let mut client = node.client().await;
        let mapping = vec![IdMapping {
            host_id: 1_000_000,
            container_id: 0,
            length: 65_536,
        }];
        let users = UserNamespace {
            mode: NamespaceMode::Pod.into(),
            uids: mapping.clone(),
            gids: mapping.clone(),
        };
        let mut config = client.pod("p");
        options(&mut config).userns_options = Some(users.clone());
        let pod = client.run(&config).await.expect("a pod");
        let mut config = client.container("c", "sleep 1000");
        let inside = security(&mut config)
            .namespace_options
            .as_mut()
            .expect("options");
        inside.userns_options = Some(users);
        config.mounts = vec![Mount {
            container_path: "/data".into(),
            host_path: data.display().to_string(),
            uid_mappings: mapping.clone(),
            gid_mappings: mapping,
            ..Default::default()
        }];
        let id = client.go(&pod, &config).await;
        let map = client.says(&id, "cat /proc/self/uid_map").await;
        assert_eq!(
            map.split_whitespace().collect::<Vec<_>>(),
            ["0", "1000000", "65536"]
        );
        // Root's inside are the image's files, new ones, and those of a volume.
        let script =
            "touch /new /data/new; stat -c %u:%g /bin/sh /new /data/old /data/new /etc/hosts";
        let owners = client.says(&id, script).await;
        assert!(owners.lines().all(|l| l == "0:0"), "{owners}");
        let pid = client.info(&id).await["pid"].as_u64().expect("a number");
        let outside = fs::metadata(format!("/proc/{pid}")).expect("a process");
        assert_eq!(outside.uid(), 1_000_000);
    });
    let new = fs::metadata(data.join("new")).expect("a file");
    assert_eq!((new.uid(), new.gid()), (0, 0));
    node.finish();
    Ok(())
}

#[test]
fn users_groups_and_profiles() -> Result<()> {
    let node = Node::start()?;
    let profile = node.sandbox.files().join("seccomp.json");
    let text = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    });
    fs::write(&profile, text.to_string()).expect("a file");
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let mut config = client.container("strict", "sleep 1000");
        let context = security(&mut config);
        context.supplemental_groups = vec![1234];
        context.supplemental_groups_policy = SupplementalGroupsPolicy::Strict.into();
        context.readonly_rootfs = true;
        context.seccomp = Some(SecurityProfile {
            profile_type: security_profile::ProfileType::Localhost.into(),
            localhost_ref: profile.display().to_string(),
        });
        let strict = client.go(&pod, &config).await;
        assert_eq!(client.says(&strict, "id -G").await, "0 1234");
        assert_eq!(
            client
                .says(&strict, "touch /x 2>/dev/null || echo read-only")
                .await,
            "read-only"
        );
        assert_eq!(
            client
                .says(&strict, "mkdir /dev/shm/d 2>/dev/null || echo no")
                .await,
            "no"
        );
        use security_profile::ProfileType::{RuntimeDefault, Unconfined};
        for (name, kind, mode) in [("default", RuntimeDefault, "2"), ("none", Unconfined, "0")] {
            let mut config = client.container(name, "sleep 1000");
            security(&mut config).seccomp = Some(SecurityProfile {
                profile_type: kind.into(),
                ..Default::default()
            });
            let id = client.go(&pod, &config).await;
            let script = "sed -n 's/^Seccomp:[^0-9]*//p' /proc/self/status";
            assert_eq!(client.says(&id, script).await, mode, "{name}");
        }
        let mut config = client.container("bad", "true");
        security(&mut config).seccomp = Some(SecurityProfile {
            profile_type: security_profile::ProfileType::Localhost.into(),
            localhost_ref: "/no/such/profile.json".into(),
        });
        let error = client.create(&pod, &config).await.expect_err("no profile");
        assert!(error.message().contains("/no/such/profile.json"), "{error}");
    });
    node.finish();
    Ok(())
}

#[test]
fn mounts_as_asked() -> Result<()> {
    let node = Node::start()?;
    let tree = node.sandbox.files().join("tree");
    fs::create_dir_all(tree.join("sub")).expect("a folder");
    fs::create_dir_all(tree.join("late")).expect("a folder");
    let place = |name: &str| tree.join(name).display().to_string();
    tool::call("mount", &["--bind", &place(""), &place("")])?;
    tool::call("mount", &["--make-shared", &place("")])?;
    tool::call("mount", &["-t", "tmpfs", "test", &place("sub")])?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let mount = |path: &str| Mount {
            container_path: path.into(),
            host_path: place(""),
            ..Default::default()
        };
        let mut config = client.container("c", "sleep 1000");
        config.mounts = vec![
            Mount {
                readonly: true,
                ..mount("/shallow")
            },
            Mount {
                readonly: true,
                recursive_read_only: true,
                ..mount("/deep")
            },
            Mount {
                propagation: MountPropagation::PropagationHostToContainer.into(),
                ..mount("/follows")
            },
            Mount {
                container_path: "/image".into(),
                image: Some(spec(&client.image)),
                image_sub_path: "bin".into(),
                readonly: true,
                ..Default::default()
            },
        ];
        let id = client.go(&pod, &config).await;
        let script = "for d in /shallow /shallow/sub /deep /deep/sub /image; do \
                      touch $d/x 2>/dev/null && echo $d; done; true";
        assert_eq!(client.says(&id, script).await, "/shallow/sub");
        assert_eq!(
            client.says(&id, "test -e /image/sh && echo yes").await,
            "yes"
        );
        tool::call("mount", &["-t", "tmpfs", "test", &place("late")]).expect("a mount");
        fs::write(tree.join("late/new"), "").expect("a file");
        assert_eq!(
            client.says(&id, "ls /follows/late; ls /shallow/late").await,
            "new"
        );
        client.remove_all().await;
    });
    for name in ["late", "sub", ""] {
        tool::call("umount", &[&place(name)])?;
    }
    node.finish();
    Ok(())
}

#[test]
fn ends_are_told_as_they_were() -> Result<()> {
    let node = Node::start()?;
    block(async {
        let mut client = node.client().await;
        let pod = client.run(&client.pod("p")).await.expect("a pod");
        let mut config = client.container("oom", "exec tail /dev/zero");
        config.linux.as_mut().expect("linux").resources = Some(LinuxContainerResources {
            memory_limit_in_bytes: 16 << 20,
            ..Default::default()
        });
        let id = client.go(&pod, &config).await;
        let ended = client.ended(&id).await;
        assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "OOMKilled"));

        let script = "trap 'exit 9' USR1; trap '' TERM; echo up; while :; do sleep 0.05; done";
        let mut config = client.container("usr1", script);
        config.stop_signal = Signal::Sigusr1.into();
        let id = client.go(&pod, &config).await;
        client.logged("p", "usr1", "up");
        client.stop(&id, 20).await.expect("a stop");
        let ended = client.ended(&id).await;
        assert_eq!((ended.exit_code, ended.stop_signal()), (9, Signal::Sigusr1));

        let id = client.go(&pod, &client.container("deaf", script)).await;
        client.logged("p", "deaf", "up");
        let since = Instant::now();
        client.stop(&id, 1).await.expect("a stop");
        let took = since.elapsed();
        assert!(
            (Duration::from_secs(1)..Duration::from_secs(6)).contains(&took),
            "{took:?}"
        );
        assert_eq!(client.ended(&id).await.exit_code, 137);
    });
    node.finish();
    Ok(())
}

#[test]
fn a_runtime_with_sandboxes_of_its_own_runs_no_pod() -> Result<()> {
    let sandbox = super::sandbox()?;
    let shim = sandbox.files().join("containerd-shim-strange-v1");
    fs::copy("/bin/true", &shim).expect("a program");
    let settings = format!("[runtimes.strange]\nruntime = {shim:?}\n");
    let node = Node::within(sandbox, &settings, &[])?;
    let log = node.daemon.log();
    let told = |line: &&str| line.contains("strange") && line.contains("sandbox of its own");
    assert!(log.lines().any(|line| told(&line)), "{log}");
    block(async {
        let mut client = node.client().await;
        let request = RunPodSandboxRequest {
            config: Some(client.pod("p")),
            runtime_handler: "strange".into(),
        };
        let refused = client.runtime.run_pod_sandbox(request).await;
        let refused = refused.expect_err("no pod of ours");
        assert_eq!(refused.code(), tonic::Code::Unimplemented, "{refused}");
        let path = shim.to_string_lossy();
        assert!(refused.message().contains(&*path), "{refused}");
        assert!(client.pods().await.is_empty());
    });
    node.finish();
    Ok(())
}

#[test]
fn another_runtime_runs_a_pod() -> Result<()> {
    if !need::file("/usr/bin/containerd-shim-runc-v2") || !need::file("/usr/sbin/runc") {
        return Ok(());
    }
    let node = Node::with("[runtimes.runc]\nruntime = \"runc\"\n", &[])?;
    block(async {
        let mut client = node.client().await;
        let request = RunPodSandboxRequest {
            config: Some(client.pod("p")),
            runtime_handler: "runc".into(),
        };
        let pod = client
            .runtime
            .run_pod_sandbox(request)
            .await
            .expect("a pod");
        let pod = pod.into_inner().pod_sandbox_id;
        let status = client.pod_status(&pod).await.expect("a status");
        assert_eq!(status.runtime_handler, "runc");
        let id = client
            .go(&pod, &client.container("c", "echo up; sleep 1000"))
            .await;
        client.logged("p", "c", "up");
        assert_eq!(client.says(&id, "hostname").await, "p");
        client.stop(&id, 0).await.expect("a stop");
        assert_eq!(client.ended(&id).await.exit_code, 137);
    });
    node.finish();
    Ok(())
}
