//! A bundle with busybox in it, and a shim beside it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use corten_shim::client::{self, Client, CreateOptions, CreateRequest, SpawnRequest, Stdio};
use corten_spec::ContainerId;
use serde_json::{Value, json};

/// The shim's program: the example beside this test binary.
pub fn shim() -> PathBuf {
    // To measure another build.
    if let Some(path) = std::env::var_os("CORTEN_TEST_SHIM") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let path = folder.join("examples/containerd-shim-corten-v2");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

pub fn busybox(root: &Path) {
    for folder in ["bin", "dev", "proc", "sys", "tmp", "etc"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "echo", "sleep", "true", "seq", "stty", "dd", "kill", "ls", "id", "md5sum",
        "head", "yes", "hostname", "mount", "touch", "stat",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("bin/text"), "no program").unwrap();
    fs::set_permissions(root.join("bin/text"), fs::Permissions::from_mode(0o644)).unwrap();
}

pub struct Rig {
    pub folder: tempfile::TempDir,
    pub id: ContainerId,
    pub client: Option<Client>,
    pub shim_pid: u32,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Rig {
    /// A bundle that runs a shell script, and a shim for it.
    pub fn new(script: &str) -> Self {
        Self::with(script, |_| {})
    }

    pub fn with(script: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut rig = Self::bundle(script, change);
        rig.spawn(Vec::new());
        rig
    }

    /// A bundle alone.
    pub fn unspawned(script: &str) -> Self {
        Self::bundle(script, |_| {})
    }

    fn bundle(script: &str, change: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let count = COUNT.fetch_add(1, Ordering::SeqCst);
        let name = format!("shimtest-{}-{count}", std::process::id());
        let id: ContainerId = name.parse().unwrap();
        busybox(&folder.path().join("rootfs"));
        let mut spec = spec(&name, script);
        change(&mut spec);
        fs::write(folder.path().join("config.json"), spec.to_string()).unwrap();
        Self {
            folder,
            id,
            client: None,
            shim_pid: 0,
        }
    }

    pub fn spawn(&mut self, inherit: Vec<std::os::fd::OwnedFd>) {
        let log = fs::File::create(self.path("shim.log")).unwrap();
        let client = client::spawn(&SpawnRequest {
            exe: &shim(),
            bundle: self.folder.path(),
            id: &self.id,
            namespace: "test",
            state_root: &self.path("state"),
            inherit,
            log: Some(log.into()),
        })
        .unwrap();
        self.shim_pid = client.child().unwrap();
        self.client = Some(client);
    }

    /// No client of ours: the shim is asked otherwise.
    pub fn keep(&mut self) {
        let _ = self.client().state("");
    }

    /// Until it has exited by itself.
    pub fn wait_for_shim(&mut self) {
        self.client = None;
        let pid = rustix::process::Pid::from_raw(self.shim_pid as i32).unwrap();
        eventually("the shim's end", || {
            let options = rustix::process::WaitOptions::NOHANG;
            rustix::process::waitpid(Some(pid), options).is_ok_and(|w| w.is_some())
        });
        self.shim_pid = 0;
    }

    pub fn kill_shim(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.shim_pid as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        self.shim_pid = 0;
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn client(&mut self) -> &mut Client {
        self.client.as_mut().unwrap()
    }

    pub fn options(&self) -> CreateOptions {
        CreateOptions {
            log_path: self.path("log").display().to_string(),
            exit_record: self.path("exit.json").display().to_string(),
            attach: true,
            open_stdin: true,
            stdin_once: true,
            ..CreateOptions::default()
        }
    }

    pub fn create(
        &mut self,
        terminal: bool,
        options: CreateOptions,
    ) -> Result<u32, corten_shim::Error> {
        let request = CreateRequest {
            checkpoint: Default::default(),
            bundle: self.folder.path().into(),
            rootfs: Vec::new(),
            stdio: Stdio::attach(terminal),
            options,
        };
        self.client().create(request)
    }

    pub fn state_dir(&self) -> PathBuf {
        self.path("state").join(self.id.as_str())
    }

    /// Deletes the container, ends the shim, and looks for what should not be there.
    pub fn finish(mut self) {
        self.client().delete("").unwrap();
        self.client.take().unwrap().shutdown().unwrap();
        self.assert_clean();
    }

    pub fn assert_clean(&self) {
        let layout = corten_cgroup::Layout::probe().unwrap();
        let group = format!("/corten-shimtest/{}", self.id.as_str());
        assert!(
            corten_cgroup::Cgroup::open(&layout, &group).is_err(),
            "cgroup left"
        );
        assert!(!self.state_dir().exists(), "state left");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(self.folder.path().to_str().unwrap()),
            "mount left"
        );
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "shim log: {}",
                fs::read_to_string(self.path("shim.log")).unwrap_or_default()
            );
        }
        let layout = corten_cgroup::Layout::probe().unwrap();
        let group = format!("/corten-shimtest/{}", self.id.as_str());
        if let Ok(group) = corten_cgroup::Cgroup::open(&layout, &group) {
            let _ = group.kill(9);
            let _ = group.delete();
        }
        if let Some(pid) = rustix::process::Pid::from_raw(self.shim_pid as i32)
            && fs::read_link(format!("/proc/{}/cwd", self.shim_pid))
                .is_ok_and(|c| c == self.folder.path())
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        // The parent of all tests' groups, if this was the last.
        if let Ok(parent) = corten_cgroup::Cgroup::open(&layout, "/corten-shimtest")
            && layout.list("/corten-shimtest").is_ok_and(|l| l.is_empty())
        {
            let _ = parent.delete();
        }
    }
}

/// A plain specification: five namespaces and what a shell needs.
pub fn spec(id: &str, script: &str) -> Value {
    let caps = json!(["CAP_KILL", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.1.0",
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": false},
        "hostname": "test",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}
        ],
        "linux": {
            "cgroupsPath": format!("/corten-shimtest/{id}"),
            "resources": {"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "network"}]
        }
    })
}

/// The process of an exec.
pub fn process(args: &[&str], terminal: bool) -> corten_spec::oci::runtime::Process {
    serde_json::from_value(json!({
        "terminal": terminal,
        "user": {"uid": 0, "gid": 0},
        "args": args,
        "env": ["PATH=/bin"],
        "cwd": "/",
        "noNewPrivileges": true
    }))
    .unwrap()
}

pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}
