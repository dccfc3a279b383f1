//! Restart policies: who is started again and when it ends, what the other commands do meanwhile, and what comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use corten_testkit::registry::free_port;
use corten_testkit::{Result, Sandbox, wait};

use super::{SOON, with_busybox};

/// What `inspect` says by a template.
#[track_caller]
pub fn inspect(sandbox: &Sandbox, name: &str, template: &str) -> String {
    sandbox
        .corten(&["inspect", "--format", template, name])
        .ok()
}

#[track_caller]
pub fn state(sandbox: &Sandbox, name: &str) -> String {
    inspect(sandbox, name, "{{.State.Status}}")
}

/// Waits until a container is in a state.
#[track_caller]
pub fn until_state(sandbox: &Sandbox, name: &str, wanted: &str) {
    let mut last = String::new();
    let seen = wait::until(wanted, SOON, || {
        last = state(sandbox, name);
        (last == wanted).then_some(())
    });
    assert!(seen.is_ok(), "{name} is {last}, not {wanted}");
}

/// A detached container that fails at once, again and again.
#[track_caller]
fn failing(sandbox: &Sandbox, image: &str, name: &str, policy: &str) {
    let script = "echo run; exit 3";
    let args = [
        "run",
        "-d",
        "--name",
        name,
        "--network",
        "none",
        "--restart",
        policy,
    ];
    sandbox
        .corten(&[&args[..], &[image, "sh", "-c", script]].concat())
        .ok();
}

#[test]
fn on_failure_is_tried_so_often_and_no_more() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    failing(&sandbox, &image, "f", "on-failure:3");
    // Waits for the last end, not for one in between.
    assert_eq!(sandbox.corten(&["wait", "f"]).ok(), "3");
    assert_eq!(sandbox.corten(&["logs", "f"]).ok(), "run\nrun\nrun\nrun");
    until_state(&sandbox, "f", "exited");
    let template = "{{.RestartCount}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}} {{.State.ExitCode}}";
    assert_eq!(inspect(&sandbox, "f", template), "3 on-failure 3 3");
    // A start by the user counts from the beginning.
    sandbox.corten(&["start", "f"]).ok();
    assert_eq!(sandbox.corten(&["wait", "f"]).ok(), "3");
    assert_eq!(sandbox.corten(&["logs", "f"]).ok().lines().count(), 8);
    // Success ends it.
    let args = [
        "run",
        "--name",
        "t",
        "--restart",
        "on-failure",
        "--network",
        "none",
        &image,
        "true",
    ];
    sandbox.corten(&args).exits(0);
    until_state(&sandbox, "t", "exited");
    assert_eq!(inspect(&sandbox, "t", "{{.RestartCount}}"), "0");
    sandbox.finish();
    Ok(())
}

#[test]
fn commands_to_a_container_that_waits_to_be_started_again() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    failing(&sandbox, &image, "w", "always");
    // The pauses double; after the fifth run there is time to look.
    wait::until("five restarts", SOON, || {
        let count = inspect(&sandbox, "w", "{{.RestartCount}}");
        (count.parse::<u32>().unwrap_or(0) >= 5).then_some(())
    })?;
    until_state(&sandbox, "w", "restarting");
    let template = "{{.State.Running}} {{.State.Restarting}} {{.State.Pid}} {{.State.ExitCode}}";
    assert_eq!(inspect(&sandbox, "w", template), "true true 0 3");
    let listed = sandbox
        .corten(&["ps", "--filter", "status=restarting"])
        .ok();
    assert!(listed.contains("Restarting (3)"), "{listed}");
    for refused in [&["exec", "w", "true"][..], &["attach", "w"], &["rm", "w"]] {
        let complaint = sandbox.corten(refused).fails(125);
        complaint.names("restarting").complete();
    }
    sandbox.corten(&["start", "w"]).ok();
    // One process of ours lives meanwhile, and none of the container's.
    assert_eq!(sandbox.processes().len(), 1, "{:?}", sandbox.processes());
    assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
    let waiter = sandbox.start(&["wait", "w"]);
    sandbox.corten(&["kill", "w"]).ok();
    let ended = waiter.wait_with_output().expect("wait");
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "3\n");
    assert_eq!(state(&sandbox, "w"), "exited");
    sandbox.corten(&["start", "w"]).ok();
    until_state(&sandbox, "w", "restarting");
    sandbox.corten(&["stop", "w"]).ok();
    assert_eq!(state(&sandbox, "w"), "exited");
    sandbox.corten(&["restart", "w"]).ok();
    until_state(&sandbox, "w", "restarting");
    sandbox.corten(&["rm", "-f", "w"]).ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    sandbox.finish();
    Ok(())
}

