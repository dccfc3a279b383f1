//! What is said to criu, option by option, and what is made of its answers: with a criu that makes no images
//! (`examples/fake-criu.rs`). Needs no criu, and no kernel that it works on.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use crate::harness::{Bundle, ours, runtime, text};

/// Names of messages and fields in criu's rpc.proto, by path of numbers.
const NAMES: [(&str, &str); 47] = [
    ("1", "type"),
    ("2.1", "images_dir_fd"),
    ("2.2", "pid"),
    ("2.3", "leave_running"),
    ("2.4", "ext_unix_sk"),
    ("2.5", "tcp_established"),
    ("2.6", "evasive_devices"),
    ("2.7", "shell_job"),
    ("2.8", "file_locks"),
    ("2.9", "log_level"),
    ("2.10", "log_file"),
    ("2.11.1", "ps.address"),
    ("2.11.2", "ps.port"),
    ("2.12", "notify_scripts"),
    ("2.13", "root"),
    ("2.14", "parent_img"),
    ("2.15", "track_mem"),
    ("2.16", "auto_dedup"),
    ("2.17", "work_dir_fd"),
    ("2.18", "link_remap"),
    ("2.23.1", "ext_mnt.key"),
    ("2.23.2", "ext_mnt.val"),
    ("2.24", "manage_cgroups"),
    ("2.25.1", "cg_root.ctrl"),
    ("2.25.2", "cg_root.path"),
    ("2.26", "rst_sibling"),
    ("2.27.1", "inherit_fd.key"),
    ("2.27.2", "inherit_fd.fd"),
    ("2.34", "manage_cgroups_mode"),
    ("2.37", "external"),
    ("2.38", "empty_ns"),
    ("2.39.1", "join_ns.ns"),
    ("2.39.2", "join_ns.ns_file"),
    ("2.44", "freeze_cgroup"),
    ("2.46", "tcp_skip_in_flight"),
    ("2.48", "lazy_pages"),
    ("2.49", "status_fd"),
    ("2.50", "orphan_pts_master"),
    ("2.51", "config_file"),
    ("2.53", "lsm_profile"),
    ("2.60", "cgroup_yard"),
    ("2.61", "pre_dump_mode"),
    ("2.63", "lsm_mount_context"),
    ("3", "notify_success"),
    ("4", "keep_open"),
    ("5.1", "features.mem_track"),
    ("5.2", "features.lazy_pages"),
];

