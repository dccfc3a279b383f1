//! Brings the subjects up: a registry for them to pull from, the daemons that
//! some need, a bundle for the runtimes. One that is missing, or does not come
//! up, is skipped with its reason.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::agent::Place;
use super::daemon::Daemon;
use super::peer::{Bare, Engine, IMAGE, Kind};
use super::{call, report};
use crate::failure::{Context, Result, failure};

/// The bench has a network of its own, so no port is taken.
const REGISTRY: &str = "127.0.0.1:5000";

/// Where containerd and its tools are; see [`shim`](super::shim).
pub fn containerd_folder() -> PathBuf {
    let asked = std::env::var_os("CORTEN_BENCH_CONTAINERD");
    asked.map_or_else(|| "/usr/bin".into(), PathBuf::from)
}

/// Brings the subjects up, one after the other.
pub struct Setup {
    folder: PathBuf,
    corten: PathBuf,
    image: PathBuf,
    pub daemons: Vec<Daemon>,
}

impl Setup {
    pub fn new(folder: PathBuf, corten: PathBuf, image: PathBuf) -> Setup {
        Setup {
            folder,
            corten,
            image,
            daemons: Vec::new(),
        }
    }

    pub fn engines(&mut self) -> Result<Vec<Engine>> {
        self.registry()?;
        let containerd = self.containerd();
        if let Err(why) = &containerd {
            report::skipped("containerd, docker", why);
        }
        let mut found = Vec::new();
        let mut add = |name: &str, engine: Result<Engine>| match engine {
            Ok(engine) => found.push(engine),
            Err(why) => report::skipped(name, why),
        };
        add("corten", self.corten());
        add(
            "podman + crun",
            self.podman("podman + crun", "/usr/bin/crun"),
        );
        add(
            "podman + runc",
            self.podman("podman + runc", "/usr/sbin/runc"),
        );
        if let Ok(socket) = containerd {
            add("docker", self.docker(&socket));
            add("ctr", self.ctr(&socket));
        }
        Ok(found)
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_string_lossy().into_owned()
    }

    /// Where state that lives in memory goes.
    fn run_path(&self, name: &str) -> String {
        self.path(&format!("run/{name}"))
    }

