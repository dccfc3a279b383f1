//! Checkpoint, and Create from one, as far as the criu of this machine goes.

use std::fs;
use std::path::Path;
use std::process::Command;

use corten_shim::proto::task::{
    CheckpointOptions, CheckpointTaskRequest, CreateTaskRequest, CreateTaskResponse,
    ProcessRequest, RuncOptions, StartResponse, StateResponse, WaitResponse,
};
use corten_shim::ttrpc::status::{Code, Status};
use corten_spec::Kind;
use corten_testkit::need;
use prost::Message;
use prost_types::Any;

use super::raw::Raw;
use super::rig::{Rig, eventually};

const TASK: &str = "containerd.task.v3.Task";

pub(super) fn any(type_url: &str, message: &impl Message) -> Option<Any> {
    Some(Any {
        type_url: type_url.into(),
        value: message.encode_to_vec(),
    })
}

fn create(rig: &Rig, options: &RuncOptions, checkpoint: &str) -> CreateTaskRequest {
    CreateTaskRequest {
        id: rig.id.to_string(),
        bundle: rig.folder.path().display().to_string(),
        stdout: format!("file://{}", rig.path("out").display()),
        checkpoint: checkpoint.into(),
        options: any("containerd.runc.v1.Options", options),
        ..CreateTaskRequest::default()
    }
}

fn named(rig: &Rig) -> ProcessRequest {
    ProcessRequest {
        id: rig.id.to_string(),
        exec_id: String::new(),
    }
}

/// A container that counts, and a connection to its shim.
fn running(options: &RuncOptions) -> (Rig, Raw) {
    let rig = Rig::new("n=0; while :; do echo $n; n=$((n+1)); sleep 0.05; done");
    let mut raw = Raw::connect(&rig.path("shim.sock"));
    let root = rig.path("state").display().to_string();
    let options = RuncOptions {
        root,
        ..options.clone()
    };
    raw.call::<CreateTaskResponse>(TASK, "Create", &create(&rig, &options, ""))
        .unwrap();
    raw.call::<StartResponse>(TASK, "Start", &named(&rig))
        .unwrap();
    (rig, raw)
}

fn checkpoint(rig: &Rig, raw: &mut Raw, options: CheckpointOptions) -> Result<(), Status> {
    let request = CheckpointTaskRequest {
        id: rig.id.to_string(),
        path: rig.path("images").display().to_string(),
        options: any("containerd.runc.v1.CheckpointOptions", &options),
    };
    raw.call(TASK, "Checkpoint", &request)
}

fn lines(rig: &Rig) -> usize {
    fs::read_to_string(rig.path("out"))
        .unwrap_or_default()
        .lines()
        .count()
}

/// It still counts.
fn assert_untouched(rig: &Rig, raw: &mut Raw) {
    let state: StateResponse = raw.call(TASK, "State", &named(rig)).unwrap();
    assert_eq!(state.status, 2);
    let before = lines(rig);
    eventually("more lines", || lines(rig) > before + 2);
}

fn end(mut rig: Rig) {
    rig.client().kill("", 9, true).unwrap();
    rig.client().wait("").unwrap();
    rig.client().delete("").unwrap();
    rig.client.take().unwrap().shutdown().unwrap();
}

#[test]
fn without_criu_it_is_refused_and_the_container_is_untouched() {
    let (rig, mut raw) = running(&RuncOptions {
        criu_path: "/nowhere/criu".into(),
        ..RuncOptions::default()
    });
    let error = checkpoint(&rig, &mut raw, CheckpointOptions::default()).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "{error:?}");
    assert!(error.message.contains("/nowhere/criu"), "{error:?}");
    assert_untouched(&rig, &mut raw);
    end(rig);
}

#[test]
fn bad_requests_are_named() {
    let (rig, mut raw) = running(&RuncOptions::default());
    for (options, named) in [
        (
            CheckpointOptions {
                cgroups_mode: "hard".into(),
                ..Default::default()
            },
            "cgroups_mode \"hard\"",
        ),
        (
            CheckpointOptions {
                empty_namespaces: vec!["ipc".into()],
                ..Default::default()
            },
            "\"ipc\"",
        ),
    ] {
        let error = checkpoint(&rig, &mut raw, options).unwrap_err();
        assert!(error.message.contains(named), "{error:?}");
    }
    assert_untouched(&rig, &mut raw);
    let other = Rig::new("true");
    let mut second = Raw::connect(&other.path("shim.sock"));
    let request = create(&other, &RuncOptions::default(), "/no/images");
    let error = second.call::<()>(TASK, "Create", &request).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error:?}");
    assert!(
        error.message.contains("/no/images has no checkpoint"),
        "{error:?}"
    );
    end(rig);
}

