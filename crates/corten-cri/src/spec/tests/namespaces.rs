//! Rules of namespaces, and of settings that belong to them.

use serde_json::json;

use super::golden::ids;
use super::*;
use crate::proto::UserNamespace;
use crate::spec::{namespaces, sandbox};

fn kinds(spec: &Value) -> Vec<(String, Option<String>)> {
    let all = spec["linux"]["namespaces"].as_array().unwrap();
    let text = |v: &Value| v.as_str().map(String::from);
    all.iter()
        .map(|n| (text(&n["type"]).unwrap(), text(&n["path"])))
        .collect()
}

fn path_of(spec: &Value, kind: &str) -> Option<Option<String>> {
    let found = kinds(spec).into_iter().find(|(k, _)| k == kind);
    found.map(|(_, path)| path)
}

fn mode(pid: NamespaceMode) -> NamespaceOption {
    NamespaceOption {
        pid: pid as i32,
        ..Default::default()
    }
}

#[test]
fn processes_are_shared_as_pod_and_container_say() {
    use NamespaceMode::{Container, Node, Pod, Target};
    let shared = Some(Some("/proc/7/ns/pid".to_owned()));
    let target = Some(Some("/proc/9/ns/pid".to_owned()));
    let mut world = World::new();
    world.namespaces.target = Some("/proc/9/ns/pid".into());
    for (of_pod, of_container, expected) in [
        (Pod, Some(Pod), shared.clone()),
        (Pod, None, shared),
        (Pod, Some(Container), Some(None)),
        (Container, Some(Container), Some(None)),
        (Container, None, Some(None)),
        (Node, Some(Node), None),
        (Node, Some(Pod), None),
        (Node, None, None),
        (Node, Some(Container), Some(None)),
        (Container, Some(Target), target),
    ] {
        let asked = asked(|c| {
            c.namespace_options = of_container.map(|pid| NamespaceOption {
                target_id: "other".into(),
                ..mode(pid)
            });
        });
        let spec = world.spec(&with_options(&mode(of_pod)), &asked);
        assert_eq!(
            path_of(&spec, "pid"),
            expected,
            "{of_pod:?} {of_container:?}"
        );
    }
    for (of_pod, of_container) in [(Container, Pod), (Container, Node), (Pod, Node)] {
        let asked = asked(|c| c.namespace_options = Some(mode(of_container)));
        let refusal = world.refusal(&with_options(&mode(of_pod)), &asked);
        assert!(refusal.contains("namespace_options.pid"), "{refusal}");
    }
    let nobody = asked(|c| c.namespace_options = Some(mode(Target)));
    assert!(world.refusal(&pod(), &nobody).contains("target_id"));
    let refusal = namespaces::of_pod(&with_options(&mode(Target))).unwrap_err();
    assert!(refusal.to_string().contains("TARGET"));
}

#[test]
fn a_container_cannot_have_more_of_the_host_than_its_pod() {
    let host = NamespaceMode::Node as i32;
    for (options, field) in [
        (
            NamespaceOption {
                network: host,
                ..options()
            },
            "network",
        ),
        (
            NamespaceOption {
                ipc: host,
                ..options()
            },
            "ipc",
        ),
    ] {
        let asked = asked(|c| c.namespace_options = Some(options.clone()));
        let world = World::new();
        let refusal = world.refusal(&pod(), &asked);
        assert!(
            refusal.contains(&format!("namespace_options.{field}")),
            "{refusal}"
        );
        let mut pod = with_options(&options);
        pod.hostname.clear();
        let spec = world.spec(&pod, &asked);
        assert_eq!(path_of(&spec, field), None);
    }
    // CONTAINER and TARGET are words for processes.
    let odd = NamespaceOption {
        network: NamespaceMode::Container as i32,
        ..options()
    };
    assert!(namespaces::of_pod(&with_options(&odd)).is_err());
    let unknown = NamespaceOption {
        ipc: 9,
        ..options()
    };
    assert!(namespaces::of_pod(&with_options(&unknown)).is_err());
}

#[test]
fn a_user_namespace_is_one_range_from_nought_on() {
    let plan = |change: &dyn Fn(&mut UserNamespace)| {
        let mut user = ids();
        change(&mut user);
        let options = NamespaceOption {
            userns_options: Some(user),
            ..options()
        };
        namespaces::of_pod(&with_options(&options))
    };
    assert_eq!(plan(&|_| {}).unwrap().user.unwrap().uid.host_id, 100_000);
    let host = plan(&|u| {
        *u = UserNamespace {
            mode: NamespaceMode::Node as i32,
            ..Default::default()
        }
    });
    assert_eq!(host.unwrap().user, None);
    type Change = fn(&mut UserNamespace);
    let bad: [(Change, &str); 9] = [
        (|u| u.mode = NamespaceMode::Container as i32, "CONTAINER"),
        (|u| u.mode = NamespaceMode::Target as i32, "TARGET"),
        (|u| u.mode = NamespaceMode::Node as i32, "uids"),
        (|u| u.uids.push(u.uids[0]), "uids holds 2"),
        (|u| u.gids.clear(), "gids holds 0"),
        (|u| u.uids[0].container_id = 1, "id 0"),
        (|u| u.uids[0].length = 0, "empty"),
        (|u| u.gids[0].host_id = u32::MAX, "ends above"),
        (|u| u.mode = 9, "9"),
    ];
    for (change, word) in bad {
        let refusal = plan(&change).unwrap_err().to_string();
        assert!(refusal.contains(word), "{word}: {refusal}");
    }
}

