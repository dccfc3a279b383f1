//! Health checks: what they say, what is done about it, and that no check gets out of hand.

use std::time::Duration;

use corten_testkit::{Result, Sandbox, wait};

use super::restart::{inspect, state, until_state};
use super::{SOON, with_busybox};

/// A detached container with a health check every 100 ms.
#[track_caller]
fn checked(sandbox: &Sandbox, image: &str, name: &str, check: &str, more: &[&str]) {
    let args = [
        "run",
        "-d",
        "--name",
        name,
        "--network",
        "none",
        "--health-interval",
        "100ms",
    ];
    let args = [
        &args[..],
        &["--health-cmd", check],
        more,
        &[image, "sleep", "1000"],
    ]
    .concat();
    sandbox.corten(&args).ok();
}

#[track_caller]
fn until_health(sandbox: &Sandbox, name: &str, wanted: &str) {
    let mut last = String::new();
    let seen = wait::until(wanted, SOON, || {
        last = inspect(sandbox, name, "{{.State.Health.Status}}");
        (last == wanted).then_some(())
    });
    assert!(seen.is_ok(), "{name} is {last}, not {wanted}");
}

#[test]
fn from_starting_to_healthy_to_unhealthy() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let check = "echo asked; [ -e /fine ]";
    checked(
        &sandbox,
        &image,
        "h",
        check,
        &[
            "--health-retries",
            "3",
            "--health-start-period",
            "1h",
            "--health-start-interval",
            "100ms",
        ],
    );
    let listed = sandbox.corten(&["ps", "--filter", "health=starting"]).ok();
    assert!(listed.contains("(health: starting)"), "{listed}");
    // Failures of the start period do not count.
    wait::until("five checks", SOON, || {
        let log = inspect(&sandbox, "h", "{{len .State.Health.Log}}");
        (log == "5").then_some(())
    })?;
    assert_eq!(
        inspect(
            &sandbox,
            "h",
            "{{.State.Health.Status}} {{.State.Health.FailingStreak}}"
        ),
        "starting 0"
    );
    let waiter = sandbox.start(&["wait", "--condition", "healthy", "h"]);
    sandbox.corten(&["exec", "h", "touch", "/fine"]).ok();
    assert!(waiter.wait_with_output().expect("wait").status.success());
    let listed = sandbox.corten(&["ps"]).ok();
    assert!(listed.contains("(healthy)"), "{listed}");
    let last = "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}";
    assert!(inspect(&sandbox, "h", last).contains("0 asked"));
    sandbox.corten(&["healthcheck", "run", "h"]).exits(0);
    sandbox.corten(&["exec", "h", "rm", "/fine"]).ok();
    until_health(&sandbox, "h", "unhealthy");
    let run = sandbox.corten(&["healthcheck", "run", "h"]);
    assert_eq!(run.exits(1).text(), "unhealthy");
    assert_eq!(
        sandbox
            .corten(&["ps", "-q", "--filter", "health=healthy"])
            .ok(),
        ""
    );
    sandbox.corten(&["stop", "-t", "0", "h"]).ok();
    sandbox
        .corten(&["healthcheck", "run", "h"])
        .fails(125)
        .names("exited")
        .complete();
    // Another run begins anew.
    sandbox.corten(&["start", "h"]).ok();
    until_health(&sandbox, "h", "starting");
    sandbox.finish();
    Ok(())
}

#[test]
fn what_is_done_with_an_unhealthy_container() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    for action in ["none", "kill", "stop", "restart"] {
        let more = ["--health-retries", "1", "--health-on-failure", action];
        checked(&sandbox, &image, action, "exit 1", &more);
    }
    until_health(&sandbox, "none", "unhealthy");
    assert_eq!(state(&sandbox, "none"), "running");
    until_state(&sandbox, "kill", "exited");
    assert_eq!(inspect(&sandbox, "kill", "{{.State.ExitCode}}"), "137");
    wait::until("a restart", Duration::from_secs(30), || {
        (inspect(&sandbox, "restart", "{{.RestartCount}}") != "0").then_some(())
    })?;
    // As pid 1, sleep does not hear SIGTERM: it is killed after ten seconds.
    until_state(&sandbox, "stop", "exited");
    sandbox.finish();
    Ok(())
}

