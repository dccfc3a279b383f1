//! A host, containers and an outside, each a network namespace that lives as long as the test.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use corten_net::cni::{Attachment, Caller, NetworkConfigList, PortMapping, Protocol};
use corten_net::link::netns;
use corten_net::network::Bridge;
use rustix::thread::UnshareFlags;
#[expect(deprecated)]
use rustix::thread::unshare;

const PATIENCE: Duration = Duration::from_secs(3);

/// A network namespace with its loopback up.
pub struct Namespace {
    file: File,
}

impl Namespace {
    pub fn new() -> Self {
        // On a thread of its own, as unsharing moves the thread that asks.
        let file = std::thread::spawn(|| {
            enter_new();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self {
            file: file.join().unwrap(),
        }
    }

    /// A path that other processes can open too.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::inside(&self.file, &self.path(), || Ok(work())).unwrap()
    }

    /// Answers every TCP connection and UDP datagram on `port` with its peer's address, until the
    /// namespace's server is dropped.
    pub fn serve(&self, port: u16) -> Server {
        self.run(|| Server::start(port))
    }
}

/// Moves this thread into a namespace of its own, with the loopback up.
pub fn enter_new() {
    // Deprecated for what it could do with other flags; a network namespace is harmless.
    #[expect(deprecated)]
    unshare(UnshareFlags::NEWNET).unwrap();
    shell("ip link set lo up");
}

/// Runs a command in the namespace of the calling thread, and returns what it prints.
pub fn shell(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Sockets of a server; its threads end with it.
pub struct Server {
    stop: Vec<mpsc::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// In the namespace of the calling thread.
    pub fn here(port: u16) -> Self {
        Self::start(port)
    }

    fn start(port: u16) -> Self {
        let any: SocketAddr = format!("[::]:{port}").parse().unwrap();
        let tcp = TcpListener::bind(any).unwrap();
        let udp = UdpSocket::bind(any).unwrap();
        tcp.set_nonblocking(true).unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        let mut server = Server {
            stop: Vec::new(),
            threads: Vec::new(),
        };
        server.thread(move || {
            std::thread::sleep(Duration::from_millis(1));
            if let Ok((mut peer, from)) = tcp.accept() {
                let _ = peer.write_all(plain(from.ip()).as_bytes());
            }
        });
        server.thread(move || {
            let mut buffer = [0; 64];
            if let Ok((_, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(plain(from.ip()).as_bytes(), from);
            }
        });
        server
    }

    fn thread(&mut self, mut turn: impl FnMut() + Send + 'static) {
        let (stop, stopped) = mpsc::channel();
        self.stop.push(stop);
        self.threads.push(std::thread::spawn(move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                turn();
            }
        }));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.clear();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// The address without its being mapped into IPv6.
fn plain(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// Asks a server; the address that it saw, or what went wrong.
pub fn ask(protocol: Protocol, to: &str) -> Result<String, String> {
    ask_within(PATIENCE, protocol, to)
}

/// Whether nobody answers there, within the time that an answer would take many times over.
pub fn is_cut_off(protocol: Protocol, to: &str) -> bool {
    ask_within(Duration::from_millis(250), protocol, to).is_err()
}

fn ask_within(patience: Duration, protocol: Protocol, to: &str) -> Result<String, String> {
    let to: SocketAddr = to.parse().unwrap();
    let answer = match protocol {
        Protocol::Tcp => ask_tcp(to, patience),
        _ => ask_udp(to, patience),
    };
    answer.map_err(|e| format!("{protocol} {to}: {e}"))
}

fn ask_tcp(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn ask_udp(to: SocketAddr, patience: Duration) -> std::io::Result<String> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// The host: the test's own thread moves into a fresh namespace.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub network: Bridge,
    pub caller: Caller,
}

impl Host {
    pub fn new() -> Self {
        enter_new();
        let dir = tempfile::tempdir().unwrap();
        let mut network = Bridge::new(&dir.path().join("ipam"));
        network.subnets = ["10.90.0.0/24", "fd00:90::/64"]
            .map(|s| s.parse().unwrap())
            .to_vec();
        let caller = Caller::new(Vec::new(), dir.path().join("cni"));
        Self {
            dir,
            network,
            caller,
        }
    }

    pub fn list(&self) -> NetworkConfigList {
        self.network.list().unwrap()
    }

    /// Answers on the host as [`Namespace::serve`] does in there.
    pub fn serve(&self, port: u16) -> Server {
        Server::start(port)
    }

    /// A container on the network, with its addresses.
    pub fn container(&self, id: &str, ports: &[PortMapping]) -> Container {
        self.container_on(&self.list(), id, ports)
    }

    /// A container on another network.
    pub fn container_on(
        &self,
        list: &NetworkConfigList,
        id: &str,
        ports: &[PortMapping],
    ) -> Container {
        let namespace = Namespace::new();
        let mut attachment = Attachment::new(id.parse().unwrap(), namespace.path());
        attachment.capabilities.port_mappings = ports.to_vec();
        let result = self.caller.add(list, &attachment).unwrap();
        let address = |v4| {
            let ip = result.ips.iter().find(|ip| ip.address.is_ipv4() == v4);
            ip.unwrap().address.address()
        };
        Container {
            v4: address(true),
            v6: address(false),
            namespace,
            attachment,
        }
    }

    /// Another machine: 192.0.2.2 and 2001:db8::2, the host being .1 on the same link. It has no
    /// route back to the containers.
    pub fn outside(&self) -> Namespace {
        let outside = Namespace::new();
        shell(&format!(
            "ip link add out0 type veth peer name eth0 netns {}",
            outside.path().display()
        ));
        outside.run(|| {
            shell(
                "echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad; \
                 ip addr add 192.0.2.2/24 dev eth0 && ip addr add 2001:db8::2/64 dev eth0 nodad \
                 && ip link set eth0 up",
            )
        });
        shell(
            "echo 0 > /proc/sys/net/ipv6/conf/out0/accept_dad; \
             ip addr add 192.0.2.1/24 dev out0 && ip addr add 2001:db8::1/64 dev out0 nodad \
             && ip link set out0 up",
        );
        // Looking settles the carrier, so that no first packet is lost; IPv6 takes a moment more,
        // until the host says that nobody is there.
        outside.run(|| {
            shell("ip link show eth0");
            let refused = || {
                let patience = Duration::from_millis(100);
                ask_within(patience, Protocol::Tcp, "[2001:db8::1]:1")
                    .is_err_and(|e| e.contains("refused"))
            };
            let _settled = (0..30).any(|_| refused());
        });
        outside
    }

    /// The folder with our plugins as executables.
    pub fn executables(&self) -> PathBuf {
        let folder = self.dir.path().join("bin");
        std::fs::create_dir_all(&folder).unwrap();
        let built = std::env::current_exe().unwrap();
        let built = built
            .ancestors()
            .nth(2)
            .unwrap()
            .join("examples/cni-plugin");
        assert!(built.exists(), "{} is not built", built.display());
        for name in corten_net::plugin::NAMES {
            let link = folder.join(name);
            if !link.exists() {
                std::os::unix::fs::symlink(&built, link).unwrap();
            }
        }
        folder
    }
}

pub struct Container {
    pub v4: IpAddr,
    pub v6: IpAddr,
    pub namespace: Namespace,
    pub attachment: Attachment,
}

impl Container {
    pub fn address(&self, v4: bool) -> IpAddr {
        if v4 { self.v4 } else { self.v6 }
    }
}

pub fn port(host: u16, container: u16, protocol: Protocol) -> PortMapping {
    PortMapping {
        host_port: host,
        container_port: container,
        protocol,
        host_ip: None,
    }
}

/// What is on this host that a network could have left.
pub fn leftovers(host: &Host) -> String {
    let links = shell("ip -o link show | grep -v ' lo:' || true");
    let rules = shell("nft list ruleset");
    let ipam = |p: &Path| p.join("ipam/bridge").exists().to_string();
    format!(
        "{links}{rules}{}",
        ipam(host.dir.path()).replace("false", "")
    )
}

/// The folder of the reference plugins.
pub fn reference() -> Option<PathBuf> {
    let found = ["/usr/lib/cni", "/opt/cni/bin"]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.join("bridge").exists());
    if found.is_none() {
        corten_testkit::need::skip("the reference CNI plugins are not installed");
    }
    found
}
