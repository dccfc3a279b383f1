//! A bundle in a temporary folder, a runtime to run it, and the promise to leave nothing.

use std::ffi::OsStr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The runtime under test.
pub fn runtime() -> PathBuf {
    match std::env::var_os("CORTEN_TEST_RUNTIME") {
        Some(path) => path.into(),
        None => {
            // Cargo builds it along with the tests: target/PROFILE/deps/it-HASH → ../corten-oci.
            let exe = std::env::current_exe().unwrap();
            exe.parent().unwrap().parent().unwrap().join("corten-oci")
        }
    }
}

/// Is it ours? What only we promise is not asked of others.
pub fn ours() -> bool {
    std::env::var_os("CORTEN_TEST_RUNTIME").is_none()
}

pub struct Bundle {
    pub dir: TempDir,
    pub id: String,
    pub config: Value,
    pub runtime: PathBuf,
    /// Walls that are down in that runtime.
    pub weakened: Option<&'static str>,
}

const APPLETS: [&str; 28] = [
    "sh", "cat", "ls", "id", "true", "false", "sleep", "echo", "grep", "head", "hostname", "mkdir",
    "touch", "mount", "umount", "stat", "readlink", "tty", "stty", "pwd", "env", "wc", "kill",
    "dd", "ip", "test", "chmod", "rmdir",
];

impl Bundle {
    /// With these arguments, otherwise the default spec without terminal and with a writable root.
    pub fn new(args: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::Builder::new()
            .prefix("corten-it-")
            .tempdir()
            .unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("it-{}-{number}", std::process::id());
        let bundle = Self {
            config: base(args, &id),
            dir,
            id,
            runtime: runtime(),
            weakened: None,
        };
        let root = bundle.root();
        for folder in ["bin", "etc", "tmp"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/www:\n",
        )
        .unwrap();
        bundle
    }

    /// A shell script.
    pub fn script(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    /// Sets a value by JSON pointer, making objects on the way.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        let mut at = &mut self.config;
        for part in pointer.split('/').skip(1) {
            at = match at {
                Value::Array(list) => &mut list[part.parse::<usize>().unwrap()],
                other => &mut other[part],
            };
        }
        *at = value;
        self
    }

    pub fn mount(&mut self, value: Value) -> &mut Self {
        self.config["mounts"].as_array_mut().unwrap().push(value);
        self
    }

    /// Without the mount on `target`.
    pub fn unmount(&mut self, target: &str) -> &mut Self {
        self.config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|m| m["destination"] != target);
        self
    }

    pub fn namespaces(&mut self, change: impl FnOnce(&mut Vec<Value>)) -> &mut Self {
        change(self.config["linux"]["namespaces"].as_array_mut().unwrap());
        self
    }

    /// Gives all of it to a user, who may be root of a container.
    pub fn give(&self, id: u32) -> &Self {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(self.dir.path(), mode).unwrap();
        let owner = format!("{id}:{id}");
        let done = Command::new("chown")
            .args(["-hR", &owner])
            .arg(self.dir.path())
            .status();
        assert!(done.unwrap().success());
        self
    }

    pub fn write(&self) {
        let text = serde_json::to_vec_pretty(&self.config).unwrap();
        std::fs::write(self.dir.path().join("config.json"), text).unwrap();
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.runtime);
        if let Some(walls) = self.weakened {
            command.env("CORTEN_WEAKEN", walls);
        }
        command.arg("--root").arg(self.state_root()).args(args);
        command
    }

    /// Any command of the runtime.
    pub fn oci<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        self.command(args).stdin(Stdio::null()).output().unwrap()
    }

    /// `run`, in the foreground.
    pub fn run(&self) -> Output {
        self.write();
        let bundle = self.dir.path().to_str().unwrap();
        self.oci(["run", "--bundle", bundle, &self.id])
    }

    /// `run` by a shell in namespaces of its own (`unshare`'s flags), after a script.
    pub fn run_apart(&self, flags: &str, script: &str) -> Output {
        self.write();
        let line = format!(
            "set -e; {script}; exec {} --root {} run --bundle {} {}",
            runtime().display(),
            self.state_root().display(),
            self.dir.path().display(),
            self.id
        );
        Command::new("unshare")
            .args([flags, "sh", "-c", &line])
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// `create`. Its stdio goes nowhere: a container would keep a pipe open.
    pub fn create(&self) -> (i32, String) {
        self.write();
        let log = self.dir.path().join("create.log");
        let mut command =
            self.command([OsStr::new("--log"), log.as_os_str(), OsStr::new("create")]);
        command.arg("--bundle").arg(self.dir.path()).arg(&self.id);
        let status = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let log = std::fs::read_to_string(log).unwrap_or_default();
        (status.code().unwrap(), log)
    }

    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let output = self.oci(args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Created and started.
    pub fn up(&self) {
        let (code, log) = self.create();
        assert_eq!(code, 0, "{log}");
        self.ok(["start", &self.id]);
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(["state", &self.id])).unwrap()
    }

    pub fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().into()
    }

    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap() as i32
    }

    /// Waits for the end of init, by pidfd.
    pub fn wait_stopped(&self, pid: i32) {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        if let Ok(pidfd) = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()) {
            let mut fds = [rustix::event::PollFd::new(
                &pidfd,
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, None).unwrap();
        }
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let _ = self.oci(["delete", "--force", &self.id]);
        remove_parents();
        let left = std::fs::read_dir(self.state_root()).map_or(0, |entries| entries.count());
        if !std::thread::panicking() {
            assert_eq!(left, 0, "state is left");
            assert!(!group_exists(&self.id), "a control group is left");
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            let path = self.dir.path().to_str().unwrap();
            assert!(!mounts.contains(path), "a mount is left");
        }
    }
}

/// The groups that hold the tests' groups; the last test out of them succeeds.
fn remove_parents() {
    let root = Path::new("/sys/fs/cgroup");
    let _ = std::fs::remove_dir(root.join("corten-it"));
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(entry.path().join("corten-it"));
    }
}

fn group_exists(id: &str) -> bool {
    let places = [
        "/sys/fs/cgroup",
        "/sys/fs/cgroup/pids",
        "/sys/fs/cgroup/unified",
    ];
    places
        .iter()
        .any(|place| Path::new(place).join("corten-it").join(id).exists())
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Output of a run that must succeed.
pub fn stdout(bundle: &Bundle) -> String {
    let output = bundle.run();
    assert!(
        output.status.success(),
        "status {:?}: {}{}",
        output.status.code(),
        text(&output.stderr),
        text(&output.stdout)
    );
    text(&output.stdout)
}

/// The error of a run that must fail with `code`.
pub fn error(bundle: &Bundle, code: i32) -> String {
    let output = bundle.run();
    let message = text(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{message}{}",
        text(&output.stdout)
    );
    message
}

fn base(args: &[&str], id: &str) -> Value {
    let mut config = serde_json::to_value(corten_runtime::spec::default()).unwrap();
    config["ociVersion"] = json!("1.0.2");
    config["process"]["terminal"] = json!(false);
    config["process"]["args"] = json!(args);
    config["root"]["readonly"] = json!(false);
    config["linux"]["cgroupsPath"] = json!(format!("/corten-it/{id}"));
    config
}
