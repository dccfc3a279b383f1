//! Who pulls, and by which words.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Command;

use super::super::call;
use super::super::daemon::Daemon;
use super::{IMAGE, Rig};
use crate::failure::{Context, Result};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Floor,
    Shell,
    /// With EROFS images.
    Corten,
    /// With folders.
    Folders,
    Podman,
    Docker,
    Containerd,
}

#[derive(Clone, Copy)]
pub struct Subject {
    pub name: &'static str,
    pub kind: Kind,
}

/// A subject with an empty store, and the daemons that it needs.
pub struct Ready {
    pub store: String,
    pub program: Vec<String>,
    pub daemons: Vec<Daemon>,
}

impl Subject {
    pub const ALL: [Subject; 7] = [
        Subject {
            name: "floor, 2 threads",
            kind: Kind::Floor,
        },
        Subject {
            name: "curl | gunzip | sha256sum",
            kind: Kind::Shell,
        },
        Subject {
            name: "corten",
            kind: Kind::Corten,
        },
        Subject {
            name: "corten, folders",
            kind: Kind::Folders,
        },
        Subject {
            name: "podman",
            kind: Kind::Podman,
        },
        Subject {
            name: "docker",
            kind: Kind::Docker,
        },
        Subject {
            name: "ctr",
            kind: Kind::Containerd,
        },
    ];

    pub fn named(kind: Kind) -> Subject {
        let mut all = Subject::ALL.into_iter();
        all.find(|s| s.kind == kind).unwrap_or(Subject::ALL[0])
    }

    /// Makes an empty store and starts the daemons on it.
    pub fn ready(&self, rig: &Rig, tag: &str) -> Result<Ready> {
        let name = format!(
            "{}-{tag}",
            self.name.split([' ', ',']).next().unwrap_or("x")
        );
        let name = format!("{name}-{}", self.kind as u8);
        let store = rig.path(&name);
        fs::create_dir_all(&store).context(&store)?;
        let mut daemons = Vec::new();
        let run = rig.run_path(&name);
        fs::create_dir_all(&run).context(&run)?;
        let program = match self.kind {
            Kind::Floor | Kind::Shell => Vec::new(),
            Kind::Corten | Kind::Folders => {
                let etc = format!("{run}/etc");
                fs::create_dir_all(&etc).context(&etc)?;
                let layers = if self.kind == Kind::Corten {
                    "erofs"
                } else {
                    "overlay"
                };
                let config = format!("{etc}/config.toml");
                fs::write(&config, format!("[store]\nlayers = \"{layers}\"\n")).context(&config)?;
                words(&[&rig.corten, "--root", &store, "--run", &run, "--etc", &etc])
            }
            Kind::Podman => words(&[
                "/usr/bin/podman",
                "--cgroup-manager=cgroupfs",
                "--storage-driver=overlay",
                "--events-backend=file",
                "--runtime=/usr/sbin/runc",
                "--root",
                &store,
                "--runroot",
                &run,
                "--tmpdir",
                &format!("{run}/tmp"),
            ]),
            Kind::Docker => {
                let containerd = containerd(&format!("{store}/containerd"), &run)?;
                daemons.push(containerd);
                daemons.insert(0, dockerd(&format!("{store}/docker"), &run)?);
                words(&[
                    "/usr/bin/docker",
                    "-H",
                    &format!("unix://{run}/docker.sock"),
                ])
            }
            Kind::Containerd => {
                daemons.push(containerd(&store, &run)?);
                words(&["/usr/bin/ctr", "--address", &format!("{run}/c.sock")])
            }
        };
        Ok(Ready {
            store,
            program,
            daemons,
        })
    }

