//! podman without root drives the runtime: its own user namespace around us, or one of ours in that.

use std::process::Output;

use corten_testkit::need;

use crate::harness::text;
use crate::user::{Rootless, UID};

/// podman of a user, with an image of busybox and storage of its own.
struct Podman {
    user: Rootless,
}

impl Podman {
    fn new() -> Self {
        let user = Rootless::new(&["true"]);
        let podman = Self { user };
        let root = podman.user.bundle.root();
        let script = format!(
            r#"mkdir -p .config/containers
            printf '[engine]\nruntime_supports_nocgroup=["corten-oci"]\nruntime_supports_json=["corten-oci"]\n[engine.runtimes]\ncorten-oci=["%s"]\n' "$1" > .config/containers/containers.conf
            tar -C {} --owner=0 --group=0 -c . | podman --storage-driver vfs import - box"#,
            root.display()
        );
        podman.ok_script(&script);
        podman
    }

    /// A script of the user's, in which `$P` is podman.
    fn script(&self, script: &str) -> Output {
        let runtime = self.user.path("corten-oci");
        let script = format!(
            "cd; P='podman --storage-driver vfs --events-backend file --runtime corten-oci'\n{script}"
        );
        // A podman that hangs must not take the tests along.
        let mut command = self.user.command("timeout");
        command
            .args(["-k", "1", "60", "sh", "-c", &script, "sh"])
            .arg(runtime);
        command.output().unwrap()
    }

    fn ok_script(&self, script: &str) -> String {
        let output = self.script(script);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{script}: {out}{err}");
        out
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Ends the process that holds podman's namespaces open.
        let output = self.script("$P rm -fa -t0; $P system migrate");
        if !std::thread::panicking() {
            assert!(output.status.success(), "{}", text(&output.stderr));
        }
    }
}

#[test]
fn podman_runs_containers_of_a_user() {
    if !need::file("/dev/fuse") {
        return;
    }
    let podman = Podman::new();
    // By its log: of a container that ends at once, podman's own attaching loses the output at times.
    let run = |options: &str, command: &str| {
        podman.ok_script(&format!(
            "$P run --name r --network none {options} box {command} > run.out && $P logs r && $P rm r > rm.out"
        ))
    };
    assert_eq!(run("", "id -u"), "0\n");
    assert_eq!(run("--user 7:8", "id -g"), "8\n");
    let map = run("--cgroups=disabled", "cat /proc/self/uid_map");
    assert_eq!(map.lines().count(), 2, "{map}");
    let own = UID.to_string();
    assert_eq!(run("--userns=keep-id", "id -u").trim(), own);
    run("-v ./:/data", "sh -c 'touch /data/made'");
    let made = std::fs::metadata(podman.user.path("home/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), UID);
    assert_eq!(run("--read-only --tmpfs /t", "touch /t/x"), "");
    assert_eq!(run("--pid host --uts host", "echo host"), "host\n");
    assert_eq!(run("--privileged", "echo all"), "all\n");
    assert_eq!(
        run("--hostname box", "cat /proc/sys/kernel/hostname"),
        "box\n"
    );
    assert!(run("--device /dev/fuse", "stat -c %t,%T /dev/fuse").contains("a,e5"));
    // On v1 podman leaves limits out that nobody could set there; on v2 it asks, and has to be told.
    let limit = podman.script("$P run --rm --network none --pids-limit 100 box true");
    let message = text(&limit.stderr);
    match std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        true => assert!(message.contains("sets pids.max to 100"), "{message}"),
        false => assert!(limit.status.success(), "{message}"),
    }
    let terminal = r#"script -qec "$P run --rm -it --network none box tty" /dev/null"#;
    assert!(podman.ok_script(terminal).contains("/dev/pts/0"));
    let code = podman.script("$P run --rm --network none box nope");
    assert_eq!(code.status.code(), Some(127), "{}", text(&code.stderr));
}

#[test]
fn podman_adds_processes_to_containers_of_a_user() {
    if !need::file("/dev/fuse") {
        return;
    }
    let podman = Podman::new();
    for options in ["", "--userns=keep-id", "--cgroups=disabled"] {
        podman.ok_script(&format!(
            "$P run -d --name c {options} --network none box sleep 1000"
        ));
        assert_eq!(
            podman.ok_script("$P exec -u 5:6 c id -u"),
            "5\n",
            "{options}"
        );
        let pids = podman.ok_script("$P exec c sh -c 'cat /proc/1/cmdline; echo $$'");
        assert!(pids.starts_with("sleep"), "{pids}");
        let terminal = podman.ok_script(r#"script -qec "$P exec -it c tty" /dev/null"#);
        assert!(terminal.contains("/dev/pts/0"), "{options}: {terminal}");
        assert_eq!(
            podman.script("$P exec c sh -c 'exit 3'").status.code(),
            Some(3)
        );
        podman.ok_script("$P stop -t 0 c && $P start c && $P exec c true");
        podman.ok_script("$P rm -f -t 0 c");
    }
}

#[test]
fn podman_joins_containers_of_a_user() {
    if !need::file("/dev/fuse") {
        return;
    }
    let podman = Podman::new();
    podman.ok_script("$P run -d --name c --network none --hostname c box sleep 1000");
    podman.ok_script(
        "$P run -d --name k --userns=keep-id --network none --hostname k box sleep 1000",
    );
    let script =
        "cat /proc/1/cmdline; cat /proc/sys/kernel/hostname; exec readlink /proc/self/ns/net";
    for (name, options) in [("c", ""), ("k", "--userns=container:k")] {
        let shared = format!(
            "--pid container:{name} --ipc container:{name} --uts container:{name} --network container:{name}"
        );
        let output = podman.ok_script(&format!(
            "$P run --rm {options} {shared} box sh -c '{script}'"
        ));
        let net = podman.ok_script(&format!("$P exec {name} readlink /proc/self/ns/net"));
        assert_eq!(output, format!("sleep\01000\0{name}\n{net}"), "{name}");
    }
    let output = podman.ok_script("$P run --rm --userns=container:c --network none box id -u");
    assert_eq!(output, "0\n");
}

#[test]
fn podman_gives_a_users_container_a_network() {
    if !need::file("/dev/net/tun") {
        return;
    }
    let podman = Podman::new();
    let output = podman.ok_script("$P run --rm --network slirp4netns box ls /sys/class/net");
    assert_eq!(output, "lo\ntap0\n");
    let output = podman.ok_script("$P run --rm --network host box ls /sys/class/net");
    let links = std::fs::read_dir("/sys/class/net").unwrap().count();
    assert_eq!(output.lines().count(), links);
}