#[test]
fn a_container_that_the_user_ends_stays_down() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let args = [
        "run",
        "-d",
        "--name",
        "s",
        "--network",
        "none",
        "--restart",
        "always",
    ];
    sandbox
        .corten(&[&args[..], &[&image, "sleep", "1000"]].concat())
        .ok();
    for end in [&["stop", "-t", "0", "s"][..], &["kill", "s"]] {
        sandbox.corten(end).ok();
        until_state(&sandbox, "s", "exited");
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(state(&sandbox, "s"), "exited");
        sandbox.corten(&["start", "s"]).ok();
    }
    // Killed by somebody else, it comes back.
    let pid = inspect(&sandbox, "s", "{{.State.Pid}}");
    corten_testkit::tool::call("kill", &["-KILL", &pid])?;
    wait::until("another process", SOON, || {
        let now = inspect(&sandbox, "s", "{{.State.Pid}}");
        (now != "0" && now != pid).then_some(())
    })?;
    assert_eq!(inspect(&sandbox, "s", "{{.RestartCount}}"), "1");
    // And no more once its policy is another.
    sandbox.corten(&["update", "--restart", "no", "s"]).ok();
    let pid = inspect(&sandbox, "s", "{{.State.Pid}}");
    corten_testkit::tool::call("kill", &["-KILL", &pid])?;
    until_state(&sandbox, "s", "exited");
    sandbox.corten(&["start", "s"]).ok();
    // A policy that comes while it runs.
    sandbox
        .corten(&["update", "--restart", "on-failure:1", "s"])
        .ok();
    let pid = inspect(&sandbox, "s", "{{.State.Pid}}");
    corten_testkit::tool::call("kill", &["-KILL", &pid])?;
    wait::until("a restart", SOON, || {
        (inspect(&sandbox, "s", "{{.RestartCount}}") == "1").then_some(())
    })?;
    sandbox.finish();
    Ok(())
}

#[test]
fn waiting_for_other_things_than_the_end() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let args = [
        "run",
        "-d",
        "--name",
        "w",
        "--network",
        "none",
        &image,
        "sleep",
        "1000",
    ];
    sandbox.corten(&args).ok();
    let running = ["wait", "--condition", "running", "w"];
    assert_eq!(sandbox.corten(&running).ok(), "-1");
    for (condition, named) in [("healthy", "health check"), ("hungry", "--condition")] {
        let wait = ["wait", "--condition", condition, "w"];
        sandbox.corten(&wait).fails(125).names(named).complete();
    }
    sandbox.corten(&["stop", "-t", "0", "w"]).ok();
    let started = sandbox.start(&running);
    sandbox.corten(&["start", "w"]).ok();
    assert!(started.wait_with_output().expect("wait").status.success());
    let removed = sandbox.start(&["wait", "--condition", "removed", "w"]);
    std::thread::sleep(Duration::from_millis(100));
    sandbox.corten(&["rm", "-f", "w"]).ok();
    assert!(removed.wait_with_output().expect("wait").status.success());
    sandbox.finish();
    Ok(())
}

#[test]
fn in_the_foreground_the_first_run_is_seen_and_the_others_go_on() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let args = [
        "run",
        "--name",
        "fg",
        "--network",
        "none",
        "--restart",
        "on-failure:2",
    ];
    let seen = sandbox.corten(&[&args[..], &[&image, "sh", "-c", "echo run; exit 3"]].concat());
    assert_eq!(seen.exits(3).text(), "run");
    assert_eq!(sandbox.corten(&["wait", "fg"]).ok(), "3");
    assert_eq!(sandbox.corten(&["logs", "fg"]).ok(), "run\nrun\nrun");
    // Who attaches sees one run, too.
    let script = "sleep 1; echo run; exit 4";
    let args = [
        "run",
        "-d",
        "--name",
        "at",
        "--network",
        "none",
        "--restart",
        "always",
    ];
    sandbox
        .corten(&[&args[..], &[&image, "sh", "-c", script]].concat())
        .ok();
    assert_eq!(sandbox.corten(&["attach", "at"]).exits(4).text(), "run");
    sandbox.finish();
    Ok(())
}

