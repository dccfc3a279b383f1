//! An engine of a test's own: state, run and configuration folders below one
//! temporary folder, and the host compared before and after. An engine names
//! its bridge, packet filter table and control groups after its run folder, so
//! sandboxes do not meet.
//!
//! ```text
//! Sandbox::new(binary) ── corten(..) ── corten(..) ── finish(): everything removed, host as before
//!        │ a panic on the way
//!        └────────────────────────────> drop: kills and unmounts what is below the folder
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::fixture::Image;
use crate::fixture::layout::sha256;
use crate::host::{self, Snapshot};
use crate::outcome::Outcome;
use crate::registry::Registry;
use crate::{tool, wait};

/// How long one command may take: far above what any needs, below the test's limit.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Sandbox {
    folder: Option<TempDir>,
    binary: PathBuf,
    before: Snapshot,
    instance: String,
    finished: bool,
}

impl Sandbox {
    /// A sandbox for the `corten` at this path: `env!("CARGO_BIN_EXE_corten")`
    /// in tests of that crate, [`built`] elsewhere.
    pub fn new(binary: impl Into<PathBuf>) -> Result<Sandbox> {
        Self::below(&std::env::temp_dir(), binary)
    }

    /// The same with its folder below this one.
    pub fn below(parent: &Path, binary: impl Into<PathBuf>) -> Result<Sandbox> {
        let before = Snapshot::take();
        let folder = tempfile::Builder::new()
            .prefix("corten-test-")
            .tempdir_in(parent)
            .map_err(Error::system("cannot make a temporary folder"))?;
        for name in ["etc", "home", "files"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).map_err(Error::path("create", &path))?;
        }
        // As the engine derives it: a name for everything outside its folders.
        let run = folder.path().join("run");
        let instance = sha256(run.as_os_str().as_encoded_bytes())[..8].to_owned();
        Ok(Sandbox {
            folder: Some(folder),
            binary: binary.into(),
            before,
            instance,
            finished: false,
        })
    }

    /// The folder that everything of this sandbox is below.
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), TempDir::path)
    }

    pub fn root(&self) -> PathBuf {
        self.folder().join("root")
    }

    pub fn run_folder(&self) -> PathBuf {
        self.folder().join("run")
    }

    pub fn etc(&self) -> PathBuf {
        self.folder().join("etc")
    }

    pub fn home(&self) -> PathBuf {
        self.folder().join("home")
    }

    /// A folder for the test's own files: bind mounts, cidfiles.
    pub fn files(&self) -> PathBuf {
        self.folder().join("files")
    }

    pub fn bridge(&self) -> String {
        format!("ct{}", self.instance)
    }

    /// The packet filter table, family inet.
    pub fn table(&self) -> String {
        format!("corten_{}", self.instance)
    }

    /// The control group that its containers' groups are in, relative to each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("/corten-{}", self.instance)
    }

    /// The processes of this sandbox: supervisors, containers, command lines.
    pub fn processes(&self) -> Vec<u32> {
        let folder = self.folder().to_string_lossy().into_owned();
        let group = format!(":{}/", self.cgroup());
        let ours = |&pid: &u32| {
            let read =
                |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            let near = fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|path| path.starts_with(&folder));
            // A zombie has no command line; it runs no more, and waits for its parent only.
            let line = read("cmdline");
            !line.is_empty() && (near || line.contains(&folder) || read("cgroup").contains(&group))
        };
        host::pids()
            .filter(|&pid| pid != std::process::id())
            .filter(ours)
            .collect()
    }

    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// `corten` on this sandbox's folders, to add arguments to.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .arg("--root")
            .arg(self.root())
            .arg("--run")
            .arg(self.run_folder());
        command
            .env("CORTEN_ETC", self.etc())
            .env("HOME", self.home())
            .env("NO_COLOR", "1")
            .env_remove("DOCKER_CONFIG")
            .env_remove("REGISTRY_AUTH_FILE")
            .stdin(Stdio::null());
        command
    }

    /// Runs `corten ARGS` to its end.
    #[track_caller]
    pub fn corten(&self, args: &[&str]) -> Outcome {
        let mut command = self.command();
        command.args(args);
        finish(command, b"", args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same with bytes on stdin.
    #[track_caller]
    pub fn corten_with(&self, args: &[&str], stdin: &[u8]) -> Outcome {
        let mut command = self.command();
        command.args(args);
        finish(command, stdin, args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Starts `corten ARGS` and returns at once; stdout and stderr are piped.
    #[track_caller]
    pub fn start(&self, args: &[&str]) -> Child {
        let child = self
            .command()
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.unwrap_or_else(|error| panic!("cannot start {}: {error}", self.binary.display()))
    }

    /// Puts an image into the sandbox by way of a real registry; returns its reference.
    pub fn image(&self, image: Image) -> Result<String> {
        let registry = Registry::plain()?;
        let reference = registry.push(&image.layout()?, image.name())?;
        self.corten(&["pull", "--quiet", &reference]).ok();
        Ok(reference)
    }

    /// Puts an image into the sandbox from its layout on disk, where no registry is or none is worth its while; returns its name.
    pub fn loaded(&self, image: Image) -> Result<String> {
        let layout = image.layout()?;
        let said = self.corten(&["load", "--input", &layout.folder.to_string_lossy()]);
        let said = said.ok();
        let found = said.strip_prefix("Loaded image ID: ");
        let id = found.unwrap_or_else(|| panic!("{said}, which is no id"));
        let name = format!("localhost/{}:loaded", image.name());
        self.corten(&["tag", id, &name]).ok();
        Ok(name)
    }

    /// The ids of all containers, running or not.
    #[track_caller]
    pub fn containers(&self) -> Vec<String> {
        let list = self.corten(&["ps", "--all", "--quiet", "--no-trunc"]).ok();
        list.lines().map(str::to_owned).collect()
    }

    /// Removes every container and network, and compares the host with what it was.
    #[track_caller]
    pub fn finish(mut self) {
        for id in self.containers() {
            self.corten(&["rm", "--force", &id]).ok();
        }
        self.corten(&["system", "check"]).ok();
        self.corten(&["network", "prune", "--force"]).ok();
        self.retire_network();
        self.assert_clean();
        self.finished = true;
    }

    /// The host is as it was before the sandbox, at once or very soon.
    #[track_caller]
    pub fn assert_clean(&self) {
        let mut changes = String::new();
        let clean = wait::until("a clean host", Duration::from_secs(5), || {
            self.retire_cgroup();
            changes = self.left_behind();
            changes.is_empty().then_some(())
        });
        assert!(clean.is_ok(), "the host is not as it was:\n{changes}");
    }

    /// What this sandbox's engine has left on the host, a line each.
    fn left_behind(&self) -> String {
        let mut text = self.before.changes(&Snapshot::take(), Some(&self.instance));
        for group in self.cgroups() {
            text.push_str(&format!(
                "left behind: control groups below {}\n",
                group.display()
            ));
        }
        for pid in self.processes() {
            let line = host::command_line(pid).unwrap_or_default();
            text.push_str(&format!("left behind: process {pid} {line}\n"));
        }
        text
    }

    /// The links on this sandbox's bridge, as `ip` shows them.
    pub fn bridge_ports(&self) -> String {
        tool::call("ip", &["-o", "link", "show", "master", &self.bridge()]).unwrap_or_default()
    }

    /// The bridge and its table outlive containers, as docker0 does. With no
    /// container left they hold nothing, and go with the sandbox.
    #[track_caller]
    fn retire_network(&self) {
        let ports = self.bridge_ports();
        assert!(
            ports.is_empty() || thread::panicking(),
            "left on {}:\n{ports}",
            self.bridge()
        );
        // Fails only if there is none, which is fine too; the comparison that follows decides.
        let _ = tool::call("ip", &["link", "delete", &self.bridge()]);
        let table = self.table();
        if let Ok(rules) = tool::call("nft", &["list", "table", "inet", &table]) {
            // Sets name the network; maps hold what is published for containers.
            let mut map = false;
            for line in rules.lines().map(str::trim) {
                map = line.starts_with("map ") || map && line != "}";
                let held = map && line.starts_with("elements");
                assert!(
                    !held || thread::panicking(),
                    "published ports are left:\n{rules}"
                );
            }
            let _ = tool::call("nft", &["delete", "table", "inet", &table]);
        }
    }

    /// The engine's own group in each hierarchy that has one.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let name = self.cgroup();
        let name = name.trim_start_matches('/');
        // Version 2 alone is mounted right there; hierarchies of version 1 are below it.
        let below = fs::read_dir(root).into_iter().flatten().flatten();
        let roots = below.map(|entry| entry.path()).chain([root.to_owned()]);
        let own = roots.map(|root| root.join(name));
        own.filter(|path| path.exists()).collect()
    }

    /// It outlives its containers' groups, and can be removed once they are gone.
    fn retire_cgroup(&self) {
        for group in self.cgroups() {
            // One that is not empty stays, and is found.
            let _ = fs::remove_dir(group);
        }
    }

    /// After a failed test: whatever still runs or is mounted below our folder.
    fn demolish(&self) {
        let folder = self.folder().to_string_lossy().into_owned();
        for pid in self.processes() {
            let _ = tool::call("kill", &["-KILL", &pid.to_string()]);
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(4))
            .filter(|point| point.starts_with(&folder));
        for point in points.collect::<Vec<_>>().into_iter().rev() {
            let _ = tool::call("umount", &["--lazy", point]);
        }
        self.retire_network();
        self.retire_cgroup();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if let Ok(output) = self
            .command()
            .args(["ps", "--all", "--quiet", "--no-trunc"])
            .output()
        {
            for id in String::from_utf8_lossy(&output.stdout).lines() {
                let _ = self.command().args(["rm", "--force", id]).output();
            }
        }
        self.demolish();
        if std::env::var_os("CORTEN_KEEP").is_some() {
            let kept = self.folder.take().map(TempDir::keep);
            eprintln!("kept: {}", kept.unwrap_or_default().display());
        }
    }
}

/// The `corten` next to the running test binary: `target/…/debug/corten`.
pub fn built() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CORTEN_BIN") {
        return Ok(path.into());
    }
    let own =
        std::env::current_exe().map_err(Error::system("cannot find the test's own binary"))?;
    let found = own
        .ancestors()
        .skip(1)
        .map(|folder| folder.join("corten"))
        .find(|path| path.is_file());
    found.ok_or(Error::Unexpected {
        what: "target folder",
        found: "no corten in it: run `cargo build -p corten`".to_owned(),
    })
}

