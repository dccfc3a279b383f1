//! Plans as text. After a wanted change: `CORTEN_BLESS=1 cargo test -p corten-runtime plan`.

use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// The default spec, changed.
fn spec(change: impl FnOnce(&mut Value)) -> Spec {
    let mut document = serde_json::to_value(crate::spec::default()).unwrap();
    document["process"]["terminal"] = json!(false);
    change(&mut document);
    serde_json::from_value(document).unwrap()
}

fn facts() -> Facts<'static> {
    Facts {
        id: "web-1",
        bundle: Path::new("/bundle"),
        terminal: false,
        // All 41 but CAP_SYS_RESOURCE.
        capabilities: 0x1ff_feff_ffff,
        detached_root: false,
        systemd: None,
        around: Default::default(),
    }
}

fn golden(name: &str, plan: &Plan) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = format!("{plan:#?}\n");
    if std::env::var_os("CORTEN_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    let differs = expected.lines().zip(text.lines()).find(|(a, b)| a != b);
    assert!(expected == text, "{name} differs, first in {differs:?}");
}

#[test]
fn the_default_plan() {
    golden("default.txt", &plan(&spec(|_| {}), &facts()).unwrap());
}

#[test]
fn a_plan_with_a_user_namespace_and_volumes() {
    let spec = spec(|s| {
        let ids = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
        s["linux"]["uidMappings"] = ids.clone();
        s["linux"]["gidMappings"] = ids;
        s["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        s["linux"]["devices"] =
            json!([{"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200, "uid": 7}]);
        s["linux"]["sysctl"] = json!({"net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.1/mtu": "9"});
        let mounts = s["mounts"].as_array_mut().unwrap();
        for (target, options) in [
            ("/data", json!(["rbind", "ro", "rnosuid", "rprivate"])),
            ("/shared/../x", json!(["bind", "rshared", "noatime"])),
        ] {
            mounts.push(
                json!({"destination": target, "type": "bind", "source": "vol", "options": options}),
            );
        }
        mounts.push(
            json!({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs",
            "options": ["tmpcopyup", "size=1m", "ro"]}),
        );
    });
    golden("user.txt", &plan(&spec, &facts()).unwrap());
}

/// The message for a spec that makes no plan.
fn refused(change: impl FnOnce(&mut Value)) -> String {
    plan(&spec(change), &facts()).unwrap_err().to_string()
}

#[test]
fn contradictions_are_named() {
    let push = |value: Value| {
        move |s: &mut Value| s["linux"]["namespaces"].as_array_mut().unwrap().push(value)
    };
    let cases = [
        (
            refused(push(json!({"type": "pid"}))),
            "linux.namespaces of the spec names pid twice",
        ),
        (
            refused(push(json!({"type": "user"}))),
            "linux.uidMappings of the spec is empty, but there is a new user namespace",
        ),
        (
            refused(|s| s["linux"]["namespaces"] = json!([{"type": "pid"}])),
            "linux.namespaces of the spec has no mount namespace",
        ),
        (
            refused(|s| s["mounts"][0]["destination"] = json!("/..")),
            "mounts.destination of the spec is \"/..\", the root itself",
        ),
        (
            refused(|s| s["process"]["oomScoreAdj"] = json!(1001)),
            "process.oomScoreAdj of the spec is 1001, and must be from -1000 to 1000",
        ),
        (
            refused(|s| s["process"]["args"] = json!(["a\0b"])),
            "process.args of the spec holds a null byte",
        ),
        (
            refused(|s| s["linux"]["cgroupsPath"] = json!("a.slice:b:c")),
            "linux.cgroupsPath \"a.slice:b:c\" in systemd's form SLICE:PREFIX:NAME without --systemd-cgroup is not supported",
        ),
        (
            refused(|s| s["linux"]["intelRdt"] = json!({"closID": "a/b"})),
            "linux.intelRdt.closID of the spec is \"a/b\", but it is no name of a class",
        ),
        (
            refused(|s| s["linux"]["cgroupsPath"] = json!("/")),
            "linux.cgroupsPath of the spec is the root group",
        ),
    ];
    for (message, expected) in cases {
        assert_eq!(message, expected);
    }
}

#[test]
fn systemds_scope_is_planned_where_systemd_lives() {
    let with = |user, root, path: &str| {
        let mut facts = facts();
        facts.systemd = Some(cgroup::Home { root, user });
        let document = spec(|s| {
            s["linux"]["cgroupsPath"] = json!(path);
            s["annotations"] =
                json!({"org.systemd.property.TimeoutStopSec": "7", "other": "'unread"});
        });
        plan(&document, &facts)
    };
    let own = with(false, "", "machine.slice:libpod:1f").unwrap();
    assert_eq!(own.cgroup_path, "/machine.slice/libpod-1f.scope");
    let unit = own.unit.unwrap();
    assert_eq!(unit.scope.unit, "libpod-1f.scope");
    let properties: Vec<String> = unit.properties.iter().map(|p| p.to_string()).collect();
    assert_eq!(properties, ["TimeoutStopUSec = uint64 7000000"]);
    let home = "/user.slice/user-7.slice/user@7.service";
    let users = with(true, home, "").unwrap();
    assert_eq!(
        users.cgroup_path,
        format!("{home}/user.slice/corten-web-1.scope")
    );
    assert_eq!(
        with(false, "", "/corten/web-1").unwrap_err().to_string(),
        "linux.cgroupsPath of the spec is \"/corten/web-1\", but with the systemd cgroup driver it must be SLICE:PREFIX:NAME"
    );
}

#[test]
fn capabilities_out_of_reach_are_a_warning() {
    let spec = spec(|s| {
        s["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_RESOURCE", "CAP_KILL"]);
    });
    let plan = plan(&spec, &facts()).unwrap();
    assert_eq!(plan.process.capabilities.bounding, 1 << 5);
    assert_eq!(
        plan.warnings,
        ["capabilities that this host does not give were left out: CAP_SYS_RESOURCE"]
    );
}

mod properties {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a document says, planning it is an answer and no panic, and no target has a way out.
        #[test]
        fn a_mount_target_is_a_plain_relative_path(target in "(/|\\.|a|é|\\.\\.){0,12}", options in proptest::collection::vec("[a-z=:]{0,12}", 0..4)) {
            let document = spec(|s| {
                s["mounts"].as_array_mut().unwrap().push(
                    json!({"destination": target, "type": "tmpfs", "source": "x", "options": options}));
            });
            if let Ok(plan) = plan(&document, &facts()) {
                for mount in &plan.mounts {
                    let target = mount.target.to_str().unwrap();
                    let plain = |p: &str| !p.is_empty() && p != "." && p != "..";
                    prop_assert!(target.split('/').all(plain), "{target}");
                }
            }
        }

        #[test]
        fn a_cgroup_path_stays_below_the_root(path in "(/|\\.|a|\\.\\.|:){0,10}") {
            let document = spec(|s| s["linux"]["cgroupsPath"] = json!(path));
            if let Ok(plan) = plan(&document, &facts()) {
                prop_assert!(plan.cgroup_path.starts_with('/') && plan.cgroup_path.len() > 1);
                let walks = plan.cgroup_path.split('/').any(|p| p == "..");
                prop_assert!(!walks, "{}", plan.cgroup_path);
            }
        }

        #[test]
        fn a_sysctl_stays_below_proc_sys(name in "(net|kernel|shmmax|/|\\.|\\.\\.){1,8}") {
            let document = spec(|s| s["linux"]["sysctl"] = json!({name: "1"}));
            if let Ok(plan) = plan(&document, &facts()) {
                for setting in &plan.sysctls {
                    let file = setting.file.to_str().unwrap();
                    prop_assert!(file.starts_with("sys/"));
                    prop_assert!(!file.split('/').any(|p| p == ".." || p.is_empty()), "{file}");
                }
            }
        }
    }
}
