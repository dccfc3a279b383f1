//! Pods of our own engine, which descriptors hold.

use std::fs;

use corten_shim::client::{self, CreateOptions, CreateRequest, HoldPodResponse};
use corten_spec::Kind;
use rustix::fs::XattrFlags;
use serde_json::{Value, json};

use super::rig::{Rig, eventually};

/// A shim whose bundle describes a pod with these namespaces.
fn pod(kinds: &[&str], more: Value) -> Rig {
    Rig::with("unused", |spec| {
        let namespaces: Vec<Value> = kinds.iter().map(|k| json!({"type": k})).collect();
        let mut linux = json!({"namespaces": namespaces});
        for (key, value) in more.as_object().unwrap() {
            linux[key] = value.clone();
        }
        let group = spec["linux"]["cgroupsPath"].clone();
        linux["cgroupsPath"] = group;
        *spec = json!({"linux": linux, "hostname": "held"});
    })
}

fn files() -> [(&'static str, String); 2] {
    [
        ("hostname", "held\n".into()),
        ("hosts", "127.0.0.1 localhost\n".into()),
    ]
}

/// Runs a script in a container that joins the pod, until it has ended: its status and its log.
fn run(rig: &Rig, held: &HoldPodResponse, name: &str, script: &str, more: Value) -> (u32, String) {
    let bundle = rig.path(name);
    fs::create_dir(&bundle).unwrap();
    let mut spec = super::rig::spec(&format!("{}-{name}", rig.id), script);
    spec.as_object_mut().unwrap().remove("hostname");
    let mut namespaces = vec![json!({"type": "mount"})];
    for (kind, path) in &held.namespaces {
        namespaces.push(json!({"type": kind, "path": path}));
    }
    spec["linux"]["namespaces"] = json!(namespaces);
    spec["root"] = json!({"path": rig.path("rootfs")});
    let mounts = spec["mounts"].as_array_mut().unwrap();
    if !held.shm.is_empty() {
        let bind = json!(["rbind", "nosuid", "nodev", "noexec"]);
        mounts.push(
            json!({"destination": "/dev/shm", "type": "bind", "source": held.shm, "options": bind}),
        );
    }
    if !held.files.is_empty() {
        let hosts = format!("{}/hosts", held.files);
        mounts.push(
            json!({"destination": "/etc/hosts", "type": "bind", "source": hosts, "options": ["rbind", "rprivate", "rw"]}),
        );
    }
    for (key, value) in more.as_object().unwrap() {
        spec["linux"][key] = value.clone();
    }
    fs::write(bundle.join("config.json"), spec.to_string()).unwrap();
    let id = format!("{}-{name}", rig.id).parse().unwrap();
    let mut client = client::connect(rig.folder.path(), &id).unwrap();
    let request = CreateRequest {
        bundle: bundle.clone(),
        options: CreateOptions {
            log_path: bundle.join("log").display().to_string(),
            ..CreateOptions::default()
        },
        ..CreateRequest::default()
    };
    client.create(request).unwrap();
    client.start("").unwrap();
    let exit = client.wait("").unwrap();
    client.delete("").unwrap();
    let log = fs::read_to_string(bundle.join("log")).unwrap();
    let lines = log.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap());
    (exit.status, lines.collect::<Vec<_>>().join("\n"))
}

fn name_of(path: &str) -> String {
    fs::read_link(path).unwrap().display().to_string()
}

#[test]
fn a_pod_without_a_process() {
    let mut rig = pod(
        &["network", "ipc", "uts"],
        json!({"sysctl": {"net.ipv4.ip_unprivileged_port_start": "7", "kernel.shm_rmid_forced": "1"}}),
    );
    let held = rig.client().hold_pod(1 << 20, &files()).unwrap();
    assert_eq!(held.pid, 0);
    let kinds: Vec<&str> = held.namespaces.keys().map(String::as_str).collect();
    assert_eq!(kinds, ["ipc", "network", "uts"]);
    let shim = rig.shim_pid;
    let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
    assert_eq!(children, "", "a pod has no process");
    let script = "hostname; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced; echo one > /dev/shm/f";
    let (status, log) = run(&rig, &held, "a", script, json!({}));
    assert_eq!((status, log.as_str()), (0, "held\n7\n1"));
    let script = "cat /dev/shm/f; ls -l /proc/self/ns/net | cat; mount | cat";
    let (status, log) = run(&rig, &held, "b", script, json!({}));
    let network = name_of(&held.namespaces["network"]);
    assert!(
        status == 0 && log.starts_with("one\n") && log.contains(&network),
        "{log}"
    );
    assert!(log.contains("size=1024k"), "{log}");
    // Asked again: the same.
    assert_eq!(rig.client().hold_pod(1 << 20, &files()).unwrap(), held);
    let client = rig.client.take().unwrap();
    client.end_pod().unwrap();
    assert!(fs::read_link(&held.namespaces["network"]).is_err());
}