/// Runs a command to its end with these bytes on stdin, reading both outputs meanwhile.
pub fn finish(mut command: Command, stdin: &[u8], args: &[&str]) -> Result<Outcome> {
    let program = command.get_program().to_string_lossy().into_owned();
    let said = format!("corten {}", args.join(" "));
    let input = if stdin.is_empty() {
        Stdio::null()
    } else {
        Stdio::piped()
    };
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { program, source })?;
    let pid = child.id();
    let mut pipe = child.stdin.take();
    thread::scope(|scope| {
        scope.spawn(move || {
            // A program may end without reading all: its exit code tells the test.
            let _ = pipe.as_mut().map(|pipe| pipe.write_all(stdin));
            drop(pipe);
        });
        let (done, deadline) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || watchdog(pid, &deadline));
        let since = Instant::now();
        let output = child
            .wait_with_output()
            .map_err(Error::system("cannot wait for a command"))?;
        drop(done);
        if since.elapsed() >= PATIENCE {
            return Err(Error::Late {
                what: format!("the end of `{said}`"),
                limit: PATIENCE,
                detail: late(&output),
            });
        }
        Ok(Outcome::new(said, output))
    })
}

fn late(output: &std::process::Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
    format!(
        "\n--- stdout\n{}\n--- stderr\n{}",
        text(&output.stdout),
        text(&output.stderr)
    )
}

/// Ends a command that hangs, so that its test says which one it was.
fn watchdog(pid: u32, done: &std::sync::mpsc::Receiver<()>) {
    use std::sync::mpsc::RecvTimeoutError::Timeout;
    if done.recv_timeout(PATIENCE) == Err(Timeout) {
        let _ = tool::call("kill", &["-KILL", &pid.to_string()]);
    }
}
