//! The manager against a systemd of the test's own, which is stricter than the real one.

mod fake;

use std::time::Duration;

use super::*;
use fake::{Fake, Mood};

fn scope() -> Scope {
    Scope::parse("a-b.slice:x:y", "y", false).unwrap()
}

fn pid() -> Vec<Property> {
    let own = Value::U32(std::process::id());
    vec![
        Property::new("Slice", Value::text("a-b.slice")),
        Property::new("PIDs", Value::Array("u".into(), vec![own])),
    ]
}

fn started(mood: Mood) -> (Result<(), Error>, Vec<String>) {
    let fake = Fake::start(mood);
    let result = fake.manager().and_then(|mut manager| {
        manager.connection.set_patience(Duration::from_millis(300));
        manager.start(&scope(), &pid())
    });
    (result, fake.end())
}

#[test]
fn a_scope_is_started_changed_and_stopped() {
    let fake = Fake::start(Mood::Kind);
    let mut manager = fake.manager().unwrap();
    assert_eq!((manager.version, manager.root()), (252, "/the.slice"));
    manager.start(&scope(), &pid()).unwrap();
    let tasks = [Property::new("TasksMax", Value::U64(7))];
    manager.set("x-y.scope", &tasks).unwrap();
    manager.attach("x-y.scope", &[3, 4]).unwrap();
    manager.stop("x-y.scope").unwrap();
    drop(manager);
    assert_eq!(
        fake.end(),
        [
            "Hello",
            "Get Version",
            "Get ControlGroup",
            "AddMatch JobRemoved",
            "Subscribe",
            "StartTransientUnit x-y.scope replace Slice PIDs",
            "SetUnitProperties x-y.scope TasksMax",
            "AttachProcessesToUnit x-y.scope 3 4",
            "StopUnit x-y.scope replace",
            "ResetFailedUnit x-y.scope",
        ]
    );
}

#[test]
fn systemd_without_a_bus_needs_no_greeting() {
    for mood in [Mood::Direct, Mood::Old] {
        let fake = Fake::start(mood);
        let mut manager = fake.manager().unwrap();
        manager.start(&scope(), &pid()).unwrap();
        drop(manager);
        let log = fake.end();
        assert_eq!(log[..2], ["Get Version", "Get ControlGroup"]);
        assert!(log[2].starts_with("StartTransientUnit"), "{log:?}");
    }
}

#[test]
fn the_signal_may_come_first_in_pieces_and_in_a_crowd() {
    started(Mood::SignalFirst).0.unwrap();
    started(Mood::Drip).0.unwrap();
    started(Mood::Crowd(200)).0.unwrap();
    let error = started(Mood::Crowd(400)).0.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }), "{error}");
}

#[test]
fn a_failed_unit_of_the_name_is_cleared_once() {
    let (result, log) = started(Mood::ExistsOnce);
    result.unwrap();
    assert_eq!(log[log.len() - 2], "ResetFailedUnit x-y.scope");
    let (result, _) = started(Mood::Exists);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), corten_spec::Kind::AlreadyExists, "{error}");
    assert_eq!(
        error.to_string(),
        "systemd refused StartTransientUnit: Unit x-y.scope exists. (org.freedesktop.systemd1.UnitExists)"
    );
}

#[test]
fn a_job_that_fails_fails_the_start() {
    let error = started(Mood::JobFails).0.unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"systemd's job to start x-y.scope ended as "failed""#
    );
}

#[test]
fn a_signal_of_somebody_else_is_not_believed() {
    let error = started(Mood::Impostor).0.unwrap_err();
    assert!(matches!(error, Error::Job { .. }), "{error}");
}

#[test]
fn silence_has_an_end() {
    let error = started(Mood::Silent).0.unwrap_err();
    assert!(
        matches!(error, Error::Silent { step: "a job", .. }),
        "{error}"
    );
    assert_eq!(error.kind(), corten_spec::Kind::Unavailable);
}

#[test]
fn what_is_no_bus_is_named() {
    let error = started(Mood::Rejects).0.unwrap_err();
    assert_eq!(error.kind(), corten_spec::Kind::Denied, "{error}");
    for mood in [Mood::Garbage, Mood::Endless] {
        let error = started(mood).0.unwrap_err();
        assert!(matches!(error, Error::Protocol { .. }), "{error}");
    }
    let error = started(Mood::HangsUp).0.unwrap_err();
    assert_eq!(error.errno(), Some(rustix::io::Errno::CONNRESET), "{error}");
}

#[test]
fn a_unit_that_is_gone_is_stopped() {
    let fake = Fake::start(Mood::Forgetful);
    let mut manager = fake.manager().unwrap();
    manager.stop("x-y.scope").unwrap();
    drop(manager);
    assert_eq!(fake.end().last().unwrap(), "ResetFailedUnit x-y.scope");
}

#[test]
fn a_version_is_the_first_number() {
    for (text, version) in [
        ("252.39-1~deb12u2", 252),
        ("v219", 219),
        ("systemd 257", 257),
        ("", 0),
    ] {
        assert_eq!(major_version(text), version, "{text}");
    }
}

#[test]
fn no_systemd_is_said_so() {
    if Path::new(BOOTED).exists() {
        println!("skipped: systemd runs here");
        return;
    }
    let error = Manager::connect(false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "systemd is not running: no /run/systemd/system"
    );
    assert_eq!(error.kind(), corten_spec::Kind::Unsupported);
}
