//! What each flag of `run` does, seen from inside.

use std::fs;

use corten_testkit::{Result, Sandbox};

use super::with_busybox;

/// `run --rm --network none FLAGS IMAGE sh -c SCRIPT`, which must succeed.
#[track_caller]
fn inside(sandbox: &Sandbox, image: &str, flags: &[&str], script: &str) -> String {
    let mut args = vec!["run", "--rm", "--network", "none"];
    args.extend(flags);
    args.extend([image, "sh", "-c", script]);
    sandbox.corten(&args).ok()
}

#[test]
fn the_root_is_what_the_layers_say() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let see = |script: &str| inside(&sandbox, &image, &[], script);
    assert_eq!(
        see("ls /data"),
        "changed\nkept\nnot-executable\npair-a\npair-b\nreplaced\nscript"
    );
    assert_eq!(
        see("cat /data/changed; stat -c %a /data/changed"),
        "after\n600"
    );
    assert_eq!(
        see("ls /data/replaced; stat -c %a /data/replaced"),
        "new\n750"
    );
    assert_eq!(see("stat -c '%h %a' /data/pair-a"), "2 640");
    assert_eq!(
        see("test /data/pair-a -ef /data/pair-b && echo same"),
        "same"
    );
    assert_eq!(
        see("stat -c '%u %g' /home/web; stat -c %a /tmp"),
        "1000 1000\n1777"
    );
    // What one container writes, the next one does not see.
    assert_eq!(see("echo mine >/data/kept; cat /data/kept"), "mine");
    assert_eq!(see("cat /data/kept"), "kept");
    sandbox.finish();
    Ok(())
}

#[test]
fn process_flags() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let see = |flags: &[&str], script: &str| inside(&sandbox, &image, flags, script);
    assert_eq!(
        see(
            &["-e", "A=1", "--env", "B=two words"],
            "echo $A $B $FIXTURE"
        ),
        "1 two words busybox"
    );
    let file = sandbox.files().join("env");
    fs::write(&file, "# a comment\nC=3\n\nD=a=b\n").expect("write");
    assert_eq!(
        see(&["--env-file", &file.to_string_lossy()], "echo $C $D"),
        "3 a=b"
    );
    assert_eq!(see(&["-w", "/home/web"], "pwd"), "/home/web");
    assert_eq!(see(&["-w", "/made/here"], "pwd"), "/made/here");
    assert_eq!(
        see(&["-u", "web"], "id -u; id -g; id -G"),
        "1000\n1000\n1000 50"
    );
    assert_eq!(see(&["-u", "1234:50"], "id -u; id -g"), "1234\n50");
    assert_eq!(see(&["-u", "web"], "echo $HOME"), "/home/web");
    assert_eq!(
        see(&["--hostname", "rusty"], "hostname; cat /etc/hostname"),
        "rusty\nrusty"
    );
    assert_eq!(
        see(&["--ulimit", "nofile=100:200"], "ulimit -n; ulimit -Hn"),
        "100\n200"
    );
    assert_eq!(
        see(&["--init"], "test $$ != 1 && echo no longer first"),
        "no longer first"
    );
    assert_eq!(see(&[], "echo $$"), "1");
    let out = sandbox
        .corten(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--entrypoint",
            "/bin/echo",
            &image,
            "said",
        ])
        .ok();
    assert_eq!(out, "said");
    let out = sandbox
        .corten(&[
            "run",
            "--rm",
            "--network",
            "none",
            &image,
            "/data/script",
            "a",
            "b c",
        ])
        .ok();
    assert_eq!(out, "script a b c");
    sandbox.finish();
    Ok(())
}

#[test]
fn storage_flags() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let see = |flags: &[&str], script: &str| inside(&sandbox, &image, flags, script);
    let folder = sandbox.files().join("shared");
    fs::create_dir(&folder).expect("folder");
    fs::write(folder.join("from-host"), "host\n").expect("write");
    let path = folder.to_string_lossy().into_owned();
    assert_eq!(
        see(
            &["-v", &format!("{path}:/mnt")],
            "cat /mnt/from-host; echo box >/mnt/from-box"
        ),
        "host"
    );
    assert_eq!(
        fs::read_to_string(folder.join("from-box")).expect("read"),
        "box\n"
    );
    let read_only = see(
        &["-v", &format!("{path}:/mnt:ro")],
        "echo no >/mnt/x 2>/dev/null || echo refused",
    );
    assert_eq!(read_only, "refused");
    assert_eq!(
        see(
            &["--tmpfs", "/scratch:size=1m"],
            "grep -c ' /scratch tmpfs' /proc/mounts"
        ),
        "1"
    );
    let full = "dd if=/dev/zero of=/scratch/x bs=1k count=2000 2>/dev/null || echo full";
    assert_eq!(see(&["--tmpfs", "/scratch:size=1m"], full), "full");
    let locked = "touch /x 2>/dev/null || echo locked; touch /scratch/x && echo open";
    assert_eq!(
        see(&["--read-only", "--tmpfs", "/scratch"], locked),
        "locked\nopen"
    );
    // A named volume outlives its container.
    see(&["-v", "keep:/vol"], "echo here >/vol/file");
    assert_eq!(see(&["-v", "keep:/vol"], "cat /vol/file"), "here");
    sandbox.finish();
    Ok(())
}

