//! Somebody without rights: a user id that nobody has, so that no user need be made, and a bundle of theirs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Bundle, runtime, text};

pub const UID: u32 = 64_242;
/// What `/etc/subuid` gives to that user in these tests.
pub const FIRST: u32 = 1_000_000;
pub const COUNT: u32 = 1000;

/// A bundle of that user, with a user namespace, and without a place among the control groups.
pub struct Rootless {
    pub bundle: Bundle,
    /// Joined before the user becomes one: a control group's folder.
    pub group: Option<PathBuf>,
    pub groups: &'static str,
}

impl Rootless {
    pub fn new(args: &[&str]) -> Self {
        let mut bundle = Bundle::new(args);
        let id = json!([{"containerID": 0, "hostID": UID, "size": 1}]);
        bundle.set("/linux/uidMappings", id.clone());
        bundle.set("/linux/gidMappings", id);
        bundle.namespaces(|n| n.push(json!({"type": "user"})));
        bundle.config["linux"]
            .as_object_mut()
            .unwrap()
            .remove("cgroupsPath");
        for mount in bundle.config["mounts"].as_array_mut().unwrap() {
            if let Some(options) = mount["options"].as_array_mut() {
                // There is no group of terminals for who has one group.
                options.retain(|o| !o.as_str().unwrap().starts_with("gid="));
            }
        }
        std::fs::copy(runtime(), bundle.dir.path().join("corten-oci")).unwrap();
        Self {
            bundle,
            group: None,
            groups: "--clear-groups",
        }
    }

    pub fn script(script: &str) -> Self {
        Self::new(&["sh", "-c", script])
    }

    /// All of a thousand more ids.
    pub fn with_ranges(mut self) -> Self {
        let ids = json!([
            {"containerID": 0, "hostID": UID, "size": 1},
            {"containerID": 1, "hostID": FIRST, "size": COUNT},
        ]);
        self.bundle.set("/linux/uidMappings", ids.clone());
        self.bundle.set("/linux/gidMappings", ids);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.bundle.dir.path().join(name)
    }

    /// A command of the user, who has a name, id ranges and a folder for what lives until the next boot, in a mount
    /// namespace where that is so.
    pub fn command(&self, program: &str) -> Command {
        self.files();
        self.bundle.write();
        let script = r#"
            set -e
            cd "$1"; shift
            for file in passwd group subuid subgid; do
                mount --bind "etc/$file" "/etc/$file"
            done
            [ ! -e /dev/net/tun ] || mount --bind etc/tun /dev/net/tun
            [ -z "$GROUP" ] || echo $$ > "$GROUP/cgroup.procs"
            unset GROUP
            exec setpriv --reuid UID --regid UID GROUPS "$@"
        "#;
        let script = script
            .replace("UID", &UID.to_string())
            .replace("GROUPS", self.groups);
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ]);
        command.arg(self.bundle.dir.path()).arg(program);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin");
        command
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env("HOME", self.path("home"));
        command.env("USER", "corten-it").env("TERM", "xterm");
        command.env("GROUP", self.group.as_deref().unwrap_or(Path::new("")));
        command.stdin(Stdio::null());
        command
    }

    fn files(&self) {
        let etc = self.path("etc");
        if etc.exists() {
            return;
        }
        std::fs::create_dir(&etc).unwrap();
        let add = |name: &str, line: String| {
            let old = std::fs::read_to_string(Path::new("/etc").join(name)).unwrap_or_default();
            std::fs::write(etc.join(name), old + &line).unwrap();
        };
        let home = self.path("home");
        add(
            "passwd",
            format!("corten-it:x:{UID}:{UID}::{}:/bin/sh\n", home.display()),
        );
        add("group", format!("corten-it:x:{UID}:\n"));
        add("subuid", format!("corten-it:{FIRST}:{COUNT}\n"));
        add("subgid", format!("{UID}:{FIRST}:{COUNT}\n"));
        for file in ["/etc/subuid", "/etc/subgid"] {
            assert!(
                Path::new(file).exists(),
                "{file} is missing: install uidmap"
            );
        }
        let tun = etc.join("tun");
        let mut mknod = Command::new("mknod");
        mknod.args(["-m", "666"]).arg(&tun).args(["c", "10", "200"]);
        assert!(mknod.status().unwrap().success());
        for folder in ["run", "home"] {
            std::fs::create_dir(self.path(folder)).unwrap();
        }
        self.bundle.write();
        self.bundle.give(UID);
        std::fs::set_permissions(self.path("run"), PermissionsExt::from_mode(0o700)).unwrap();
        // The helpers trust root's files only.
        let done = Command::new("chown").args(["-R", "0:0"]).arg(&etc).status();
        assert!(done.unwrap().success());
    }

    pub fn oci(&self, args: &[&str]) -> Output {
        let runtime = self.path("corten-oci");
        let mut command = self.command(runtime.to_str().unwrap());
        command.args(args).output().unwrap()
    }

    pub fn run(&self) -> Output {
        let bundle = self.bundle.dir.path().to_str().unwrap();
        self.oci(&["run", "--bundle", bundle, &self.bundle.id])
    }

    pub fn stdout(&self) -> String {
        let output = self.run();
        assert!(
            output.status.success(),
            "{}{}",
            text(&output.stderr),
            text(&output.stdout)
        );
        text(&output.stdout)
    }

    pub fn error(&self) -> String {
        let output = self.run();
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
        text(&output.stderr)
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.oci(args);
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    /// In the background; its stdio goes nowhere.
    pub fn up(&self) {
        let runtime = self.path("corten-oci");
        let log = self.path("home/log");
        let mut command = self.command(runtime.to_str().unwrap());
        command
            .arg("--log")
            .arg(&log)
            .args(["run", "-d", "--bundle"]);
        command.arg(self.bundle.dir.path()).arg(&self.bundle.id);
        let status = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(
            status.success(),
            "{}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
    }

    pub fn state(&self) -> Value {
        serde_json::from_str(&self.ok(&["state", &self.bundle.id])).unwrap()
    }

    pub fn pid(&self) -> i32 {
        self.state()["pid"].as_i64().unwrap() as i32
    }

    /// `exec` with a terminal of its own: `script` is the terminal outside.
    pub fn exec_terminal(&self, words: &str) -> String {
        let line = format!(
            "{} exec -t {} {words}",
            self.path("corten-oci").display(),
            self.bundle.id
        );
        let output = self
            .command("script")
            .args(["-qec", &line, "/dev/null"])
            .output()
            .unwrap();
        text(&output.stdout)
    }

    pub fn state_folders(&self) -> usize {
        std::fs::read_dir(self.path("run/corten-oci")).map_or(0, |d| d.count())
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        // By its owner, who can; nothing is left of it if the test has done that already.
        let _ = self.oci(&["delete", "--force", &self.bundle.id]);
        if !std::thread::panicking() {
            assert_eq!(self.state_folders(), 0, "state is left");
        }
    }
}
