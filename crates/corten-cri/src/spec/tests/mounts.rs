//! Rules of mounts.

use serde_json::json;

use super::*;
use crate::proto::{IdMapping, ImageSpec, Mount, MountPropagation};

fn mount(target: &str, source: &str) -> Mount {
    Mount {
        container_path: target.into(),
        host_path: source.into(),
        ..Default::default()
    }
}

fn with(mounts: Vec<Mount>) -> ContainerConfig {
    ContainerConfig {
        mounts,
        ..asked(|_| {})
    }
}

fn targets(spec: &Value) -> Vec<&str> {
    let mounts = spec["mounts"].as_array().unwrap();
    mounts
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect()
}

fn at<'a>(spec: &'a Value, target: &str) -> &'a Value {
    let mounts = spec["mounts"].as_array().unwrap();
    let mut found = mounts.iter().filter(|m| m["destination"] == json!(target));
    let one = found.next().unwrap_or(&Value::Null);
    assert!(found.next().is_none(), "{target} twice");
    one
}

#[test]
fn what_is_asked_for_wins_and_parents_come_first() {
    let spec = World::new().spec(
        &pod(),
        &with(vec![
            mount("/a/b/c", "/3"),
            mount("/a", "/1"),
            mount("/etc/./hosts", "/h"),
            mount("/proc", "/p"),
        ]),
    );
    let all = targets(&spec);
    let place = |t: &str| all.iter().position(|m| *m == t).unwrap();
    assert!(place("/a") < place("/a/b/c"));
    assert_eq!(at(&spec, "/etc/./hosts")["source"], json!("/h"));
    assert!(at(&spec, "/etc/hosts").is_null());
    assert_eq!(at(&spec, "/proc")["type"], json!("bind"));
}

#[test]
fn a_tree_of_the_host_keeps_what_is_mounted_in_it() {
    let spec = World::new().spec(
        &pod(),
        &with(vec![mount("/sys", "/sys"), mount("/dev", "/dev")]),
    );
    let all = targets(&spec);
    for gone in ["/sys/fs/cgroup", "/dev/pts", "/dev/mqueue"] {
        assert!(!all.contains(&gone), "{gone}");
    }
    // Shared memory is the pod's own still.
    assert_eq!(at(&spec, "/dev/shm")["source"], json!("/run/pod/shm"));
    assert_eq!(at(&spec, "/dev")["source"], json!("/dev"));
}

#[test]
fn propagation_needs_a_source_that_shares() {
    let cases = [
        (
            MountPropagation::PropagationPrivate,
            Propagation::Private,
            Some(("rprivate", Value::Null)),
        ),
        (
            MountPropagation::PropagationPrivate,
            Propagation::Shared,
            Some(("rprivate", Value::Null)),
        ),
        (
            MountPropagation::PropagationHostToContainer,
            Propagation::Private,
            None,
        ),
        (
            MountPropagation::PropagationHostToContainer,
            Propagation::Slave,
            Some(("rslave", json!("rslave"))),
        ),
        (
            MountPropagation::PropagationHostToContainer,
            Propagation::Shared,
            Some(("rslave", json!("rslave"))),
        ),
        (
            MountPropagation::PropagationBidirectional,
            Propagation::Private,
            None,
        ),
        (
            MountPropagation::PropagationBidirectional,
            Propagation::Slave,
            None,
        ),
        (
            MountPropagation::PropagationBidirectional,
            Propagation::Shared,
            Some(("rshared", json!("rshared"))),
        ),
    ];
    for (asked, found, expected) in cases {
        let mut world = World::new();
        world
            .observed
            .sources
            .insert("/s".into(), Source::Present(found));
        let container = with(vec![Mount {
            propagation: asked as i32,
            ..mount("/m", "/s")
        }]);
        match expected {
            Some((word, root)) => {
                let spec = world.spec(&pod(), &container);
                assert_eq!(at(&spec, "/m")["options"][1], json!(word));
                assert_eq!(spec["linux"]["rootfsPropagation"], root);
            }
            None => {
                let refusal = world.refusal(&pod(), &container);
                assert!(refusal.starts_with("mounts[0].propagation"), "{refusal}");
            }
        }
    }
}

#[test]
fn the_root_shares_as_much_as_the_mount_that_shares_most() {
    let mut world = World::new();
    let shared = Source::Present(Propagation::Shared);
    world.observed.sources.insert("/s".into(), shared);
    let both = [
        MountPropagation::PropagationBidirectional,
        MountPropagation::PropagationHostToContainer,
    ];
    for order in [both, [both[1], both[0]]] {
        let mounts = order.iter().zip(["/m", "/n"]).map(|(asked, target)| Mount {
            propagation: *asked as i32,
            ..mount(target, "/s")
        });
        let spec = world.spec(&pod(), &with(mounts.collect()));
        assert_eq!(spec["linux"]["rootfsPropagation"], json!("rshared"));
    }
}

