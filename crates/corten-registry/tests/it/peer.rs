//! Peers: our server on a thread, docker-registry as a process, and command lines that must succeed.

use std::ffi::OsStr;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use corten_registry::client::{Client, ClientConfig, Retry, Timeouts};
use corten_registry::server::{Server, ServerConfig};
use corten_spec::Reference;
use tokio::sync::oneshot;

/// Our server, on a runtime and thread of its own.
pub struct Ours {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ours {
    pub fn start(root: &Path) -> Self {
        Self::with(ServerConfig::new(root))
    }

    pub fn with(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::new(listener, config).unwrap();
        let address = server.address().unwrap();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let shutdown = async { stopped.await.unwrap_or(()) };
            runtime.unwrap().block_on(server.run(shutdown)).unwrap();
        });
        Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}

/// A process that is ended with its owner.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Debian's docker-registry.
pub struct Theirs {
    pub address: SocketAddr,
    _process: Process,
}

/// The account of the registry with a password.
pub const USER: &str = "tester";
pub const PASSWORD: &str = "s3cret:with colon";

impl Theirs {
    pub fn plain(dir: &Path) -> Self {
        Self::start(dir, "")
    }

    /// With TLS by `cert.pem` and `key.pem` of `dir`, and a password.
    pub fn locked(dir: &Path) -> Self {
        let users = run("htpasswd", ["-Bbn", USER, PASSWORD]);
        std::fs::write(dir.join("htpasswd"), users).unwrap();
        let d = dir.display();
        let extra = format!(
            "  tls:\n    certificate: {d}/cert.pem\n    key: {d}/key.pem\nauth:\n  htpasswd:\n    realm: test\n    path: {d}/htpasswd\n"
        );
        Self::start(dir, &extra)
    }

    fn start(dir: &Path, extra: &str) -> Self {
        let address = free_address();
        let config = dir.join("config.yml");
        let root = dir.join("registry");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n{extra}",
            root.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        let process = Process(child);
        wait_for(address);
        Self {
            address,
            _process: process,
        }
    }
}

/// A loopback port that was free a moment ago.
pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

pub fn wait_for(address: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "nothing listens on {address}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a tool that must succeed; its standard output.
pub fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Vec<u8> {
    let args: Vec<_> = args.into_iter().map(|a| a.as_ref().to_owned()).collect();
    let out = Command::new(program)
        .args(&args)
        .stdin(Stdio::null())
        .output();
    let out = out.unwrap_or_else(|e| panic!("{program} is not installed: {e}"));
    assert!(
        out.status.success(),
        "{program} {args:?}: {}\n{}",
        out.status,
        String::from_utf8_lossy(&out.stderr)
    );
    out.stdout
}

/// A certificate that is its own authority, for 127.0.0.1, as people make them.
pub fn self_signed(dir: &Path) {
    let (key, cert) = (dir.join("key.pem"), dir.join("cert.pem"));
    let args = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=test",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-keyout",
    ];
    let mut args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
    args.extend([key.as_os_str(), OsStr::new("-out"), cert.as_os_str()]);
    run("openssl", args);
}

/// A client that waits little and reads nothing of this host.
pub fn config() -> ClientConfig {
    ClientConfig {
        timeouts: Timeouts {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(2),
            idle: Duration::from_millis(700),
            floor: 0,
        },
        retry: Retry {
            tries: 4,
            base: Duration::from_millis(10),
            max: Duration::from_millis(50),
        },
        ..ClientConfig::default()
    }
}

pub fn client() -> Client {
    Client::new(config())
}

pub fn reference(address: SocketAddr, rest: &str) -> Reference {
    format!("{address}/{rest}").parse().unwrap()
}
