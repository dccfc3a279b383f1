//! `SystemdCgroup` of containerd's options. Needs systemd as process 1; a guest with it runs these.

use std::fs;
use std::process::Command;

use corten_shim::proto::task::{
    ContainerRequest, CreateTaskRequest, CreateTaskResponse, RuncOptions, StatsResponse,
};
use corten_testkit::need;
use serde_json::json;

use super::checkpoint::any;
use super::raw::Raw;
use super::rig::{Rig, eventually, process, shim};

const TASK: &str = "containerd.task.v3.Task";

/// A container that runs in a scope, its process id and the scope's group.
fn running() -> (Rig, u32, String) {
    let mut rig = Rig::with("sleep 1000 & wait", |spec| {
        let path = spec["linux"]["cgroupsPath"].as_str().unwrap();
        let (_, id) = path.rsplit_once('/').unwrap();
        spec["linux"]["cgroupsPath"] = json!(format!("corten-shim.slice:box:{id}"));
        spec["linux"]["resources"]["pids"] = json!({"limit": 50});
    });
    let options = RuncOptions {
        systemd_cgroup: true,
        ..RuncOptions::default()
    };
    let request = CreateTaskRequest {
        id: rig.id.to_string(),
        bundle: rig.folder.path().display().to_string(),
        options: any("containerd.runc.v1.Options", &options),
        ..CreateTaskRequest::default()
    };
    let mut raw = Raw::connect(&rig.path("shim.sock"));
    let made: CreateTaskResponse = raw.call(TASK, "Create", &request).unwrap();
    rig.client().start("").unwrap();
    let group = format!("/corten.slice/corten-shim.slice/box-{}.scope", rig.id);
    (rig, made.pid, group)
}

fn group_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap()
}

fn is_active(rig: &Rig) -> bool {
    let unit = format!("box-{}.scope", rig.id);
    let status = Command::new("systemctl")
        .args(["-q", "is-active", &unit])
        .status();
    status.unwrap().success()
}

fn assert_gone(rig: &Rig, group: &str) {
    eventually("the scope's end", || !is_active(rig));
    assert!(!fs::exists(format!("/sys/fs/cgroup{group}")).unwrap());
    rig.assert_clean();
}

#[test]
fn systemd_a_scope_holds_init_and_execs_with_its_limits() {
    if !need::systemd() {
        return;
    }
    let (mut rig, pid, group) = running();
    assert!(
        group_of(pid).contains(&format!(":{group}\n")),
        "{}",
        group_of(pid)
    );
    assert!(is_active(&rig));
    let limit = fs::read_to_string(format!("/sys/fs/cgroup{group}/pids.max")).unwrap();
    assert_eq!(limit, "50\n");
    let program = process(&["/bin/sleep", "1000"], false);
    rig.client()
        .exec("e", Default::default(), &program)
        .unwrap();
    let exec = rig.client().start("e").unwrap();
    assert!(
        group_of(exec).contains(&format!(":{group}\n")),
        "{}",
        group_of(exec)
    );
    let mut raw = Raw::connect(&rig.path("shim.sock"));
    let request = ContainerRequest {
        id: rig.id.to_string(),
    };
    let stats: StatsResponse = raw.call(TASK, "Stats", &request).unwrap();
    assert!(!stats.stats.unwrap().value.is_empty());
    rig.client().pause().unwrap();
    rig.client().resume().unwrap();
    rig.client().kill("", 9, false).unwrap();
    assert_eq!(rig.client().wait("").unwrap().status, 137);
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
    assert_gone(&rig, &group);
}

#[test]
fn systemd_a_scope_goes_with_the_delete_after_a_crash() {
    if !need::systemd() {
        return;
    }
    let (mut rig, _, group) = running();
    rig.client = None;
    rig.kill_shim();
    let output = Command::new(shim())
        .args(["-namespace", "test", "-id", rig.id.as_str(), "-state-root"])
        .arg(rig.path("state"))
        .arg("delete")
        .current_dir(rig.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_gone(&rig, &group);
}
