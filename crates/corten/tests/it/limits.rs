//! Limits that hold: memory, processor time, processes.

use std::time::Duration;

use corten_testkit::{Image, Result, wait};

use super::{SOON, sandbox, with_busybox};

#[test]
fn a_container_over_its_memory_is_killed_and_says_so() -> Result<()> {
    let sandbox = sandbox()?;
    let python = sandbox.image(Image::Python)?;
    let grow = "x = bytearray(20 << 20); print('small', flush=True); y = b'1' * (200 << 20); print('large')";
    let run = [
        "run",
        "--name",
        "big",
        "-m",
        "64m",
        "--network",
        "none",
        &python,
        "python3",
        "-c",
        grow,
    ];
    let out = sandbox.corten(&run);
    out.exits(137);
    assert_eq!(out.text(), "small");
    let inspect = sandbox.corten(&["inspect", "big"]).ok();
    assert!(inspect.contains("\"OOMKilled\": true"), "{inspect}");
    // The limit is what the container sees, and one that fits runs.
    let small = [
        "run",
        "--rm",
        "-m",
        "64m",
        "--network",
        "none",
        &python,
        "python3",
        "-c",
        "print(len(bytearray(20 << 20)))",
    ];
    assert_eq!(sandbox.corten(&small).ok(), "20971520");
    sandbox.finish();
    Ok(())
}

#[test]
fn half_a_processor_is_half_a_processor() -> Result<()> {
    let sandbox = sandbox()?;
    let python = sandbox.image(Image::Python)?;
    // Two processes that each want a whole one; what both got, of one.
    // The first waits for the other: it is process 1, and takes that along when it ends.
    let burn = "import os, time\nother = os.fork()\nstart = time.monotonic()\nwhile time.monotonic() - start < 4: pass\n\
                print(time.process_time() / (time.monotonic() - start), flush=True)\nif other: os.wait()";
    let out = sandbox
        .corten(&[
            "run",
            "--rm",
            "--cpus",
            "0.5",
            "--network",
            "none",
            &python,
            "python3",
            "-c",
            burn,
        ])
        .ok();
    let share: f64 = out
        .lines()
        .map(|line| line.parse::<f64>().expect("a number"))
        .sum();
    assert!(
        (0.45..=0.55).contains(&share),
        "it had {share} of a processor"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn a_fork_bomb_stays_within_its_limit() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    // A shell that cannot fork ends, and the bomb would with it: what sleeps keeps its place.
    let bomb = "bomb() { sleep 1000 & bomb & bomb & wait; }; bomb & while :; do sleep 1; done";
    let run = [
        "run",
        "-d",
        "--name",
        "bomb",
        "--pids-limit",
        "30",
        "--network",
        "none",
        &image,
        "sh",
        "-c",
        bomb,
    ];
    let id = sandbox.corten(&run).ok();
    let count = || {
        let inside = |pid: &u32| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(&id))
        };
        corten_testkit::host::pids().filter(inside).count()
    };
    wait::until("the bomb to fill its group", SOON, || {
        (count() >= 15).then_some(())
    })?;
    for _ in 0..20 {
        assert!(count() <= 30, "{} processes", count());
        std::thread::sleep(Duration::from_millis(50));
    }
    sandbox.corten(&["rm", "-f", "bomb"]).ok();
    assert_eq!(count(), 0);
    sandbox.finish();
    Ok(())
}
