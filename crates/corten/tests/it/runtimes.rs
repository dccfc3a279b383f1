//! Others' runtimes: containers of `--runtime NAME`, which containerd's shim for runc runs under our supervisor.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use corten_testkit::registry::free_port;
use corten_testkit::{Result, Sandbox, Terminal, need, wait};

use super::crash::{Moments, ends, kill, repaired, start, supervisors, whole};
use super::crash_restart::restarts;
use super::restart::{inspect, until_state};
use super::{SOON, with_busybox};

const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";
const MOMENTS: u32 = 12;

fn has_peer() -> bool {
    need::file(SHIM) && need::file("/usr/sbin/runc")
}

/// Each command is a process of its own: what it knows of the container it has from the folders alone.
#[test]
fn run_exec_logs_stop_start_remove() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let port = free_port()?;
    let publish = format!("{port}:80");
    let script = "trap 'echo bye; exit 7' TERM; echo $HOSTNAME up; while :; do sleep 0.1; done";
    let id = sandbox
        .corten(&[
            "run",
            "-d",
            "--name",
            "c",
            "--runtime",
            "runc",
            "-p",
            &publish,
            "-v",
            "data:/data",
            &image,
            "sh",
            "-c",
            script,
        ])
        .ok();
    let listed = sandbox.corten(&["ps"]).ok();
    assert!(listed.contains(&format!("{port}->80/tcp")), "{listed}");
    let inspected = sandbox.corten(&["inspect", "c"]).ok();
    assert!(inspected.contains("\"Runtime\": \"runc\""), "{inspected}");
    sandbox
        .corten(&["exec", "c", "sh", "-c", "echo kept > /data/file; exit 4"])
        .exits(4);
    let echoed = sandbox.corten_with(&["exec", "-i", "c", "cat"], b"through\n");
    assert_eq!(echoed.ok(), "through");
    sandbox.corten(&["exec", "c", "/bin/none"]).fails(127);
    // It is on the network, and serves.
    sandbox
        .corten(&[
            "exec",
            "-d",
            "c",
            "sh",
            "-c",
            "while :; do echo served | nc -l -p 80; done",
        ])
        .ok();
    let served = wait::until("an answer", SOON, || {
        let text = sandbox
            .corten(&["exec", "c", "nc", "127.0.0.1", "80"])
            .text();
        (text.trim() == "served").then_some(())
    });
    served?;
    sandbox.corten(&["stop", "c"]).ok();
    let up = format!("{} up", &id[..12]);
    assert_eq!(sandbox.corten(&["logs", "c"]).ok(), format!("{up}\nbye"));
    assert_eq!(sandbox.corten(&["wait", "c"]).ok(), "7");
    sandbox.corten(&["start", "c"]).ok();
    assert_eq!(
        sandbox.corten(&["exec", "c", "cat", "/data/file"]).ok(),
        "kept"
    );
    sandbox.corten(&["kill", "c"]).ok();
    assert_eq!(sandbox.corten(&["wait", "c"]).ok(), "137");
    sandbox.corten(&["rm", "-v", "c"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn codes_of_runs_in_the_foreground() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let run = |args: &[&str]| {
        let all = [
            &["run", "--rm", "--runtime", "io.containerd.runc.v2", &image],
            args,
        ]
        .concat();
        sandbox.corten(&all)
    };
    run(&["sh", "-c", "echo out; echo err >&2; exit 3"]).exits(3);
    run(&["/bin/none"]).fails(127).names("/bin/none");
    run(&["/etc/passwd"]).fails(126);
    run(&["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]).exits(137);
    let all = ["run", "--rm", "-i", "--runtime", SHIM, &image, "wc", "-c"];
    let counted = sandbox.corten_with(&all, &vec![b'x'; 3_000_000]);
    assert_eq!(counted.ok(), "3000000");
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    sandbox.finish();
    Ok(())
}

#[test]
fn a_terminal_and_its_size() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let mut command = sandbox.command();
    command.args([
        "run",
        "--rm",
        "-it",
        "--network",
        "none",
        "--runtime",
        "runc",
        &image,
        "sh",
    ]);
    command.env("TERM", "xterm");
    let mut shell = Terminal::start(&command, 25, 90)?;
    shell.expect("# ", SOON)?;
    shell.send("until [ \"$(stty size)\" = '25 90' ]; do sleep 0.1; done; echo fir''st\n")?;
    shell.expect("first", SOON)?;
    shell.resize(31, 77)?;
    shell.send("until [ \"$(stty size)\" = '31 77' ]; do sleep 0.1; done; echo ag''ain\n")?;
    shell.expect("again", SOON)?;
    shell.send("exit 6\n")?;
    assert_eq!(shell.wait(SOON)?, 6);
    sandbox.finish();
    Ok(())
}

#[test]
fn names_that_lead_nowhere_and_names_in_the_settings() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let with = |name: &str| sandbox.corten(&["run", "--rm", "--runtime", name, &image, "true"]);
    with("nothing").fails(125).names("\"nothing\"").complete();
    with("kata")
        .fails(125)
        .names("containerd-shim-kata-v2")
        .complete();
    fs::create_dir_all(sandbox.etc()).expect("etc");
    let config = sandbox.etc().join("config.toml");
    let text = format!(
        "[runtimes.house]\ntype = \"io.containerd.runc.v2\"\npath = \"{SHIM}\"\n\
         options = {{ BinaryName = \"/usr/sbin/runc\", NoNewKeyring = true }}\n\
         [runtimes.odd.options]\nSystemdCgroup = true\n"
    );
    fs::write(&config, text).expect("config");
    with("house").ok();
    with("odd").fails(125).names("odd").complete();
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    fs::remove_file(config).expect("config");
    sandbox.finish();
    Ok(())
}

/// The processes of the foreign shim, and of the runtime that it calls.
fn foreign(sandbox: &Sandbox) -> Vec<u32> {
    let named = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.starts_with("/usr/bin/containerd-shim-runc-v2") || line.starts_with("runc\0")
    };
    sandbox.processes().into_iter().filter(named).collect()
}