#[test]
fn read_only_all_the_way_down_has_its_rules() {
    let mut world = World::new();
    let make = |readonly, propagation: MountPropagation| {
        with(vec![Mount {
            readonly,
            recursive_read_only: true,
            propagation: propagation as i32,
            ..mount("/m", "/s")
        }])
    };
    let shared = Source::Present(Propagation::Shared);
    world.observed.sources.insert("/s".into(), shared);
    let good = make(true, MountPropagation::PropagationPrivate);
    let spec = world.spec(&pod(), &good);
    assert_eq!(
        at(&spec, "/m")["options"],
        json!(["rbind", "rprivate", "rro"])
    );
    for bad in [
        make(false, MountPropagation::PropagationPrivate),
        make(true, MountPropagation::PropagationHostToContainer),
        make(true, MountPropagation::PropagationBidirectional),
    ] {
        let refusal = world.refusal(&pod(), &bad);
        assert!(
            refusal.starts_with("mounts[0].recursive_read_only"),
            "{refusal}"
        );
    }
    world.handler.recursive_read_only = false;
    let refusal = world.refusal(&pod(), &good);
    assert!(refusal.contains("runtime handler"), "{refusal}");
}

#[test]
fn an_image_is_mounted_read_only_from_where_the_engine_shows_it() {
    let mut world = World::new();
    world.images.insert(1, "/run/images/x".into());
    let image = |change: &dyn Fn(&mut Mount)| {
        let mut image = Mount {
            container_path: "/model".into(),
            readonly: true,
            image: Some(ImageSpec {
                image: "registry/model:1".into(),
                ..Default::default()
            }),
            image_sub_path: "weights".into(),
            ..Default::default()
        };
        change(&mut image);
        with(vec![mount("/m", "/s"), image])
    };
    let good = image(&|_| {});
    let spec = world.spec(&pod(), &good);
    assert_eq!(at(&spec, "/model")["source"], json!("/run/images/x"));
    assert_eq!(
        at(&spec, "/model")["options"],
        json!(["rbind", "rprivate", "ro"])
    );
    let needed = needs(&good, &world.handler, &world.cdi).unwrap().images;
    assert_eq!((needed[0].0, needed[0].2.as_str()), (1, "weights"));
    for (change, field) in [
        (
            &(|m: &mut Mount| m.readonly = false) as &dyn Fn(&mut Mount),
            "readonly",
        ),
        (&|m: &mut Mount| m.host_path = "/x".into(), "host_path"),
        (
            &|m: &mut Mount| m.image_sub_path = "../x".into(),
            "image_sub_path",
        ),
        (
            &|m: &mut Mount| m.image_sub_path = "/x".into(),
            "image_sub_path",
        ),
        (
            &|m: &mut Mount| m.image = Some(ImageSpec::default()),
            "image.image",
        ),
    ] {
        let refusal = world.refusal(&pod(), &image(change));
        assert!(
            refusal.starts_with(&format!("mounts[1].{field}")),
            "{refusal}"
        );
    }
    world.images.clear();
    let refusal = world.refusal(&pod(), &good);
    assert!(refusal.contains("registry/model:1"), "{refusal}");
}

#[test]
fn what_is_no_mount_is_refused_by_its_place() {
    let map = vec![IdMapping {
        host_id: 1,
        container_id: 0,
        length: 1,
    }];
    for (bad, field) in [
        (mount("relative", "/s"), "container_path"),
        (mount("/", "/s"), "container_path"),
        (mount("/a/..", "/s"), "container_path"),
        (mount("/a\0", "/s"), "container_path"),
        (mount("/a", ""), "host_path"),
        (mount("/a", "relative"), "host_path"),
        (
            Mount {
                image_sub_path: "x".into(),
                ..mount("/a", "/s")
            },
            "image_sub_path",
        ),
        (
            Mount {
                uid_mappings: map,
                ..mount("/a", "/s")
            },
            "uidMappings",
        ),
        (
            Mount {
                propagation: 9,
                ..mount("/a", "/s")
            },
            "propagation",
        ),
    ] {
        let refusal = World::new().refusal(&pod(), &with(vec![mount("/ok", "/s"), bad]));
        assert!(
            refusal.starts_with(&format!("mounts[1].{field}")),
            "{refusal}"
        );
    }
}

#[test]
fn the_pods_files_are_read_only_where_the_root_is() {
    let spec = World::new().spec(&pod(), &asked(|c| c.readonly_rootfs = true));
    assert_eq!(
        at(&spec, "/etc/hosts")["options"],
        json!(["rbind", "rprivate", "ro"])
    );
    assert_eq!(spec["root"]["readonly"], json!(true));
    // Memory is there to be written to.
    let shm = at(&spec, "/dev/shm")["options"].as_array().unwrap();
    assert!(shm.contains(&json!("rw")));
}

#[test]
fn with_selinux_shared_files_are_labelled() {
    let mut world = World::new();
    world.host.selinux = Some(SeLinux {
        process: "u:r:container_t:s0".into(),
        file: "u:object_r:container_file_t:s0".into(),
    });
    let asked = with(vec![
        Mount {
            selinux_relabel: true,
            ..mount("/a", "/s")
        },
        mount("/b", "/t"),
    ]);
    let planned = world.plan(&pod(), &asked).unwrap();
    let paths: Vec<_> = planned.relabel.iter().map(|(p, _)| p.clone()).collect();
    assert!(paths.contains(&"/s".into()) && paths.contains(&"/run/pod/hosts".into()));
    assert!(!paths.contains(&"/t".into()));
    let label = &planned.relabel[0].1;
    assert_eq!(label, "u:object_r:container_file_t:s0:c1,c2");
    assert_eq!(planned.spec["linux"]["mountLabel"], json!(label));
    world.host.selinux = None;
    assert!(world.plan(&pod(), &asked).unwrap().relabel.is_empty());
}
