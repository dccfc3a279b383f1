//! The subjects: engines that start containers from an image, and runtimes on a
//! prepared bundle; the command lines of each for the same work.

use super::agent::Place;

/// In the bench's own registry, on a port of the bench's own network.
pub const IMAGE: &str = "127.0.0.1:5000/busybox:latest";

/// root lacks CAP_SYS_RESOURCE on some machines, and podman raises these by default.
const PODMAN_LIMITS: &[&str] = &[
    "--ulimit",
    "nofile=1024:20000",
    "--ulimit",
    "nproc=4096:4096",
];

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Corten,
    Podman,
    Docker,
    Containerd,
}

/// An engine's command line, up to its verb.
pub struct Engine {
    pub name: &'static str,
    pub kind: Kind,
    pub place: Place,
    pub program: Vec<String>,
    /// What the supervisor's command line has in it.
    pub supervisor: &'static str,
}

/// A runtime and the bundle that suits where it runs.
pub struct Bare {
    pub name: &'static str,
    pub place: Place,
    pub argv: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Network {
    None,
    Default,
}

impl Engine {
    /// `run --rm IMAGE true`.
    pub fn run(&self, network: Network) -> Option<Vec<String>> {
        if self.kind == Kind::Containerd {
            // ctr has no network of its own; without one it makes an empty namespace.
            let words = ["run", "--rm", IMAGE, "bench-ctr", "/bin/true"];
            return (network == Network::None).then(|| self.words(&words));
        }
        let mut argv = self.words(&["run", "--rm"]);
        self.options(&mut argv, network);
        argv.extend([IMAGE.to_owned(), "true".to_owned()]);
        Some(argv)
    }

    /// A container that stays, in the background, under this name.
    pub fn start(&self, name: &str, network: Network) -> Vec<String> {
        if self.kind == Kind::Containerd {
            return self.words(&["run", "--detach", IMAGE, name, "/bin/sleep", "1000"]);
        }
        let mut argv = self.words(&["run", "--detach", "--name", name]);
        self.options(&mut argv, network);
        argv.extend([IMAGE, "sleep", "1000"].map(str::to_owned));
        argv
    }

    /// The same on its default network, or what these options say.
    pub fn start_with(&self, name: &str, options: &[&str]) -> Vec<String> {
        let mut argv = self.words(&["run", "--detach", "--name", name]);
        self.options(&mut argv, Network::Default);
        argv.extend(options.iter().map(|&word| word.to_owned()));
        argv.extend([IMAGE, "sleep", "1000"].map(str::to_owned));
        argv
    }

    /// `run --rm IMAGE true` with these options.
    pub fn run_with(&self, options: &[&str]) -> Vec<String> {
        let mut argv = self.words(&["run", "--rm"]);
        self.options(&mut argv, Network::Default);
        argv.extend(options.iter().map(|&word| word.to_owned()));
        argv.extend([IMAGE.to_owned(), "true".to_owned()]);
        argv
    }

    /// Removes them, running or not.
    pub fn remove(&self, names: &[String]) -> Vec<Vec<String>> {
        if self.kind == Kind::Containerd {
            let one = |name: &String| {
                [
                    self.words(&["task", "kill", "--signal", "KILL", name]),
                    self.words(&["task", "delete", "--force", name]),
                    self.words(&["container", "rm", name]),
                ]
            };
            return names.iter().flat_map(one).collect();
        }
        let mut argv = self.words(&["rm", "--force"]);
        if self.kind == Kind::Podman {
            // podman waits ten seconds for sleep to heed SIGTERM otherwise.
            argv.extend(["--time", "0"].map(str::to_owned));
        }
        argv.extend(names.iter().cloned());
        vec![argv]
    }

    fn options(&self, argv: &mut Vec<String>, network: Network) {
        if self.kind == Kind::Podman {
            argv.extend(PODMAN_LIMITS.iter().map(|&word| word.to_owned()));
        }
        if network == Network::None {
            argv.extend(["--network", "none"].map(str::to_owned));
        }
    }

    pub fn words(&self, more: &[&str]) -> Vec<String> {
        self.program
            .iter()
            .cloned()
            .chain(more.iter().map(|&word| word.to_owned()))
            .collect()
    }
}
