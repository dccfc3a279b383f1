//! From `run -d` to `rm`: logs, exec, stop, and the states between.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use corten_testkit::{Result, wait};

use super::{SOON, with_busybox};

#[test]
fn run_follow_exec_stop_remove() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    // One that heeds SIGTERM, as a good citizen does.
    let script =
        "trap 'echo bye; exit 0' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.1; done";
    let id = sandbox
        .corten(&["run", "-d", "--name", "counter", &image, "sh", "-c", script])
        .ok();
    assert_eq!(id.len(), 64, "{id}");
    let mut follow = sandbox.start(&["logs", "-f", "counter"]);
    let lines = BufReader::new(follow.stdout.take().expect("stdout")).lines();
    let mut lines = lines.map(|line| line.expect("a line"));
    let first: Vec<String> = lines.by_ref().take(3).collect();
    assert_eq!(first, ["line 1", "line 2", "line 3"]);
    assert_eq!(
        sandbox.corten(&["exec", "counter", "hostname"]).ok(),
        id[..12]
    );
    let listed = sandbox.corten(&["ps"]).ok();
    assert!(
        listed.contains("counter") && listed.contains("Up "),
        "{listed}"
    );
    let since = Instant::now();
    sandbox.corten(&["stop", "counter"]).ok();
    assert!(
        since.elapsed() < Duration::from_secs(5),
        "stop took {:?}",
        since.elapsed()
    );
    assert_eq!(lines.last().as_deref(), Some("bye"));
    assert!(follow.wait().expect("logs").success());
    assert_eq!(sandbox.corten(&["ps", "-q"]).ok(), "");
    let listed = sandbox.corten(&["ps", "-a"]).ok();
    assert!(listed.contains("Exited (0)"), "{listed}");
    // A prefix of the id is a name too.
    assert_eq!(
        sandbox.corten(&["logs", "--tail", "1", &id[..6]]).ok(),
        "bye"
    );
    sandbox.corten(&["rm", "counter"]).ok();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    sandbox.finish();
    Ok(())
}

#[test]
fn stop_makes_the_stubborn_end() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    // As pid 1 without a handler sleep does not hear SIGTERM.
    sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "deaf",
            "--network",
            "none",
            &image,
            "sleep",
            "1000",
        ])
        .ok();
    let since = Instant::now();
    sandbox.corten(&["stop", "-t", "1", "deaf"]).ok();
    let took = since.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(4)).contains(&took),
        "{took:?}"
    );
    assert_eq!(sandbox.corten(&["wait", "deaf"]).ok(), "137");
    sandbox.finish();
    Ok(())
}

#[test]
fn create_start_and_start_again() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let script = "n=$(cat /count 2>/dev/null || echo 0); echo $((n+1)) >/count; echo run $((n+1))";
    sandbox
        .corten(&[
            "create",
            "--name",
            "twice",
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            script,
        ])
        .ok();
    assert!(sandbox.corten(&["ps", "-a"]).ok().contains("Created"));
    for number in 1..=2 {
        sandbox.corten(&["start", "twice"]).ok();
        assert_eq!(sandbox.corten(&["wait", "twice"]).ok(), "0");
        // What a container wrote is there when it starts again, and its log goes on.
        let said = format!("run {number}");
        wait::until(&said, SOON, || {
            sandbox
                .corten(&["logs", "twice"])
                .text()
                .ends_with(&said)
                .then_some(())
        })?;
    }
    sandbox.corten(&["rm", "twice"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_running_container_is_not_removed_by_accident() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "busy",
            "--network",
            "none",
            &image,
            "sleep",
            "1000",
        ])
        .ok();
    sandbox
        .corten(&["rm", "busy"])
        .fails(125)
        .names("busy")
        .complete();
    sandbox.corten(&["rmi", &image]).fails(125).complete();
    sandbox.corten(&["rm", "-f", "busy"]).ok();
    sandbox.corten(&["rmi", &image]).ok();
    assert_eq!(
        sandbox
            .corten(&["--json", "images"])
            .ok()
            .replace(char::is_whitespace, ""),
        "[]"
    );
    sandbox.corten(&["system", "prune"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn log_streams_come_back_as_they_were() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let script = "echo out; echo err >&2; printf 'no end'; exit 0";
    sandbox
        .corten(&[
            "run",
            "--name",
            "talk",
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            script,
        ])
        .exits(0);
    let logs = sandbox.corten(&["logs", "talk"]);
    assert_eq!(
        (logs.ok().as_str(), logs.talk().as_str()),
        ("out\nno end", "err")
    );
    let stamped = sandbox.corten(&["logs", "--timestamps", "talk"]).ok();
    assert!(stamped.starts_with("20"), "{stamped}");
    // Lines far longer than any buffer.
    let long = "head -c 300000 /dev/zero | tr '\\0' x; echo";
    sandbox
        .corten(&[
            "run",
            "--name",
            "long",
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            long,
        ])
        .exits(0);
    assert_eq!(sandbox.corten(&["logs", "long"]).ok().len(), 300_000);
    sandbox.finish();
    Ok(())
}
