//! Who serves the interface, and what it is made of.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use super::super::daemon::Daemon;
use super::super::memory::read;
use super::super::{call, setup};
use super::Rig;
use crate::failure::{Context, Result, failure};

const REGISTRY: &str = "127.0.0.1:5000";
/// In the bench's own registry.
pub const IMAGE: &str = "127.0.0.1:5000/busybox:latest";
pub const PEER: &str = "containerd + runc + Go plugins";

pub struct Subject {
    pub name: &'static str,
    pub short: &'static str,
    pub socket: String,
    pub daemon: Daemon,
    /// The names of its supervisors and pause processes, wherever they lie.
    others: &'static [&'static str],
}

impl Subject {
    /// PSS and RSS of the daemon, in MiB.
    pub fn daemon_memory(&self) -> Result<(f64, f64)> {
        read(self.daemon.id())
    }

    /// PSS of everything that is there for pods, in MiB.
    pub fn memory(&self) -> Result<f64> {
        let mut sum = self.daemon_memory()?.0;
        for pid in processes()? {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let program = line.split(|b| *b == 0).next().unwrap_or_default();
            let program = String::from_utf8_lossy(program);
            let name = program.rsplit('/').next().unwrap_or_default();
            let ours = self.others.contains(&name);
            if pid != self.daemon.id() && ours {
                sum += read(pid)?.0;
            }
        }
        Ok(sum)
    }

    /// Seconds of processor that the daemon has used, with those of threads that have ended: in ticks of 10 ms (proc_pid_stat(5)).
    pub fn processor(&self) -> Result<f64> {
        let path = format!("/proc/{}/stat", self.daemon.id());
        let text = fs::read_to_string(&path).context(&path)?;
        // The name may have anything in it, blanks too. The third field is the first behind it.
        let behind = text.rsplit_once(')').map_or("", |(_, behind)| behind);
        let of_it = behind.split_whitespace().skip(14 - 3).take(2);
        let ticks: Option<u64> = of_it.map(|n| n.parse::<u64>().ok()).sum();
        ticks
            .map(|ticks| ticks as f64 / 100.0)
            .ok_or_else(|| failure(format!("{path}: {text}")))
    }
}

fn processes() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc")?.flatten();
    Ok(entries
        .filter_map(|e| e.file_name().to_string_lossy().parse().ok())
        .collect())
}

pub fn registry(rig: &Rig, image: &Path) -> Result<Daemon> {
    let config = rig.folder.join("registry.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {REGISTRY}\n",
        rig.path("registry")
    );
    fs::write(&config, text).context(config.display())?;
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(&config);
    command.env("OTEL_TRACES_EXPORTER", "none");
    let ready = || TcpStream::connect(REGISTRY).is_ok();
    let log = rig.folder.join("registry.log");
    let daemon = Daemon::start("docker-registry", &mut command, &log, ready)?;
    let source = format!("oci:{}:latest", image.display());
    let copy = [
        "copy",
        "--quiet",
        "--insecure-policy",
        "--dest-tls-verify=false",
    ];
    let target = format!("docker://{IMAGE}");
    call("skopeo", &[&copy[..], &[&source, &target]].concat())?;
    let source = format!("oci:{}:pause", pause(rig, image)?);
    let target = format!("docker://{REGISTRY}/pause:latest");
    call("skopeo", &[&copy[..], &[&source, &target]].concat())?;
    Ok(daemon)
}

/// What the peer runs in each pod: a program that waits, small as Kubernetes' own. Returns the layout that has it.
fn pause(rig: &Rig, image: &Path) -> Result<String> {
    let (source, program) = (rig.path("pause.c"), rig.path("pause"));
    let text = "#include <unistd.h>\n#include <signal.h>\nstatic void end(int s) { _exit(0); }\n\
                int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }\n";
    fs::write(&source, text).context(&source)?;
    call("cc", &["-Os", "-static", "-s", "-o", &program, &source])?;
    let layout = rig.path("pause-layout");
    call("cp", &["-r", &image.to_string_lossy(), &layout])?;
    let (from, to) = (format!("{layout}:latest"), format!("{layout}:pause"));
    call(
        "umoci",
        &[
            "insert", "--image", &from, "--tag", "pause", &program, "/pause",
        ],
    )?;
    let words = ["--config.entrypoint", "/pause", "--clear", "config.cmd"];
    call(
        "umoci",
        &[&["config", "--image", to.as_str()], &words[..]].concat(),
    )?;
    Ok(layout)
}

