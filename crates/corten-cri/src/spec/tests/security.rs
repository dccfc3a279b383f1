//! Users, filters and privileges.

use serde_json::json;

use super::*;
use crate::proto::{
    Int64Value, LinuxContainerResources, SecurityProfile, SupplementalGroupsPolicy,
    security_profile::ProfileType,
};
use crate::spec::resources;

fn value(value: i64) -> Option<Int64Value> {
    Some(Int64Value { value })
}

fn ids(
    world: &World,
    change: impl FnOnce(&mut LinuxContainerSecurityContext),
) -> (i64, i64, Vec<i64>) {
    let user = world.plan(&pod(), &asked(change)).unwrap().user;
    (user.uid, user.gid, user.supplemental_groups)
}

#[test]
fn the_user_is_the_requests_or_the_images() {
    let mut world = World::new();
    assert_eq!(ids(&world, |_| {}), (0, 0, vec![0, 4]));
    assert_eq!(
        ids(&world, |c| c.run_as_user = value(33)),
        (33, 33, vec![4, 33])
    );
    assert_eq!(ids(&world, |c| c.run_as_user = value(77)), (77, 0, vec![0]));
    let both = |c: &mut LinuxContainerSecurityContext| {
        c.run_as_user = value(77);
        c.run_as_group = value(78);
    };
    assert_eq!(ids(&world, both), (77, 78, vec![78]));
    let named = |c: &mut LinuxContainerSecurityContext| {
        c.run_as_user = value(77);
        c.run_as_username = "www".into();
    };
    assert_eq!(ids(&world, named), (33, 33, vec![4, 33]));
    world.image.user = "www:adm".into();
    assert_eq!(ids(&world, |_| {}), (33, 4, vec![4]));
    world.image.user = "1000".into();
    assert_eq!(ids(&world, |_| {}), (1000, 1000, vec![1000, 50000]));
    let strict = |c: &mut LinuxContainerSecurityContext| {
        c.supplemental_groups = vec![1234];
        c.supplemental_groups_policy = SupplementalGroupsPolicy::Strict as i32;
    };
    assert_eq!(ids(&world, strict), (1000, 1000, vec![1000, 1234]));
}

#[test]
fn what_is_no_user_is_refused_by_its_field() {
    let world = World::new();
    type Change = fn(&mut LinuxContainerSecurityContext);
    let bad: [(Change, &str); 7] = [
        (
            |c| c.run_as_group = value(1),
            "run_as_group is 1, but there is no run_as_user",
        ),
        (|c| c.run_as_user = value(-1), "run_as_user is -1"),
        (
            |c| c.run_as_user = value(1 << 31),
            "run_as_user is 2147483648",
        ),
        (
            |c| c.supplemental_groups = vec![-7],
            "supplemental_groups is -7",
        ),
        (
            |c| c.supplemental_groups_policy = 9,
            "supplemental_groups_policy is 9",
        ),
        (|c| c.run_as_username = "a:b".into(), "run_as_username"),
        (
            |c| c.run_as_username = "gone".into(),
            "security_context is refused",
        ),
    ];
    for (change, word) in bad {
        let refusal = world.refusal(&pod(), &asked(change));
        assert!(refusal.contains(word), "{refusal}");
    }
}

fn profile(kind: ProfileType, at: &str) -> Option<SecurityProfile> {
    Some(SecurityProfile {
        profile_type: kind as i32,
        localhost_ref: at.into(),
    })
}

