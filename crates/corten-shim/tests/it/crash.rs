//! The shim is killed in every state of its container, and `delete` called after, twice.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime};

use corten_shim::client::Stdio;
use corten_shim::proto::task::DeleteResponse;
use prost::Message;

use super::rig::{Rig, eventually, process, shim};

fn deleted(rig: &Rig) -> DeleteResponse {
    let output = Command::new(shim())
        .args(["-namespace", "test", "-id", rig.id.as_str(), "-state-root"])
        .arg(rig.path("state"))
        .arg("delete")
        .current_dir(rig.folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    DeleteResponse::decode(output.stdout.as_slice()).unwrap()
}

/// Makes a container, brings it into a state, kills the shim, and deletes.
fn after(reach: impl FnOnce(&mut Rig)) -> (u32, DeleteResponse) {
    let mut rig = Rig::new("trap 'exit 6' TERM; sleep 1000 & wait");
    let mut options = rig.options();
    options.exit_record = rig.path("corten-exit.json").display().to_string();
    let pid = rig.create(false, options).unwrap();
    reach(&mut rig);
    rig.client = None;
    rig.kill_shim();
    let first = deleted(&rig);
    eventually("the end of init", || {
        !fs::exists(format!("/proc/{pid}/ns")).unwrap()
    });
    rig.assert_clean();
    let second = deleted(&rig);
    assert_eq!(first.exit_status, second.exit_status);
    (pid, first)
}

#[test]
fn created() {
    let (_, answer) = after(|_| {});
    assert_eq!(answer.exit_status, 137);
}

#[test]
fn running() {
    let (pid, answer) = after(|rig| {
        rig.client().start("").unwrap();
    });
    assert_eq!((answer.pid, answer.exit_status), (pid, 137));
    let at = answer.exited_at.unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(now.as_secs().abs_diff(at.seconds as u64) < 30);
}

#[test]
fn paused() {
    let (_, answer) = after(|rig| {
        rig.client().start("").unwrap();
        rig.client().pause().unwrap();
    });
    assert_eq!(answer.exit_status, 137);
}

#[test]
fn with_an_exec() {
    let (_, answer) = after(|rig| {
        rig.client().start("").unwrap();
        let program = process(&["/bin/sleep", "1000"], false);
        rig.client().exec("e", Stdio::default(), &program).unwrap();
        rig.client().start("e").unwrap();
    });
    assert_eq!(answer.exit_status, 137);
}

#[test]
fn exited_with_its_real_status_and_time() {
    let (pid, answer) = after(|rig| {
        rig.client().start("").unwrap();
        std::thread::sleep(Duration::from_millis(100));
        rig.client().kill("", 15, false).unwrap();
        assert_eq!(rig.client().wait("").unwrap().status, 6);
        std::thread::sleep(Duration::from_millis(1100));
    });
    assert_eq!((answer.pid, answer.exit_status), (pid, 6));
    let at = answer.exited_at.unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    assert!(
        now.as_secs() > at.seconds as u64,
        "the time of the exit, not of the question"
    );
}
