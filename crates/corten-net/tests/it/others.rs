//! Beside other people's firewalls: Docker's daemon itself, and rules as kube-proxy, firewalld and
//! administrators write them.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use corten_net::cni::Protocol;
use corten_net::{network, recover};

use crate::rig::{Container, Host, Namespace, ask, is_cut_off, port, shell};

const UDP: Protocol = Protocol::Udp;

/// A Docker daemon in the namespace of the test, all that is its own below `dir`.
struct Docker {
    daemon: Child,
    socket: String,
}

impl Docker {
    fn start(dir: &Path) -> Option<Self> {
        if !Path::new("/usr/sbin/dockerd").exists() {
            println!("skipped: docker.io is not installed");
            return None;
        }
        let at = |name: &str| dir.join(name).display().to_string();
        let socket = format!("unix://{}", at("docker.sock"));
        // Its mounts in a mount namespace of its own; and it ends with the test, come what may.
        let daemon = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "unshare", "--mount", "dockerd"])
            .args(["--data-root", &at("data"), "--exec-root", &at("exec")])
            .args(["--pidfile", &at("docker.pid"), "--host", &socket])
            .args(["--storage-driver", "vfs", "--iptables=true"])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let docker = Self { daemon, socket };
        let start = Instant::now();
        while docker.run("info").is_err() {
            assert!(start.elapsed().as_secs() < 30, "dockerd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(docker)
    }

    fn run(&self, command: &str) -> Result<String, String> {
        let output = Command::new("docker")
            .args(["--host", &self.socket])
            .args(command.split(' '))
            .output()
            .unwrap();
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.daemon.wait();
    }
}

/// Whether the outside reaches the container's port 8080, and the container the outside.
fn passes(outside: &Namespace, c: &Container) -> [bool; 4] {
    let into = |to| outside.run(|| !is_cut_off(UDP, to));
    let out = |to| c.namespace.run(|| !is_cut_off(UDP, to));
    [
        into("192.0.2.1:8080"),
        into("[2001:db8::1]:8080"),
        out("192.0.2.2:80"),
        out("[2001:db8::2]:80"),
    ]
}

const ALL: [bool; 4] = [true; 4];

#[test]
fn docker_that_was_there_first() {
    let host = Host::new();
    let outside = host.outside();
    // Then Docker turns forwarding on itself, and makes the policy drop.
    shell(
        "echo 0 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv6/conf/all/forwarding",
    );
    let Some(docker) = Docker::start(host.dir.path()) else {
        return;
    };
    assert!(shell("iptables-nft -S FORWARD").contains("-P FORWARD DROP"));
    shell("ip6tables-nft -P FORWARD DROP");
    let c = host.container("c", &[port(8080, 80, UDP)]);
    let _servers = (c.namespace.serve(80), outside.serve(80));
    assert_eq!(passes(&outside, &c), ALL);
    // Docker still works on its chains, and leaves ours alone.
    docker
        .run("network create --subnet 10.77.0.0/24 x")
        .unwrap();
    assert_eq!(passes(&outside, &c), ALL);
    docker.run("network rm x").unwrap();
    assert_eq!(
        recover::intact(&host.list(), &host.dir.path().join("cni")).unwrap(),
        [""; 0]
    );
    host.caller.del(&host.list(), &c.attachment).unwrap();
    network::remove(&host.list()).unwrap();
    drop(docker);
    let rules = shell("iptables-nft -S; ip6tables-nft -S");
    assert!(!rules.contains("corten"), "{rules}");
}

#[test]
fn docker_that_came_later_and_a_policy_of_drop_after_it() {
    let host = Host::new();
    let outside = host.outside();
    let c = host.container("c", &[port(8080, 80, UDP)]);
    let _servers = (c.namespace.serve(80), outside.serve(80));
    let Some(_docker) = Docker::start(host.dir.path()) else {
        return;
    };
    assert_eq!(passes(&outside, &c), ALL);
    shell("iptables-nft -P FORWARD DROP; ip6tables-nft -P FORWARD DROP");
    assert_eq!(passes(&outside, &c), [false; 4]);
    let cache = host.dir.path().join("cni");
    let missing = recover::intact(&host.list(), &cache).unwrap();
    assert_eq!(
        missing,
        ["the way of corten0 through others' FORWARD chain"]
    );
    let done = recover::reload(&host.list(), &cache).unwrap();
    assert_eq!(done.restored, missing);
    assert_eq!(passes(&outside, &c), ALL);
    assert_eq!(
        recover::reload(&host.list(), &cache).unwrap().restored,
        [""; 0]
    );
}

#[test]
fn a_chain_of_iptables_that_ends_in_a_rejection() {
    let host = Host::new();
    let outside = host.outside();
    for tool in ["iptables-nft", "ip6tables-nft"] {
        shell(&format!(
            "{tool} -A FORWARD -p icmp -j ACCEPT; {tool} -A FORWARD -j REJECT"
        ));
    }
    let c = host.container("c", &[port(8080, 80, UDP)]);
    let _servers = (c.namespace.serve(80), outside.serve(80));
    assert_eq!(passes(&outside, &c), ALL);
    shell("iptables-nft -S; ip6tables-nft -S");
}

/// As kube-proxy's iptables mode writes them, for one service of one endpoint.
const KUBE_IPTABLES: &str = "
*nat
:KUBE-SERVICES - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-A - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE
-A KUBE-SERVICES -d 10.96.0.1/32 -p udp -m udp --dport 80 -j KUBE-SVC-A
-A KUBE-SVC-A ! -s 10.90.0.0/24 -d 10.96.0.1/32 -p udp -m udp --dport 80 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -j KUBE-SEP-A
-A KUBE-SEP-A -p udp -m udp -j DNAT --to-destination 10.90.0.2:80
COMMIT
*filter
:KUBE-FORWARD - [0:0]
-P FORWARD DROP
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
";