#[test]
fn the_walls_stand() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let see = |flags: &[&str], script: &str| inside(&sandbox, &image, flags, script);
    let status = |field: &str| format!("grep ^{field}: /proc/self/status | cut -f2");
    // Docker's fourteen capabilities, its filter, and nothing inheritable (CVE-2022-29162).
    assert_eq!(see(&[], &status("CapEff")), "00000000a80425fb");
    assert_eq!(see(&[], &status("CapInh")), "0000000000000000");
    let none = "0000000000000000";
    assert_eq!(see(&[], &status("SigBlk")), none);
    assert_eq!(see(&[], &status("SigIgn")), none);
    assert_eq!(see(&["--init"], &status("SigBlk")), none);
    // glibc's posix_spawn, which starts what an init starts, ignores its own two signals, 32 and 33.
    let ignored = see(&["--init"], &status("SigIgn"));
    assert!(
        [none, "0000000180000000"].contains(&ignored.as_str()),
        "{ignored}"
    );
    assert_eq!(see(&[], &status("Seccomp")), "2");
    assert_eq!(see(&[], &status("NoNewPrivs")), "0");
    assert_eq!(
        see(
            &["--security-opt", "no-new-privileges"],
            &status("NoNewPrivs")
        ),
        "1"
    );
    assert_eq!(
        see(
            &["--security-opt", "seccomp=unconfined"],
            &status("Seccomp")
        ),
        "0"
    );
    assert_eq!(
        see(&["--cap-drop", "ALL"], &status("CapEff")),
        "0000000000000000"
    );
    let one = ["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"];
    assert_eq!(see(&one, &status("CapEff")), "0000000000000400");
    assert_eq!(see(&["-u", "web"], &status("CapEff")), "0000000000000000");
    assert_eq!(
        see(
            &[],
            "cat /proc/kcore 2>/dev/null | wc -c; ls /sys/firmware | wc -l"
        ),
        "0\n0"
    );
    assert_eq!(
        see(
            &[],
            "echo 1 >/proc/sys/kernel/panic 2>/dev/null || echo refused"
        ),
        "refused"
    );
    assert_eq!(
        see(&[], "mount -t tmpfs x /mnt 2>/dev/null || echo refused"),
        "refused"
    );
    assert_eq!(
        see(&[], "unshare -U true 2>/dev/null || echo refused"),
        "refused"
    );
    // No descriptor of the host's crosses the exec: 3 is ls's own.
    assert_eq!(see(&[], "ls /proc/self/fd"), "0\n1\n2\n3");
    // The shell and ls. No pipe: whether its other end runs yet when ls looks is a matter of luck.
    let processes = "ls /proc >/tmp/list; grep -c '^[0-9]' /tmp/list";
    assert_eq!(see(&[], processes), "2");
    assert_eq!(
        see(
            &["--privileged"],
            "mkdir /m && mount -t tmpfs x /m && echo mounted"
        ),
        "mounted"
    );
    let profile = sandbox.files().join("profile.json");
    let deny = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, deny).expect("write");
    let own = format!("seccomp={}", profile.display());
    assert_eq!(
        see(
            &["--security-opt", &own],
            "mkdir /m 2>/dev/null || echo refused"
        ),
        "refused"
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn network_flags() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let run = |flags: &[&str], script: &str| {
        let mut args = vec!["run", "--rm"];
        args.extend(flags);
        args.extend([image.as_str(), "sh", "-c", script]);
        sandbox.corten(&args).ok()
    };
    assert_eq!(run(&["--network", "none"], "ls /sys/class/net"), "lo");
    assert_eq!(
        run(
            &["--network", "none"],
            "ip -o link show lo | grep -c 'state UNKNOWN\\|,UP'"
        ),
        "1"
    );
    assert_eq!(run(&[], "ls /sys/class/net"), "eth0\nlo");
    let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("host name");
    assert_eq!(run(&["--network", "host"], "hostname"), host.trim());
    let names = run(
        &["--add-host", "friend:10.1.2.3", "--hostname", "me"],
        "cat /etc/hosts",
    );
    assert!(
        names
            .lines()
            .any(|line| line.split_whitespace().eq(["10.1.2.3", "friend"])),
        "{names}"
    );
    assert!(
        names
            .lines()
            .any(|line| line.ends_with("me") && !line.starts_with("127.")),
        "{names}"
    );
    let dns = run(&["--dns", "192.0.2.53"], "cat /etc/resolv.conf");
    assert!(dns.contains("nameserver 192.0.2.53"), "{dns}");
    sandbox.finish();
    Ok(())
}

#[test]
fn the_id_goes_to_the_cidfile_and_labels_to_inspect() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let file = sandbox.files().join("cid");
    let path = file.to_string_lossy().into_owned();
    let run = [
        "run",
        "-d",
        "--network",
        "none",
        "--cidfile",
        &path,
        "--label",
        "tier=web",
        "-l",
        "plain",
    ];
    let mut args = run.to_vec();
    args.extend([image.as_str(), "sleep", "1000"]);
    let id = sandbox.corten(&args).ok();
    assert_eq!(fs::read_to_string(&file).expect("cidfile"), id);
    let inspect = sandbox.corten(&["inspect", &id]).ok();
    for wanted in ["\"tier\": \"web\"", "\"plain\": \"\""] {
        assert!(inspect.contains(wanted), "{wanted} in {inspect}");
    }
    sandbox.corten(&args).fails(125).names(&path).complete();
    assert_eq!(sandbox.containers(), [id]);
    sandbox.finish();
    Ok(())
}
