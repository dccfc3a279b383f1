//! Restarts and health checks as the engine asks the shim for them; the engine's command is a script here.

use std::fs;
use std::path::Path;
use std::time::Duration;

use corten_shim::client::{self, CreateOptions, Health, Restart};
use corten_shim::{ExitRecord, HealthReport};
use corten_spec::Kind;

use super::rig::{Rig, eventually};

/// A policy whose command is this script.
fn policy(rig: &Rig, policy: &str, script: &str) -> Restart {
    Restart {
        policy: policy.into(),
        max_retries: 0,
        command: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
        stopped: rig.path("stopped").display().to_string(),
    }
}

fn restarting(rig: &Rig) -> Option<u32> {
    let record = ExitRecord::read(&rig.path("exit.json")).unwrap()?;
    record.restarting.map(|r| r.count)
}

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn the_shim_stays_for_a_restart_and_its_client_makes_it() {
    let mut rig = Rig::new("exit 4");
    let note = rig.path("ran").display().to_string();
    // It hangs until the test has done its work.
    let script = format!("echo x >>{note}; while [ ! -e {note}.done ]; do sleep 0.02; done");
    let options = || CreateOptions {
        restart: Some(policy(&rig, "always", &script)),
        ..rig.options()
    };
    let (first, second) = (options(), options());
    rig.create(false, first).unwrap();
    rig.client().start("").unwrap();
    // For this end, and then for the last.
    assert_eq!(rig.client().wait("").unwrap().status, 4);
    assert_eq!(restarting(&rig), Some(1));
    let (mut waiter, waiting) = {
        let mut client = client::connect(rig.folder.path(), &rig.id).unwrap();
        let thread = std::thread::spawn(move || client.wait_last().unwrap().status);
        (Some(thread), rig.path("ran"))
    };
    eventually("the command", || waiting.exists());
    // Nobody is connected but who waits; the task goes, the shim does not.
    rig.client().delete("").unwrap();
    assert_eq!(rig.client().state("").unwrap_err().kind(), Kind::NotFound);
    rig.create(false, second).unwrap();
    rig.client().start("").unwrap();
    rig.client().wait("").unwrap();
    // Two runs, the second counted behind the first, and the pause doubled.
    let record = ExitRecord::read(&rig.path("exit.json")).unwrap().unwrap();
    let next = record.restarting.unwrap();
    assert_eq!((next.count, next.delay_ms), (2, 200));
    assert!(!waiter.as_ref().unwrap().is_finished());
    // The user stops it: the last end is told to who waits for that.
    fs::write(rig.path("stopped"), "").unwrap();
    fs::write(rig.path("ran.done"), "").unwrap();
    assert_eq!(waiter.take().unwrap().join().unwrap(), 4);
    assert_eq!(restarting(&rig), None);
    rig.finish();
}

#[test]
fn a_command_that_fails_is_followed_by_another_and_one_that_has_nothing_to_do_is_not() {
    let mut rig = Rig::new("exit 1");
    let ran = rig.path("ran").display().to_string();
    let script = format!("echo x >>{ran}; [ $(wc -l <{ran}) -ge 3 ] && exit 0; kill -9 $$");
    let mut options = rig.options();
    options.restart = Some(policy(&rig, "always", &script));
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    assert_eq!(rig.client().wait_last().unwrap().status, 1);
    let lines = fs::read_to_string(rig.path("ran")).unwrap().lines().count();
    assert_eq!((lines, restarting(&rig)), (3, None));
    rig.finish();
}

