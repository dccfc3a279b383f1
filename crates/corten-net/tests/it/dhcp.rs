//! The `dhcp` plugin and its daemon, against dnsmasq and against servers that nobody would want.

use std::fs::File;
use std::io::Write;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use corten_net::dhcp::daemon;
use serde_json::{Value, json};

use crate::rig::{Host, Namespace, shell};

/// A bridge with a server on it, and the daemon.
struct Lan {
    host: Host,
    daemon: Option<Child>,
    server: Option<Child>,
}

impl Lan {
    fn new() -> Self {
        let host = Host::new();
        shell(
            "ip link add lan0 type bridge && ip link set lan0 up && ip addr add 192.0.2.1/24 dev lan0 \
             && ip route add 255.255.255.255 dev lan0",
        );
        host.executables();
        let mut lan = Self {
            host,
            daemon: None,
            server: None,
        };
        lan.start_daemon();
        lan
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.dir.path().join(name)
    }

    fn start_daemon(&mut self) {
        let socket = self.path("dhcp.sock");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new(self.path("bin/dhcp"))
            .args([
                "daemon",
                "-timeout",
                "2s",
                "-resendmax",
                "2s",
                "-socketpath",
            ])
            .arg(&socket)
            .stderr(File::create(self.path("daemon.log")).unwrap())
            .spawn()
            .unwrap();
        self.daemon = Some(child);
        soon("the daemon listens", || socket.exists());
    }

    fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    fn dnsmasq(&mut self, options: &[&str]) {
        let leases = format!("--dhcp-leasefile={}", self.path("leases").display());
        let child = Command::new("dnsmasq")
            .args([
                "-k",
                "--port=0",
                "--conf-file=/dev/null",
                "--pid-file=",
                "--no-ping",
            ])
            .args(["--interface=lan0", "--bind-interfaces", "--user=root"])
            .args([
                "--dhcp-range=192.0.2.100,192.0.2.150,255.255.255.0,120",
                &leases,
            ])
            .args(options)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.server = Some(child);
        soon("dnsmasq listens", || {
            !shell("ss -Hlun sport = :67").is_empty()
        });
    }

    fn leases(&self) -> String {
        std::fs::read_to_string(self.path("leases")).unwrap_or_default()
    }

    fn files(&self) -> usize {
        let Ok(entries) = std::fs::read_dir(self.path("dhcp.leases")) else {
            return 0;
        };
        // One that is being written has another name.
        let names = entries.map(|e| e.unwrap().file_name());
        names
            .filter(|n| n.to_string_lossy().ends_with(".json"))
            .count()
    }

    /// A namespace with a link to the bridge, without an address.
    fn client(&self, number: usize) -> Namespace {
        let client = Namespace::new();
        shell(&format!(
            "ip link add v{number} master lan0 type veth peer name eth0 netns {} && ip link set v{number} up",
            client.path().display()
        ));
        client
    }

    fn config(&self, ipam: Value) -> Value {
        let mut ipam = ipam;
        ipam["type"] = "dhcp".into();
        ipam["daemonSocketPath"] = self.path("dhcp.sock").display().to_string().into();
        json!({"cniVersion": "1.1.0", "name": "lan", "type": "bridge", "ipam": ipam})
    }

