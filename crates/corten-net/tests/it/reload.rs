//! A ruleset that somebody flushed is put back, and what the containers had in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use corten_net::cni::{Attachment, Protocol};
use corten_net::{network, recover};
use serde_json::json;

use crate::policy::network_with;
use crate::rig::{Host, Namespace, ask, is_cut_off, leftovers, port, shell};

fn cache(host: &Host) -> PathBuf {
    host.dir.path().join("cni")
}

/// The ruleset without counters, handles and the order of elements.
pub fn ruleset() -> Vec<String> {
    let listed = shell("nft -j list ruleset");
    let document: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let mut all: Vec<String> = document["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .map(|object| {
            let mut object = object.clone();
            for kind in object.as_object_mut().unwrap().values_mut() {
                kind.as_object_mut().unwrap().remove("handle");
                if let Some(elements) = kind.get_mut("elem").and_then(|e| e.as_array_mut()) {
                    elements.sort_by_key(ToString::to_string);
                }
            }
            object.to_string()
        })
        .collect();
    all.sort();
    all
}

#[test]
fn a_flushed_ruleset_is_put_back_as_it_was() {
    let host = Host::new();
    let outside = host.outside();
    let keys = json!({"cortenIsolate": true, "macspoofchk": true, "cortenHostLoopback": true});
    let mut document = network_with(&host, 1, keys).document().clone();
    let firewall = json!({"type": "firewall", "ingressPolicy": "isolated"});
    document["plugins"].as_array_mut().unwrap().push(firewall);
    document["plugins"][1]["masqAll"] = true.into();
    let list = corten_net::cni::NetworkConfigList::from_document(document).unwrap();
    let both = [Protocol::Tcp, Protocol::Udp];
    let containers: Vec<_> = (0..3)
        .map(|i| {
            host.container_on(
                &list,
                &format!("c{i}"),
                &both.map(|p| port(8080 + i, 80, p)),
            )
        })
        .collect();
    let _server = containers[0].namespace.serve(80);
    let before = ruleset();
    assert_eq!(recover::intact(&list, &cache(&host)).unwrap(), [""; 0]);
    let nothing = recover::reload(&list, &cache(&host)).unwrap();
    assert_eq!(nothing, recover::Reloaded::default());

    shell("nft flush ruleset");
    assert!(outside.run(|| is_cut_off(Protocol::Tcp, "192.0.2.1:8080")));
    let missing = recover::intact(&list, &cache(&host)).unwrap();
    for thing in [
        "link br1",
        "link br1 as isolated",
        "link br1 as ingress",
        "the way from br1 to the host's loopback",
        "subnet 10.1.0.0/24",
        "masquerading of fd00:1::/64",
        "port 0.0.0.0:8080/tcp of c0",
        "port [::]:8082/udp of c2",
        "the admission of 10.1.0.3 of c1",
    ] {
        assert!(missing.iter().any(|m| m == thing), "{thing}: {missing:#?}");
    }
    let done = recover::reload(&list, &cache(&host)).unwrap();
    assert_eq!(done.restored, missing);
    assert_eq!((done.refused.len(), done.dead.len()), (0, 0));
    assert_eq!(ruleset(), before);
    assert!(outside.run(|| ask(Protocol::Tcp, "192.0.2.1:8080")).is_ok());
    let again = recover::reload(&list, &cache(&host)).unwrap();
    assert_eq!(again, recover::Reloaded::default());

    // A part is enough to be noticed.
    shell("nft delete element inet corten publish4 '{ udp . 8081 }'");
    let done = recover::reload(&list, &cache(&host)).unwrap();
    assert_eq!(done.restored, ["port 0.0.0.0:8081/udp of c1"]);
    assert_eq!(ruleset(), before);
    for c in &containers {
        host.caller.check(&list, &c.attachment).unwrap();
        host.caller.del(&list, &c.attachment).unwrap();
    }
    network::remove(&list).unwrap();
    assert!(!leftovers(&host).contains("corten"));
}

#[test]
fn the_dead_are_named_and_what_another_has_by_now_is_left_to_it() {
    let host = Host::new();
    let list = host.list();
    let dead = host.container("dead", &[port(8080, 80, Protocol::Tcp)]);
    let loser = host.container("loser", &[port(8081, 80, Protocol::Tcp)]);
    drop(dead.namespace);
    shell("nft flush ruleset");
    // The port was published anew before anybody noticed, without our Caller.
    let winner = shell("nft list ruleset");
    assert_eq!(winner, "");
    let mut firewall = corten_net::firewall::Firewall::open("corten").unwrap();
    firewall
        .publish(&[corten_net::firewall::Published {
            host: "0.0.0.0:8081".parse().unwrap(),
            protocol: Protocol::Tcp,
            target: "10.90.0.9:80".parse().unwrap(),
            source: Default::default(),
            owner: corten_net::owner::Owner::new("winner", "eth0", "other"),
        }])
        .unwrap();
    let done = recover::reload(&list, &cache(&host)).unwrap();
    assert_eq!(done.dead, ["dead"]);
    assert_eq!(
        done.refused,
        ["port 0.0.0.0:8081/tcp is published by container winner"]
    );
    assert!(
        !done.restored.iter().any(|r| r.contains("dead")),
        "{done:?}"
    );
    assert!(
        done.restored
            .contains(&"port [::]:8081/tcp of loser".into())
    );
    assert!(host.caller.check(&list, &loser.attachment).is_err());
}