    fn registry(&mut self) -> Result<()> {
        let config = self.folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
            self.path("registry")
        );
        fs::write(&config, text).context(config.display())?;
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none");
        let ready = || TcpStream::connect(REGISTRY).is_ok();
        self.daemons.push(Daemon::start(
            "docker-registry",
            &mut command,
            &self.folder.join("registry.log"),
            ready,
        )?);
        let source = format!("oci:{}:latest", self.image.display());
        let target = format!("docker://{IMAGE}");
        call(
            "skopeo",
            &[
                "copy",
                "--quiet",
                "--insecure-policy",
                "--dest-tls-verify=false",
                &source,
                &target,
            ],
        )?;
        Ok(())
    }

    fn corten(&self) -> Result<Engine> {
        let program = vec![
            self.corten.to_string_lossy().into_owned(),
            "--root".to_owned(),
            self.path("corten"),
            "--run".to_owned(),
            self.run_path("corten"),
        ];
        let engine = Engine {
            name: "corten",
            kind: Kind::Corten,
            place: Place::Here,
            program,
            supervisor: "containerd-shim-corten-v2",
        };
        let version = engine.place.run(&engine.words(&["version"]))?;
        if version.stdout.is_empty() {
            return Err(failure(format!(
                "{} says nothing to `version`",
                self.corten.display()
            )));
        }
        engine.place.run(&engine.words(&["pull", IMAGE]))?;
        Ok(engine)
    }

    fn podman(&self, name: &'static str, runtime: &str) -> Result<Engine> {
        let base = Path::new(runtime)
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let storage = format!("podman-{base}");
        let program = [
            "/usr/bin/podman",
            "--cgroup-manager=cgroupfs",
            "--storage-driver=overlay",
            "--events-backend=file",
            "--runtime",
            runtime,
            "--root",
        ];
        let mut program: Vec<String> = program.iter().map(|&word| word.to_owned()).collect();
        program.extend([
            self.path(&storage),
            "--runroot".to_owned(),
            self.run_path(&storage),
        ]);
        program.extend([
            "--tmpdir".to_owned(),
            self.run_path(&format!("{storage}-tmp")),
        ]);
        // crun refuses a hybrid host; without the v2 mount it sees v1 alone.
        let place = Place::prepared(
            "if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi",
        )?;
        let engine = Engine {
            name,
            kind: Kind::Podman,
            place,
            program,
            supervisor: "/usr/bin/conmon",
        };
        engine
            .place
            .run(&engine.words(&["pull", "--quiet", "--tls-verify=false", IMAGE]))?;
        Ok(engine)
    }

    /// Returns its socket.
    fn containerd(&mut self) -> Result<String> {
        let config = self.folder.join("containerd.toml");
        let socket = self.run_path("containerd.sock");
        let text = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n",
            self.path("containerd"),
            self.run_path("containerd"),
        );
        fs::write(&config, text).context(config.display())?;
        let peers = self.folder.join("peers");
        fs::create_dir_all(&peers).context(peers.display())?;
        let shim = peers.join("containerd-shim-corten-v2");
        symlink(&self.corten, &shim).context(shim.display())?;
        let path = std::env::var("PATH").unwrap_or_default();
        let folder = containerd_folder();
        let mut command = Command::new(folder.join("containerd"));
        command.arg("--config").arg(&config).env(
            "PATH",
            format!("{}:{}:{path}", peers.display(), folder.display()),
        );
        let ready = || UnixStream::connect(&socket).is_ok();
        let daemon = Daemon::start(
            "containerd",
            &mut command,
            &self.folder.join("containerd.log"),
            ready,
        )?;
        self.daemons.push(daemon);
        Ok(socket)
    }

    fn docker(&mut self, containerd: &str) -> Result<Engine> {
        let socket = self.run_path("docker.sock");
        let host = format!("unix://{socket}");
        let mut command = Command::new("/usr/sbin/dockerd");
        command.args([
            "--data-root",
            &self.path("docker"),
            "--exec-root",
            &self.run_path("docker"),
        ]);
        command.args([
            "-p",
            &self.run_path("docker.pid"),
            "-H",
            &host,
            "--containerd",
            containerd,
        ]);
        let probe = host.clone();
        let ready = move || call("/usr/bin/docker", &["-H", &probe, "info"]).is_ok();
        let daemon = Daemon::start(
            "dockerd",
            &mut command,
            &self.folder.join("dockerd.log"),
            ready,
        )?;
        // Stopped before the containerd that it uses.
        self.daemons.insert(0, daemon);
        let program = vec!["/usr/bin/docker".to_owned(), "-H".to_owned(), host];
        let engine = Engine {
            name: "docker",
            kind: Kind::Docker,
            place: Place::Here,
            program,
            supervisor: "containerd-shim-runc-v2 -namespace moby",
        };
        engine
            .place
            .run(&engine.words(&["pull", "--quiet", IMAGE]))?;
        Ok(engine)
    }

    fn ctr(&self, containerd: &str) -> Result<Engine> {
        let program = vec![
            containerd_folder().join("ctr").display().to_string(),
            "--address".to_owned(),
            containerd.to_owned(),
        ];
        let engine = Engine {
            name: "ctr",
            kind: Kind::Containerd,
            place: Place::Here,
            program,
            supervisor: "containerd-shim-runc-v2 -namespace default",
        };
        engine
            .place
            .run(&engine.words(&["images", "pull", "--plain-http", IMAGE]))?;
        Ok(engine)
    }

    /// Runtimes alone, on v2 for crun and on what the host has for the others.
    pub fn bare(&self) -> Result<Vec<Bare>> {
        let mut found = Vec::new();
        let mut add = |name: &'static str, bare: Result<Bare>| match bare {
            Ok(bare) => found.push(bare),
            Err(why) => report::skipped(name, why),
        };
        let corten = self.oci_link()?;
        add("crun (v2)", self.on_v2("crun (v2)", "/usr/bin/crun"));
        add("corten-oci (v2)", self.on_v2("corten-oci (v2)", &corten));
        add("runc", self.on_host("runc", "/usr/sbin/runc"));
        add("corten-oci", self.on_host("corten-oci", &corten));
        Ok(found)
    }

    /// The binary by the name that makes it an OCI runtime.
    fn oci_link(&self) -> Result<String> {
        let link = self.folder.join("corten-oci");
        symlink(&self.corten, &link).context(link.display())?;
        Ok(link.to_string_lossy().into_owned())
    }

    fn on_v2(&self, name: &'static str, runtime: &str) -> Result<Bare> {
        let place =
            Place::prepared("umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup")?;
        // Device rules would need a larger locked-memory limit than an old crun may set here.
        let bundle = self.bundle("bundle-v2", |spec| {
            if let Some(linux) = spec["linux"].as_object_mut() {
                linux.remove("resources");
            }
        })?;
        self.try_bare(name, place, runtime, &bundle)
    }

    fn on_host(&self, name: &'static str, runtime: &str) -> Result<Bare> {
        let bundle = self.bundle("bundle-host", |_| {})?;
        self.try_bare(name, Place::Here, runtime, &bundle)
    }

    fn try_bare(
        &self,
        name: &'static str,
        place: Place,
        runtime: &str,
        bundle: &str,
    ) -> Result<Bare> {
        let state = self.run_path(&format!("{}-state", name.replace(['(', ')', ' '], "")));
        let id = format!("bench-{}", name.replace(['(', ')', ' '], ""));
        let argv = [runtime, "--root", &state, "run", "--bundle", bundle, &id]
            .map(str::to_owned)
            .to_vec();
        let bare = Bare { name, place, argv };
        let version = bare
            .place
            .run(&[runtime.to_owned(), "--version".to_owned()])?;
        if version.stdout.is_empty() {
            return Err(failure(format!("{runtime} says nothing to --version")));
        }
        bare.place.run(&bare.argv)?;
        Ok(bare)
    }

    /// A bundle of the busybox image with runc's default specification, running `true`.
    fn bundle(&self, name: &str, change: impl Fn(&mut Value)) -> Result<String> {
        let folder = self.folder.join(name);
        let path = folder.to_string_lossy().into_owned();
        if folder.exists() {
            return Ok(path);
        }
        fs::create_dir_all(&folder).context(&path)?;
        let image = format!("{}:latest", self.image.display());
        call(
            "umoci",
            &[
                "raw",
                "unpack",
                "--image",
                &image,
                &format!("{path}/rootfs"),
            ],
        )?;
        call("/usr/sbin/runc", &["spec", "--bundle", &path])?;
        let file = folder.join("config.json");
        let bytes = fs::read(&file).context(file.display())?;
        let mut spec: Value = serde_json::from_slice(&bytes).context(file.display())?;
        spec["process"]["args"] = json!(["/bin/true"]);
        spec["process"]["terminal"] = json!(false);
        spec["linux"]["cgroupsPath"] = json!(format!("/corten-bench/{name}"));
        change(&mut spec);
        fs::write(&file, spec.to_string()).context(file.display())?;
        Ok(path)
    }
}
