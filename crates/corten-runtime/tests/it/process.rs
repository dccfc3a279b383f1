//! The process: its end, its identity, its rights, its descriptors.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Bundle, error, ours, stdout, text};

#[test]
fn the_exit_code_is_the_programs() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("exit 255", 255)] {
        assert_eq!(
            Bundle::script(script).run().status.code(),
            Some(code),
            "{script}"
        );
    }
    let killed = Bundle::script("sh -c 'kill -9 $$'; exit $?");
    assert_eq!(killed.run().status.code(), Some(137));
}

#[test]
fn a_missing_program_is_127_and_one_that_cannot_run_is_126() {
    if !ours() {
        return;
    }
    let missing = error(&Bundle::new(&["nope"]), 127);
    assert!(
        missing.contains("executable file not found in $PATH"),
        "{missing}"
    );
    let missing = error(&Bundle::new(&["/bin/nope"]), 127);
    assert!(missing.contains("no such file or directory"), "{missing}");
    let denied = error(&Bundle::new(&["/etc/passwd"]), 126);
    assert!(denied.contains("permission denied"), "{denied}");
    let folder = error(&Bundle::new(&["/etc"]), 126);
    assert!(folder.contains("is a directory"), "{folder}");
    let bundle = Bundle::new(&["/bin/empty"]);
    std::fs::write(bundle.root().join("bin/empty"), "\0\0").unwrap();
    std::process::Command::new("chmod")
        .arg("755")
        .arg(bundle.root().join("bin/empty"))
        .status()
        .unwrap();
    let format = error(&bundle, 126);
    assert!(format.contains("exec format error"), "{format}");
}

#[test]
fn create_fails_where_the_program_is_missing() {
    let (code, log) = Bundle::new(&["nope"]).create();
    assert_ne!(code, 0);
    assert!(log.contains("executable file not found in $PATH"), "{log}");
}

#[test]
fn stdio_passes_whole() {
    let bundle = Bundle::script("cat; echo err >&2");
    bundle.write();
    let mut command = bundle.command(["run", "--bundle"]);
    command.arg(bundle.dir.path()).arg(&bundle.id);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(
        output.stdout == data,
        "{} bytes came back",
        output.stdout.len()
    );
    assert_eq!(text(&output.stderr), "err\n");
}

#[test]
fn identity_and_folder_are_the_specs() {
    let mut bundle = Bundle::script("id -u; id -g; id -G; pwd; umask; echo $HOME");
    bundle
        .set(
            "/process/user",
            json!({"uid": 33, "gid": 34, "additionalGids": [5, 6], "umask": 0o27}),
        )
        .set("/process/cwd", json!("/not/there/yet"));
    let out = stdout(&bundle);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(
        lines,
        ["33", "34", "34 5 6", "/not/there/yet", "0027", "/www"]
    );
}

#[test]
fn capabilities_are_no_more_than_asked() {
    let status = "grep -E 'Cap|NoNewPrivs' /proc/self/status";
    let out = stdout(&Bundle::script(status));
    // KILL 5, NET_BIND_SERVICE 10, AUDIT_WRITE 29.
    for line in [
        "CapPrm:\t0000000020000420",
        "CapEff:\t0000000020000420",
        "CapBnd:\t0000000020000420",
    ] {
        assert!(out.contains(line), "{out}");
    }
    for line in [
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
        "NoNewPrivs:\t1",
    ] {
        assert!(out.contains(line), "{out}");
    }
    let mut none = Bundle::script(status);
    none.set("/process/capabilities", json!({}))
        .set("/process/noNewPrivileges", json!(false));
    let out = stdout(&none);
    assert!(out.contains("CapBnd:\t0000000000000000"), "{out}");
    assert!(out.contains("NoNewPrivs:\t0"), "{out}");
    let mut ambient = Bundle::script(status);
    let sets = ["CAP_NET_RAW"];
    ambient.set("/process/user/uid", json!(1000)).set(
        "/process/capabilities",
        json!({"bounding": sets, "permitted": sets, "effective": sets, "inheritable": sets, "ambient": sets}),
    );
    let out = stdout(&ambient);
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
        assert!(out.contains(&format!("{set}:\t0000000000002000")), "{out}");
    }
}

#[test]
fn a_capability_that_the_host_lacks_is_left_out() {
    // This matters where root has less than all; where it has all, nothing is to be left out.
    let mut bundle = Bundle::script("true");
    bundle.set(
        "/process/capabilities/bounding",
        json!(["CAP_SYS_RESOURCE", "CAP_KILL"]),
    );
    stdout(&bundle);
}

