//! Beside the reference plugins (Debian's containernetworking-plugins): our caller with theirs,
//! ours as executables, and both in one list.

use std::path::{Path, PathBuf};

use corten_net::cni::{Attachment, Caller, NetworkConfigList, Protocol};
use corten_net::{network, recover};
use serde_json::json;

use crate::rig::{Host, Namespace, ask, port};

fn theirs() -> Option<PathBuf> {
    let found = ["/usr/lib/cni", "/opt/cni/bin"]
        .into_iter()
        .map(PathBuf::from)
        .find(|p| p.join("bridge").exists());
    if found.is_none() {
        println!("skipped: the reference CNI plugins are not installed");
    }
    found
}

/// A list of 1.0.0, which Debian's plugins speak.
fn list(host: &Host, plugins: &[&str]) -> NetworkConfigList {
    let all = json!([
        { "type": "bridge", "bridge": "corten0", "isGateway": true, "ipMasq": false,
          "ipam": { "type": "host-local", "dataDir": host.dir.path().join("ipam"),
                    "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd00:90::/64"}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}] } },
        { "type": "portmap", "capabilities": {"portMappings": true} },
    ]);
    let wanted: Vec<_> = all
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| plugins.contains(&p["type"].as_str().unwrap()))
        .collect();
    NetworkConfigList::from_document(
        json!({"cniVersion": "1.0.0", "name": "bridge", "plugins": wanted}),
    )
    .unwrap()
}

/// Attaches, sends packets, checks, takes off; returns the result without what is random.
fn round(host: &Host, caller: &Caller, list: &NetworkConfigList) -> serde_json::Value {
    let namespace = Namespace::new();
    let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
    a.args = vec![("IgnoreUnknown".into(), "1".into())];
    a.capabilities.port_mappings = vec![port(8080, 80, Protocol::Tcp)];
    let result = caller.add(list, &a).unwrap();
    {
        let _server = namespace.serve(80);
        // Their duplicate address detection takes its time.
        let address = result.ips[0].address.address();
        ask(Protocol::Tcp, &format!("{address}:80")).unwrap();
        if list.plugins.len() > 1 {
            ask(Protocol::Tcp, "127.0.0.1:8080").unwrap();
        }
    }
    caller.check(list, &a).unwrap();
    caller.del(list, &a).unwrap();
    caller.del(list, &a).unwrap();
    assert!(recover::holdings(list).unwrap().is_empty());
    // Both begin anew.
    std::fs::remove_dir_all(host.dir.path().join("ipam")).unwrap();
    let mut document = result.to_document(list.version);
    for i in document["interfaces"].as_array_mut().unwrap() {
        i["mac"] = json!("");
        if i["name"].as_str().unwrap().starts_with("veth") {
            i["name"] = json!("veth");
        }
        if !i["sandbox"].is_null() {
            i["sandbox"] = json!("");
        }
    }
    document
}

fn executables(folders: Vec<PathBuf>, cache: &Path) -> Caller {
    Caller::new(folders, cache).without_bundled()
}

#[test]
fn the_same_list_gives_the_same_result_by_ours_theirs_and_both() {
    let Some(theirs) = theirs() else { return };
    let host = Host::new();
    let ours = host.executables();
    let cache = host.dir.path().join("cni");
    let bridge = list(&host, &["bridge"]);
    let in_process = round(&host, &host.caller, &bridge);
    network::remove(&bridge).unwrap();
    let by_exec = round(&host, &executables(vec![ours.clone()], &cache), &bridge);
    network::remove(&bridge).unwrap();
    let reference = round(&host, &executables(vec![theirs.clone()], &cache), &bridge);
    network::remove(&bridge).unwrap();
    assert_eq!(in_process, by_exec);
    assert_eq!(in_process, reference);
    // Their bridge, our portmap; our bridge, their portmap.
    for name in ["portmap", "bridge"] {
        let mixed = host.dir.path().join(format!("mixed-{name}"));
        std::fs::create_dir(&mixed).unwrap();
        std::os::unix::fs::symlink(ours.join(name), mixed.join(name)).unwrap();
        // CHECK of the reference portmap 1.1.1 looks for IPv4 rules among the IPv6 ones, and fails.
        let mut both = list(&host, &["bridge", "portmap"]).document().clone();
        both["disableCheck"] = true.into();
        let both = NetworkConfigList::from_document(both).unwrap();
        round(
            &host,
            &executables(vec![mixed, theirs.clone()], &cache),
            &both,
        );
        network::remove(&both).unwrap();
    }
}

#[test]
fn their_host_local_and_ours_share_a_folder() {
    let Some(theirs) = theirs() else { return };
    let host = Host::new();
    let bridge = list(&host, &["bridge"]);
    let cache = host.dir.path().join("cni");
    let reference = executables(vec![theirs], &cache);
    let namespaces: Vec<Namespace> = (0..4).map(|_| Namespace::new()).collect();
    let mut seen = Vec::new();
    let mut attached = Vec::new();
    for (i, n) in namespaces.iter().enumerate() {
        let a = Attachment::new(format!("c{i}").parse().unwrap(), n.path());
        let caller = if i % 2 == 0 { &host.caller } else { &reference };
        let result = caller.add(&bridge, &a).unwrap();
        seen.push(result.ips[0].address.to_string());
        attached.push(a);
    }
    assert_eq!(
        seen,
        [
            "10.90.0.2/24",
            "10.90.0.3/24",
            "10.90.0.4/24",
            "10.90.0.5/24"
        ]
    );
    // Each takes off what the other attached.
    for (i, a) in attached.iter().enumerate() {
        let caller = if i % 2 == 1 { &host.caller } else { &reference };
        caller.del(&bridge, a).unwrap();
    }
    assert!(recover::holdings(&bridge).unwrap().is_empty());
}

#[test]
fn a_plugins_error_object_comes_through() {
    let Some(theirs) = theirs() else { return };
    let host = Host::new();
    let broken = NetworkConfigList::from_document(json!({"cniVersion": "1.0.0", "name": "n",
        "plugins": [{"type": "host-local", "ipam": {"type": "host-local"}}]}))
    .unwrap();
    let namespace = Namespace::new();
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    for folder in [theirs, host.executables()] {
        let caller = executables(vec![folder], &host.dir.path().join("cni"));
        let error = caller.add(&broken, &a).unwrap_err();
        let mut source: &dyn std::error::Error = &error;
        while let Some(next) = source.source() {
            source = next;
        }
        assert!(source.to_string().contains("(code "), "{source}");
    }
}

#[test]
fn a_list_that_the_plugins_do_not_speak_is_told_before_it_is_used() {
    let Some(theirs) = theirs() else { return };
    let host = Host::new();
    let caller = executables(vec![theirs], &host.dir.path().join("cni"));
    let of = |version| {
        NetworkConfigList::from_document(json!({"cniVersion": version, "name": "n", "plugins": [
            {"type": "bridge", "ipam": {"type": "host-local"}, "capabilities": {"mac": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}}]}))
        .unwrap()
    };
    let declared = caller.validate(&of("1.0.0")).unwrap();
    assert_eq!(
        declared.into_iter().collect::<Vec<_>>(),
        ["mac", "portMappings"]
    );
    // Debian's plugins are older than 1.1.0; ours are not.
    let error = caller.validate(&of("1.1.0")).unwrap_err();
    assert!(
        format!("{error:?}").contains("is of CNI 1.1.0"),
        "{error:?}"
    );
    host.caller.validate(&of("1.1.0")).unwrap();
}
