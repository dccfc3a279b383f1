//! A person at a terminal, and programs in a pipe.

use std::time::Duration;

use corten_testkit::fixture::hostile::noise;
use corten_testkit::{Result, Sandbox, Terminal};

use super::{SOON, with_busybox};

const PROMPT: &str = "# ";

fn terminal(sandbox: &Sandbox, args: &[&str]) -> Result<Terminal> {
    let mut command = sandbox.command();
    command.args(args).env("TERM", "xterm");
    Terminal::start(&command, 25, 90)
}

#[test]
fn a_shell_on_a_terminal_and_its_size() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let mut shell = terminal(
        &sandbox,
        &["run", "-it", "--rm", "--network", "none", &image, "sh"],
    )?;
    shell.expect(PROMPT, SOON)?;
    shell.send("stty size\n")?;
    shell.expect("25 90", SOON)?;
    shell.expect(PROMPT, SOON)?;
    shell.resize(40, 132)?;
    // The signal passes through three processes; the shell asks until it has.
    shell.send("until stty size | grep '40 132'; do sleep 0.05; done; echo si''zed\n")?;
    shell.expect("sized", SOON)?;
    shell.send("tty; test -c /dev/console && echo con''sole\n")?;
    shell.expect("/dev/pts/0", SOON)?;
    shell.expect("console", SOON)?;
    // Ctrl-C belongs to the program inside, not to corten.
    // (Said by a job of its own: it has the terminal by then.)
    shell.send("sh -c 'echo slee\"\"ping; exec sleep 1000'\n")?;
    shell.expect("sleeping", SOON)?;
    shell.send("\x03")?;
    shell.expect(PROMPT, SOON)?;
    shell.send("exit 5\n")?;
    assert_eq!(shell.wait(SOON)?, 5);
    sandbox.finish();
    Ok(())
}

#[test]
fn exec_on_a_terminal() -> Result<()> {
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
    let mut shell = terminal(&sandbox, &["exec", "-it", "box", "sh"])?;
    shell.expect(PROMPT, SOON)?;
    shell.send("stty size; echo pid $$\n")?;
    shell.expect("25 90", SOON)?;
    shell.send("exit 6\n")?;
    assert_eq!(shell.wait(SOON)?, 6);
    sandbox.finish();
    Ok(())
}

#[test]
fn detach_keys_leave_it_running_and_attach_comes_back() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let mut shell = terminal(
        &sandbox,
        &[
            "run",
            "-it",
            "--name",
            "box",
            "--network",
            "none",
            &image,
            "sh",
        ],
    )?;
    shell.expect(PROMPT, SOON)?;
    shell.send("here=still\n")?;
    shell.expect(PROMPT, SOON)?;
    // Ctrl-P Ctrl-Q, as fingers do it.
    shell.send("\x10")?;
    std::thread::sleep(Duration::from_millis(50));
    shell.send("\x11")?;
    assert_eq!(shell.wait(SOON)?, 0);
    let mut again = terminal(&sandbox, &["attach", "box"])?;
    again.send("echo $here the''re\n")?;
    again.expect("still there", SOON)?;
    again.send("exit 8\n")?;
    assert_eq!(again.wait(SOON)?, 8);
    sandbox.finish();
    Ok(())
}

#[test]
fn a_hundred_megabytes_come_back_as_they_went() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let bytes = noise(100_000_000);
    let out = sandbox.corten_with(
        &["run", "-i", "--rm", "--network", "none", &image, "cat"],
        &bytes,
    );
    out.exits(0);
    assert_eq!(out.stdout.len(), bytes.len());
    assert!(out.stdout == bytes, "some byte is another one");
    sandbox.finish();
    Ok(())
}

#[test]
fn both_streams_stay_apart_and_stdin_ends() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let script = "cat; echo out; echo err >&2";
    let run = [
        "run",
        "-i",
        "--rm",
        "--network",
        "none",
        &image,
        "sh",
        "-c",
        script,
    ];
    let both = sandbox.corten_with(&run, b"in\n");
    assert_eq!(
        (both.ok().as_str(), both.talk().as_str()),
        ("in\nout", "err")
    );
    // Without -i the command sees an end at once.
    let closed = sandbox.corten_with(
        &[
            "run",
            "--rm",
            "--network",
            "none",
            &image,
            "sh",
            "-c",
            script,
        ],
        b"in\n",
    );
    assert_eq!(closed.ok(), "out");
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
    let exec = sandbox.corten_with(
        &["exec", "-i", "box", "sh", "-c", script],
        b"through exec\n",
    );
    assert_eq!(
        (exec.ok().as_str(), exec.talk().as_str()),
        ("through exec\nout", "err")
    );
    sandbox.finish();
    Ok(())
}