    /// The command that pulls.
    pub fn pull(&self, rig: &Rig, ready: &Ready) -> Vec<String> {
        let verb: &[&str] = match self.kind {
            Kind::Floor => {
                let host = super::REGISTRY;
                let mut argv = words(&[&rig.floor, &ready.store, "2", host, "large"]);
                argv.extend(rig.layers.iter().cloned());
                return argv;
            }
            Kind::Shell => return words(&["sh", "-c", &shell(rig, &ready.store)]),
            Kind::Corten | Kind::Folders | Kind::Docker => &["pull", "--quiet"],
            Kind::Podman => &["pull", "--quiet", "--tls-verify=false"],
            Kind::Containerd => &["images", "pull", "--plain-http"],
        };
        ready.words(&[verb, &[IMAGE]].concat())
    }

    /// `run --rm` of a command in the image; podman's limits, as root may lack the right to raise them.
    pub fn run(&self, ready: &Ready, script: &str) -> Option<Vec<String>> {
        let limits: &[&str] = match self.kind {
            Kind::Floor | Kind::Shell | Kind::Containerd => return None,
            Kind::Podman => &[
                "--tls-verify=false",
                "--ulimit=nofile=1024:20000",
                "--ulimit=nproc=4096:4096",
            ],
            _ => &[],
        };
        let head = ["run", "--rm", "--network", "none"];
        let tail = [IMAGE, "sh", "-c", script];
        Some(ready.words(&[&head[..], limits, &tail].concat()))
    }

    pub fn remove(&self, ready: &Ready) -> Option<Vec<String>> {
        match self.kind {
            Kind::Floor | Kind::Shell => None,
            // Without it, containerd removes in the background.
            Kind::Containerd => Some(ready.words(&["images", "rm", "--sync", IMAGE])),
            _ => Some(ready.words(&["rmi", IMAGE])),
        }
    }
}

impl Ready {
    pub fn words(&self, more: &[&str]) -> Vec<String> {
        let more = more.iter().map(|&w| w.to_owned());
        self.program.iter().cloned().chain(more).collect()
    }

    pub fn close(mut self) {
        for daemon in &mut self.daemons {
            daemon.stop();
        }
    }
}

/// Two pipelines at a time, each layer through four processes.
fn shell(rig: &Rig, store: &str) -> String {
    let one = format!(
        "curl -s http://{}/v2/large/blobs/$1 | gunzip | tee {store}/${{1#*:}} | sha256sum >/dev/null; sync {store}/${{1#*:}}",
        super::REGISTRY
    );
    let layers = rig.layers.join("\\n");
    format!("printf '{layers}\\n' | xargs -P 2 -n 1 sh -c '{one}' x")
}

fn containerd(root: &str, run: &str) -> Result<Daemon> {
    let config = format!("{run}/containerd.toml");
    let socket = format!("{run}/c.sock");
    let text = format!(
        "version = 2\nroot = \"{root}\"\nstate = \"{run}/containerd\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{socket}\"\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n"
    );
    fs::write(&config, text).context(&config)?;
    let mut command = Command::new("/usr/bin/containerd");
    command.arg("--config").arg(&config);
    let ready = || UnixStream::connect(&socket).is_ok();
    let log = format!("{run}/containerd.log");
    Daemon::start("containerd", &mut command, log.as_ref(), ready)
}

fn dockerd(root: &str, run: &str) -> Result<Daemon> {
    let host = format!("unix://{run}/docker.sock");
    let mut command = Command::new("/usr/sbin/dockerd");
    command.args(["--data-root", root, "--exec-root", &format!("{run}/docker")]);
    command.args(["-p", &format!("{run}/docker.pid"), "-H", &host]);
    command.args(["--containerd", &format!("{run}/c.sock")]);
    // Pulled from a container without a network: no bridge is wanted.
    command.args(["--bridge=none", "--iptables=false"]);
    let probe = host.clone();
    let ready = move || call("/usr/bin/docker", &["-H", &probe, "info"]).is_ok();
    let log = format!("{run}/dockerd.log");
    Daemon::start("dockerd", &mut command, log.as_ref(), ready)
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|&w| w.to_owned()).collect()
}
