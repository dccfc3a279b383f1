//! The engine's promises on real containers, by way of the command line: what a start, a removal
//! and a check owe each other when they meet, and what a container keeps from what it was made of.
#![forbid(unsafe_code)]

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use corten_testkit::sandbox::built;
use corten_testkit::{Image, Registry, Result, Sandbox};

fn with_busybox() -> Result<(Sandbox, String)> {
    let sandbox = Sandbox::new(built()?)?;
    let image = sandbox.image(Image::Busybox)?;
    Ok((sandbox, image))
}

#[test]
fn conditions_of_a_docker_seccomp_profile_hold() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let profile = sandbox.files().join("profile.json");
    let text = r#"{
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
                    { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] }],
        "syscalls": [{ "names": ["sethostname"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                       "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
                     { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
                       "includes": { "caps": ["CAP_SYS_ADMIN"] } }]
    }"#;
    std::fs::write(&profile, text).unwrap();
    let option = format!("seccomp={}", profile.display());
    let run = |more: &[&str], command: &[&str]| {
        let args = [
            &[
                "run",
                "--rm",
                "--network",
                "none",
                "--security-opt",
                &option,
            ],
            more,
            &[&image],
            command,
        ];
        sandbox.corten(&args.concat())
    };
    let admin = ["--cap-add", "SYS_ADMIN"];
    run(&[], &["mkdir", "/made"]).exits(0);
    run(&admin, &["mkdir", "/made"]).exits(1);
    run(&admin, &["hostname", "other"]).exits(0);
    run(&[], &["hostname", "other"]).exits(1);

    std::fs::write(&profile, text.replace("includes", "includs")).unwrap();
    run(&[], &["true"]).fails(125).names("includs");
    assert_eq!(sandbox.containers(), Vec::<String>::new());
    sandbox.finish();
    Ok(())
}

#[test]
fn a_container_outlives_its_images_last_name() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let create = [
        "create",
        "--name",
        "kept",
        "--network",
        "none",
        &image,
        "echo",
        "here",
    ];
    sandbox.corten(&create).ok();
    sandbox.corten(&["rmi", &image]).fails(125);
    sandbox.corten(&["rmi", "--force", &image]).ok();
    sandbox.corten(&["system", "check"]).ok();
    assert!(sandbox.corten(&["ps", "--all"]).ok().contains("echo here"));
    sandbox.corten(&["inspect", "kept"]).ok();
    assert_eq!(
        sandbox.corten(&["start", "--attach", "kept"]).ok().trim(),
        "here"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn an_id_stands_for_every_name_of_its_image() -> Result<()> {
    let sandbox = Sandbox::new(built()?)?;
    let registry = Registry::plain()?;
    for tag in ["box-one", "box-two"] {
        let image = registry.push(&Image::Busybox.layout()?, tag)?;
        sandbox.corten(&["pull", "--quiet", &image]).ok();
    }
    let images = || sandbox.corten(&["images", "--quiet"]).ok();
    let ids = images();
    let id = ids.lines().next().unwrap();
    sandbox
        .corten(&["rmi", id])
        .fails(125)
        .names("several names");
    assert_eq!(images(), ids);
    sandbox.corten(&["rmi", "--force", id]).ok();
    assert_eq!(images(), "");
    sandbox.finish();
    Ok(())
}

#[test]
fn a_start_that_failed_leaves_the_container_created() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let run = [
        "run",
        "--name",
        "typo",
        "--network",
        "none",
        &image,
        "no-such-program",
    ];
    sandbox.corten(&run).fails(127);
    let list = sandbox.corten(&["--json", "ps", "--all"]).ok();
    assert!(list.contains(r#""State": "created""#), "{list}");
    sandbox.corten(&["system", "check"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn the_callers_umask_stays_outside() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let corten = sandbox.command();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"umask 077; exec "$0" "$@""#])
        .arg(corten.get_program());
    shell
        .args(corten.get_args())
        .args(["run", "--rm", "--user", "1000", "-v", "/new", &image]);
    shell.args([
        "sh",
        "-c",
        "umask; cat /etc/hosts /etc/resolv.conf /etc/hostname >/dev/null && ls /new",
    ]);
    let done = shell.stdin(Stdio::null()).output().unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
    assert_eq!(String::from_utf8_lossy(&done.stdout).trim(), "0022");
    sandbox.finish();
    Ok(())
}

#[test]
fn starts_and_removals_at_once_leave_nothing() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    for _ in 0..6 {
        let id = sandbox.corten(&["create", &image, "sleep", "60"]).ok();
        let id = id.trim();
        let racers = [
            sandbox.start(&["start", id]),
            sandbox.start(&["rm", "--force", id]),
            sandbox.start(&["rm", "--force", id]),
            sandbox.start(&["start", id]),
        ];
        for racer in racers {
            let done = racer.wait_with_output().unwrap();
            assert_eq!(done.status.signal(), None);
        }
        // A start may have come last to a container that a removal had not reached yet; none may have come to one that was gone.
        sandbox.corten(&["rm", "--force", id]).ok();
        sandbox.corten(&["system", "check"]).ok();
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn a_check_takes_nothing_from_what_is_being_made() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    for _ in 0..6 {
        let run = ["run", "--rm", &image, "sh", "-c", "exit 9"];
        let runs = [sandbox.start(&run), sandbox.start(&run)];
        for _ in 0..4 {
            sandbox.corten(&["system", "check", "--repair"]).ok();
        }
        for run in runs {
            let done = run.wait_with_output().unwrap();
            let talk = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(9), "{talk}");
        }
    }
    sandbox.finish();
    Ok(())
}

#[test]
fn volumes_that_nobody_named_go_with_their_last_user() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let volumes = || std::fs::read_dir(sandbox.root().join("volumes")).map_or(0, Iterator::count);
    sandbox
        .corten(&[
            "run", "-d", "--rm", "--name", "auto", "-v", "/data", &image, "sleep", "60",
        ])
        .ok();
    assert_eq!(volumes(), 1);
    sandbox.corten(&["rm", "--force", "auto"]).ok();
    assert_eq!(
        volumes(),
        0,
        "--rm takes them along, whoever removes the container"
    );

    sandbox
        .corten(&["create", "--name", "first", "-v", "/data", &image, "true"])
        .ok();
    sandbox.corten(&["rm", "first"]).ok();
    assert_eq!(volumes(), 1, "docker's rm leaves them");
    sandbox.corten(&["system", "prune"]).ok();
    assert_eq!(volumes(), 0);
    sandbox.finish();
    Ok(())
}

#[test]
fn start_attach_joins_a_container_that_runs() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let wait = "trap 'exit 4' TERM; while :; do sleep 0.1; done";
    sandbox
        .corten(&["run", "-d", "--name", "on", &image, "sh", "-c", wait])
        .ok();
    let home = [
        "exec",
        "--user",
        "1:1",
        "--env",
        "HOME=/asked",
        "on",
        "sh",
        "-c",
        "echo $HOME",
    ];
    assert_eq!(sandbox.corten(&home).ok().trim(), "/asked");
    let joined = sandbox.start(&["start", "--attach", "on"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    sandbox.corten(&["stop", "on"]).ok();
    assert_eq!(joined.wait_with_output().unwrap().status.code(), Some(4));
    sandbox.finish();
    Ok(())
}
