//! How long ADD and DEL of bridge, host-local and portmap take. Run in a network namespace of its
//! own: `unshare -n cargo run --release -p corten-net --example attach-bench [COUNT [PLUGINS]]`,
//! PLUGINS being a folder of other plugins to measure beside ours.

use std::process::{Child, Command};
use std::time::{Duration, Instant};

use corten_net::cni::{Attachment, Caller, NetworkConfigList, PortMapping, Protocol};
use corten_net::network::{self, Bridge};

fn main() {
    let mut args = std::env::args().skip(1);
    let count = args.next().and_then(|n| n.parse().ok()).unwrap_or(50);
    let dir = std::env::temp_dir().join(format!("attach-bench-{}", std::process::id()));
    let list = Bridge::new(&dir.join("ipam"))
        .list()
        .expect("the default network");
    let caller = Caller::new(
        args.next().map(Into::into).into_iter().collect(),
        dir.join("cni"),
    );
    measure("in process", &caller, &list, count);
    if std::env::args().len() > 2 {
        // What Debian's plugins speak.
        let mut old = list.document().clone();
        old["cniVersion"] = "1.0.0".into();
        let old = NetworkConfigList::from_document(old).expect("the same with another version");
        measure("executables", &caller.without_bundled(), &old, count);
    }
    std::fs::remove_dir_all(&dir).expect("our own folder");
}

fn sandbox() -> Child {
    let mut child = Command::new("unshare")
        .args(["-n", "sleep", "600"])
        .spawn()
        .expect("unshare");
    let own = std::fs::read_link("/proc/self/ns/net").expect("our namespace");
    while std::fs::read_link(format!("/proc/{}/ns/net", child.id())).is_ok_and(|n| n == own) {
        assert!(child.try_wait().expect("our child").is_none());
    }
    child
}

fn measure(what: &str, caller: &Caller, list: &NetworkConfigList, count: u16) {
    let (mut add, mut del) = (Vec::new(), Vec::new());
    let mut sandboxes: Vec<Child> = (0..count).map(|_| sandbox()).collect();
    let attachments: Vec<Attachment> = (0..count)
        .zip(&sandboxes)
        .map(|(i, s)| {
            let id = format!("c{i}").parse().expect("an id");
            let mut a = Attachment::new(id, format!("/proc/{}/ns/net", s.id()));
            a.capabilities.port_mappings = vec![PortMapping {
                host_port: 20000 + i,
                container_port: 80,
                protocol: Protocol::Tcp,
                host_ip: None,
            }];
            a
        })
        .collect();
    for a in &attachments {
        let start = Instant::now();
        caller.add(list, a).expect("ADD");
        add.push(start.elapsed());
    }
    // Half of the containers have ended, as most have at their DEL.
    let (dead, alive) = attachments.split_at(attachments.len() / 2);
    for s in &mut sandboxes[..dead.len()] {
        s.kill().expect("our child");
        s.wait().expect("our child");
    }
    let mut del_dead = Vec::new();
    for a in dead {
        let start = Instant::now();
        caller.del(list, a).expect("DEL");
        del_dead.push(start.elapsed());
    }
    for a in alive {
        let start = Instant::now();
        caller.del(list, a).expect("DEL");
        del.push(start.elapsed());
    }
    for s in &mut sandboxes[dead.len()..] {
        s.kill().expect("our child");
        s.wait().expect("our child");
    }
    network::remove(list).expect("nothing is attached");
    let first = add[0];
    println!("{what}: ADD first {first:?}, {}", spread(add));
    println!("{what}: DEL of a dead container {}", spread(del_dead));
    println!("{what}: DEL of a live container {}", spread(del));
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |q: usize| times[(times.len() - 1) * q / 100];
    format!("p50 {:?} p90 {:?} max {:?}", at(50), at(90), at(100))
}
