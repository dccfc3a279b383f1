//! Exit codes: the container's own, and docker's for what is not the container's.

use corten_testkit::{Result, wait};

use super::{SOON, with_busybox};

#[test]
fn a_container_ends_as_its_command_does() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let code = |args: &[&str]| {
        let mut all = vec!["run", "--rm", "--network", "none"];
        all.extend(args);
        sandbox.corten(&all)
    };
    code(&[&image, "true"]).exits(0);
    code(&[&image, "sh", "-c", "exit 3"]).exits(3);
    code(&[&image, "sh", "-c", "exit 255"]).exits(255);
    // As pid 1 it would not hear its own SIGKILL; under an init it is like any other process.
    code(&["--init", &image, "sh", "-c", "kill -9 $$"]).exits(137);
    code(&["--init", &image, "sh", "-c", "kill -TERM $$"]).exits(143);
    sandbox.finish();
    Ok(())
}

#[test]
fn a_missing_program_is_127_and_one_not_executable_126() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let run =
        |program: &str| sandbox.corten(&["run", "--rm", "--network", "none", &image, program]);
    run("/no/such/program")
        .fails(127)
        .names("/no/such/program")
        .complete();
    run("no-such-program")
        .fails(127)
        .names("no-such-program")
        .complete();
    run("/data/not-executable")
        .fails(126)
        .names("/data/not-executable")
        .complete();
    run("/data").fails(126).names("/data").complete();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    // docker keeps a container that could not start, unless --rm says otherwise.
    sandbox
        .corten(&[
            "run",
            "--name",
            "kept",
            "--network",
            "none",
            &image,
            "/no/such",
        ])
        .fails(127);
    assert_eq!(sandbox.containers().len(), 1);
    sandbox.finish();
    Ok(())
}

#[test]
fn a_killed_container_is_128_and_the_signal() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let mut run = sandbox.start(&[
        "run",
        "--name",
        "victim",
        "--network",
        "none",
        &image,
        "sleep",
        "1000",
    ]);
    wait::until("the container to run", SOON, || {
        sandbox
            .corten(&["ps", "--quiet"])
            .text()
            .lines()
            .next()
            .map(str::to_owned)
    })?;
    sandbox.corten(&["kill", "victim"]).ok();
    assert_eq!(run.wait().expect("the run").code(), Some(137));
    assert_eq!(sandbox.corten(&["wait", "victim"]).ok(), "137");
    // A signal that the command handles is the command's matter.
    let trap = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done";
    sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "trap",
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            trap,
        ])
        .ok();
    wait::until("the trap", SOON, || {
        sandbox
            .corten(&["logs", "trap"])
            .text()
            .contains("ready")
            .then_some(())
    })?;
    sandbox.corten(&["kill", "--signal", "USR1", "trap"]).ok();
    assert_eq!(sandbox.corten(&["wait", "trap"]).ok(), "9");
    sandbox.finish();
    Ok(())
}

#[test]
fn exec_ends_as_its_command_does() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "box",
            "--network",
            "none",
            &image,
            "sleep",
            "1000",
        ])
        .ok();
    sandbox.corten(&["exec", "box", "true"]).exits(0);
    sandbox
        .corten(&["exec", "box", "sh", "-c", "exit 42"])
        .exits(42);
    sandbox
        .corten(&["exec", "box", "sh", "-c", "kill -9 $$"])
        .exits(137);
    sandbox
        .corten(&["exec", "box", "/no/such"])
        .fails(127)
        .names("/no/such");
    sandbox
        .corten(&["exec", "box", "/data/not-executable"])
        .fails(126)
        .names("/data/not-executable");
    sandbox
        .corten(&["exec", "nobody-has-this-name", "true"])
        .fails(125)
        .names("nobody-has-this-name");
    sandbox.finish();
    Ok(())
}
