//! Where only cgroup v2 is mounted.

use std::fs;
use std::time::{Duration, Instant};

use corten_cgroup::Layout;
use corten_spec::Kind;
use corten_testkit::need;

use super::{Scratch, inside_v2};

const DOCKER_LIKE: &str = r#"{"devices":[
    {"allow":false,"access":"rwm"},
    {"allow":true,"type":"c","access":"m"},
    {"allow":true,"type":"b","access":"m"},
    {"allow":true,"type":"c","major":1,"minor":3,"access":"rwm"},
    {"allow":true,"type":"c","major":1,"minor":5,"access":"r"},
    {"allow":true,"type":"c","major":136,"access":"rwm"}]}"#;

fn succeeds(s: &Scratch, command: &str) -> bool {
    let mut child = s.spawn_ready(command);
    child.wait().unwrap().success()
}

#[test]
fn a_device_program_decides() {
    if !inside_v2("unified::a_device_program_decides") {
        return;
    }
    assert!(matches!(Layout::probe().unwrap(), Layout::V2 { .. }));
    let s = Scratch::new("dev");
    s.apply(DOCKER_LIKE).unwrap();
    assert!(succeeds(&s, "exec 3<>/dev/null"));
    assert!(succeeds(&s, "exec 3</dev/zero"));
    assert!(!succeeds(&s, "exec 3<>/dev/zero"), "read only");
    assert!(!succeeds(&s, "exec 3</dev/urandom"));
    let node = format!("/tmp/corten-node-{}", std::process::id());
    assert!(succeeds(&s, &format!("mknod {node} c 1 9 && rm {node}")));
    // Applying again replaces: still one program, and the new list counts.
    s.apply(r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":9,"access":"r"}]}"#)
        .unwrap();
    assert!(succeeds(&s, "exec 3</dev/urandom"));
    assert!(!succeeds(&s, "exec 3</dev/zero"));
    s.apply(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#)
        .unwrap();
    assert!(succeeds(&s, "exec 3<>/dev/zero"));
}

#[test]
fn accesses_that_different_rules_allow_add_up() {
    if !inside_v2("unified::accesses_that_different_rules_allow_add_up") {
        return;
    }
    let s = Scratch::new("sum");
    s.apply(
        r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","major":1,"minor":5,"access":"r"},
            {"allow":true,"type":"c","major":1,"access":"w"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}]}"#,
    )
    .unwrap();
    assert!(succeeds(&s, "exec 3<>/dev/zero"));
    s.apply(
        r#"{"devices":[{"allow":true,"access":"rwm"},
            {"allow":false,"type":"c","major":1,"minor":5,"access":"w"}]}"#,
    )
    .unwrap();
    assert!(succeeds(&s, "exec 3</dev/zero"));
    assert!(!succeeds(&s, "exec 3<>/dev/zero"));
}

#[test]
fn freeze_kill_and_delete() {
    if !inside_v2("unified::freeze_kill_and_delete") {
        return;
    }
    let s = Scratch::new("life");
    let mut child = s.spawn_ready("sleep 1000 & sleep 1000 & wait");
    let end = Instant::now() + Duration::from_secs(10);
    while s.group.pids().unwrap().len() < 3 {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
    s.group.freeze().unwrap();
    assert!(s.group.is_frozen().unwrap());
    s.group.kill(9).unwrap();
    child.wait().unwrap();
    let begun = Instant::now();
    s.group.delete().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_populated_group_is_left_alone_until_it_is_empty() {
    if !inside_v2("unified::a_populated_group_is_left_alone_until_it_is_empty") {
        return;
    }
    let s = Scratch::new("wait");
    let mut child = s.spawn_ready("sleep 0.3");
    let reaper = std::thread::spawn(move || child.wait().unwrap());
    s.group.delete().unwrap();
    reaper.join().unwrap();
}

#[test]
fn missing_controllers_are_refused_by_name() {
    if !inside_v2("unified::missing_controllers_are_refused_by_name") {
        return;
    }
    let s = Scratch::new("missing");
    let have = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    if !have.contains("memory") {
        let error = s.apply(r#"{"memory":{"limit":1073741824}}"#).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        let text = error.to_string();
        assert!(text.starts_with(&format!(
            "cannot write 1073741824 to memory.max of {}",
            s.path
        )));
    }
    if have.contains("hugetlb") {
        s.apply(r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#)
            .unwrap();
        let file = format!("/sys/fs/cgroup{}/hugetlb.2MB.max", s.path);
        assert_eq!(fs::read_to_string(file).unwrap().trim(), "4194304");
        let stats = s.group.stats().unwrap();
        assert_eq!(stats.hugetlb[0].limit, Some(4_194_304));
        s.apply(r#"{"unified":{"hugetlb.2MB.max":"max"}}"#).unwrap();
    }
    assert!(s.group.stats().unwrap().cpu.is_some());
}

/// A container with groups of its own has moved its init below, and stopped it there: whoever comes later would stand still too.
#[test]
fn a_group_that_the_container_itself_has_frozen_is_known() {
    if !inside_v2("unified::a_group_that_the_container_itself_has_frozen_is_known") {
        return;
    }
    let s = Scratch::new("self");
    let top = format!("/sys/fs/cgroup{}", s.path);
    let controllers = fs::read_to_string(format!("{top}/cgroup.controllers")).unwrap();
    let Some(controller) = controllers.split_whitespace().next() else {
        need::skip("version 2 has no controller here");
        return;
    };
    let mut child = s.spawn_ready("exec sleep 1000");
    let write = |file: &str, text: &str| fs::write(format!("{top}/{file}"), text).unwrap();
    fs::create_dir(format!("{top}/leaf")).unwrap();
    write("leaf/cgroup.procs", &child.id().to_string());
    write("cgroup.subtree_control", &format!("+{controller}"));
    let is_frozen = || s.group.is_frozen_beside(child.id()).unwrap();
    assert!(!is_frozen());
    write("leaf/cgroup.freeze", "1");
    let end = Instant::now() + Duration::from_secs(10);
    while !is_frozen() {
        assert!(Instant::now() < end, "never frozen");
        std::thread::yield_now();
    }
    assert!(!s.group.is_frozen().unwrap());
    s.group.kill(9).unwrap();
    child.wait().unwrap();
}