#[test]
fn a_half_made_restart_is_dropped_when_its_command_dies() {
    let mut rig = Rig::new("exit 1");
    let ran = rig.path("ran").display().to_string();
    let script =
        format!("echo x >>{ran}; while [ ! -e {ran}.die ]; do sleep 0.02; done; kill -9 $$");
    let options = || CreateOptions {
        restart: Some(policy(&rig, "always", &script)),
        ..rig.options()
    };
    let (first, second) = (options(), options());
    rig.create(false, first).unwrap();
    rig.client().start("").unwrap();
    let ran = rig.path("ran");
    eventually("the command", || ran.exists());
    rig.client().delete("").unwrap();
    let pid = rig.create(false, second).unwrap();
    fs::write(rig.path("ran.die"), "").unwrap();
    eventually("the end of what waits", || !lives(pid));
    assert_eq!(rig.client().state("").unwrap_err().kind(), Kind::NotFound);
    assert!(!rig.state_dir().exists());
    // The next try is under way, and the shim stays for it when nobody is connected.
    assert!(restarting(&rig) >= Some(2));
    let shim = rig.shim_pid;
    rig.client = None;
    std::thread::sleep(Duration::from_millis(50));
    assert!(lives(shim));
    rig.client = Some(client::connect(rig.folder.path(), &rig.id).unwrap());
    rig.client.take().unwrap().shutdown().unwrap();
    eventually("the end of the shim", || !rig.path("shim.sock").exists());
    rig.assert_clean();
}

#[test]
fn terms_of_a_container_that_runs() {
    let mut rig = Rig::new("sleep 1000");
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    let bad = policy(&rig, "sometimes", "true");
    let refused = rig.client().set_restart(bad).unwrap_err();
    assert!(refused.to_string().contains("sometimes"), "{refused}");
    let terms = policy(&rig, "always", "sleep 1000");
    rig.client().set_restart(terms).unwrap();
    rig.client().kill("", 9, true).unwrap();
    rig.client().wait("").unwrap();
    assert_eq!(restarting(&rig), Some(1));
    rig.finish();
}

fn health(rig: &Rig, script: &str) -> Health {
    Health {
        command: ["/bin/sh", "-c", script].map(Into::into).to_vec(),
        interval: 50_000_000,
        timeout: 200_000_000,
        retries: 2,
        record: rig.path("health.json").display().to_string(),
        ..Health::default()
    }
}

#[test]
fn checks_one_at_a_time_with_their_outcome_on_disk() {
    let mut rig = Rig::new("sleep 1000");
    let mut options = rig.options();
    // The second one would see the first one's file, if they met.
    let script = "[ -e /one ] && exit 9; echo x >/one; sleep 0.1; rm /one; echo fine";
    options.health = Some(health(&rig, script));
    rig.create(false, options).unwrap();
    let record = rig.path("health.json");
    rig.client().start("").unwrap();
    let report = HealthReport::read(&record).unwrap().unwrap();
    assert_eq!((report.status.as_str(), report.log.len()), ("starting", 0));
    for _ in 0..3 {
        let answer = rig.client().check().unwrap();
        assert_eq!((answer.exit_code, answer.status.as_str()), (0, "healthy"));
    }
    let report = HealthReport::read(&record).unwrap().unwrap();
    assert!(
        report
            .log
            .iter()
            .all(|e| e.exit_code == 0 && e.output == "fine\n")
    );
    // What stands still is not asked.
    rig.client().pause().unwrap();
    let before = HealthReport::read(&record).unwrap().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let refused = rig.client().check().unwrap_err();
    assert_eq!(refused.kind(), Kind::Conflict);
    let after = HealthReport::read(&record).unwrap().unwrap();
    assert!(after.log.len() <= before.log.len() + 1, "{after:?}");
    rig.client().resume().unwrap();
    rig.client().kill("", 9, true).unwrap();
    rig.client().wait("").unwrap();
    rig.finish();
}

#[test]
fn a_check_without_an_end_is_ended_and_who_asked_is_told_of_the_container_s() {
    let mut rig = Rig::new("sleep 1000");
    let mut options = rig.options();
    options.health = Some(Health {
        timeout: 60_000_000_000,
        interval: 0,
        ..health(&rig, "sleep 1000 & yes")
    });
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    let mut other = client::connect(rig.folder.path(), &rig.id).unwrap();
    let asked =
        std::thread::spawn(move || other.check().map(|a| a.exit_code).map_err(|e| e.kind()));
    let mut group = 0;
    eventually("the check", || {
        group = rig.client().pids().map_or(0, |p| p.len());
        group >= 3
    });
    rig.client().kill("", 9, true).unwrap();
    rig.client().wait("").unwrap();
    // The check was killed with the container: as such, or with its container's end.
    let told = asked.join().unwrap();
    assert!(
        [Ok(128 + 9), Err(Kind::Conflict)].contains(&told),
        "{told:?}"
    );
    rig.finish();
}
