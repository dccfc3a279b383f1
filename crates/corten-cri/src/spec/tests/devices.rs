//! Devices: those of the request, and those that the Container Device Interface describes.

use serde_json::json;

use super::*;
use crate::proto::{CdiDevice, Device, Int64Value};

fn node(below: &str, character: bool, major: u32, minor: u32) -> Node {
    Node {
        below: below.into(),
        character,
        major,
        minor,
        mode: 0o640,
        uid: 3,
        gid: 4,
    }
}

fn device(target: &str, source: &str, permissions: &str) -> ContainerConfig {
    ContainerConfig {
        devices: vec![Device {
            container_path: target.into(),
            host_path: source.into(),
            permissions: permissions.into(),
        }],
        ..asked(|c| c.run_as_user = Some(Int64Value { value: 1000 }))
    }
}

#[test]
fn a_device_is_made_and_allowed_as_asked() {
    let mut world = World::new();
    let nodes = vec![node("", true, 10, 229)];
    world.observed.devices.insert("/dev/fuse".into(), nodes);
    let asked = device("/dev/f", "/dev/fuse", "rw");
    let spec = world.spec(&pod(), &asked);
    let linux = &spec["linux"];
    assert_eq!(
        linux["devices"],
        json!([{
            "path": "/dev/f", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640,
            "uid": 3, "gid": 4,
        }])
    );
    let rules = linux["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
    assert_eq!(
        rules.last().unwrap(),
        &json!({ "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw" })
    );
    world.handler.device_ownership = true;
    let spec = world.spec(&pod(), &asked);
    let first = &spec["linux"]["devices"][0];
    // Only the user is named: the group stays the host's.
    assert_eq!((&first["uid"], &first["gid"]), (&json!(1000), &json!(4)));
}

#[test]
fn a_folder_is_all_devices_below_it() {
    let mut world = World::new();
    let nodes = vec![node("by/a", false, 8, 0), node("b", true, 1, 1)];
    world.observed.devices.insert("/dev/x".into(), nodes);
    let spec = world.spec(&pod(), &device("/dev/y", "/dev/x", ""));
    let devices = spec["linux"]["devices"].as_array().unwrap();
    let paths: Vec<_> = devices
        .iter()
        .map(|d| d["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["/dev/y/by/a", "/dev/y/b"]);
    assert_eq!(devices[0]["type"], json!("b"));
}

#[test]
fn what_is_no_device_is_refused_by_its_place() {
    let mut world = World::new();
    world.observed.devices.insert("/dev/fuse".into(), vec![]);
    for (asked, word) in [
        (device("/dev/f", "/dev/fuse", ""), "devices[0].host_path"),
        (device("/dev/f", "/dev/gone", ""), "/dev/gone"),
        (device("/dev/f", "/dev/fuse", "x"), "devices[0].permissions"),
        (
            device("dev/f", "/dev/fuse", ""),
            "devices[0].container_path",
        ),
        (
            device("/dev/../f", "/dev/fuse", ""),
            "devices[0].container_path",
        ),
    ] {
        let refusal = world.refusal(&pod(), &asked);
        assert!(refusal.contains(word), "{refusal}");
    }
}

const GPU: &str = r#"
cdiVersion: "1.1.0"
kind: vendor.com/gpu
containerEdits:
  env: ["VENDOR=1", "LANG=overridden"]
  hooks:
    - hookName: createContainer
      path: /usr/bin/hook
      args: [hook, x]
      timeout: 5
devices:
  - name: "0"
    containerEdits:
      deviceNodes:
        - path: /dev/gpu0
          hostPath: /dev/host-gpu0
          permissions: rw
        - path: /dev/made
          type: c
          major: 195
          minor: 7
          fileMode: 0660
          uid: 0
          gid: 44
          permissions: none
      mounts:
        - hostPath: /usr/lib/libgpu.so
          containerPath: /usr/lib/libgpu.so
          options: [ro, nosuid, bind]
      additionalGids: [0, 44]
  - name: "1"
    containerEdits:
      env: ["SECOND=1"]
      netDevices:
        - hostInterfaceName: enp1
          name: net0
      intelRdt:
        closID: class
        schemata: ["L3:0=f"]
"#;

fn with_gpu(world: &mut World) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("gpu.yaml"), GPU).unwrap();
    world.cdi = Registry::read(&[folder.path()]);
    assert_eq!(world.cdi.faults().count(), 0);
    folder
}

fn wants(names: &[&str]) -> ContainerConfig {
    ContainerConfig {
        cdi_devices: names
            .iter()
            .map(|name| CdiDevice {
                name: (*name).into(),
            })
            .collect(),
        ..asked(|c| c.run_as_user = Some(Int64Value { value: 1000 }))
    }
}

#[test]
fn a_described_device_changes_what_it_says() {
    let mut world = World::new();
    let _folder = with_gpu(&mut world);
    let nodes = vec![node("", true, 195, 0)];
    world
        .observed
        .devices
        .insert("/dev/host-gpu0".into(), nodes);
    let mut asked = wants(&["vendor.com/gpu=0"]);
    asked.annotations = [(
        "cdi.k8s.io/plugin".to_owned(),
        "vendor.com/gpu=1,vendor.com/gpu=0".to_owned(),
    )]
    .into();
    let needed = needs(&asked, &world.handler, &world.cdi).unwrap();
    assert!(needed.devices.contains(Path::new("/dev/host-gpu0")));
    golden("devices.json", &world.spec(&pod(), &asked));
}

#[test]
fn a_device_that_nobody_describes_is_named() {
    let mut world = World::new();
    let folder = with_gpu(&mut world);
    let refusal = world.refusal(&pod(), &wants(&["vendor.com/gpu=9"]));
    assert_eq!(refusal, "there is no device \"vendor.com/gpu=9\"");
    std::fs::write(folder.path().join("broken.json"), "{").unwrap();
    world.cdi = Registry::read(&[folder.path()]);
    let refusal = world.refusal(&pod(), &wants(&["vendor.com/gpu=9"]));
    assert!(refusal.contains("broken.json"), "{refusal}");
    let refusal = world.refusal(&pod(), &wants(&["gpu"]));
    assert!(refusal.contains("\"gpu\" is no name"), "{refusal}");
    // Described, but the host has no such node, and the description says not what it would be.
    let refusal = world.refusal(&pod(), &wants(&["vendor.com/gpu=0"]));
    assert!(refusal.contains("/dev/gpu0"), "{refusal}");
}
