//! Checkpoints and restores by the criu of this machine. Where `criu check` says that this kernel is not for it,
//! most tests say so and pass; how that refusal looks is then a test of its own.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use corten_testkit::need;
use serde_json::json;

use crate::harness::{Bundle, ours, text};

/// Emulated machines take their time.
const PATIENCE: Duration = Duration::from_secs(60);

enum Here {
    Works,
    /// With its first words why.
    Refuses(String),
    Absent,
}

static CRIU: LazyLock<Here> = LazyLock::new(|| {
    let Ok(output) = Command::new("criu").arg("check").output() else {
        return Here::Absent;
    };
    let said = text(&output.stdout) + &text(&output.stderr);
    match output.status.success() && said.contains("Looks good") {
        true => Here::Works,
        false => Here::Refuses(said.lines().next().unwrap_or_default().into()),
    }
});

/// Or the reason why not, told.
fn works() -> bool {
    match &*CRIU {
        _ if !ours() => false,
        Here::Works => true,
        Here::Refuses(why) => need::that(false, format!("criu check refuses: {why}")),
        Here::Absent => need::that(false, "there is no criu"),
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A bundle, and the images of its container.
struct Rig {
    bundle: Bundle,
    images: PathBuf,
}

/// Counts in memory and shows it in a file.
const COUNT: &str = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.1; done";

impl Rig {
    fn new(script: &str) -> Self {
        let bundle = Bundle::script(script);
        for applet in ["nc", "cp", "umount", "killall"] {
            let _ = symlink("busybox", bundle.root().join("bin").join(applet));
        }
        let images = bundle.dir.path().join("images");
        Self { bundle, images }
    }

    fn count(&self) -> u64 {
        let text = fs::read_to_string(self.bundle.root().join("tmp/count"));
        text.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(0)
    }

    fn counted(&self, least: u64) {
        until("counting", || self.count() >= least);
    }

    fn checkpoint(&self, args: &[&str]) -> Output {
        let mut command = self.bundle.command(["checkpoint", "--image-path"]);
        command.arg(&self.images).args(args).arg(&self.bundle.id);
        command.stdin(Stdio::null()).output().unwrap()
    }

    fn restore_command(&self, args: &[&str]) -> Command {
        let mut command = self.bundle.command(["restore", "--image-path"]);
        command.arg(&self.images).arg("--bundle");
        command.arg(self.bundle.dir.path()).args(args);
        command.arg(&self.bundle.id).stdin(Stdio::null());
        command
    }

    /// Detached; the error's text if it fails.
    fn restore(&self, args: &[&str]) -> Result<(), String> {
        let errors = self.bundle.dir.path().join("errors");
        let mut command = self.restore_command(&[&["--detach"], args].concat());
        command.stdout(Stdio::null());
        let status = command.stderr(fs::File::create(&errors).unwrap()).status();
        match status.unwrap().success() {
            true => Ok(()),
            false => Err(fs::read_to_string(errors).unwrap()),
        }
    }

    fn exec(&self, script: &str) -> String {
        self.bundle
            .ok(["exec", &self.bundle.id, "sh", "-c", script])
    }

    fn log(&self) -> String {
        fs::read_to_string(self.images.join("restore.log")).unwrap_or_default()
    }

    /// A file of the container's group, on v2 or on v1.
    fn group(&self, file: &str) -> String {
        let group = format!("corten-it/{}/{file}", self.bundle.id);
        let read = |root| fs::read_to_string(Path::new(root).join(&group));
        read("/sys/fs/cgroup")
            .or_else(|_| read("/sys/fs/cgroup/pids"))
            .unwrap()
    }

    fn down(&self) {
        self.bundle.ok(["delete", "--force", &self.bundle.id]);
    }
}

fn ok(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// The host's mounts, with the options of their file systems: were criu to mount cgroup2 for itself, the one there is would lose
/// `nsdelegate`.
fn host_mounts() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn criu_memory_mounts_and_limits_come_back() {
    if !works() {
        return;
    }
    let mut rig = Rig::new(COUNT);
    rig.bundle
        .set("/linux/resources/pids", json!({"limit": 77}));
    rig.bundle.up();
    rig.counted(3);
    let look = "cat /proc/kcore | wc -c; echo x 2>&1 > /proc/sys/kernel/hostname; ls /proc/acpi | wc -l; \
                cut -d' ' -f5,6 /proc/self/mountinfo | sort";
    let before = rig.exec(look);
    let mounts = host_mounts();
    ok(&rig.checkpoint(&[]));
    assert_eq!(rig.bundle.status(), "stopped");
    let at = rig.count();
    assert!(at >= 3);
    rig.restore(&[]).unwrap();
    assert_eq!(rig.bundle.status(), "running");
    rig.counted(at + 3);
    assert!(rig.count() < at + 600, "it has begun anew");
    assert_eq!(rig.exec(look), before);
    assert!(rig.exec("cat /proc/self/cgroup").contains(":/\n"));
    assert!(
        rig.exec("ip addr show lo").contains("127.0.0.1"),
        "the loopback link is down"
    );
    assert_eq!(rig.group("pids.max").trim(), "77");
    // Other tests have mounts of their own.
    let now = host_mounts();
    let ours = |line: &&String| line.contains(rig.bundle.dir.path().to_str().unwrap());
    assert_eq!(now.iter().find(ours), mounts.iter().find(ours));
    let groups = |line: &&String| line.contains(" /sys/fs/cgroup ");
    assert_eq!(now.iter().find(groups), mounts.iter().find(groups));
    // It is a container like any other, and can be written down again.
    ok(&rig.checkpoint(&["--leave-running"]));
    assert_eq!(rig.bundle.status(), "running");
    let at = rig.count();
    rig.counted(at + 3);
    rig.bundle.ok(["pause", &rig.bundle.id]);
    ok(&rig.checkpoint(&["--leave-running"]));
    assert_eq!(rig.bundle.status(), "paused");
}

#[test]
fn criu_stdio_goes_to_the_restorers_pipes() {
    if !works() {
        return;
    }
    let rig =
        Rig::new("while read line; do echo \"got $line\"; echo \"err $line\" >&2; done; exit 7");
    rig.bundle.write();
    let mut run = rig.bundle.command(["run", "--detach", "--bundle"]);
    run.arg(rig.bundle.dir.path()).arg(&rig.bundle.id);
    let ends = |command: &mut Command| {
        let (their_in, our_in) = std::io::pipe().unwrap();
        let (our_out, their_out) = std::io::pipe().unwrap();
        let (our_err, their_err) = std::io::pipe().unwrap();
        command.stdin(OwnedFd::from(their_in));
        command.stdout(OwnedFd::from(their_out));
        command.stderr(OwnedFd::from(their_err));
        (our_in, our_out, our_err)
    };
    let heard = |pipe: &mut std::io::PipeReader| {
        let mut bytes = [0; 64];
        let len = pipe.read(&mut bytes).unwrap();
        text(&bytes[..len])
    };
    let (mut input, mut output, _error) = ends(&mut run);
    assert!(run.status().unwrap().success());
    drop(run);
    input.write_all(b"one\n").unwrap();
    assert_eq!(heard(&mut output), "got one\n");
    ok(&rig.checkpoint(&[]));
    drop((input, output));

    // In the foreground this time, so that its status is ours.
    let mut restore = rig.restore_command(&[]);
    let (mut input, mut output, mut error) = ends(&mut restore);
    let mut child = restore.spawn().unwrap();
    drop(restore);
    input.write_all(b"two\n").unwrap();
    assert_eq!(heard(&mut output), "got two\n", "{}", rig.log());
    assert_eq!(heard(&mut error), "err two\n");
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(7));
    let state = rig.bundle.oci(["state", &rig.bundle.id]);
    assert!(!state.status.success(), "it was deleted after its end");
}

#[test]
fn criu_a_new_root_gets_its_mount_points() {
    if !works() {
        return;
    }
    let mut rig = Rig::new(&format!("exec 5>/data/sub/open; echo a >&5; {COUNT}"));
    let shared = rig.bundle.dir.path().join("shared");
    let other = rig.bundle.dir.path().join("other");
    fs::create_dir_all(&shared).unwrap();
    fs::create_dir_all(&other).unwrap();
    fs::write(rig.bundle.dir.path().join("file"), "of the host").unwrap();
    let file = rig.bundle.dir.path().join("file");
    for (destination, source) in [
        ("/data", &shared),
        ("/data/sub", &other),
        ("/etc/file", &file),
        ("/dev/shm/x", &shared),
    ] {
        rig.bundle.mount(json!({
            "destination": destination, "type": "bind", "source": source, "options": ["rbind", "rw"]
        }));
    }
    rig.bundle.up();
    rig.counted(2);
    ok(&rig.checkpoint(&[]));
    // The root of another machine: the same files, none of the mount points.
    for folder in ["data", "proc", "sys", "dev"] {
        fs::remove_dir_all(rig.bundle.root().join(folder)).unwrap();
    }
    fs::remove_file(rig.bundle.root().join("etc/file")).unwrap();
    rig.restore(&[])
        .unwrap_or_else(|e| panic!("{e}{}", rig.log()));
    let seen = rig.exec("cat /etc/file; echo b > /data/sub/new; cat /proc/1/mountinfo | wc -l");
    assert!(seen.starts_with("of the host"), "{seen}");
    assert_eq!(fs::read_to_string(other.join("new")).unwrap(), "b\n");
    assert_eq!(fs::read_to_string(other.join("open")).unwrap(), "a\n");
}

#[test]
fn criu_a_terminal_goes_on() {
    if !works() {
        return;
    }
    let mut rig = Rig::new("while read line; do echo \"got $line on $(tty)\"; done");
    rig.bundle.config["process"]["terminal"] = json!(true);
    rig.bundle.write();
    let path = rig.bundle.dir.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let socket = path.to_str().unwrap();
    let mut create =
        rig.bundle
            .command(["run", "--detach", "--console-socket", socket, "--bundle"]);
    create.arg(rig.bundle.dir.path()).arg(&rig.bundle.id);
    let null = || Stdio::null();
    let status = create.stdin(null()).stdout(null()).stderr(null()).status();
    assert!(status.unwrap().success());
    let mut master = terminal(&listener);
    master.write_all(b"one\n").unwrap();
    said(&mut master, "got one on /dev/pts/0");
    ok(&rig.checkpoint(&[]));
    drop(master);
    rig.restore(&["--console-socket", socket])
        .unwrap_or_else(|e| panic!("{e}{}", rig.log()));
    let mut master = terminal(&listener);
    master.write_all(b"two\n").unwrap();
    said(&mut master, "got two on /dev/pts/0");
    rig.down();
}

fn terminal(listener: &std::os::unix::net::UnixListener) -> fs::File {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    let mut io = [std::io::IoSliceMut::new(&mut bytes)];
    recvmsg(&stream, &mut io, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fd.unwrap().into()
}

fn said(master: &mut fs::File, wanted: &str) {
    let mut seen = String::new();
    until(wanted, || {
        let mut bytes = [0; 256];
        let len = master.read(&mut bytes).unwrap();
        seen += &text(&bytes[..len]);
        seen.contains(wanted)
    });
}

#[test]
fn criu_connections_inside_survive() {
    if !works() {
        return;
    }
    // Both ends in the container, over its own loopback link.
    // A reader that is also a writer keeps a pipe from ending.
    let script = "mkfifo /tmp/say /tmp/quiet; exec 3<>/tmp/quiet; exec 4<>/tmp/say; \
                  nc -l -p 9000 < /tmp/quiet > /tmp/heard & \
                  sleep 1; nc 127.0.0.1 9000 < /tmp/say & echo one >&4; \
                  while :; do if [ -e /tmp/go ]; then echo two >&4; rm /tmp/go; fi; sleep 0.1; done";
    let rig = Rig::new(script);
    for applet in ["mkfifo", "rm"] {
        symlink("busybox", rig.bundle.root().join("bin").join(applet)).unwrap();
    }
    rig.bundle.up();
    let heard = || fs::read_to_string(rig.bundle.root().join("tmp/heard")).unwrap_or_default();
    until("one", || heard() == "one\n");
    // Without a word about connections criu refuses; then the container must go on.
    let refused = rig.checkpoint(&[]);
    assert_eq!(refused.status.code(), Some(1));
    let message = text(&refused.stderr);
    assert!(
        message.contains("criu cannot checkpoint the container"),
        "{message}"
    );
    assert!(
        message.contains("dump.log") && message.contains("tcp-established"),
        "{message}"
    );
    assert_eq!(rig.bundle.status(), "running");
    ok(&rig.checkpoint(&["--tcp-established"]));
    rig.restore(&["--tcp-established"])
        .unwrap_or_else(|e| panic!("{e}{}", rig.log()));
    fs::write(rig.bundle.root().join("tmp/go"), "").unwrap();
    until("two", || heard() == "one\ntwo\n");
}

#[test]
fn criu_pre_dumps_make_a_chain() {
    if !works() {
        return;
    }
    let mut rig = Rig::new(COUNT);
    rig.bundle.up();
    rig.counted(2);
    rig.images = rig.bundle.dir.path().join("first");
    let first = rig.checkpoint(&["--pre-dump"]);
    let message = text(&first.stderr);
    if message.contains("does not track changes") {
        need::skip(message);
        return;
    }
    ok(&first);
    assert_eq!(rig.bundle.status(), "running");
    rig.images = rig.bundle.dir.path().join("second");
    ok(&rig.checkpoint(&["--parent-path", "../first"]));
    assert_eq!(
        fs::read_link(rig.images.join("parent")).unwrap(),
        Path::new("../first")
    );
    let at = rig.count();
    rig.restore(&["--no-pivot"])
        .unwrap_or_else(|e| panic!("{e}{}", rig.log()));
    rig.counted(at + 3);
}

#[test]
fn criu_a_joined_network_is_joined_again() {
    if !works() {
        return;
    }
    let mut rig = Rig::new(COUNT);
    let mut holder = Command::new("unshare")
        .args(["--net", "sleep", "600"])
        .spawn()
        .unwrap();
    let path = format!("/proc/{}/ns/net", holder.id());
    let own = fs::read_link("/proc/self/ns/net").unwrap();
    until("a namespace", || {
        fs::read_link(&path).is_ok_and(|l| l != own)
    });
    rig.bundle.namespaces(|list| {
        list.retain(|n| n["type"] != "network");
        list.push(json!({"type": "network", "path": path}));
    });
    rig.bundle.up();
    rig.counted(2);
    let joined = fs::read_link(&path).unwrap();
    ok(&rig.checkpoint(&[]));
    let restored = rig.restore(&[]);
    let pid = rig.bundle.oci(["state", &rig.bundle.id]);
    let inside = text(&pid.stdout);
    let inside: Option<serde_json::Value> = serde_json::from_str(&inside).ok();
    let link = inside.map(|state| fs::read_link(format!("/proc/{}/ns/net", state["pid"])).unwrap());
    holder.kill().unwrap();
    holder.wait().unwrap();
    restored.unwrap_or_else(|e| panic!("{e}{}", rig.log()));
    assert_eq!(link, Some(joined));
}

#[test]
fn criu_a_user_namespace_comes_back() {
    if !works() {
        return;
    }
    let mut rig = Rig::new("id -u > /tmp/id; sleep 600");
    rig.bundle
        .namespaces(|list| list.push(json!({"type": "user"})));
    let map = json!([{"containerID": 0, "hostID": 100000, "size": 65536}]);
    rig.bundle.set("/linux/uidMappings", map.clone());
    rig.bundle.set("/linux/gidMappings", map);
    let open = |path: PathBuf| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    };
    open(rig.bundle.dir.path().into());
    open(rig.bundle.root());
    open(rig.bundle.root().join("tmp"));
    rig.bundle.up();
    until("an id", || rig.bundle.root().join("tmp/id").exists());
    ok(&rig.checkpoint(&[]));
    rig.restore(&[])
        .unwrap_or_else(|e| panic!("{e}{}", rig.log()));
    let map = fs::read_to_string(format!("/proc/{}/uid_map", rig.bundle.pid())).unwrap();
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "65536"]
    );
    let dev =
        "id -u; echo x > /dev/null; cat /proc/kcore | wc -c; tty < /dev/ptmx; stat -c %u /dev";
    assert_eq!(rig.exec(dev), "0\n0\n/dev/pts/ptmx\n0\n");
    // And a second time.
    ok(&rig.checkpoint(&[]));
    rig.restore(&[])
        .unwrap_or_else(|e| panic!("{e}{}", rig.log()));
}