    /// Runs the plugin: the document that it prints, or the error's text.
    fn call(&self, verb: &str, client: &Namespace, config: &Value) -> Result<Value, String> {
        let mut child = Command::new(self.path("bin/dhcp"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "cafe")
            .env("CNI_NETNS", client.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=web-1")
            .env("CNI_PATH", self.path("bin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.to_string().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        match output.status.success() {
            true if text.is_empty() => Ok(Value::Null),
            true => Ok(serde_json::from_str(&text).unwrap()),
            false => Err(text),
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.server].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn soon(what: &str, mut is: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_lease_of_dnsmasq_is_had_kept_and_given_back() {
    let mut lan = Lan::new();
    lan.dnsmasq(&[
        "--dhcp-option=3,192.0.2.1",
        "--dhcp-option=121,0.0.0.0/0,192.0.2.9,198.51.100.0/24,192.0.2.8",
        "--dhcp-option=6,192.0.2.53",
        "--dhcp-option=15,lan.example",
        "--dhcp-option=26,1400",
    ]);
    let client = lan.client(0);
    let config =
        lan.config(json!({"provide": [{"option": "host-name", "fromArg": "K8S_POD_NAME"}]}));
    let result = lan.call("ADD", &client, &config).unwrap();
    let address = result["ips"][0]["address"].as_str().unwrap();
    assert!(
        address.starts_with("192.0.2.1") && address.ends_with("/24"),
        "{result}"
    );
    assert_eq!(result["ips"][0]["gateway"], "192.0.2.9");
    assert_eq!(
        result["routes"],
        json!([
            {"dst": "0.0.0.0/0", "gw": "192.0.2.9", "mtu": 1400},
            {"dst": "198.51.100.0/24", "gw": "192.0.2.8", "mtu": 1400},
        ])
    );
    assert_eq!(
        result["dns"],
        json!({"nameservers": ["192.0.2.53"], "domain": "lan.example"})
    );
    // The server knows it by name, and by container, network and link.
    let id: String = "cafe/lan/eth0"
        .bytes()
        .map(|b| format!(":{b:02x}"))
        .collect();
    let leases = lan.leases();
    assert!(
        leases.contains(" web-1 ") && leases.contains(&format!("00{id}")),
        "{leases}"
    );
    // Asked again it is the same one, nothing is asked of the server.
    assert_eq!(lan.call("ADD", &client, &config).unwrap(), result);
    let mut checked = config.clone();
    checked["prevResult"] = result.clone();
    checked["prevResult"]["interfaces"] = json!([]);
    lan.call("CHECK", &client, &checked).unwrap();
    lan.call("STATUS", &client, &config).unwrap();

    // Another daemon goes on with it, and gives it back.
    lan.stop_daemon();
    let unreachable = lan.call("ADD", &client, &config).unwrap_err();
    assert!(
        unreachable.contains("cannot reach the DHCP daemon"),
        "{unreachable}"
    );
    lan.start_daemon();
    assert_eq!(lan.call("ADD", &client, &config).unwrap(), result);
    client.run(|| shell(&format!("ip addr add {address} dev eth0")));
    lan.call("DEL", &client, &config).unwrap();
    soon("the server has it back", || lan.leases().trim().is_empty());
    assert_eq!(lan.files(), 0);
    lan.call("DEL", &client, &config).unwrap();
    assert!(
        lan.call("CHECK", &client, &checked)
            .unwrap_err()
            .contains("not held")
    );
}

/// The reference's bridge, which makes the link and calls us for its address.
#[test]
fn the_reference_bridge_gets_its_address_from_us() {
    let mut lan = Lan::new();
    lan.dnsmasq(&["--dhcp-option=3,192.0.2.1"]);
    let namespace = Namespace::new();
    let mut config = lan.config(json!({}));
    config["cniVersion"] = "1.0.0".into();
    config["bridge"] = "lan0".into();
    let reference = |verb: &str| {
        let mut child = Command::new("/usr/lib/cni/bridge")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "cafe")
            .env("CNI_NETNS", namespace.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", lan.path("bin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(config.to_string().as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let result: Value = serde_json::from_str(&reference("ADD")).unwrap();
    assert_eq!(result["ips"][0]["gateway"], "192.0.2.1");
    let routes = namespace.run(|| shell("ip route show"));
    assert!(routes.contains("default via 192.0.2.1"), "{routes}");
    let refused = namespace
        .run(|| std::net::TcpStream::connect("192.0.2.1:9"))
        .unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(lan.files(), 1);
    // It deletes the link before it calls us, so that the server cannot be told.
    reference("DEL");
    assert_eq!(lan.files(), 0);
}

#[test]
fn a_lease_ends_with_its_namespace_and_no_server_is_an_error() {
    let mut lan = Lan::new();
    let client = lan.client(0);
    let start = Instant::now();
    let silence = lan
        .call("ADD", &client, &lan.config(json!({})))
        .unwrap_err();
    assert!(silence.contains("no DHCP server answers"), "{silence}");
    assert!(silence.contains("\"code\": 11"), "{silence}");
    assert!(start.elapsed() < Duration::from_secs(6));
    assert_eq!(lan.files(), 0);
    let wrong = lan.config(json!({"request": [{"option": "nonsense"}]}));
    let refused = lan.call("ADD", &client, &wrong).unwrap_err();
    assert!(refused.contains("is none that is known"), "{refused}");
    lan.dnsmasq(&[]);
    lan.call("ADD", &client, &lan.config(json!({}))).unwrap();
    assert_eq!(lan.files(), 1);
    drop(client);
    soon("its file goes", || lan.files() == 0);
}

/// A server as short-lived as its leases, that tells what it was asked.
struct Scripted {
    heard: mpsc::Receiver<(u8, Ipv4Addr, bool)>,
}

/// What the scripted server does with requests.
#[derive(Clone, Copy, PartialEq)]
enum Temper {
    Good,
    /// Does not hear those that are sent to it alone.
    Deaf,
    Refusing,
    /// Sends every kind of rubbish before its answer.
    Hostile,
}

impl Scripted {
    fn start(temper: Temper, seconds: u8) -> Self {
        let socket = UdpSocket::bind("0.0.0.0:67").unwrap();
        socket.set_broadcast(true).unwrap();
        let (tell, heard) = mpsc::channel();
        // It ends with the test's process.
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            let mut acknowledged = 0;
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let ask = &buffer[..length];
                let kind = ask[242];
                let own: [u8; 4] = ask[12..16].try_into().unwrap();
                let unicast = !from.ip().is_unspecified() && temper != Temper::Hostile;
                let _ = tell.send((kind, own.into(), unicast));
                let (answer, to) = match (kind, own == [0; 4]) {
                    (1, _) => (2, "255.255.255.255:68".to_owned()),
                    (3, true) => (5, "255.255.255.255:68".to_owned()),
                    (3, false) if temper == Temper::Refusing => (6, from.to_string()),
                    (3, false) if temper == Temper::Deaf && acknowledged < 2 => {
                        acknowledged += 1;
                        continue;
                    }
                    (3, false) => (5, from.to_string()),
                    _ => continue,
                };
                if temper == Temper::Hostile {
                    for rubbish in rubbish(ask, answer) {
                        let _ = socket.send_to(&rubbish, &to);
                    }
                }
                let _ = socket.send_to(&reply(ask, answer, seconds), &to);
            }
        });
        Self { heard }
    }
}

fn reply(ask: &[u8], kind: u8, seconds: u8) -> Vec<u8> {
    let mut bytes = ask[..240].to_vec();
    bytes[0] = 2;
    bytes[16..20].copy_from_slice(&[192, 0, 2, 77]);
    bytes.extend_from_slice(&[53, 1, kind, 54, 4, 192, 0, 2, 1, 1, 4, 255, 255, 255, 0]);
    bytes.extend_from_slice(&[51, 4, 0, 0, 0, seconds, 3, 4, 192, 0, 2, 1, 255]);
    bytes
}

fn rubbish(ask: &[u8], kind: u8) -> Vec<Vec<u8>> {
    let good = reply(ask, kind, 4);
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    vec![
        vec![],
        vec![0xff; 1400],
        good[..245].to_vec(),
        // Another transaction, another client, no address, a mask with holes, an option too long.
        changed(4, !good[4]),
        changed(33, !good[33]),
        changed(16, 127),
        changed(252, 7),
        changed(good.len() - 8, 200),
        // Another server's refusal.
        [&good[..240], &[53, 1, 6, 54, 4, 192, 0, 2, 66, 255]].concat(),
    ]
}

#[test]
fn rubbish_on_the_wire_is_passed_over() {
    let lan = Lan::new();
    let _server = Scripted::start(Temper::Hostile, 100);
    let client = lan.client(0);
    let result = lan.call("ADD", &client, &lan.config(json!({}))).unwrap();
    assert_eq!(result["ips"][0]["address"], "192.0.2.77/24");
}

fn leased(lan: &Lan) -> Namespace {
    let client = lan.client(0);
    lan.call("ADD", &client, &lan.config(json!({}))).unwrap();
    client.run(|| shell("ip addr add 192.0.2.77/24 dev eth0"));
    client
}

#[test]
fn a_lease_is_renewed_with_its_server_in_time() {
    let mut lan = Lan::new();
    let server = Scripted::start(Temper::Good, 6);
    let client = leased(&lan);
    let renewed = |server: &Scripted| {
        soon("it is renewed", || {
            let own = Ipv4Addr::new(192, 0, 2, 77);
            server
                .heard
                .try_iter()
                .any(|(kind, from, _)| (kind, from) == (3, own))
        });
    };
    renewed(&server);
    renewed(&server);
    // By a daemon that was not there when it was had, too.
    lan.stop_daemon();
    lan.start_daemon();
    renewed(&server);
    assert_eq!(lan.files(), 1);
    assert!(
        client
            .run(|| shell("ip link show eth0"))
            .contains("state UP")
    );
}

#[test]
fn a_server_that_does_not_answer_is_asked_through_everybody() {
    let lan = Lan::new();
    let server = Scripted::start(Temper::Deaf, 10);
    let _client = leased(&lan);
    let mut renewals = 0;
    soon("it is asked three times", || {
        let own = Ipv4Addr::new(192, 0, 2, 77);
        renewals += server
            .heard
            .try_iter()
            .filter(|(_, from, _)| *from == own)
            .count();
        renewals >= 3
    });
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(lan.files(), 1);
}

#[test]
fn an_address_that_was_taken_back_is_not_used_any_more() {
    let lan = Lan::new();
    let _server = Scripted::start(Temper::Refusing, 4);
    let client = leased(&lan);
    soon("its link goes down", || {
        client
            .run(|| shell("ip link show eth0"))
            .contains("state DOWN")
    });
    soon("its lease is no more", || lan.files() == 0);
    let log = std::fs::read_to_string(lan.path("daemon.log")).unwrap();
    assert!(log.contains("was taken back by its server"), "{log}");
}

#[test]
fn a_del_comes_to_an_end_without_a_daemon_too() {
    let mut lan = Lan::new();
    let _server = Scripted::start(Temper::Good, 100);
    let client = leased(&lan);
    lan.stop_daemon();
    assert_eq!(lan.files(), 1);
    lan.call("DEL", &client, &lan.config(json!({}))).unwrap();
    assert_eq!(lan.files(), 0);
    std::fs::remove_dir_all(lan.path("dhcp.leases")).unwrap();
    lan.call("DEL", &client, &lan.config(json!({}))).unwrap();
    let status = lan
        .call("STATUS", &client, &lan.config(json!({})))
        .unwrap_err();
    assert!(
        status.contains("\"code\": 50") && status.contains("reach the DHCP daemon"),
        "{status}"
    );
}

#[test]
fn many_that_need_the_daemon_at_once_get_one() {
    let host = Host::new();
    let executable = host.executables().join("dhcp");
    let socket = host.dir.path().join("own.sock");
    let serving = || {
        shell(&format!(
            "pgrep -f -- '[-]socketpath={}' || true",
            socket.display()
        ))
    };
    for round in 0..5 {
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| daemon::ensure(&executable, &socket)))
                .collect();
            for one in all {
                one.join()
                    .unwrap()
                    .unwrap_or_else(|e| panic!("round {round}: {}", e.chain()));
            }
        });
        soon("the others end", || serving().lines().count() == 1);
        let folder = std::fs::read_link(format!("/proc/{}/cwd", serving().trim())).unwrap();
        assert_eq!(folder, std::path::Path::new("/"));
        shell(&format!("kill -9 {}", serving().trim()));
        soon("it ends", || serving().is_empty());
    }
}

/// A daemon that ends holds its lock a moment longer than its socket.
#[test]
fn a_daemon_that_just_ends_is_waited_for() {
    let host = Host::new();
    let executable = host.executables().join("dhcp");
    let socket = host.dir.path().join("own.sock");
    let folder = host.dir.path().join("own.leases");
    std::fs::create_dir(&folder).unwrap();
    let ending = File::open(&folder).unwrap();
    ending.lock().unwrap();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| daemon::ensure(&executable, &socket));
        std::thread::sleep(Duration::from_millis(100));
        drop(ending);
        next.join().unwrap().unwrap();
    });
    let pid = shell(&format!("pgrep -f -- '[-]socketpath={}'", socket.display()));
    shell(&format!("kill -9 {}", pid.trim()));
}

#[test]
fn gc_gives_back_what_no_valid_attachment_holds() {
    let lan = Lan::new();
    let server = Scripted::start(Temper::Good, 100);
    let client = leased(&lan);
    let mut config = lan.config(json!({}));
    // It does not say what is to be kept.
    lan.call("GC", &client, &config).unwrap();
    assert_eq!(lan.files(), 1);
    let key = "cni.dev/valid-attachments";
    config[key] = json!([{"containerID": "cafe", "ifname": "eth0"}]);
    lan.call("GC", &client, &config).unwrap();
    assert_eq!(lan.files(), 1);
    config[key] = json!([{"containerID": "cafe", "ifname": "eth1"}]);
    lan.call("GC", &client, &config).unwrap();
    assert_eq!(lan.files(), 0);
    soon("the server hears of it", || {
        server.heard.try_iter().any(|(kind, _, _)| kind == 7)
    });
}