/// Asks the published port for a line.
fn ask(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(b"\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.trim().to_string()).filter(|t| !t.is_empty())
}

#[test]
fn ports_names_networks_and_volumes_come_back() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let port = free_port()?;
    sandbox.corten(&["network", "create", "n"]).ok();
    let publish = format!("127.0.0.1:{port}:80");
    // One connection served, then it ends, and fails.
    let script = "n=$(cat /data/n 2>/dev/null || echo 0); n=$((n+1)); echo $n >/data/n; echo $n | nc -l -p 80; exit 1";
    let args = [
        "run",
        "-d",
        "--name",
        "srv",
        "--network",
        "n",
        "--restart",
        "always",
        "-p",
        &publish,
        "-v",
        "/data",
    ];
    sandbox
        .corten(&[&args[..], &[&image, "sh", "-c", script]].concat())
        .ok();
    for run in 1..=3 {
        let answer = wait::until(&format!("run {run}"), SOON, || ask(port))?;
        assert_eq!(answer, run.to_string());
        // The port is nobody else's in between.
        let taken = std::net::TcpListener::bind(("127.0.0.1", port));
        assert!(taken.is_err(), "the port was free between two runs");
    }
    until_state(&sandbox, "srv", "running");
    let lookup = ["run", "--rm", "--network", "n", &image, "nslookup", "srv"];
    let address = inspect(&sandbox, "srv", "{{.NetworkSettings.Networks.n.IPAddress}}");
    let found = sandbox.corten(&lookup).text();
    assert!(found.contains(&address), "{address} is not in {found}");
    assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
    sandbox.finish();
    Ok(())
}

#[test]
fn a_restart_that_fails_is_tried_again_and_says_why() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    // A program that takes itself away.
    let build = "printf '#!/bin/sh\\nmv /prog /gone; exit 1\\n' >/prog; chmod +x /prog";
    let args = [
        "run",
        "--name",
        "base",
        "--network",
        "none",
        &image,
        "sh",
        "-c",
        build,
    ];
    sandbox.corten(&args).exits(0);
    sandbox.corten(&["commit", "base", "with-prog"]).ok();
    let args = [
        "run",
        "-d",
        "--name",
        "r",
        "--network",
        "none",
        "--restart",
        "always",
        "with-prog",
        "/prog",
    ];
    sandbox.corten(&args).ok();
    wait::until("a start that fails", SOON, || {
        let error = inspect(&sandbox, "r", "{{.State.Error}}");
        (error.contains("/prog") && state(&sandbox, "r") == "restarting").then_some(())
    })?;
    // Nothing is held meanwhile, and what kept it from starting may pass.
    assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
    let before = inspect(&sandbox, "r", "{{.RestartCount}}");
    wait::until("another try", SOON, || {
        (inspect(&sandbox, "r", "{{.RestartCount}}") != before).then_some(())
    })?;
    sandbox.corten(&["stop", "r"]).ok();
    assert_eq!(state(&sandbox, "r"), "exited");
    sandbox.finish();
    Ok(())
}