#[test]
#[allow(deprecated)]
fn filters_by_profile_and_by_older_words() {
    let mut world = World::new();
    let own = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    world.observed.seccomp.insert("/p.json".into(), own);
    let filter = |change: &dyn Fn(&mut LinuxContainerSecurityContext)| {
        world.spec(&pod(), &asked(change))["linux"]["seccomp"]["defaultAction"].clone()
    };
    let (none, usual, own) = (
        Value::Null,
        json!("SCMP_ACT_ERRNO"),
        json!("SCMP_ACT_ALLOW"),
    );
    assert_eq!(filter(&|_| {}), none);
    assert_eq!(
        filter(&|c| c.seccomp = profile(ProfileType::Unconfined, "")),
        none
    );
    assert_eq!(
        filter(&|c| c.seccomp = profile(ProfileType::RuntimeDefault, "")),
        usual
    );
    for at in ["/p.json", "localhost//p.json"] {
        assert_eq!(
            filter(&|c| c.seccomp = profile(ProfileType::Localhost, at)),
            own
        );
    }
    for (word, expected) in [
        ("unconfined", &none),
        ("runtime/default", &usual),
        ("docker/default", &usual),
        ("localhost//p.json", &own),
    ] {
        assert_eq!(filter(&|c| c.seccomp_profile_path = word.into()), *expected);
    }
    for (change, word) in [
        (
            &(|c: &mut LinuxContainerSecurityContext| {
                c.seccomp = profile(ProfileType::Localhost, "p.json");
            }) as &dyn Fn(&mut LinuxContainerSecurityContext),
            "localhost_ref is \"p.json\"",
        ),
        (
            &|c| c.seccomp = profile(ProfileType::Localhost, "/gone.json"),
            "/gone.json",
        ),
        (
            &|c| c.seccomp = profile(ProfileType::RuntimeDefault, "/p.json"),
            "localhost_ref is set",
        ),
        (
            &|c| c.seccomp_profile_path = "p".into(),
            "seccomp_profile_path",
        ),
    ] {
        let refusal = world.refusal(&pod(), &asked(change));
        assert!(refusal.contains(word), "{refusal}");
    }
}

#[test]
fn the_usual_filter_opens_what_capabilities_open() {
    let world = World::new();
    let names = |add: &[&str]| {
        let spec = world.spec(
            &pod(),
            &asked(|c| {
                c.seccomp = profile(ProfileType::RuntimeDefault, "");
                c.capabilities = Some(crate::proto::Capability {
                    add_capabilities: add.iter().map(|s| (*s).into()).collect(),
                    ..Default::default()
                });
            }),
        );
        spec["linux"]["seccomp"]["syscalls"].to_string()
    };
    assert!(!names(&[]).contains("\"mount\""));
    assert!(names(&["SYS_ADMIN"]).contains("\"mount\""));
}

#[test]
fn privileges_take_a_pod_that_has_them() {
    let world = World::new();
    let asked = asked(|c| c.privileged = true);
    let refusal = world.refusal(&pod(), &asked);
    assert!(refusal.contains("that of the pod is not"), "{refusal}");
}

#[test]
fn walls_are_what_the_request_names() {
    let world = World::new();
    let spec = world.spec(&pod(), &asked(|_| {}));
    assert!(spec["linux"].get("maskedPaths").is_none());
    let nothing = world.spec(&pod(), &ContainerConfig::default());
    assert!(nothing["linux"]["maskedPaths"].as_array().unwrap().len() > 5);
    let bad = asked(|c| c.readonly_paths = vec!["proc".into()]);
    assert!(world.refusal(&pod(), &bad).contains("readonly_paths"));
}

#[test]
fn a_pods_own_process_is_walled_in() {
    use super::super::sandbox;
    let mut world = World::new();
    let at = |world: &World, change: &dyn Fn(&mut LinuxSandboxSecurityContext)| {
        let mut pod = with_options(&NamespaceOption::default());
        let linux = pod.linux.as_mut().unwrap();
        change(linux.security_context.as_mut().unwrap());
        let facts = sandbox::Facts {
            host: &world.host,
            handler: &world.handler,
            id: "p",
            observed: &world.observed,
            cgroup: "/c",
            level: "s0:c3",
        };
        sandbox::plan(&pod, &facts).map(|p| p.spec)
    };
    let usual = profile(ProfileType::RuntimeDefault, "");
    let spec = at(&world, &|c| c.seccomp = usual.clone()).unwrap();
    assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!([]));
    assert!(spec["linux"]["seccomp"].is_object());
    let open = at(&world, &|c| {
        c.seccomp = usual.clone();
        c.privileged = true;
    });
    assert!(open.unwrap()["linux"].get("seccomp").is_none());
    let user = at(&world, &|c| c.run_as_user = value(7)).unwrap();
    assert_eq!(user["process"]["user"]["uid"], json!(7));
    let refusal = at(&world, &|c| c.run_as_group = value(7)).unwrap_err();
    assert!(refusal.to_string().contains("run_as_group"), "{refusal}");
    let named = profile(ProfileType::Localhost, "web");
    let refusal = at(&world, &|c| c.apparmor = named.clone()).unwrap_err();
    assert!(refusal.to_string().contains("no AppArmor"), "{refusal}");
    world.host.apparmor = Some(AppArmor {
        profiles: ["web".to_owned()].into(),
    });
    let spec = at(&world, &|c| c.apparmor = named.clone()).unwrap();
    assert_eq!(spec["process"]["apparmorProfile"], json!("web"));
}

