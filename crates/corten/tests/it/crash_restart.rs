//! `kill -9` of each process that takes part in a restart, at random moments: the supervisor that lives tries again, and what one that
//! is killed leaves has a name, and comes back by `system check --repair` or `system start`.

use std::thread;
use std::time::{Duration, Instant};

use corten_testkit::{Result, Sandbox, wait};

use super::crash::{Moments, kill, repaired, supervisors};
use super::restart::{inspect, state, until_state};
use super::{SOON, with_busybox};

const MOMENTS: u32 = 20;

/// The commands of supervisors that start a container again.
pub fn restarts(sandbox: &Sandbox) -> Vec<u32> {
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains("\0restarted\0")
    };
    sandbox.processes().into_iter().filter(named).collect()
}

#[track_caller]
fn run(sandbox: &Sandbox, image: &str) {
    sandbox.corten(&["network", "create", "n"]).ok();
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--network",
        "n",
        "--restart",
        "always",
    ];
    sandbox
        .corten(&[&args[..], &[image, "sleep", "1000"]].concat())
        .ok();
}

/// Ends the container's process, and waits for the command that starts it again.
#[track_caller]
fn end(sandbox: &Sandbox) -> Vec<u32> {
    let pid = inspect(sandbox, "c", "{{.State.Pid}}");
    kill(pid.parse().expect("a pid"));
    let since = Instant::now();
    loop {
        let found = restarts(sandbox);
        if !found.is_empty() || since.elapsed() > Duration::from_secs(3) {
            return found;
        }
    }
}

#[test]
fn the_command_of_a_restart_dies_and_another_one_follows() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    run(&sandbox, &image);
    let mut moments = Moments::new();
    let mut killed = 0;
    for _ in 0..MOMENTS {
        until_state(&sandbox, "c", "running");
        let found = end(&sandbox);
        thread::sleep(moments.within(Duration::from_millis(60)));
        killed += found.len();
        found.into_iter().for_each(kill);
        // Whatever it had done: the container runs again, and a look says nothing that is not so.
        let mut seen = Vec::new();
        let back = wait::until("the container to run", SOON, || {
            // One that was made and not started looks like one that runs, until the supervisor has seen its command end.
            let mut runs = || {
                let decided = restarts(&sandbox).is_empty();
                let now = state(&sandbox, "c");
                seen.push(now.clone());
                decided && now == "running"
            };
            let first = runs();
            thread::sleep(Duration::from_millis(50));
            (first && runs()).then_some(())
        });
        assert!(back.is_ok(), "{seen:?}");
        seen.retain(|s| s != "running" && s != "restarting");
        assert_eq!(seen, Vec::<String>::new());
        sandbox.corten(&["exec", "c", "true"]).exits(0);
        assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
        // Its count and pauses would grow: from the beginning.
        sandbox.corten(&["restart", "-t", "0", "c"]).ok();
    }
    assert!(killed > 0, "no command was ever met");
    sandbox.finish();
    Ok(())
}

#[test]
fn the_supervisor_dies_in_a_restart() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    run(&sandbox, &image);
    let mut moments = Moments::new();
    for round in 0..MOMENTS {
        until_state(&sandbox, "c", "running");
        let pid = inspect(&sandbox, "c", "{{.State.Pid}}");
        kill(pid.parse().expect("a pid"));
        // In its pause, in the command's work, or after.
        thread::sleep(moments.within(Duration::from_millis(250)));
        supervisors(&sandbox).into_iter().for_each(kill);
        let command = wait::until("the command to end", SOON, || {
            restarts(&sandbox).is_empty().then_some(())
        });
        assert!(
            command.is_ok(),
            "a restart hangs after its supervisor was killed"
        );
        let now = state(&sandbox, "c");
        assert!(["exited", "dead"].contains(&now.as_str()), "{now}");
        let found = sandbox.corten(&["system", "check"]).exits(1).text();
        assert!(
            found.contains("to be restarted whose supervisor is gone: c"),
            "{found}"
        );
        match round % 2 {
            0 => sandbox.corten(&["system", "check", "--repair"]).ok(),
            _ => sandbox.corten(&["system", "start"]).ok(),
        };
        assert_eq!(state(&sandbox, "c"), "running");
        assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
    }
    sandbox.corten(&["stop", "-t", "0", "c"]).ok();
    repaired(&sandbox);
    sandbox.finish();
    Ok(())
}

#[test]
fn the_supervisor_dies_in_a_pause() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--network",
        "none",
        "--restart",
        "always",
    ];
    sandbox
        .corten(&[&args[..], &[&image, "false"]].concat())
        .ok();
    wait::until("a long pause", SOON, || {
        let count = inspect(&sandbox, "c", "{{.RestartCount}}");
        (count.parse::<u32>().unwrap_or(0) >= 5).then_some(())
    })?;
    until_state(&sandbox, "c", "restarting");
    supervisors(&sandbox).into_iter().for_each(kill);
    until_state(&sandbox, "c", "exited");
    // The user's commands work as on any container that has ended.
    assert_eq!(sandbox.corten(&["wait", "c"]).ok(), "1");
    sandbox.corten(&["stop", "c"]).ok();
    sandbox.corten(&["start", "c"]).ok();
    until_state(&sandbox, "c", "restarting");
    sandbox.corten(&["rm", "-f", "c"]).ok();
    repaired(&sandbox);
    sandbox.finish();
    Ok(())
}