/// A path of `/proc` outlives its process: it may be that of another one by now.
#[test]
fn a_namespace_that_is_another_ones_by_now_gets_nothing() {
    let host = Host::new();
    let list = host.list();
    let _c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    let other = Namespace::new();
    let file = cache(&host).join("results/bridge-c-eth0");
    let mut entry: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let link = "ip link add eth0 type veth peer name x";
    other.run(|| shell(link));
    for path in [other.path(), "/dev/null".into(), "/nonexistent".into()] {
        entry["netns"] = path.display().to_string().into();
        std::fs::write(&file, entry.to_string()).unwrap();
        shell("nft flush ruleset");
        let done = recover::reload(&list, &cache(&host)).unwrap();
        assert_eq!(done.dead, ["c"]);
        assert_eq!(shell("nft list ruleset"), "");
    }
    // One that cannot be understood is named, and keeps nothing else.
    entry["result"] = json!({"cniVersion": "1.1.0", "ips": 7});
    std::fs::write(&file, entry.to_string()).unwrap();
    let done = recover::reload(&list, &cache(&host)).unwrap();
    assert!(
        done.refused[0].starts_with("the cached result of c"),
        "{done:?}"
    );
}

#[test]
fn an_add_that_finds_the_table_gone_puts_the_others_back() {
    let host = Host::new();
    let outside = host.outside();
    let second = network_with(&host, 2, json!({}));
    let a = host.container("a", &[port(8080, 80, Protocol::Tcp)]);
    let b = host.container_on(&second, "b", &[port(8081, 80, Protocol::Tcp)]);
    let _servers = (a.namespace.serve(80), b.namespace.serve(80));
    let reaches = |n: u16| outside.run(|| !is_cut_off(Protocol::Tcp, &format!("192.0.2.1:{n}")));
    shell("nft flush ruleset");
    assert!(!reaches(8080) && !reaches(8081));
    let _c = host.container("c", &[]);
    assert!(reaches(8080) && !reaches(8081));
    // The table is there by now, and yet the other network is not in it.
    let _d = host.container_on(&second, "d", &[]);
    assert!(reaches(8081));
    for list in [host.list(), second] {
        assert_eq!(recover::intact(&list, &cache(&host)).unwrap(), [""; 0]);
    }
}

/// Flushes, reloads, ADDs and DELs at once: none of them fails for the others, and in the end a
/// reload makes everything right, with nothing of those that left.
#[test]
fn flushes_reloads_adds_and_dels_beside_each_other() {
    let host = Host::new();
    let list = host.list();
    let kept = host.container("kept", &[port(9000, 80, Protocol::Tcp)]);
    let stop = AtomicBool::new(false);
    let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let path: PathBuf = "/proc/thread-self/ns/net".into();
    let here = |work: &(dyn Fn() + Sync)| {
        corten_net::link::netns::inside(&own, &path, || {
            work();
            Ok(())
        })
        .unwrap();
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3u16)
            .map(|worker| {
                let (host, list) = (&host, &list);
                scope.spawn(move || {
                    here(&|| {
                        for round in 0..12u16 {
                            let namespace = Namespace::new();
                            let id = format!("w{worker}r{round}").parse().unwrap();
                            let mut a = Attachment::new(id, namespace.path());
                            let number = 8000 + worker * 100 + round;
                            a.capabilities.port_mappings = vec![port(number, 80, Protocol::Udp)];
                            host.caller.add(list, &a).unwrap();
                            host.caller.del(list, &a).unwrap();
                        }
                    })
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                here(&|| {
                    while !stop.load(Ordering::Relaxed) {
                        recover::reload(&list, &cache(&host)).unwrap();
                    }
                })
            });
        }
        scope.spawn(|| {
            here(&|| {
                while !stop.load(Ordering::Relaxed) {
                    shell("nft flush ruleset");
                    std::thread::sleep(std::time::Duration::from_millis(7));
                }
            })
        });
        let ended: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        stop.store(true, Ordering::Relaxed);
        for worker in ended {
            worker.unwrap();
        }
    });
    recover::reload(&list, &cache(&host)).unwrap();
    assert_eq!(recover::intact(&list, &cache(&host)).unwrap(), [""; 0]);
    let held = recover::holdings(&list).unwrap();
    let owners: Vec<_> = held.ports.iter().map(|p| &*p.container_id).collect();
    assert_eq!(owners, ["kept", "kept"], "{held:?}");
    host.caller.check(&list, &kept.attachment).unwrap();
}

#[test]
fn a_flush_is_nothing_to_a_del() {
    let host = Host::new();
    let list = network_with(&host, 1, json!({"macspoofchk": true}));
    let c = host.container_on(&list, "c", &[port(8080, 80, Protocol::Tcp)]);
    shell("nft flush ruleset");
    host.caller.del(&list, &c.attachment).unwrap();
    network::remove(&list).unwrap();
    assert_eq!(shell("nft list ruleset"), "");
}