#[test]
fn limits_are_set_and_those_out_of_reach_are_named() {
    let mut bundle = Bundle::script("ulimit -n; ulimit -Hn; ulimit -c");
    bundle.set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
    );
    assert_eq!(stdout(&bundle), "100\n200\n0\n");
    if !ours() {
        return;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let eff = status
        .lines()
        .find_map(|l| l.strip_prefix("CapEff:\t"))
        .unwrap();
    if u64::from_str_radix(eff, 16).unwrap() & 1 << 24 == 0 {
        bundle.set("/process/rlimits/0/hard", json!(100_000_000));
        let message = error(&bundle, 1);
        assert!(message.contains("RLIMIT_NOFILE"), "{message}");
    }
    bundle.set("/process/rlimits/0/hard", json!(1));
    assert!(error(&bundle, 1).contains("RLIMIT_NOFILE a soft limit above the hard one"));
}

#[test]
fn the_oom_score_is_set_as_far_as_we_may() {
    let mut bundle = Bundle::script("sleep 0.05; cat /proc/self/oom_score_adj");
    bundle.set("/process/oomScoreAdj", json!(321));
    assert_eq!(stdout(&bundle), "321\n");
}

#[test]
fn no_descriptor_leaks() {
    let script = "ls /proc/self/fd | wc -l; ls -l /proc/self/fd";
    let bundle = Bundle::script(script);
    bundle.write();
    // A descriptor of ours, open and inheritable, to a host folder.
    let folder = std::fs::File::open("/").unwrap();
    rustix::io::fcntl_setfd(&folder, rustix::io::FdFlags::empty()).unwrap();
    let out = text(&bundle.run().stdout);
    // 0, 1, 2 and the folder that ls reads.
    assert!(out.starts_with("4\n"), "{out}");
}

#[test]
fn asked_for_descriptors_survive() {
    let bundle = Bundle::script("cat <&3");
    bundle.write();
    let file = bundle.dir.path().join("kept");
    std::fs::write(&file, "kept").unwrap();
    // A shell opens it as 3.
    let line = format!(
        "exec 3<{}; exec {} --root {} run --preserve-fds 1 -b {} {}",
        file.display(),
        crate::harness::runtime().display(),
        bundle.state_root().display(),
        bundle.dir.path().display(),
        bundle.id
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &line])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "kept", "{}", text(&output.stderr));
}

#[test]
fn seccomp_denies_with_and_without_new_privileges() {
    for no_new_privileges in [true, false] {
        let mut bundle =
            Bundle::script("mkdir /tmp/x || echo denied; grep Seccomp: /proc/self/status");
        bundle.set("/process/noNewPrivileges", json!(no_new_privileges)).set(
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
            }),
        );
        let out = stdout(&bundle);
        assert!(out.starts_with("denied\n"), "{out}");
        assert!(out.contains("Seccomp:\t2"), "{out}");
    }
}

#[test]
fn dockers_policy_runs_programs() {
    let profile = corten_runtime::seccomp_profile::docker_default(
        &[],
        oci_spec::runtime::Arch::ScmpArchX86_64,
    );
    for no_new_privileges in [true, false] {
        let mut bundle = Bundle::script("echo ran | cat; mount -t tmpfs x /tmp || echo denied");
        bundle
            .set("/linux/seccomp", serde_json::to_value(&profile).unwrap())
            .set("/process/noNewPrivileges", json!(no_new_privileges));
        assert_eq!(stdout(&bundle), "ran\ndenied\n");
    }
}

#[test]
fn seccomp_kills_and_traps() {
    for (action, code) in [("SCMP_ACT_KILL_PROCESS", 159), ("SCMP_ACT_TRAP", 159)] {
        let mut bundle = Bundle::script("sh -c 'mkdir /tmp/x; echo survived'; echo $?");
        bundle.set(
            "/linux/seccomp",
            json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}],
            }),
        );
        let out = stdout(&bundle);
        assert!(
            out.contains(&code.to_string()) || out.contains("survived"),
            "{action}: {out}"
        );
    }
}

#[test]
fn a_strict_policy_needs_no_more_than_exec() {
    if !ours() {
        return;
    }
    // Without execveat the trampoline cannot run under the filter, unless the filter comes after it.
    let policy = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["execveat", "fcntl", "capset", "prctl", "accept4"], "action": "SCMP_ACT_ERRNO"}],
    });
    let mut bundle = Bundle::new(&["echo", "ran"]);
    bundle.set("/linux/seccomp", policy);
    assert_eq!(stdout(&bundle), "ran\n");
    bundle.set("/process/noNewPrivileges", json!(false));
    assert!(error(&bundle, 1).contains("a seccomp policy without execveat"));
}

#[test]
fn signals_are_passed_on() {
    let bundle = Bundle::script("trap 'exit 42' TERM; echo ready; while :; do sleep 0.05; done");
    bundle.write();
    let mut command = bundle.command(["run", "--bundle"]);
    command.arg(bundle.dir.path()).arg(&bundle.id);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(42));
}

#[test]
fn a_short_life_is_never_missed() {
    let bundle = Bundle::new(&["true"]);
    bundle.write();
    for _ in 0..30 {
        let output = bundle.oci([
            "run",
            "--bundle",
            bundle.dir.path().to_str().unwrap(),
            &bundle.id,
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
}