#[test]
fn the_command_line_the_supervisor_or_the_shim_dies_in_run() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let publish = format!("{}:80", free_port()?);
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--runtime",
        "runc",
        "-p",
        &publish,
        &image,
        "sleep",
        "1000",
    ];
    let usual = whole(&sandbox, &args);
    sandbox.corten(&["rm", "-f", "c"]).ok();
    let mut moments = Moments::new();
    for turn in 0..MOMENTS {
        let child = start(&sandbox, &args);
        thread::sleep(moments.within(usual));
        let victims = |which: u32| match which {
            0 => vec![child.id()],
            1 => supervisors(&sandbox),
            _ => foreign(&sandbox),
        };
        let deadline = Instant::now() + usual;
        let mut found = victims(turn % 3);
        while found.is_empty() && Instant::now() < deadline {
            found = victims(turn % 3);
        }
        found.into_iter().for_each(kill);
        match turn % 3 {
            0 => drop(child.wait_with_output().expect("corten")),
            _ => ends(child),
        }
        repaired(&sandbox);
    }
    // The port and the name are free.
    sandbox.corten(&args).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_shim_that_dies_takes_its_container_along_and_one_without_supervisor_is_named() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--runtime",
        "runc",
        &image,
        "sleep",
        "1000",
    ];
    sandbox.corten(&args).ok();
    foreign(&sandbox).into_iter().for_each(kill);
    assert_eq!(sandbox.corten(&["wait", "c"]).ok(), "137");
    sandbox.corten(&["start", "c"]).ok();
    supervisors(&sandbox).into_iter().for_each(kill);
    let lost = wait::until("the look of it", Duration::from_secs(5), || {
        sandbox
            .corten(&["ps", "-a"])
            .ok()
            .contains("Dead")
            .then_some(())
    });
    lost?;
    let named = sandbox.corten(&["system", "check"]);
    assert!(named.text().contains("c"), "{}", named.text());
    // Its shim and its container still run; a new start gives them back first.
    sandbox.corten(&["start", "c"]).ok();
    assert_eq!(foreign(&sandbox).len(), 1);
    sandbox.corten(&["rm", "-f", "c"]).ok();
    sandbox.finish();
    Ok(())
}

/// Waits until it has been started again so often, and runs.
#[track_caller]
fn until_count(sandbox: &Sandbox, wanted: &str) {
    let mut last = String::new();
    let seen = wait::until("a restart", SOON, || {
        last = inspect(sandbox, "c", "{{.RestartCount}} {{.State.Status}}");
        (last == format!("{wanted} running")).then_some(())
    });
    assert!(seen.is_ok(), "{last}, not {wanted}");
}

/// Runs a container with a policy, a network and a published port, which lives until it is killed.
fn lasting(sandbox: &Sandbox, image: &str, port: u16) {
    let publish = format!("{port}:80");
    let script = "ip link add old type bridge; ip -o link | wc -l; exec httpd -f -h /etc";
    let args = [
        "run",
        "-d",
        "--name",
        "c",
        "--runtime",
        "runc",
        "--cap-add",
        "NET_ADMIN",
        "-p",
        &publish,
        "--restart",
        "always",
        image,
        "sh",
        "-c",
        script,
    ];
    sandbox.corten(&args).ok();
}