#[test]
fn a_score_is_no_lower_than_ours() {
    let mut world = World::new();
    let mut asked = asked(|_| {});
    let with = |score| {
        Some(LinuxContainerResources {
            oom_score_adj: score,
            ..Default::default()
        })
    };
    asked.linux.as_mut().unwrap().resources = with(-997);
    let planned = world.plan(&pod(), &asked).unwrap();
    assert_eq!(planned.spec["process"]["oomScoreAdj"], json!(0));
    assert!(planned.warnings[0].contains("oom_score_adj"));
    world.host.lowest_oom_score = None;
    let planned = world.plan(&pod(), &asked).unwrap();
    assert_eq!(planned.spec["process"]["oomScoreAdj"], json!(-997));
    asked.linux.as_mut().unwrap().resources = with(1001);
    assert!(world.refusal(&pod(), &asked).contains("1001"));
}

#[test]
fn swap_is_none_unless_it_is_given() {
    let at = |limit, swap, accounting| {
        let host = Host {
            swap_accounting: accounting,
            ..host()
        };
        let asked = LinuxContainerResources {
            memory_limit_in_bytes: limit,
            memory_swap_limit_in_bytes: swap,
            ..Default::default()
        };
        let mut warnings = vec![];
        let memory = resources(&asked, &host, &mut warnings).unwrap()["memory"].clone();
        (memory, warnings.len())
    };
    assert_eq!(at(0, 0, true), (Value::Null, 0));
    assert_eq!(at(100, 0, true), (json!({ "limit": 100, "swap": 100 }), 0));
    assert_eq!(
        at(100, 150, true),
        (json!({ "limit": 100, "swap": 150 }), 0)
    );
    assert_eq!(at(100, -1, true), (json!({ "limit": 100, "swap": -1 }), 0));
    assert_eq!(at(100, 0, false), (json!({ "limit": 100 }), 0));
    assert_eq!(at(100, 150, false), (json!({ "limit": 100 }), 1));
}

#[test]
fn limits_that_cannot_be_are_refused_by_name() {
    let host = Host {
        hugetlb: false,
        unified: false,
        ..host()
    };
    let page = |limit| crate::proto::HugepageLimit {
        page_size: "2MB".into(),
        limit,
    };
    type Change = fn(&mut LinuxContainerResources);
    let bad: [(Change, &str); 5] = [
        (|r| r.cpu_shares = -1, "cpu_shares"),
        (|r| r.cpu_period = -1, "cpu_period"),
        (|r| r.cpu_quota = -2, "cpu_quota"),
        (|r| r.memory_limit_in_bytes = -2, "memory_limit_in_bytes"),
        (
            |r| drop(r.unified.insert("memory.high".into(), "1".into())),
            "memory.high",
        ),
    ];
    for (change, word) in bad {
        let mut asked = LinuxContainerResources::default();
        change(&mut asked);
        let refusal = resources(&asked, &host, &mut vec![]).unwrap_err();
        assert!(refusal.to_string().contains(word), "{refusal}");
    }
    let mut asked = LinuxContainerResources {
        hugepage_limits: vec![page(0)],
        ..Default::default()
    };
    assert_eq!(resources(&asked, &host, &mut vec![]).unwrap(), json!({}));
    asked.hugepage_limits = vec![page(1 << 21)];
    let refusal = resources(&asked, &host, &mut vec![]).unwrap_err();
    assert!(
        refusal.to_string().contains("2097152 bytes of 2MB"),
        "{refusal}"
    );
}