#[test]
fn a_check_that_misbehaves_is_bounded() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let slow = ["--health-timeout", "300ms", "--health-retries", "1"];
    checked(&sandbox, &image, "hangs", "sleep 1000 & sleep 1000", &slow);
    checked(&sandbox, &image, "floods", "yes", &slow);
    checked(
        &sandbox,
        &image,
        "much",
        "head -c 20000 /dev/zero | tr '\\0' x",
        &[],
    );
    checked(
        &sandbox,
        &image,
        "binary",
        "printf '\\377\\001\\n'; exit 1",
        &["--health-retries", "1"],
    );
    checked(
        &sandbox,
        &image,
        "leaves",
        "sleep 1000 & exit 1",
        &["--health-retries", "1"],
    );
    let missing = ["--health-retries", "1"];
    checked(&sandbox, &image, "missing", "/nowhere/check", &missing);
    for name in ["hangs", "floods", "binary", "leaves", "missing"] {
        until_health(&sandbox, name, "unhealthy");
    }
    until_health(&sandbox, "much", "healthy");
    let output = "{{range .State.Health.Log}}{{.ExitCode}}:{{.Output}}{{end}}";
    assert!(
        inspect(&sandbox, "hangs", output).starts_with("-1:Health check exceeded timeout (300ms)")
    );
    assert!(inspect(&sandbox, "missing", output).starts_with("127:"));
    let one = "{{$l := index .State.Health.Log 0}}{{len $l.Output}}";
    // The bound, and three dots that say so.
    assert_eq!(inspect(&sandbox, "much", one), "4099");
    // A check past its timeout ends with what it started.
    let sleeping = || {
        let list = sandbox.corten(&["exec", "hangs", "ps", "-o", "args"]).ok();
        list.lines().filter(|l| *l == "sleep 1000").count()
    };
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(200));
        // Init's, and those of the check that runs.
        assert!(sleeping() <= 3, "{}", sleeping());
    }
    // In the middle of a check.
    sandbox.corten(&["rm", "-f", "hangs", "floods"]).ok();
    assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
    sandbox.finish();
    Ok(())
}

#[test]
fn an_image_has_a_check_and_keeps_it() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let args = ["run", "--name", "base", "--network", "none", &image, "true"];
    sandbox.corten(&args).exits(0);
    let change = "HEALTHCHECK --interval=100ms --retries=2 CMD test -e /fine";
    sandbox
        .corten(&["commit", "--change", change, "base", "checked"])
        .ok();
    sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "i",
            "--network",
            "none",
            "checked",
            "sleep",
            "1000",
        ])
        .ok();
    until_health(&sandbox, "i", "unhealthy");
    sandbox.corten(&["exec", "i", "touch", "/fine"]).ok();
    until_health(&sandbox, "i", "healthy");
    // Through a commit without a change, and an archive.
    sandbox.corten(&["commit", "i", "again"]).ok();
    let archive = sandbox.files().join("image.tar");
    let archive = archive.to_str().expect("a path");
    sandbox.corten(&["save", "-o", archive, "again"]).ok();
    sandbox.corten(&["rmi", "again"]).ok();
    sandbox.corten(&["load", "-i", archive]).ok();
    sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "j",
            "--network",
            "none",
            "again",
            "sleep",
            "1000",
        ])
        .ok();
    until_health(&sandbox, "j", "healthy");
    let test = "{{range .Config.Healthcheck.Test}}{{.}} {{end}}{{.Config.Healthcheck.Interval}} {{.Config.Healthcheck.Retries}}";
    assert_eq!(
        inspect(&sandbox, "j", test),
        "CMD-SHELL test -e /fine 100000000 2"
    );
    let args = [
        "run",
        "-d",
        "--name",
        "k",
        "--network",
        "none",
        "--no-healthcheck",
        "again",
        "sleep",
        "1000",
    ];
    sandbox.corten(&args).ok();
    sandbox
        .corten(&["healthcheck", "run", "k"])
        .fails(125)
        .names("health check")
        .complete();
    assert_eq!(
        sandbox
            .corten(&["ps", "--filter", "health=none", "--format", "{{.Names}}"])
            .ok(),
        "k"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn health_flags_that_cannot_be_are_refused() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    for (flag, value) in [
        ("--health-interval", "5"),
        ("--health-timeout", "soon"),
        ("--health-retries", "0"),
        ("--health-on-failure", "pray"),
    ] {
        let complaint = sandbox
            .corten(&["create", flag, value, &image, "true"])
            .fails(125);
        complaint.names(flag).complete();
    }
    let nothing = ["create", "--health-interval", "1s", &image, "true"];
    sandbox
        .corten(&nothing)
        .fails(125)
        .names("health")
        .complete();
    let both = [
        "create",
        "--no-healthcheck",
        "--health-cmd",
        "x",
        &image,
        "true",
    ];
    sandbox
        .corten(&both)
        .fails(125)
        .names("--no-healthcheck")
        .complete();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    sandbox.finish();
    Ok(())
}
