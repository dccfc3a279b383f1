//! Engines of others on top of `corten-oci`: podman, buildah, containerd, docker, doing an ordinary day's work.
//!
//! What they are asked and what they must answer stands in transcripts (`tests/peers/*.txt`): `$ ` a line of shell,
//! below it what it prints, `# ` a word to the reader; `$? ` is a condition without which there is nothing to test.
//! Each runs in namespaces of its own, so that daemons, mounts
//! and bridges end with it. `CORTEN_TEST_RUNTIME=/usr/sbin/runc` shows what another runtime answers.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::harness::{runtime, text};

/// A line of shell and what it is to print.
struct Step {
    /// Not ours to answer for: if it goes wrong, the machine has no such peer.
    condition: bool,
    line: usize,
    command: String,
    expected: String,
}

fn steps(transcript: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for (number, line) in transcript.lines().enumerate() {
        let condition = line.starts_with("$? ");
        if let Some(command) = line.strip_prefix("$? ").or(line.strip_prefix("$ ")) {
            steps.push(Step {
                condition,
                line: number + 1,
                command: command.into(),
                expected: String::new(),
            });
        } else if let (Some(step), false) = (
            steps.last_mut(),
            line.is_empty() || line.starts_with("# ") || line.starts_with("> "),
        ) {
            step.expected += line;
            step.expected += "\n";
        }
        // A command goes on.
        if let (Some(step), Some(more)) = (steps.last_mut(), line.strip_prefix("> ")) {
            step.command += "\n";
            step.command += more;
        }
    }
    steps
}

/// What every transcript may count on: `$image`, an image of busybox as `$archive`, `$runtime`, folders that are
/// memory and nobody else's.
const PREPARE: &str = r#"
for fixed in /run /var/lib/containers /var/lib/cni /dev/shm /var/lib/containerd /var/lib/docker; do
    mkdir -p $fixed; mount -t tmpfs -o mode=755 test $fixed
done
chmod 1777 /dev/shm
ip link set lo up
"#;

/// On a host with cgroup v1, v2 is had by a mount.
const UNIFIED: &str = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup\n";

