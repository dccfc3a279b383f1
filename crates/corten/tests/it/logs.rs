//! Logs over rotated files and restarts: every line, once, in order.

use corten_testkit::Result;

use super::restart::{inspect, until_state};
use super::with_busybox;

#[test]
fn rotated_logs_are_read_as_one() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done";
    let args = [
        "run",
        "--name",
        "r",
        "--network",
        "none",
        "--log-opt",
        "max-size=20k",
        "--log-opt",
        "max-file=50",
    ];
    sandbox
        .corten(&[&args[..], &[&image, "sh", "-c", script]].concat())
        .exits(0);
    let log = inspect(&sandbox, "r", "{{.LogPath}}");
    assert!(
        std::path::Path::new(&format!("{log}.2")).exists(),
        "nothing was rotated"
    );
    let all: Vec<String> = (1..=3000).map(|i| format!("line {i}")).collect();
    assert_eq!(sandbox.corten(&["logs", "r"]).ok(), all.join("\n"));
    for n in [0, 1, 500, 2999, 3000, 5000] {
        let tail = sandbox.corten(&["logs", "-n", &n.to_string(), "r"]).ok();
        let from = all.len().saturating_sub(n);
        assert_eq!(tail, all[from..].join("\n"), "{n}");
    }
    // Between two moments.
    let stamped = sandbox.corten(&["logs", "-t", "r"]).ok();
    let time = |i: usize| {
        stamped
            .lines()
            .nth(i)
            .and_then(|l| l.split(' ').next())
            .expect("a time")
    };
    let part = sandbox
        .corten(&["logs", "--since", time(1000), "--until", time(2000), "r"])
        .ok();
    let fits = |line: &&str| {
        let at = line.split(' ').next().expect("a time");
        at >= time(1000) && at <= time(2000)
    };
    assert_eq!(part.lines().count(), stamped.lines().filter(fits).count());
    assert!(part.contains("line 1001") && part.contains("line 2001"));
    let config =
        "{{.HostConfig.LogConfig.Type}} {{index .HostConfig.LogConfig.Config \"max-size\"}}";
    assert_eq!(inspect(&sandbox, "r", config), "k8s-file 20480");
    sandbox.finish();
    Ok(())
}

#[test]
fn who_follows_gets_every_line_over_rotation_and_restarts() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    // Five runs of 400 lines, in files of some 60 of them, of which three are kept.
    let script = "n=$(cat /n 2>/dev/null || echo 0); echo $((n+1)) >/n; i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo run $n line $i; done; usleep 100000; exit 1";
    let args = [
        "create",
        "--name",
        "f",
        "--network",
        "none",
        "--restart",
        "on-failure:4",
        "--log-opt",
        "max-size=3k",
        "--log-opt",
        "max-file=20",
    ];
    sandbox
        .corten(&[&args[..], &[&image, "sh", "-c", script]].concat())
        .ok();
    sandbox.corten(&["start", "f"]).ok();
    let follow = sandbox.start(&["logs", "-f", "f"]);
    let seen = follow.wait_with_output().expect("logs");
    assert!(seen.status.success());
    let seen = String::from_utf8_lossy(&seen.stdout);
    let lines: Vec<&str> = seen.lines().collect();
    let all: Vec<String> = (0..5)
        .flat_map(|n| (1..=400).map(move |i| format!("run {n} line {i}")))
        .collect();
    // Whatever was rotated away before the first look is gone; from there on nothing is missing.
    let first = all
        .iter()
        .position(|l| Some(&l.as_str()) == lines.first())
        .expect("a first line");
    assert_eq!(lines, all[first..]);
    until_state(&sandbox, "f", "exited");
    sandbox.finish();
    Ok(())
}

#[test]
fn drivers_and_options_of_logs() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let args = [
        "run",
        "--name",
        "n",
        "--network",
        "none",
        "--log-driver",
        "none",
        &image,
        "echo",
        "hi",
    ];
    // Who is attached gets it all the same.
    assert_eq!(sandbox.corten(&args).exits(0).text(), "hi");
    sandbox
        .corten(&["logs", "n"])
        .fails(125)
        .names("log driver")
        .complete();
    assert!(!std::path::Path::new(&inspect(&sandbox, "n", "{{.LogPath}}")).exists());
    for (flag, value) in [
        ("--log-driver", "journald"),
        ("--log-opt", "max-size=1x"),
        ("--log-opt", "max-file=0"),
        ("--log-opt", "tag=x"),
    ] {
        let complaint = sandbox
            .corten(&["create", flag, value, &image, "true"])
            .fails(125);
        complaint.names(flag).complete();
    }
    sandbox
        .corten(&["create", "--log-opt", "max-file=3", &image, "true"])
        .fails(125)
        .names("max-size")
        .complete();
    // The administrator's defaults.
    std::fs::write(
        sandbox.etc().join("config.toml"),
        "[log]\nmax-size = 4096\nmax-file = 2\n",
    )
    .expect("config.toml");
    sandbox
        .corten(&["create", "--name", "d", &image, "true"])
        .ok();
    let config = "{{index .HostConfig.LogConfig.Config \"max-size\"}} {{index .HostConfig.LogConfig.Config \"max-file\"}}";
    assert_eq!(inspect(&sandbox, "d", config), "4096 2");
    std::fs::write(sandbox.etc().join("config.toml"), "[log]\nmax-file = 2\n")
        .expect("config.toml");
    sandbox
        .corten(&["ps"])
        .fails(125)
        .names("config.toml")
        .complete();
    std::fs::remove_file(sandbox.etc().join("config.toml")).expect("config.toml");
    sandbox.finish();
    Ok(())
}