#[test]
fn the_host_starts_what_its_policies_want() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    for (name, policy) in [
        ("always", "always"),
        ("unless", "unless-stopped"),
        ("stopped-always", "always"),
        ("stopped-unless", "unless-stopped"),
        ("plain", "no"),
        ("failing", "on-failure"),
    ] {
        let args = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "none",
            "--restart",
            policy,
        ];
        sandbox
            .corten(&[&args[..], &[&image, "sleep", "1000"]].concat())
            .ok();
    }
    sandbox
        .corten(&[
            "create",
            "--restart",
            "always",
            "--name",
            "never-run",
            &image,
            "true",
        ])
        .ok();
    sandbox
        .corten(&["stop", "-t", "0", "stopped-always", "stopped-unless"])
        .ok();
    // As a host that goes down: every process, with no time to say anything, and the run folder.
    for pid in sandbox.processes() {
        super::crash::kill(pid);
    }
    wait::until("everything to end", SOON, || {
        sandbox.processes().is_empty().then_some(())
    })?;
    std::fs::remove_dir_all(sandbox.run_folder()).expect("the run folder");
    let mut started: Vec<String> = Vec::new();
    let lines = sandbox.corten(&["system", "start"]).ok();
    started.extend(lines.lines().map(str::to_owned));
    started.sort();
    assert_eq!(started, ["always", "failing", "stopped-always", "unless"]);
    assert_eq!(sandbox.corten(&["system", "start"]).ok(), "");
    for (name, wanted) in [
        ("always", "running"),
        ("stopped-unless", "exited"),
        ("plain", "dead"),
        ("never-run", "created"),
    ] {
        assert_eq!(state(&sandbox, name), wanted, "{name}");
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn policies_that_are_none_are_refused() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    for bad in ["sometimes", "always:3", "on-failure:x", "on-failure:-1"] {
        let complaint = sandbox
            .corten(&["create", "--restart", bad, &image, "true"])
            .fails(125);
        complaint.names("--restart").complete();
    }
    let both = ["create", "--rm", "--restart", "always", &image, "true"];
    sandbox.corten(&both).fails(125).names("--rm").complete();
    sandbox
        .corten(&["create", "--rm", "--name", "x", &image, "true"])
        .ok();
    let update = ["update", "--restart", "always", "x"];
    sandbox.corten(&update).fails(125).names("--rm").complete();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_container_that_waits_costs_no_processor() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    failing(&sandbox, &image, "idle", "always");
    wait::until("a long pause", SOON, || {
        let count = inspect(&sandbox, "idle", "{{.RestartCount}}");
        (count.parse::<u32>().unwrap_or(0) >= 6).then_some(())
    })?;
    until_state(&sandbox, "idle", "restarting");
    let pids = super::crash::supervisors(&sandbox);
    let [pid] = pids.as_slice() else {
        panic!("one container, one supervisor: {pids:?}");
    };
    let switches = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    // After what it gives back once it is calm.
    std::thread::sleep(Duration::from_millis(400));
    let (before, since) = (switches(), Instant::now());
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(switches(), before, "it woke in {:?}", since.elapsed());
    sandbox.finish();
    Ok(())
}

#[test]
fn units_for_systemd_run_the_start() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let folder = sandbox.files();
    let folder = folder.to_str().expect("a path");
    let install = ["system", "install", "--bin", folder, "--systemd", folder];
    let laid = sandbox.corten(&install).ok();
    assert!(
        laid.contains("corten-restart.service") && laid.contains("corten-restart.timer"),
        "{laid}"
    );
    // Again: all is there.
    assert_eq!(sandbox.corten(&install).ok(), "");
    let path = sandbox.files().join("corten-restart.service");
    let unit = std::fs::read_to_string(&path).expect("the unit");
    let command = unit
        .lines()
        .find_map(|l| l.strip_prefix("ExecStart="))
        .expect("a command");
    let args = [
        "run",
        "-d",
        "--name",
        "u",
        "--network",
        "none",
        "--restart",
        "always",
        &image,
        "sleep",
        "1000",
    ];
    sandbox.corten(&args).ok();
    super::crash::supervisors(&sandbox)
        .into_iter()
        .for_each(super::crash::kill);
    until_state(&sandbox, "u", "dead");
    let said = corten_testkit::tool::call(
        "sh",
        &[
            "-c",
            &format!("CORTEN_ETC={} {command}", sandbox.etc().display()),
        ],
    )?;
    assert_eq!(said.trim(), "u");
    assert_eq!(state(&sandbox, "u"), "running");
    assert_eq!(inspect(&sandbox, "u", "{{.RestartCount}}"), "0");
    // What is not ours is not overwritten.
    std::fs::write(&path, "another's").expect("the unit");
    sandbox
        .corten(&install)
        .fails(125)
        .names("corten-restart.service")
        .complete();
    // A user who stops what has lost its supervisor is heeded, too.
    super::crash::supervisors(&sandbox)
        .into_iter()
        .for_each(super::crash::kill);
    sandbox
        .corten(&["update", "--restart", "unless-stopped", "u"])
        .ok();
    sandbox.corten(&["stop", "u"]).ok();
    assert_eq!(sandbox.corten(&["system", "start"]).ok(), "");
    sandbox.finish();
    Ok(())
}