/// Runs a transcript and says where it went another way.
fn play(transcript: &str, before: &str) {
    if std::env::var_os("CORTEN_GUEST").is_some() {
        corten_testkit::need::skip("the engines are played on the machine itself");
        return;
    }
    let folder = tempfile::Builder::new()
        .prefix("corten-peer-")
        .tempdir()
        .unwrap();
    archive(folder.path());
    let steps = steps(transcript);
    let mut script = format!("set -eu\n{before}{PREPARE}set +e\n");
    for (number, step) in steps.iter().enumerate() {
        std::fs::write(folder.path().join(format!("step-{number}")), &step.command).unwrap();
        let expected = folder.path().join(format!("expected-{number}"));
        std::fs::write(expected, step.expected.trim_end()).unwrap();
        let run =
            format!("timeout -k 5 60 sh ./step-{number} </dev/null >out-{number} 2>err-{number}");
        script += &match loses_output(step) {
            true => format!(
                "{run}; [ \"$(cat out-{number})\" = \"$(cat expected-{number})\" ] || {run}\n"
            ),
            false => format!("{run}\n"),
        };
    }
    // What a step ended with is said by what it printed.
    script += "true\n";
    apart(&folder, &script);
    sweep();
    let read = |name: String| std::fs::read(folder.path().join(name)).unwrap_or_default();
    let mut wrong = String::new();
    for (number, step) in steps.iter().enumerate() {
        let said = text(&read(format!("out-{number}")));
        if said.trim_end() == step.expected.trim_end() {
            continue;
        }
        if step.condition {
            let why = text(&read(format!("err-{number}")));
            eprintln!("skipped: {}: {said}{why}", step.command);
            return;
        }
        wrong += &format!(
            "line {}: {}\n--- expected\n{}--- said\n{said}--- beside it\n{}\n",
            step.line,
            step.command,
            step.expected,
            text(&read(format!("err-{number}")))
        );
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// conmon accepts podman's connection and reads the program's output in one loop: of a program that ends at once
/// it may read first, and then only the log has what it said; docker has been seen to lose such output too. The
/// faster the start the likelier, so such a step has a second try. It must leave nothing behind, as `--rm` does.
fn loses_output(step: &Step) -> bool {
    let attached = ["p run --rm ", "/usr/bin/docker run --rm "];
    attached.iter().any(|words| step.command.starts_with(words))
}

fn apart(folder: &TempDir, script: &str) {
    let runtime = runtime();
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        folder.path().display()
    );
    // unshare ignores a polite end, so whoever stops this test must take it along.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child"]);
    command.args(["--mount-proc", "sh", "-c", script]);
    let output = command
        .current_dir(folder.path())
        .env("PATH", path)
        .env("HOME", folder.path())
        .env("runtime", &runtime)
        .env("image", "localhost/busybox:latest")
        .env("CONTAINERS_CONF", folder.path().join("containers.conf"))
        .env_remove("XDG_RUNTIME_DIR")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The image as a root file system, and podman's settings: this root may not raise limits everywhere.
fn archive(folder: &Path) {
    let root = folder.join("rootfs");
    for name in [
        "bin", "etc", "tmp", "root", "proc", "sys", "dev", "run", "var",
    ] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let list = Command::new("/bin/busybox").arg("--list").output().unwrap();
    for applet in text(&list.stdout).lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let users = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n";
    std::fs::write(root.join("etc/passwd"), users).unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n").unwrap();
    use std::os::unix::fs::PermissionsExt;
    let everybody = PermissionsExt::from_mode(0o1777);
    std::fs::set_permissions(root.join("tmp"), everybody).unwrap();
    let tar = Command::new("tar")
        .args([
            "--create",
            "--file",
            "rootfs.tar",
            "--directory",
            "rootfs",
            ".",
        ])
        .current_dir(folder)
        .status();
    assert!(tar.unwrap().success());
    let settings = "[containers]\ndefault_ulimits = [\"nofile=1024:20000\", \"nproc=4096:4096\"]\n\
        log_driver = \"k8s-file\"\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
    std::fs::write(folder.join("containers.conf"), settings).unwrap();
    let podman = "#!/bin/sh\nexec podman --runtime \"$runtime\" --storage-driver overlay --root /run/podman \
        --runroot /run/podman-run --tmpdir /run/podman-tmp \"$@\"\n";
    tool(folder, "p", podman);
    let buildah = "#!/bin/sh\nexec buildah --storage-driver overlay --root /run/podman --runroot /run/podman-run \"$@\"\n";
    tool(folder, "b", buildah);
    // What others do by and by is waited for, not slept for.
    let wait = "#!/bin/sh\nfor try in $(seq 300); do sh -c \"$1\" >/dev/null 2>&1 && exit; sleep 0.05; done\n";
    tool(folder, "await", wait);
}

fn tool(folder: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    let file = folder.join(name);
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Groups that engines leave, by their names; one that somebody uses stays.
fn sweep() {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten();
    for hierarchy in hierarchies {
        for parent in [
            "libpod_parent",
            "buildah",
            "corten-peer",
            "docker",
            "default",
        ] {
            let folder = hierarchy.path().join(parent);
            let below = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            below
                .map(|entry| entry.path())
                .filter(|path| path.is_dir())
                .chain([folder.clone()])
                .for_each(|path| {
                    let _ = std::fs::remove_dir(path);
                });
        }
    }
    // podman makes plain folders where a v1 controller is not mounted.
    for hierarchy in ["hugetlb", "net_cls", "net_prio", "perf_event"] {
        let _ = std::fs::remove_dir(root.join(hierarchy));
    }
}

#[test]
fn podman_does_its_rarer_work() {
    play(include_str!("../peers/podman-more.txt"), "");
}

#[test]
fn podman_gives_what_it_is_asked_for() {
    play(include_str!("../peers/podman-options.txt"), "");
}

#[test]
fn podman_does_much_at_once() {
    play(include_str!("../peers/podman-crowd.txt"), "");
}

#[test]
fn podman_works_on_control_groups_v2() {
    play(include_str!("../peers/podman-v2.txt"), UNIFIED);
}

#[test]
fn buildah_builds() {
    play(include_str!("../peers/buildah.txt"), "");
}

#[test]
fn containerd_starts_us_in_runcs_place() {
    play(include_str!("../peers/containerd.txt"), "");
}

#[test]
fn containerd_starts_us_on_control_groups_v2() {
    play(include_str!("../peers/containerd-v2.txt"), UNIFIED);
}

#[test]
fn docker_runs_containers_with_us() {
    play(include_str!("../peers/docker.txt"), "");
}

#[test]
fn podman_does_its_ordinary_work() {
    play(include_str!("../peers/podman.txt"), "");
}