#[test]
fn a_container_has_the_users_of_its_pod() {
    let mapped = NamespaceOption {
        userns_options: Some(ids()),
        ..options()
    };
    let world = World::new();
    let plain = asked(|c| c.namespace_options = Some(options()));
    let refusal = world.refusal(&with_options(&mapped), &plain);
    assert!(refusal.contains("userns_options"), "{refusal}");
    let own = asked(|c| c.namespace_options = Some(mapped.clone()));
    assert!(world.refusal(&pod(), &own).contains("userns_options"));
    // Nothing said is what the pod says.
    let spec = world.spec(&with_options(&mapped), &asked(|_| {}));
    assert_eq!(path_of(&spec, "user"), Some(Some("/proc/7/ns/user".into())));
}

#[test]
fn what_shows_the_host_cannot_be_mounted_with_other_users() {
    for (change, word) in [
        (
            NamespaceOption {
                pid: NamespaceMode::Node as i32,
                ..Default::default()
            },
            "namespace_options.pid",
        ),
        (
            NamespaceOption {
                ipc: NamespaceMode::Node as i32,
                ..options()
            },
            "namespace_options.ipc",
        ),
    ] {
        let options = NamespaceOption {
            userns_options: Some(ids()),
            ..change
        };
        let refusal = namespaces::of_pod(&with_options(&options)).unwrap_err();
        assert!(refusal.to_string().contains(word), "{refusal}");
    }
    let options = NamespaceOption {
        network: NamespaceMode::Node as i32,
        userns_options: Some(ids()),
        ..options()
    };
    let mut pod = with_options(&options);
    pod.hostname.clear();
    let spec = World::new().spec(&pod, &asked(|_| {}));
    let mounts = spec["mounts"].as_array().unwrap();
    let sys = mounts.iter().find(|m| m["destination"] == json!("/sys"));
    assert_eq!(sys.unwrap()["type"], json!("bind"));
}

#[test]
fn a_namespace_that_is_not_there_is_named() {
    let mut world = World::new();
    world.namespaces.network = None;
    let refusal = world.refusal(&pod(), &asked(|_| {}));
    assert!(
        refusal.contains("network namespace that is not there"),
        "{refusal}"
    );
}

fn sysctls(options: &NamespaceOption, all: &[(&str, &str)]) -> Result<Value, String> {
    let mut pod = with_options(options);
    pod.hostname.clear();
    let own = all.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    pod.linux.as_mut().unwrap().sysctls = own.collect();
    let facts = sandbox::Facts {
        host: &host(),
        handler: &handler(),
        id: "p",
        observed: &Observed::default(),
        cgroup: "/c",
        level: "",
    };
    let planned = sandbox::plan(&pod, &facts).map_err(|e| e.to_string())?;
    Ok(planned.spec["linux"]["sysctl"].clone())
}

#[test]
fn settings_are_the_pods_own_or_refused() {
    let host = NamespaceMode::Node as i32;
    let own = sysctls(
        &options(),
        &[
            ("net.ipv4.ip_forward", "1"),
            ("kernel/shmmax", "7"),
            ("fs.mqueue.msg_max", "9"),
            ("net.ipv4.ip_unprivileged_port_start", "80"),
        ],
    );
    assert_eq!(
        own.unwrap(),
        json!({
            "net.ipv4.ip_forward": "1", "kernel.shmmax": "7", "fs.mqueue.msg_max": "9",
            "net.ipv4.ip_unprivileged_port_start": "80",
            "net.ipv4.ping_group_range": "0 2147483647",
        })
    );
    let network = NamespaceOption {
        network: host,
        ..options()
    };
    assert_eq!(sysctls(&network, &[]).unwrap(), json!({}));
    let ipc = NamespaceOption {
        ipc: host,
        ..options()
    };
    for (options, name, word) in [
        (&network, "net.ipv4.ip_forward", "network"),
        (&network, "kernel.domainname", "UTS"),
        (&ipc, "kernel.shmmax", "IPC"),
        (&options(), "vm.swappiness", "host's"),
        (&options(), "kernel.hostname", "host's"),
        (&options(), "user.max_pid_namespaces", "user"),
        (&options(), "kernel.shm..max", "no setting"),
        (&options(), "net", "no setting"),
        (&options(), "net/../kernel", "no setting"),
    ] {
        let refusal = sysctls(options, &[(name, "1")]).unwrap_err();
        assert!(
            refusal.contains(name) && refusal.contains(word),
            "{refusal}"
        );
    }
    let mapped = NamespaceOption {
        userns_options: Some(ids()),
        ..options()
    };
    let all = sysctls(&mapped, &[("user.max_pid_namespaces", "5")]).unwrap();
    assert!(all.get("net.ipv4.ping_group_range").is_none());
}