/// As its nftables mode does.
const KUBE_NFT: &str = "
table ip kube-proxy {
    map service-ips { type ipv4_addr . inet_proto . inet_service : verdict;
        elements = { 10.96.0.1 . udp . 80 : goto service-a } }
    chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
    chain service-a { ip saddr != 10.90.0.0/24 jump mark-for-masquerade
        meta l4proto udp dnat to 10.90.0.2:80; }
    chain mark-for-masquerade { meta mark set meta mark | 0x4000; }
    chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
    chain nat-output { type nat hook output priority -100; jump services; }
    chain nat-postrouting { type nat hook postrouting priority srcnat;
        meta mark & 0x4000 == 0x4000 masquerade; }
    chain filter-forward { type filter hook forward priority -110;
        ct state new jump no-endpoint; }
    chain no-endpoint { ip daddr 10.96.0.9 reject; }
}
";

#[test]
fn kube_proxys_services_and_published_ports_in_one_namespace() {
    for (tool, rules) in [
        ("iptables-nft-restore --noflush", KUBE_IPTABLES),
        ("nft -f -", KUBE_NFT),
    ] {
        std::thread::spawn(move || {
            let host = Host::new();
            let outside = host.outside();
            let rules = match tool {
                // In the words of iptables-restore.
                "iptables-nft-restore --noflush" => rules
                    .replace(":KUBE-FORWARD", ":FORWARD DROP [0:0]\n:KUBE-FORWARD")
                    .replace("-P FORWARD DROP\n", ""),
                _ => rules.to_owned(),
            };
            let file = host.dir.path().join("rules");
            std::fs::write(&file, rules).unwrap();
            shell(&format!("{tool} < {}", file.display()));
            let c = host.container("c", &[port(8080, 80, UDP)]);
            let other = host.container("other", &[]);
            let _servers = (c.namespace.serve(80), outside.serve(80));
            outside.run(|| shell("ip route add 10.96.0.0/16 via 192.0.2.1"));
            assert_eq!(passes(&outside, &c), ALL, "{tool}");
            // The service, from outside, the host, a container.
            assert!(outside.run(|| ask(UDP, "10.96.0.1:80")).is_ok(), "{tool}");
            shell("ip route add 10.96.0.0/16 dev corten0");
            assert!(ask(UDP, "10.96.0.1:80").is_ok(), "{tool}");
            assert!(
                other.namespace.run(|| ask(UDP, "192.0.2.1:8080")).is_ok(),
                "{tool}"
            );
            assert_eq!(recover::obstacles(&host.list()).unwrap(), [], "{tool}");
        })
        .join()
        .unwrap();
    }
}

/// Tables of other names belong to who wrote them: they are named, not changed.
#[test]
fn what_drops_in_others_tables_is_named() {
    let host = Host::new();
    let outside = host.outside();
    let c = host.container("c", &[port(8080, 80, UDP)]);
    let _servers = (c.namespace.serve(80), outside.serve(80));
    let cases = [
        (
            "table inet firewalld { chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; \
               ct state { established, related } accept; iifname \"lo\" accept; \
               log prefix \"x\"; counter reject with icmpx admin-prohibited; }\n}",
            "chain filter_FORWARD of table inet firewalld ends with a rule that drops the rest",
            "nft insert rule inet firewalld filter_FORWARD iifname corten0 accept; \
             nft insert rule inet firewalld filter_FORWARD oifname corten0 accept",
        ),
        (
            "table inet filter { chain forward { type filter hook forward priority filter; policy drop; }\n \
               chain input { type filter hook input priority filter; policy accept; }\n}",
            "chain forward of table inet filter drops what none of its rules accepts",
            "nft add rule inet filter forward iifname corten0 accept; \
             nft add rule inet filter forward oifname corten0 accept",
        ),
    ];
    for (table, wanted, remedy) in cases {
        assert_eq!(recover::obstacles(&host.list()).unwrap(), []);
        let file = host.dir.path().join("table.nft");
        std::fs::write(&file, table).unwrap();
        shell(&format!("nft -f {}", file.display()));
        assert_eq!(passes(&outside, &c), [false; 4], "{wanted}");
        let found = recover::obstacles(&host.list()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), wanted);
        // What the administrator does about it.
        shell(remedy);
        assert_eq!(passes(&outside, &c), ALL, "{wanted}");
        let name = table.split(' ').nth(2).unwrap();
        shell(&format!("nft delete table inet {name}"));
    }
    // Chains that accept, or are of other hooks, are none.
    shell(
        "nft 'table inet a { chain f { type filter hook forward priority 5; ip daddr 192.0.2.77 drop; }; \
           chain i { type filter hook input priority 5; policy drop; meta l4proto { udp, ipv6-icmp } accept; }; }'",
    );
    assert_eq!(recover::obstacles(&host.list()).unwrap(), []);
}

#[test]
fn the_legacy_iptables_is_named() {
    let host = Host::new();
    let works = Command::new("iptables-legacy")
        .args(["-P", "FORWARD", "ACCEPT"])
        .status();
    if !works.is_ok_and(|s| s.success()) {
        println!("skipped: this kernel or machine has no legacy iptables");
        return;
    }
    let found = recover::obstacles(&host.list()).unwrap();
    assert_eq!(
        found[0].to_string(),
        "chain FORWARD of the legacy iptables' table filter may drop what is forwarded"
    );
}