/// Whole where criu works; where it does not, as it often does not on a kernel newer than itself, the refusal.
#[test]
fn a_container_comes_back_from_its_checkpoint() {
    if !need::file("/usr/sbin/criu") {
        return;
    }
    let check = Command::new("criu").arg("check").output().unwrap();
    let (rig, mut raw) = running(&RuncOptions::default());
    eventually("output", || lines(&rig) > 3);
    let done = checkpoint(
        &rig,
        &mut raw,
        CheckpointOptions {
            exit: true,
            ..Default::default()
        },
    );
    if !check.status.success() {
        let error = done.unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition as i32, "{error:?}");
        assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
        assert!(error.message.contains("criu"), "{error:?}");
        assert_untouched(&rig, &mut raw);
        return end(rig);
    }
    done.unwrap();
    let waited: WaitResponse = raw.call(TASK, "Wait", &named(&rig)).unwrap();
    assert_eq!(waited.exit_status, 137);
    let mut rig = rig;
    rig.client().delete("").unwrap();
    let before = lines(&rig);
    let images = rig.path("images").display().to_string();
    let root = rig.path("state").display().to_string();
    let options = RuncOptions {
        root,
        ..RuncOptions::default()
    };
    raw.call::<CreateTaskResponse>(TASK, "Create", &create(&rig, &options, &images))
        .unwrap();
    raw.call::<StartResponse>(TASK, "Start", &named(&rig))
        .unwrap();
    eventually("more lines", || lines(&rig) > before + 2);
    let text = fs::read_to_string(rig.path("out")).unwrap();
    let last: usize = text.lines().last().unwrap().parse().unwrap();
    assert!(last >= before, "it has begun anew: {text}");
    assert!(Path::new(&images).join("inventory.img").exists());
    end(rig);
}

/// As a pod's container is, so that its files stand still beside its memory.
#[test]
fn a_paused_container_is_checkpointed_and_runs_on() {
    if !need::file("/usr/sbin/criu") {
        return;
    }
    let check = Command::new("criu").arg("check").output().unwrap();
    let (mut rig, mut raw) = running(&RuncOptions::default());
    eventually("output", || lines(&rig) > 3);
    rig.client().pause().unwrap();
    let done = checkpoint(&rig, &mut raw, CheckpointOptions::default());
    // Whatever came of it, it still stands.
    let state: StateResponse = raw.call(TASK, "State", &named(&rig)).unwrap();
    assert_eq!(state.status, 4);
    let before = lines(&rig);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(lines(&rig), before);
    rig.client().resume().unwrap();
    assert_untouched(&rig, &mut raw);
    if !check.status.success() {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), Kind::Conflict, "{error:?}");
        need::skip("criu does not work on this kernel: only its refusal was seen");
        return end(rig);
    }
    done.unwrap();
    assert!(rig.path("images").join("inventory.img").exists());
    end(rig);
}

#[test]
fn a_restore_that_fails_is_an_exit() {
    let rig = Rig::new("true");
    let images = rig.path("images");
    fs::create_dir(&images).unwrap();
    fs::write(images.join("inventory.img"), "").unwrap();
    let options = RuncOptions {
        criu_path: "/bin/false".into(),
        root: rig.path("state").display().to_string(),
        ..RuncOptions::default()
    };
    let mut raw = Raw::connect(&rig.path("shim.sock"));
    let create = create(&rig, &options, &images.display().to_string());
    raw.call::<CreateTaskResponse>(TASK, "Create", &create)
        .unwrap();
    // Before the start, as containerd does.
    let mut waiter = Raw::connect(&rig.path("shim.sock"));
    waiter.send(TASK, "Wait", &named(&rig));
    waiter.limit(5);
    std::thread::sleep(std::time::Duration::from_millis(100));
    raw.call::<StartResponse>(TASK, "Start", &named(&rig))
        .unwrap_err();
    let exit: WaitResponse = waiter.receive().unwrap();
    assert_eq!(exit.exit_status, 137);
}