/// A request as lines `name=value`, by a decoder of the test's own.
fn decode(bytes: &[u8], path: &str, lines: &mut Vec<(String, String)>) {
    let mut at = 0;
    let varint = |at: &mut usize| {
        let (mut value, mut shift) = (0u64, 0);
        loop {
            let byte = bytes[*at];
            *at += 1;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    };
    while at < bytes.len() {
        let key = varint(&mut at);
        let path = match path {
            "" => (key >> 3).to_string(),
            path => format!("{path}.{}", key >> 3),
        };
        let name = || {
            let found = NAMES.iter().find(|(number, _)| *number == path);
            found.unwrap_or_else(|| panic!("unknown field {path}")).1
        };
        match key & 7 {
            0 => {
                let value = varint(&mut at).to_string();
                lines.push((name().into(), value));
            }
            2 => {
                let len = varint(&mut at) as usize;
                let inner = &bytes[at..at + len];
                at += len;
                match path.as_str() {
                    "2" | "5" | "2.11" | "2.23" | "2.25" | "2.27" | "2.39" => {
                        decode(inner, &path, lines);
                    }
                    _ => lines.push((name().into(), text(inner))),
                }
            }
            other => panic!("wire type {other}"),
        }
    }
}

/// A bundle and a fake criu for it.
struct Rig {
    bundle: Bundle,
    fake: PathBuf,
    images: PathBuf,
}

impl Rig {
    fn new(script: &str) -> Self {
        let bundle = Bundle::new(&["sleep", "600"]);
        let fake = bundle.dir.path().join("fake");
        fs::create_dir_all(fake.join("bin")).unwrap();
        let binary = runtime().parent().unwrap().join("examples/fake-criu");
        assert!(binary.exists(), "{binary:?} is not built");
        symlink(binary, fake.join("bin/criu")).unwrap();
        fs::write(fake.join("script"), script).unwrap();
        let images = bundle.dir.path().join("images");
        Self {
            bundle,
            fake,
            images,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.bundle.command(args);
        command
            .env("FAKE_CRIU", &self.fake)
            .env("PATH", self.fake.join("bin"))
            .stdin(Stdio::null());
        command
    }

    fn checkpoint(&self, args: &[&str]) -> Output {
        let images = self.images.to_str().unwrap();
        let mut command = self.command(&["checkpoint", "--image-path", images]);
        command.args(args).arg(&self.bundle.id).output().unwrap()
    }

    /// As if a checkpoint had been there.
    fn image(&self, descriptors: &str) {
        fs::create_dir_all(&self.images).unwrap();
        fs::write(self.images.join("descriptors.json"), descriptors).unwrap();
    }

    fn restore(&self, args: &[&str]) -> Output {
        self.bundle.write();
        let (images, bundle) = (self.images.to_str().unwrap(), self.bundle.dir.path());
        let log = fs::File::create(self.fake.join("stderr")).unwrap();
        let mut command = self.command(&["restore", "--image-path", images, "--detach"]);
        command.arg("--bundle").arg(bundle).args(args);
        // A restored process may keep what it inherits.
        let status = command
            .arg(&self.bundle.id)
            .stdout(Stdio::null())
            .stderr(log)
            .status()
            .unwrap();
        Output {
            status,
            stdout: Vec::new(),
            stderr: fs::read(self.fake.join("stderr")).unwrap(),
        }
    }

    fn request(&self) -> Vec<(String, String)> {
        let bytes = fs::read(self.fake.join("request")).unwrap();
        let mut lines = Vec::new();
        decode(&bytes, "", &mut lines);
        lines
    }

    /// The request without what differs from run to run and host to host.
    fn plain(&self) -> BTreeMap<String, String> {
        let differs = [
            "images_dir_fd",
            "work_dir_fd",
            "pid",
            "freeze_cgroup",
            "cgroup_yard",
            "root",
        ];
        let listed = |name: &str| {
            ["ext_mnt", "cg_root", "inherit_fd", "external", "join_ns"]
                .iter()
                .any(|list| name.starts_with(list))
        };
        self.request()
            .into_iter()
            .filter(|(name, _)| !differs.contains(&&**name) && !listed(name))
            .collect()
    }

    fn all(&self, name: &str) -> Vec<String> {
        let request = self.request().into_iter();
        request
            .filter(|(known, _)| known == name)
            .map(|(_, value)| value)
            .collect()
    }

    fn up(&self) {
        self.bundle.up();
    }
}

fn expected(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
    let own = |(name, value): &(&str, &str)| (String::from(*name), String::from(*value));
    lines.iter().map(own).collect()
}

fn ok(output: &Output) {
    assert!(output.status.success(), "{}", text(&output.stderr));
}

/// What every dump says.
const DUMP: [(&str, &str); 8] = [
    ("type", "1"),
    ("log_level", "4"),
    ("log_file", "dump.log"),
    ("notify_scripts", "1"),
    ("manage_cgroups", "1"),
    ("manage_cgroups_mode", "6"),
    ("empty_ns", "1073741824"),
    ("orphan_pts_master", "1"),
];

/// Whether criu is told where control groups are, so that it mounts none: where there is version 2 alone.
fn yards() -> bool {
    std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

#[test]
fn a_plain_dump() {
    if !ours() {
        return;
    }
    let rig = Rig::new("notify network-lock\nnotify post-dump\nok\n");
    rig.up();
    ok(&rig.checkpoint(&["--leave-running"]));
    let mut plain = expected(&DUMP);
    plain.insert("leave_running".into(), "1".into());
    assert_eq!(rig.plain(), plain);
    assert_eq!(rig.all("pid"), [rig.bundle.pid().to_string()]);
    assert_eq!(rig.all("root"), [rig.bundle.root().to_str().unwrap()]);
    let freezer = rig.all("freeze_cgroup").remove(0);
    assert!(
        freezer.ends_with(&format!("/corten-it/{}", rig.bundle.id)),
        "{freezer}"
    );
    assert!(std::path::Path::new(&freezer).is_dir());
    assert_eq!(rig.all("cgroup_yard").len(), usize::from(yards()));
    // The null device of the host, three times one and the same.
    let names = fs::read_to_string(rig.images.join("descriptors.json")).unwrap();
    let names: Vec<String> = serde_json::from_str(&names).unwrap();
    assert_eq!(names.len(), 3);
    assert!(
        names[0].starts_with("file[") && names[0] == names[2],
        "{names:?}"
    );
    assert_eq!(rig.all("external"), [names[0].clone()]);
    let acks = fs::read_to_string(rig.fake.join("acks")).unwrap();
    assert_eq!(
        acks,
        "network-lock [8, 6, 24, 1]\npost-dump [8, 6, 24, 1]\n"
    );
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&rig.images).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700, "others may read the images");
}

#[test]
fn every_option_of_a_dump() {
    if !ours() {
        return;
    }
    let rig = Rig::new("notify status-ready\nok\n");
    rig.up();
    fs::create_dir_all(rig.images.join("../parent")).unwrap();
    let work = rig.bundle.dir.path().join("work");
    let ready = rig.bundle.dir.path().join("ready");
    fs::write(&ready, "").unwrap();
    let images = rig.images.to_str().unwrap();
    let mut shell = Command::new("sh");
    let line = format!(
        "exec {} --root {} checkpoint --image-path {images} --work-path {} --status-fd 7 \"$@\" 7>{}",
        runtime().display(),
        rig.bundle.state_root().display(),
        work.display(),
        ready.display()
    );
    let options = [
        "--parent-path=../parent",
        "--leave-running",
        "--tcp-established",
        "--tcp-skip-in-flight",
        "--ext-unix-sk",
        "--shell-job",
        "--lazy-pages",
        "--page-server=[::1]:2700",
        "--file-locks",
        "--manage-cgroups-mode=strict",
        "--empty-ns=network",
        "--auto-dedup",
        "--link-remap",
    ];
    fs::create_dir_all(&rig.images).unwrap();
    shell
        .args(["-c", &line, "sh"])
        .args(options)
        .arg(&rig.bundle.id);
    let path = format!("{}:/usr/bin:/bin", rig.fake.join("bin").display());
    let output = shell
        .env("FAKE_CRIU", &rig.fake)
        .env("PATH", path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    ok(&output);
    let mut plain = expected(&DUMP);
    plain.extend(expected(&[
        ("parent_img", "../parent"),
        ("track_mem", "1"),
        ("leave_running", "1"),
        ("tcp_established", "1"),
        ("tcp_skip_in_flight", "1"),
        ("ext_unix_sk", "1"),
        ("shell_job", "1"),
        ("lazy_pages", "1"),
        ("ps.address", "::1"),
        ("ps.port", "2700"),
        ("file_locks", "1"),
        ("manage_cgroups_mode", "5"),
        ("auto_dedup", "1"),
        ("link_remap", "1"),
    ]));
    assert_eq!(rig.plain(), plain);
    assert_eq!(rig.all("work_dir_fd").len(), 1);
    assert!(work.is_dir());
    assert_eq!(fs::read(&ready).unwrap(), [0]);
}

#[test]
fn a_pre_dump_writes_memory_only() {
    if !ours() {
        return;
    }
    let rig = Rig::new("ok\n");
    rig.up();
    ok(&rig.checkpoint(&["--pre-dump"]));
    let mut plain = expected(&DUMP);
    plain.extend(expected(&[("type", "4"), ("track_mem", "1")]));
    assert_eq!(rig.plain(), plain);
    assert!(!rig.images.join("descriptors.json").exists());
    assert_eq!(rig.bundle.status(), "running");
    fs::write(rig.fake.join("featureless"), "").unwrap();
    let refused = rig.checkpoint(&["--pre-dump"]);
    assert!(text(&refused.stderr).contains("does not track changes of memory"));
}

#[test]
fn mounts_and_namespaces_from_outside_are_named() {
    if !ours() {
        return;
    }
    let mut rig = Rig::new("ok\n");
    let shared = rig.bundle.dir.path().join("shared");
    fs::create_dir_all(&shared).unwrap();
    symlink("real", rig.bundle.root().join("link")).unwrap();
    fs::create_dir(rig.bundle.root().join("real")).unwrap();
    rig.bundle.mount(json!({
        "destination": "/link/data", "type": "bind", "source": shared, "options": ["rbind", "ro"]
    }));
    rig.bundle.namespaces(|list| {
        for (kind, path) in [("network", "net"), ("uts", "uts")] {
            list.retain(|n| n["type"] != kind);
            list.push(json!({"type": kind, "path": format!("/proc/self/ns/{path}")}));
        }
    });
    rig.bundle.config["hostname"] = serde_json::Value::Null;
    rig.up();
    ok(&rig.checkpoint(&["--leave-running"]));
    let inode = fs::read_link("/proc/self/ns/net").unwrap();
    let inode = inode.to_str().unwrap().replace("net:", "net");
    assert!(
        rig.all("external")
            .contains(&format!("{inode}:extRootNetNS"))
    );
    // As criu sees it, under the name that the spec gives it.
    assert!(
        rig.all("ext_mnt.key").contains(&"/real/data".into()),
        "{:?}",
        rig.request()
    );
    assert!(rig.all("ext_mnt.val").contains(&"/link/data".into()));
    rig.bundle.ok(["delete", "--force", &rig.bundle.id]);

    // The restore, into a root without the mount point.
    fs::remove_dir(rig.bundle.root().join("real/data")).unwrap();
    let script = "spawn\nnotify setup-namespaces\nnotify post-restore\nok\n";
    fs::write(rig.fake.join("script"), script).unwrap();
    ok(&rig.restore(&[]));
    assert!(rig.all("ext_mnt.key").contains(&"/link/data".into()));
    assert!(
        rig.all("ext_mnt.val")
            .contains(&shared.to_str().unwrap().into())
    );
    assert!(rig.bundle.root().join("real/data").is_dir());
    assert_eq!(rig.all("cgroup_yard").len(), usize::from(yards()));
    assert_eq!(rig.all("join_ns.ns"), ["uts"]);
    assert_eq!(rig.all("join_ns.ns_file"), ["/proc/self/ns/uts"]);
    assert!(rig.all("inherit_fd.key").contains(&"extRootNetNS".into()));
}

/// Others are in it, whatever becomes of the restore.
#[test]
fn a_joined_namespace_keeps_its_name() {
    if !ours() {
        return;
    }
    for (script, succeeds) in [
        (
            "spawn\nnotify setup-namespaces\nrename UTS of-the-image\nnotify post-restore\nok\n",
            true,
        ),
        (
            "spawn\nnotify setup-namespaces\nrename UTS of-the-image\nfail 17\n",
            false,
        ),
        ("rename UTS of-the-image\ndie\n", false),
    ] {
        let mut holder = Command::new("unshare")
            .args([
                "--uts",
                "sh",
                "-c",
                "echo of-the-pod > /proc/sys/kernel/hostname; echo; exec cat",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        holder
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut line)
            .unwrap();
        let uts = format!("/proc/{}/ns/uts", holder.id());
        let mut rig = Rig::new(&script.replace("UTS", &uts));
        rig.bundle.namespaces(|list| {
            list.retain(|n| n["type"] != "uts");
            list.push(json!({"type": "uts", "path": uts}));
        });
        rig.bundle.config["hostname"] = serde_json::Value::Null;
        rig.image("[]");
        let restored = rig.restore(&[]);
        assert_eq!(
            restored.status.success(),
            succeeds,
            "{}",
            text(&restored.stderr)
        );
        let name = Command::new("nsenter")
            .args([&format!("--uts={uts}"), "cat", "/proc/sys/kernel/hostname"])
            .output()
            .unwrap();
        assert_eq!(text(&name.stdout), "of-the-pod\n", "{script}");
        // The end of its input.
        drop(holder.stdin.take());
        holder.wait().unwrap();
    }
}

#[test]
fn every_option_of_a_restore() {
    if !ours() {
        return;
    }
    let mut rig = Rig::new("spawn\nnotify setup-namespaces\nnotify post-restore\nok\n");
    let hook = rig.bundle.dir.path().join("hook");
    fs::write(&hook, format!("#!/bin/sh\ncat > {}.$1\n", hook.display())).unwrap();
    fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for kind in ["prestart", "createRuntime", "createContainer", "poststart"] {
        rig.bundle.config["hooks"][kind] =
            json!([{"path": hook, "args": ["hook", kind], "env": ["PATH=/usr/bin:/bin"]}]);
    }
    rig.image(r#"["file[21:4]","pipe:[77]","pipe:[77]"]"#);
    let work = rig.bundle.dir.path().join("work");
    let pid_file = rig.bundle.dir.path().join("pid");
    ok(&rig.restore(&[
        "--work-path",
        work.to_str().unwrap(),
        "--pid-file",
        pid_file.to_str().unwrap(),
        "--tcp-established",
        "--ext-unix-sk",
        "--shell-job",
        "--file-locks",
        "--link-remap",
        "--lazy-pages",
        "--auto-dedup",
        "--no-subreaper",
        "--no-pivot",
        "--empty-ns",
        "network",
        "--manage-cgroups-mode=ignore",
        "--lsm-profile=apparmor:web",
        "--lsm-mount-context=system_u:object_r:web_t:s0",
    ]));
    let plain = expected(&[
        ("type", "2"),
        ("evasive_devices", "1"),
        ("log_level", "4"),
        ("log_file", "restore.log"),
        ("notify_scripts", "1"),
        ("rst_sibling", "1"),
        ("manage_cgroups", "1"),
        ("manage_cgroups_mode", "0"),
        ("empty_ns", "1073741824"),
        ("orphan_pts_master", "1"),
        ("tcp_established", "1"),
        ("ext_unix_sk", "1"),
        ("shell_job", "1"),
        ("file_locks", "1"),
        ("link_remap", "1"),
        ("lazy_pages", "1"),
        ("auto_dedup", "1"),
        ("lsm_profile", "apparmor:web"),
        ("lsm_mount_context", "system_u:object_r:web_t:s0"),
    ]);
    assert_eq!(rig.plain(), plain);
    assert_eq!(rig.all("inherit_fd.key"), ["file[21:4]", "pipe:[77]"]);
    assert_eq!(rig.all("inherit_fd.fd"), ["4", "5"]);
    let group = format!("/corten-it/{}", rig.bundle.id);
    assert!(rig.all("cg_root.path").iter().any(|p| p.ends_with(&group)));
    let state = rig.bundle.state();
    assert_eq!(state["status"], "running");
    assert_eq!(
        fs::read_to_string(pid_file).unwrap(),
        state["pid"].to_string()
    );
    let told = |kind: &str| fs::read_to_string(format!("{}.{kind}", hook.display()));
    for (kind, status) in [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("poststart", "running"),
    ] {
        let told: serde_json::Value = serde_json::from_str(&told(kind).unwrap()).unwrap();
        assert_eq!(
            (&told["status"], &told["pid"]),
            (&json!(status), &state["pid"])
        );
    }
    assert!(
        told("createContainer").is_err(),
        "its namespaces have no root yet"
    );
    assert_eq!(
        fs::read_dir(rig.bundle.state_root().join(&rig.bundle.id))
            .unwrap()
            .count(),
        2
    );
}

#[test]
fn a_terminal_comes_back_by_the_console_socket() {
    if !ours() {
        return;
    }
    let mut rig = Rig::new("spawn\nconsole\nnotify post-restore\nok\n");
    rig.bundle.config["process"]["terminal"] = json!(true);
    rig.image(r#"["/dev/pts/0","/dev/pts/0","/dev/pts/0"]"#);
    let path = rig.bundle.dir.path().join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    ok(&rig.restore(&["--console-socket", path.to_str().unwrap()]));
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; 64];
    let mut io = [std::io::IoSliceMut::new(&mut bytes)];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(&stream, &mut io, &mut control, flags).unwrap();
    let fds: Vec<_> = control
        .drain()
        .filter_map(|m| match m {
            rustix::net::RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(
        rustix::pty::ptsname(&fds[0], Vec::new()).is_ok(),
        "no terminal"
    );
    rig.bundle.ok(["delete", "--force", &rig.bundle.id]);

    // Asked for, and not there: the container is not left behind.
    fs::write(rig.fake.join("script"), "spawn\nnotify post-restore\nok\n").unwrap();
    let none = rig.restore(&["--console-socket", path.to_str().unwrap()]);
    assert!(text(&none.stderr).contains("no terminal for --console-socket"));
    assert!(!rig.bundle.oci(["state", &rig.bundle.id]).status.success());
}

#[test]
fn failures_of_criu_leave_the_container_as_it_was() {
    if !ours() {
        return;
    }
    let rig = Rig::new("");
    rig.up();
    fs::create_dir_all(&rig.images).unwrap();
    let log = rig.images.join("dump.log");
    fs::write(
        &log,
        "(00.1) Start\n(00.2) Error (criu/x.c:7): no such luck\n",
    )
    .unwrap();
    for (script, says) in [
        ("fail 16\n", "device or resource busy"),
        ("notify post-dump\ndie\n", "it has gone without an answer"),
        ("garbage\n", "bad message"),
    ] {
        fs::write(rig.fake.join("script"), script).unwrap();
        let output = rig.checkpoint(&[]);
        assert_eq!(output.status.code(), Some(1));
        let message = text(&output.stderr);
        assert!(
            message.to_lowercase().contains(says),
            "{script:?}: {message}"
        );
        if says != "bad message" {
            let quoted = format!("{log:?} ends: Error (criu/x.c:7): no such luck");
            assert!(message.contains(&quoted), "{message}");
        }
        assert_eq!(message.lines().count(), 1, "{message}");
        assert_eq!(rig.bundle.status(), "running");
    }
    fs::write(rig.fake.join("version"), "3.15.0").unwrap();
    let message = text(&rig.checkpoint(&[]).stderr);
    assert!(
        message.contains("criu 3.15 (older than 3.16) is not supported"),
        "{message}"
    );
}

#[test]
fn failures_of_criu_leave_nothing_of_a_restore() {
    if !ours() {
        return;
    }
    let rig = Rig::new("");
    rig.image(r#"["","",""]"#);
    for script in [
        "fail 22\n",
        "spawn\nnotify setup-namespaces\nfail 5\n",
        "spawn\nnotify setup-namespaces\nnotify post-restore\ndie\n",
        "ok\n",
        "garbage\n",
    ] {
        fs::write(rig.fake.join("script"), script).unwrap();
        let output = rig.restore(&[]);
        assert_eq!(output.status.code(), Some(1), "{script:?}");
        assert!(!rig.bundle.oci(["state", &rig.bundle.id]).status.success());
        assert!(
            !rig.bundle.state_root().join(&rig.bundle.id).exists(),
            "{script:?}"
        );
    }
}

#[test]
fn a_killed_runtime_leaves_what_delete_finds() {
    if !ours() {
        return;
    }
    for script in [
        "hang\n",
        "spawn\nnotify setup-namespaces\nhang\n",
        "spawn\nnotify setup-namespaces\nnotify post-restore\nhang\n",
    ] {
        let rig = Rig::new(script);
        rig.image(r#"["","",""]"#);
        rig.bundle.write();
        let mut command = rig.command(&["restore", "--detach", "--image-path"]);
        command
            .arg(&rig.images)
            .arg("--bundle")
            .arg(rig.bundle.dir.path());
        let mut child = command
            .arg(&rig.bundle.id)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The request is there before the first line of the script is done.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while !rig.fake.join("request").exists() {
            assert!(std::time::Instant::now() < deadline, "no request");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        child.kill().unwrap();
        child.wait().unwrap();
        rig.bundle.ok(["delete", "--force", &rig.bundle.id]);
        // The harness sees that no state, cgroup or mount is left.
    }
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    if !ours() {
        return;
    }
    let rig = Rig::new("ok\n");
    rig.up();
    let refused = |args: &[&str], says: &str| {
        let message = text(&rig.checkpoint(args).stderr);
        assert!(message.contains(says), "{args:?}: {message}");
        assert!(
            !rig.fake.join("request").exists(),
            "{args:?}: criu was asked"
        );
    };
    refused(&["--status-fd=1"], "is for lazy-pages only");
    refused(
        &["--status-fd=99", "--lazy-pages"],
        "cannot write to the status fd",
    );
    refused(&["--page-server=nowhere"], "must be ADDRESS:PORT");
    refused(
        &["--manage-cgroups-mode=x"],
        "must be soft, full, strict or ignore",
    );
    refused(&["--empty-ns=ipc"], "must be network");
    refused(&["--parent-path=/abs"], "must be relative");
    refused(&["--parent-path=nope"], "cannot open the parent images");
    refused(&["--no-such"], "unknown option --no-such");
    // What podman asks before it uses either.
    for command in ["checkpoint", "restore"] {
        assert!(rig.bundle.ok([command, "--help"]).contains("--image-path"));
    }
    let message = text(&rig.bundle.oci(["restore", "--lsm-mount-context"]).stderr);
    assert!(message.contains("flag needs an argument"), "{message}");

    fs::remove_file(rig.fake.join("bin/criu")).unwrap();
    refused(
        &[],
        "checkpoint without criu, which is not on the PATH, is not supported",
    );
    let message = text(&rig.restore(&[]).stderr);
    assert!(message.contains("restore without criu"), "{message}");
    assert_eq!(rig.bundle.status(), "running");
}