/// One bridge each, with an address of its own range.
fn network(rig: &Rig, name: &str, subnet: &str) -> Result<PathBuf> {
    let folder = rig.folder.join(format!("cni-{name}"));
    fs::create_dir_all(&folder).context(folder.display())?;
    let document = json!({
        "cniVersion": "1.0.0",
        "name": format!("bench-{name}"),
        "plugins": [
            {
                "type": "bridge",
                "bridge": format!("cb-{name}"),
                "isGateway": true,
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": rig.path(&format!("run/ipam-{name}")),
                    "ranges": [[{"subnet": subnet}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    let path = folder.join("10-bench.conflist");
    fs::write(&path, document.to_string()).context(path.display())?;
    Ok(folder)
}

pub fn corten(rig: &Rig) -> Result<Subject> {
    let etc = rig.folder.join("etc");
    fs::create_dir_all(&etc).context(etc.display())?;
    let cni = network(rig, "corten", "10.201.0.0/16")?;
    let socket = rig.path("run/corten.sock");
    let text = format!(
        "socket = \"{socket}\"\n[cni]\nconf-dir = \"{}\"\n",
        cni.display()
    );
    fs::write(etc.join("serve.toml"), text).context("serve.toml")?;
    let mut command = Command::new(&rig.corten);
    command.args([
        "--root",
        &rig.path("corten"),
        "--run",
        &rig.path("run/corten"),
    ]);
    command.arg("--etc").arg(&etc).arg("serve");
    let ready = || UnixStream::connect(&socket).is_ok();
    let log = rig.folder.join("corten.log");
    let daemon = Daemon::start("corten serve", &mut command, &log, ready)?;
    Ok(Subject {
        name: "corten serve",
        short: "corten",
        socket: socket.clone(),
        daemon,
        others: &["containerd-shim-corten-v2"],
    })
}

pub fn containerd(rig: &Rig) -> Result<Subject> {
    let folder = setup::containerd_folder();
    let cni = network(rig, "peer", "10.202.0.0/16")?;
    let socket = rig.path("run/containerd.sock");
    let config = rig.folder.join("containerd.toml");
    let (root, state) = (rig.path("containerd"), rig.path("run/containerd"));
    let conf = cni.display();
    let pause = format!("{REGISTRY}/pause:latest");
    // Both generations of settings: each version of containerd reads its own.
    let newer = folder != Path::new("/usr/bin");
    let text = match newer {
        false => format!(
            "version = 2\nroot = \"{root}\"\nstate = \"{state}\"\n[grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{pause}\"\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = \"{conf}\"\n"
        ),
        true => format!(
            "version = 3\nroot = \"{root}\"\nstate = \"{state}\"\n[grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n\
             [plugins.\"io.containerd.cri.v1.images\".pinned_images]\nsandbox = \"{pause}\"\n\
             [plugins.\"io.containerd.cri.v1.runtime\"]\ndisable_apparmor = true\nrestrict_oom_score_adj = true\n\
             [plugins.\"io.containerd.cri.v1.runtime\".cni]\nbin_dirs = [\"/usr/lib/cni\"]\nconf_dir = \"{conf}\"\n"
        ),
    };
    fs::write(&config, text).context(config.display())?;
    let mut command = Command::new(folder.join("containerd"));
    command.arg("--config").arg(&config);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{}:/usr/sbin:{path}", folder.display()));
    let ready = || UnixStream::connect(&socket).is_ok();
    let log = rig.folder.join("containerd.log");
    let daemon = Daemon::start("containerd", &mut command, &log, ready)?;
    // Its services come up after its socket.
    std::thread::sleep(std::time::Duration::from_secs(2));
    Ok(Subject {
        name: PEER,
        short: "containerd",
        socket: socket.clone(),
        daemon,
        others: &["containerd-shim-runc-v2", "pause"],
    })
}