#[test]
fn policies_start_them_again() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let script = "echo run; exit 3";
    let args = ["run", "-d", "--name", "f", "--runtime", "runc"];
    let policy = ["--network", "none", "--restart", "on-failure:2", &image];
    sandbox
        .corten(&[&args[..], &policy, &["sh", "-c", script]].concat())
        .ok();
    assert_eq!(sandbox.corten(&["wait", "f"]).ok(), "3");
    assert_eq!(sandbox.corten(&["logs", "f"]).ok(), "run\nrun\nrun");
    until_state(&sandbox, "f", "exited");
    let port = free_port()?;
    lasting(&sandbox, &image, port);
    let served = |what: &str| {
        let served = wait::until(what, SOON, || {
            std::net::TcpStream::connect(("127.0.0.1", port))
                .is_ok()
                .then_some(())
        });
        served.expect("an answer");
    };
    served("the first run");
    kill(
        inspect(&sandbox, "c", "{{.State.Pid}}")
            .parse()
            .expect("pid"),
    );
    until_count(&sandbox, "1");
    served("the second run");
    // What the run before has made of its network is gone with it: each counts the same links.
    // It listens when its line may still be on its way to the log.
    let counted = wait::until("a line of each run", SOON, || {
        let counted = sandbox.corten(&["logs", "c"]).ok();
        (counted.lines().count() >= 2).then_some(counted)
    })?;
    let lines: Vec<&str> = counted.lines().collect();
    assert!(
        lines.len() == 2 && lines[0] == lines[1] && lines[0] >= "3",
        "{counted}"
    );
    foreign(&sandbox).into_iter().for_each(kill);
    until_count(&sandbox, "2");
    served("the third run");
    // What deleted the second, or is making the third, ends by itself.
    let one = wait::until("one shim", SOON, || {
        (foreign(&sandbox).len() == 1).then_some(())
    });
    one?;
    sandbox.corten(&["stop", "-t", "0", "c"]).ok();
    until_state(&sandbox, "c", "exited");
    assert_eq!(foreign(&sandbox), Vec::<u32>::new());
    sandbox
        .corten(&["update", "--restart", "unless-stopped", "c"])
        .ok();
    assert_eq!(sandbox.corten(&["system", "start"]).ok(), "");
    sandbox.corten(&["start", "c"]).ok();
    until_count(&sandbox, "0");
    sandbox.corten(&["rm", "-f", "c", "f"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn the_command_of_a_restart_dies_and_another_one_follows() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    lasting(&sandbox, &image, free_port()?);
    let mut moments = Moments::new();
    let mut killed = 0;
    for _ in 0..MOMENTS {
        until_state(&sandbox, "c", "running");
        kill(
            inspect(&sandbox, "c", "{{.State.Pid}}")
                .parse()
                .expect("pid"),
        );
        let deadline = Instant::now() + SOON;
        let mut found = restarts(&sandbox);
        while found.is_empty() && Instant::now() < deadline {
            found = restarts(&sandbox);
        }
        thread::sleep(moments.within(Duration::from_millis(250)));
        killed += found.len();
        found.into_iter().for_each(kill);
        let back = wait::until("the container to run", SOON, || {
            // One that was made and not started looks like one that runs, until the supervisor has seen its command end.
            let runs = || {
                let decided = restarts(&sandbox).is_empty();
                decided && inspect(&sandbox, "c", "{{.State.Status}}") == "running"
            };
            let first = runs();
            thread::sleep(Duration::from_millis(100));
            (first && runs()).then_some(())
        });
        let state = inspect(&sandbox, "c", "{{json .State}}");
        assert!(back.is_ok(), "{state} {:?}", restarts(&sandbox));
        let entered = sandbox.corten(&["exec", "c", "true"]);
        let now = inspect(&sandbox, "c", "{{json .State}}");
        assert_eq!(entered.text(), "", "{state} then {now}");
        assert_eq!(foreign(&sandbox).len(), 1);
        assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
        sandbox.corten(&["restart", "-t", "0", "c"]).ok();
    }
    assert!(killed > 0, "no command was ever met");
    sandbox.corten(&["rm", "-f", "c"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn an_uninstalled_runtime_is_named_and_its_containers_can_be_removed() -> Result<()> {
    if !has_peer() {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    fs::create_dir_all(sandbox.etc()).expect("etc");
    let shim = sandbox.etc().join("containerd-shim-runc-v2");
    fs::copy(SHIM, &shim).expect("a copy");
    let name = shim.display().to_string();
    for container in ["created", "running", "lost"] {
        let verb = match container {
            "created" => &["create"][..],
            _ => &["run", "-d"],
        };
        let rest = ["--name", container, "--runtime", &name, &image];
        sandbox
            .corten(&[verb, &rest, &["sleep", "1000"]].concat())
            .ok();
    }
    fs::remove_file(&shim).expect("the copy");
    sandbox
        .corten(&["start", "created"])
        .fails(125)
        .names("containerd-shim-runc-v2")
        .complete();
    sandbox.corten(&["stop", "-t", "0", "running"]).ok();
    // The shim and the supervisor are killed: nobody is left who could delete its container in an orderly way.
    supervisors(&sandbox).into_iter().for_each(kill);
    let theirs = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(name.as_bytes())
    };
    let left = sandbox.processes();
    left.into_iter().filter(theirs).for_each(kill);
    for container in ["created", "running", "lost"] {
        sandbox.corten(&["rm", "-f", container]).ok();
    }
    assert_eq!(sandbox.corten(&["system", "check"]).ok(), "");
    sandbox.finish();
    Ok(())
}