/// A container fills what it may write to of `/etc`: its pod has no more of it, and the host's disk has lost nothing.
#[test]
fn files_of_etc_are_shared_and_bounded() {
    let mut rig = pod(&["network", "ipc", "uts"], json!({}));
    let held = rig.client().hold_pod(0, &files()).unwrap();
    for (name, _) in files() {
        // As a label of SELinux, which takes room of its own.
        let file = format!("{}/{name}", held.files);
        rustix::fs::setxattr(&file, "trusted.label", &[b'x'; 100], XattrFlags::CREATE).unwrap();
    }
    let script = "cat /etc/hosts; echo 10.0.0.1 more >> /etc/hosts; stat -c %a /etc/hosts; \
                  grep /etc/hosts /proc/mounts | cut -d ' ' -f 4 | cut -d , -f 1-4";
    let (status, log) = run(&rig, &held, "a", script, json!({}));
    let said = "127.0.0.1 localhost\n644\nrw,nosuid,nodev,noexec";
    assert_eq!((status, log.as_str()), (0, said));
    let script = "tail -n 1 /etc/hosts; dd if=/dev/zero of=/etc/hosts bs=64k count=64 2>/dev/null; \
                  echo $?; stat -c %s /etc/hosts; echo 127.0.0.1 again > /etc/hosts";
    let (status, log) = run(&rig, &held, "b", script, json!({}));
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(
        (status, lines[0], lines[1]),
        (0, "10.0.0.1 more", "1"),
        "{log}"
    );
    let size: u64 = lines[2].parse().unwrap();
    assert!(size <= 2 << 20, "{log}");
    let (_, log) = run(&rig, &held, "c", "cat /etc/hosts", json!({}));
    assert_eq!(log, "127.0.0.1 again");
}

#[test]
fn a_file_of_a_pod_has_a_name_of_one_part() {
    for name in ["../x", "a/b", "", "..", "/x"] {
        let mut rig = pod(&["ipc"], json!({}));
        let error = rig.client().hold_pod(0, &[(name, String::new())]);
        assert_eq!(error.unwrap_err().kind(), Kind::Invalid, "{name}");
        assert!(rig.client().hold_pod(0, &files()).is_ok());
    }
}

#[test]
fn a_pod_with_users_of_its_own() {
    let ids = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
    let mut rig = pod(
        &["network", "ipc", "uts", "user"],
        json!({"uidMappings": ids, "gidMappings": ids, "sysctl": {"net.ipv4.ip_unprivileged_port_start": "9"}}),
    );
    let held = rig.client().hold_pod(1 << 20, &[]).unwrap();
    assert_eq!(held.pid, 0);
    let script = "cat /proc/self/uid_map /proc/sys/net/ipv4/ip_unprivileged_port_start; hostname; echo x > /dev/shm/f && stat -c %u /dev/shm/f";
    let maps = json!({"uidMappings": ids, "gidMappings": ids});
    let (status, log) = run(&rig, &held, "a", script, maps);
    let words: Vec<&str> = log.split_whitespace().collect();
    assert_eq!(
        (status, words.as_slice()),
        (0, &["0", "200000", "65536", "9", "held", "0"][..])
    );
    // The process that made them has gone, with its group and its state.
    eventually("no process", || {
        let shim = rig.shim_pid;
        fs::read_to_string(format!("/proc/{shim}/task/{shim}/children"))
            .unwrap()
            .is_empty()
    });
    let state = fs::read_dir(rig.path("state"));
    assert_eq!(state.map_or(0, |s| s.count()), 0);
    rig.client.take().unwrap().end_pod().unwrap();
}

#[test]
fn a_pod_that_shares_process_ids() {
    let mut rig = pod(&["network", "ipc", "uts", "pid"], json!({}));
    let held = rig.client().hold_pod(0, &[]).unwrap();
    assert_ne!(held.pid, 0);
    assert_eq!(held.shm, "");
    assert!(held.namespaces.contains_key("pid"));
    let (status, log) = run(&rig, &held, "a", "echo $$; test -d /proc/1", json!({}));
    assert_eq!(status, 0, "{log}");
    assert_ne!(log, "1");
    rig.client.take().unwrap().end_pod().unwrap();
    let holder = format!("/proc/{}", held.pid);
    eventually("its end", || !std::path::Path::new(&holder).exists());
}

#[test]
fn what_is_the_hosts_is_refused() {
    for (more, word) in [
        (json!({"sysctl": {"kernel.panic": "1"}}), "kernel.panic"),
        (json!({"sysctl": {"../x": "1"}}), "../x"),
        (
            json!({"sysctl": {"user.max_user_namespaces": "1"}}),
            "user.max",
        ),
    ] {
        let mut rig = pod(&["network", "ipc", "uts"], more);
        let error = rig.client().hold_pod(0, &[]).unwrap_err();
        assert_eq!(error.kind(), Kind::Invalid, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        // It may be asked for something better.
        let config = json!({"linux": {"namespaces": [{"type": "ipc"}]}});
        fs::write(rig.path("config.json"), config.to_string()).unwrap();
        let held = rig.client().hold_pod(0, &[]).unwrap();
        assert_eq!(held.namespaces.len(), 1);
        rig.client.take().unwrap().end_pod().unwrap();
    }
}
