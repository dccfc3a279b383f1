//! What holds for every request: nothing panics, what is planned can be read, and a wall is there unless the request
//! or the pod has taken it down.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::proto::{Capability, Int64Value, Mount, SecurityProfile};

fn path() -> impl Strategy<Value = String> {
    prop_oneof![
        "(/[a-c.]{1,3}){0,4}",
        Just(String::from("/dev")),
        Just(String::from("/proc/sys")),
        "[a-c/.\\x00]{0,6}",
    ]
}

prop_compose! {
    fn mount()(
        target in path(), source in path(), readonly: bool, recursive: bool,
        propagation in 0..4i32,
    ) -> Mount {
        Mount {
            container_path: target,
            host_path: source,
            readonly,
            recursive_read_only: recursive,
            propagation,
            ..Default::default()
        }
    }
}

fn names() -> impl Strategy<Value = Vec<String>> {
    let name = prop_oneof![
        Just("ALL"),
        Just("chown"),
        Just("CAP_SYS_ADMIN"),
        Just("SYS_RESOURCE")
    ];
    proptest::collection::vec(name.prop_map(String::from), 0..3)
}

prop_compose! {
    fn context()(
        privileged: bool, readonly_rootfs: bool, no_new_privs: bool,
        add in names(), drop in names(), ambient in names(),
        user in proptest::option::of(-1..70_000i64), group in proptest::option::of(0..5i64),
        groups in proptest::collection::vec(-1..5i64, 0..3),
        modes in (0..5i32, 0..5i32, 0..5i32),
        seccomp in proptest::option::of(0..4i32),
        masked in proptest::collection::vec(path(), 0..3),
    ) -> LinuxContainerSecurityContext {
        LinuxContainerSecurityContext {
            privileged, readonly_rootfs, no_new_privs,
            capabilities: Some(Capability {
                add_capabilities: add, drop_capabilities: drop, add_ambient_capabilities: ambient,
            }),
            run_as_user: user.map(|value| Int64Value { value }),
            run_as_group: group.map(|value| Int64Value { value }),
            supplemental_groups: groups,
            namespace_options: Some(NamespaceOption {
                network: modes.0, pid: modes.1, ipc: modes.2, ..Default::default()
            }),
            seccomp: seccomp.map(|profile_type| SecurityProfile {
                profile_type, localhost_ref: String::new(),
            }),
            masked_paths: masked,
            ..Default::default()
        }
    }
}

proptest! {
    #[test]
    fn any_request_is_planned_or_refused(
        context in context(), mounts in proptest::collection::vec(mount(), 0..4),
        privileged: bool, of_pod in (0..3i32, 0..3i32),
    ) {
        let mut pod = with_options(&NamespaceOption {
            network: of_pod.0, pid: of_pod.1, ..Default::default()
        });
        let own = pod.linux.as_mut().unwrap().security_context.as_mut();
        own.unwrap().privileged = privileged;
        let mut asked = asked(|c| *c = context.clone());
        asked.mounts = mounts;
        let mut world = World::new();
        world.observed.devices.insert("/dev".into(), vec![Node {
            below: "null".into(), character: true, major: 1, minor: 3, mode: 0o666, uid: 0, gid: 0,
        }]);
        let Ok(planned) = world.plan(&pod, &asked) else { return Ok(()) };
        let spec = &planned.spec;
        // Nobody is privileged whose pod is not.
        let open = context.privileged;
        prop_assert!(!open || privileged);
        let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
        prop_assert_eq!(&rules[0]["allow"], &json!(open));
        prop_assert_eq!(&spec["process"]["noNewPrivileges"], &json!(context.no_new_privs));
        prop_assert_eq!(&spec["root"]["readonly"], &json!(context.readonly_rootfs));
        let held = spec["process"]["capabilities"].clone();
        let within = |kind: &str| {
            let bounding = held["bounding"].as_array().unwrap();
            held[kind].as_array().is_none_or(|all| all.iter().all(|c| bounding.contains(c)))
        };
        prop_assert!(["effective", "permitted", "inheritable", "ambient"].into_iter().all(within));
        prop_assert!(!held.to_string().contains("SYS_RESOURCE"));
        if !open {
            let masked = spec["linux"]["maskedPaths"].as_array().map_or(0, Vec::len);
            prop_assert_eq!(masked, context.masked_paths.len());
        }
        // Parents come before what is mounted in them.
        let depth = |m: &Value| Path::new(m["destination"].as_str().unwrap()).components().count();
        let mounts = spec["mounts"].as_array().unwrap();
        let plain = |m: &&Value| !m["destination"].as_str().unwrap().contains("..");
        let depths: Vec<usize> = mounts.iter().filter(plain).map(depth).collect();
        prop_assert!(depths.is_sorted());
        let kinds: Vec<_> = spec["linux"]["namespaces"].as_array().unwrap().iter()
            .map(|n| n["type"].as_str().unwrap().to_owned()).collect();
        let host = |kind: &str| !kinds.iter().any(|k| k == kind);
        prop_assert!(!host("mount"));
        prop_assert_eq!(host("network"), of_pod.0 == NamespaceMode::Node as i32);
    }
}
