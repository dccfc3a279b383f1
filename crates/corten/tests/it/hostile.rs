//! A container that fights back. Each test is named by what broke.

use std::time::{Duration, Instant};

use corten_testkit::Result;

use super::with_busybox;

/// Stops every process that it can see but itself, as fast as it can: the shell's own `kill`, no forks.
const STOPPER: &str = "while :; do for p in /proc/[0-9]*; do n=${p#/proc/}; \
    [ $n = 1 ] || kill -STOP $n 2>/dev/null; done; done";

/// An exec enters the container's pid namespace before it has given anything up, so root in there can stop it.
/// The supervisor waited for it, and `ps` and `rm` for the supervisor.
#[test]
fn a_stopped_exec_does_not_stop_the_supervisor() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let run = [
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "none",
        &image,
        "sh",
        "-c",
        STOPPER,
    ];
    sandbox.corten(&run).ok();
    for _ in 0..10 {
        let since = Instant::now();
        // Detached: whether it is stopped before or after its program has begun is a matter of luck.
        sandbox.corten(&["exec", "-d", "box", "true"]);
        sandbox.corten(&["ps"]).ok();
        let took = since.elapsed();
        assert!(took < Duration::from_secs(8), "it took {took:?}");
    }
    sandbox.corten(&["rm", "-f", "box"]).ok();
    sandbox.finish();
    Ok(())
}