/// The first of these processes.
fn kill(list: &str) {
    let first = list.split_whitespace().next().unwrap().parse().unwrap();
    let process = rustix::process::Pid::from_raw(first).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn criu_killed_in_the_middle() {
    if !works() {
        return;
    }
    let rig = Rig::new(COUNT);
    rig.bundle.up();
    rig.counted(2);
    // A dump, with us killed: criu misses its client, and lets the container go on.
    let mut dump = rig.bundle.command(["checkpoint", "--image-path"]);
    dump.arg(&rig.images).arg(&rig.bundle.id);
    let mut child = dump.stderr(Stdio::null()).spawn().unwrap();
    until("a dump", || rig.images.join("dump.log").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    until("running again", || rig.bundle.status() == "running");
    let at = rig.count();
    rig.counted(at + 3);
    fs::remove_dir_all(&rig.images).unwrap();

    // A dump, with criu killed: what it has done to the processes nobody can undo, but they can be removed.
    let mut dump = rig.bundle.command(["checkpoint", "--image-path"]);
    dump.arg(&rig.images).arg(&rig.bundle.id);
    let mut child = dump.stderr(Stdio::null()).spawn().unwrap();
    until("a dump", || rig.images.join("dump.log").exists());
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    kill(&fs::read_to_string(children).unwrap());
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_ne!(rig.bundle.status(), "paused");
    rig.down();
    fs::remove_dir_all(&rig.images).unwrap();
    rig.bundle.up();
    rig.counted(2);

    ok(&rig.checkpoint(&[]));
    // Restores, killed at more and more distant moments.
    for millis in [0, 200, 600, 1200, 2000] {
        let _ = fs::remove_file(rig.images.join("restore.log"));
        let mut command = rig.restore_command(&["--detach"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        until("a restore", || rig.images.join("restore.log").exists());
        std::thread::sleep(Duration::from_millis(millis));
        let _ = child.kill();
        child.wait().unwrap();
        rig.down();
        let group = format!("/sys/fs/cgroup/corten-it/{}", rig.bundle.id);
        assert!(!Path::new(&group).exists(), "after {millis} ms");
        assert!(!rig.bundle.state_root().join(&rig.bundle.id).exists());
    }
    // And criu itself.
    let _ = fs::remove_file(rig.images.join("restore.log"));
    let mut command = rig.restore_command(&["--detach"]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    until("a restore", || rig.images.join("restore.log").exists());
    kill(&rig.group("cgroup.procs"));
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(
        !rig.bundle.state_root().join(&rig.bundle.id).exists(),
        "it cleans up itself"
    );
    rig.restore(&[])
        .unwrap_or_else(|e| panic!("{e}{}", rig.log()));
    let at = rig.count();
    rig.counted(at + 3);
}

#[test]
fn criu_by_podman() {
    let podman = || Command::new("podman").arg("--version").output().is_ok();
    if !works() || !need::that(podman(), "there is no podman") {
        return;
    }
    let rig = Rig::new(COUNT);
    let dir = rig.bundle.dir.path();
    let podman = |args: &[&str]| {
        let mut command = Command::new("podman");
        command.arg("--root").arg(dir.join("storage"));
        command.arg("--runroot").arg(dir.join("run"));
        command.args(["--cgroup-manager=cgroupfs", "--storage-driver=vfs"]);
        command.args(["--events-backend=none", "--runtime"]);
        command.arg(crate::harness::runtime()).args(args);
        command.env("TMPDIR", dir).stdin(Stdio::null());
        let output = command.output().unwrap();
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(output.status.success(), "podman {args:?}: {said}");
        said
    };
    let archive = dir.join("root.tar");
    let mut tar = Command::new("tar");
    tar.arg("-C")
        .arg(rig.bundle.root())
        .arg("-cf")
        .arg(&archive)
        .arg(".");
    assert!(tar.status().unwrap().success());
    podman(&["import", archive.to_str().unwrap(), "tiny"]);
    let run = ["run", "--detach", "--network=none", "--name=first", "tiny"];
    podman(&[&run[..], &["sh", "-c", COUNT]].concat());
    let counted = |name: &str| -> u64 {
        let count = podman(&["exec", name, "cat", "/tmp/count"]);
        count.trim().parse().unwrap_or(0)
    };
    until("counting", || counted("first") > 2);
    let at = counted("first");
    podman(&["container", "checkpoint", "first"]);
    assert!(podman(&["ps", "--all", "--format={{.Status}}"]).starts_with("Exited"));
    podman(&["container", "restore", "first"]);
    until("counting on", || counted("first") > at);
    let export = dir.join("export.tar");
    let export = export.to_str().unwrap();
    podman(&["container", "checkpoint", "--export", export, "first"]);
    podman(&["container", "restore", "--import", export, "--name=second"]);
    until("counting on", || counted("second") > at);
    podman(&["rm", "--force", "--time=0", "first", "second"]);
}

#[test]
fn criu_refuses_this_kernel_in_its_own_words() {
    let refuses = matches!(*CRIU, Here::Refuses(_));
    if !ours() || !need::that(refuses, "there is no criu that refuses this kernel") {
        return;
    }
    let rig = Rig::new(COUNT);
    rig.bundle.up();
    rig.counted(1);
    let output = rig.checkpoint(&[]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    println!("{message}");
    assert!(
        message.contains("criu cannot checkpoint the container"),
        "{message}"
    );
    assert!(message.contains("dump.log"), "{message}");
    assert!(message.contains("Error (criu/"), "{message}");
    assert_eq!(rig.bundle.status(), "running");
    let at = rig.count();
    rig.counted(at + 2);
    // The other way round there are no images.
    rig.down();
    let error = rig.restore(&[]).unwrap_err();
    println!("{error}");
    assert!(
        error.contains("criu cannot restore the container"),
        "{error}"
    );
    assert!(!rig.bundle.state_root().join(&rig.bundle.id).exists());
}
