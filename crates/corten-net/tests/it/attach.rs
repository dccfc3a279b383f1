//! ADD, DEL, CHECK, GC: what they make, refuse and leave.

use corten_net::Error;
use corten_net::cni::{Attachment, NetworkConfigList, Protocol, ValidAttachment};
use corten_net::{network, recover};
use corten_spec::Kind;

use crate::rig::{Host, Namespace, ask, leftovers, port, shell};

/// The innermost error.
fn root(error: &Error) -> &Error {
    match error {
        Error::Attach { source, .. } | Error::Plugin { source, .. } => root(source),
        other => other,
    }
}

#[test]
fn add_check_del_leaves_nothing_but_the_bridge_and_remove_takes_that() {
    let host = Host::new();
    let c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    host.caller.check(&host.list(), &c.attachment).unwrap();
    host.caller.status(&host.list()).unwrap();
    let held = recover::holdings(&host.list()).unwrap();
    assert_eq!(held.containers().into_iter().collect::<Vec<_>>(), ["c"]);
    assert_eq!(
        (held.links.len(), held.addresses.len(), held.ports.len()),
        (1, 2, 2)
    );
    let in_use = network::remove(&host.list()).unwrap_err();
    assert_eq!(in_use.to_string(), "network bridge is in use by c");
    assert_eq!(in_use.kind(), Kind::Busy);

    // Arguments come from the cache; DEL is idempotent.
    let bare = Attachment::new("c".parse().unwrap(), c.namespace.path());
    host.caller.del(&host.list(), &bare).unwrap();
    assert!(recover::holdings(&host.list()).unwrap().is_empty());
    host.caller.del(&host.list(), &bare).unwrap();
    assert!(host.caller.check(&host.list(), &bare).is_err());
    network::remove(&host.list()).unwrap();
    assert_eq!(leftovers(&host), "");
    network::remove(&host.list()).unwrap();
}

#[test]
fn the_result_names_bridge_veth_and_container_end() {
    let host = Host::new();
    let namespace = Namespace::new();
    let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
    a.capabilities.mac = Some("02:00:00:00:00:42".into());
    a.capabilities.ips = vec!["10.90.0.77".into()];
    let result = host.caller.add(&host.list(), &a).unwrap();
    let names: Vec<&str> = result.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!((names[0], names[2]), ("corten0", "eth0"));
    assert_eq!(result.interfaces[2].mac, "02:00:00:00:00:42");
    assert_eq!(result.ips[0].address.to_string(), "10.90.0.77/24");
    assert_eq!(result.ips[0].gateway.unwrap().to_string(), "10.90.0.1");
    assert_eq!(result.container_interface().unwrap().name, "eth0");
    let seen = namespace.run(|| {
        shell(
            "ip -o addr show eth0; ip route; ip -6 route; cat /sys/class/net/eth0/address || true",
        )
    });
    for part in [
        "10.90.0.77/24",
        "fd00:90::2/64",
        "default via 10.90.0.1",
        "default via fd00:90::1",
    ] {
        assert!(seen.contains(part), "{seen}");
    }
    // No duplicate address detection: nothing is tentative.
    assert!(
        !namespace
            .run(|| shell("ip -6 addr show dev eth0 scope global"))
            .contains("tentative")
    );
}

#[test]
fn del_succeeds_when_the_namespace_has_gone() {
    let host = Host::new();
    let c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    let mut attachment = c.attachment.clone();
    attachment.netns = "/proc/4194304/ns/net".into();
    drop(c);
    host.caller.del(&host.list(), &attachment).unwrap();
    let held = recover::holdings(&host.list()).unwrap();
    assert!(held.addresses.is_empty() && held.ports.is_empty());
    // The kernel takes the pair with the namespace.
    let start = std::time::Instant::now();
    while !recover::holdings(&host.list()).unwrap().is_empty() {
        assert!(start.elapsed().as_secs() < 5);
        std::thread::yield_now();
    }
    let mut never = Attachment::new("never".parse().unwrap(), "");
    host.caller.del(&host.list(), &never).unwrap();
    never.netns = "/proc/4194304/ns/net".into();
    host.caller.del(&host.list(), &never).unwrap();
    assert_eq!(
        root(&host.caller.add(&host.list(), &never).unwrap_err()).kind(),
        Kind::NotFound
    );
    assert!(recover::holdings(&host.list()).unwrap().is_empty());
}

/// As when a debugger's shell is still inside while the container's own processes have ended.
#[test]
fn del_cuts_off_a_namespace_that_somebody_still_holds() {
    let host = Host::new();
    let (a, c) = (host.container("a", &[]), host.container("c", &[]));
    let _server = a.namespace.serve(80);
    let to = std::net::SocketAddr::new(a.v4, 80).to_string();
    c.namespace.run(|| ask(Protocol::Udp, &to)).unwrap();
    let mut gone = c.attachment.clone();
    gone.netns = "/proc/4194304/ns/net".into();
    host.caller.del(&host.list(), &gone).unwrap();
    c.namespace.run(|| ask(Protocol::Udp, &to)).unwrap_err();
    recover::free(&host.list(), "c").unwrap();
    host.caller.del(&host.list(), &a.attachment).unwrap();
    network::remove(&host.list()).unwrap();
    assert_eq!(leftovers(&host), "");
}

#[test]
fn a_port_in_use_names_its_holder_and_leaves_the_loser_nothing() {
    let host = Host::new();
    let first = host.container("first", &[port(8080, 80, Protocol::Tcp)]);
    let namespace = Namespace::new();
    let mut second = Attachment::new("second".parse().unwrap(), namespace.path());
    second.capabilities.port_mappings =
        vec![port(9090, 80, Protocol::Tcp), port(8080, 81, Protocol::Tcp)];
    let error = host.caller.add(&host.list(), &second).unwrap_err();
    assert_eq!(error.kind(), Kind::AlreadyExists);
    assert_eq!(
        root(&error).to_string(),
        "port 0.0.0.0:8080/tcp is published by container first"
    );
    assert_eq!(
        error.to_string(),
        "cannot attach container second to network bridge"
    );
    let held = recover::holdings(&host.list()).unwrap();
    assert_eq!(held.containers().into_iter().collect::<Vec<_>>(), ["first"]);
    // The same number over UDP is another port.
    second.capabilities.port_mappings = vec![port(8080, 81, Protocol::Udp)];
    host.caller.add(&host.list(), &second).unwrap();
    let _server = first.namespace.serve(80);
    ask(Protocol::Tcp, "127.0.0.1:8080").unwrap();
}

#[test]
fn an_address_in_use_and_a_full_range_say_so() {
    let mut host = Host::new();
    host.network.subnets = vec!["10.90.0.0/30".parse().unwrap()];
    let attach = |id: &str, ip: Option<&str>| {
        let namespace = Namespace::new();
        let mut a = Attachment::new(id.parse().unwrap(), namespace.path());
        a.capabilities.ips = ip.map(str::to_owned).into_iter().collect();
        host.caller.add(&host.list(), &a).map(|_| namespace)
    };
    let _first = attach("first", None).unwrap();
    let taken = attach("second", Some("10.90.0.2")).err().unwrap();
    assert_eq!(
        root(&taken).to_string(),
        "address 10.90.0.2 is held by container first"
    );
    let full = attach("second", None).err().unwrap();
    assert_eq!(
        root(&full).to_string(),
        "no address is free in 10.90.0.1-10.90.0.2"
    );
    let gateway = attach("second", Some("10.90.0.1")).err().unwrap();
    assert!(root(&gateway).to_string().contains("is the gateway's"));
    let strange = attach("second", Some("10.99.0.1")).err().unwrap();
    let strange = root(&strange).to_string();
    assert!(
        strange.contains("in none of the network's ranges"),
        "{strange}"
    );
    let held = recover::holdings(&host.list()).unwrap();
    assert_eq!(held.containers().into_iter().collect::<Vec<_>>(), ["first"]);
}

#[test]
fn a_subnet_that_the_host_has_already_is_refused() {
    let host = Host::new();
    shell(
        "ip link add x type veth peer name y && ip addr add 10.90.0.9/16 dev x && ip link set x up && ip link set y up",
    );
    let namespace = Namespace::new();
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    let error = host.caller.add(&host.list(), &a).unwrap_err();
    assert_eq!(
        root(&error).to_string(),
        "subnet 10.90.0.0/24 overlaps 10.90.0.0/16, which is routed through x"
    );
    assert!(recover::holdings(&host.list()).unwrap().is_empty());
}

#[test]
fn gc_and_free_take_what_is_not_wanted_and_only_that() {
    let host = Host::new();
    let ports = |n| [port(n, 80, Protocol::Tcp)];
    let kept = host.container("kept", &ports(8001));
    let _gone = host.container("gone", &ports(8002));
    let _freed = host.container("freed", &ports(8003));
    recover::free(&host.list(), "freed").unwrap();
    let names = |h: &recover::Holdings| {
        h.containers()
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&recover::holdings(&host.list()).unwrap()),
        ["gone", "kept"]
    );
    let valid = [ValidAttachment {
        container_id: "kept".into(),
        ifname: "eth0".into(),
    }];
    host.caller.gc(&host.list(), &valid).unwrap();
    let held = recover::holdings(&host.list()).unwrap();
    assert_eq!(names(&held), ["kept"]);
    assert_eq!(
        (held.links.len(), held.addresses.len(), held.ports.len()),
        (1, 2, 2)
    );
    host.caller.check(&host.list(), &kept.attachment).unwrap();
}

#[test]
fn two_engines_on_one_host_do_not_meet() {
    let host = Host::new();
    let mut other = host.network.clone();
    other.bridge = "corten1".into();
    other.table = "other".into();
    other.state_dir = host.dir.path().join("ipam2");
    other.subnets = vec!["10.91.0.0/24".parse().unwrap()];
    let c = host.container("c", &[port(8080, 80, Protocol::Tcp)]);
    let _server = c.namespace.serve(80);
    let namespace = Namespace::new();
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    let list = other.list().unwrap();
    let caller = corten_net::cni::Caller::new(Vec::new(), host.dir.path().join("cni2"));
    // The interface's name is the container's own; the veth's name comes from id and network, so
    // the same id on the same named network of two engines is told apart by nothing. Engines draw
    // random ids.
    let other_id = Attachment {
        container_id: "d".parse().unwrap(),
        ..a
    };
    caller.add(&list, &other_id).unwrap();
    caller.gc(&list, &[]).unwrap();
    network::remove(&list).unwrap();
    host.caller.check(&host.list(), &c.attachment).unwrap();
    ask(Protocol::Tcp, "127.0.0.1:8080").unwrap();
}

#[test]
fn an_add_over_a_killed_ones_leftovers_works() {
    let host = Host::new();
    let c = host.container("c", &[]);
    // As if killed before the cache was written, its address freed by recovery or not.
    std::fs::remove_dir_all(host.dir.path().join("cni")).unwrap();
    c.namespace.run(|| shell("ip link show eth0"));
    let again = host.caller.add(&host.list(), &c.attachment).unwrap();
    assert_eq!(again.interfaces.len(), 3);
    host.caller.del(&host.list(), &c.attachment).unwrap();
    assert!(recover::holdings(&host.list()).unwrap().is_empty());
}

#[test]
fn configurations_that_ask_for_what_is_not_there_are_refused() {
    let host = Host::new();
    let namespace = Namespace::new();
    let a = Attachment::new("c".parse().unwrap(), namespace.path());
    for (plugin, wanted) in [
        (
            r#"{"type":"bridge","bridge":"a/b"}"#,
            "configuration is not usable",
        ),
        (
            r#"{"type":"bridge","ipam":{"type":"host-local"}}"#,
            "has no ranges",
        ),
        (
            r#"{"type":"bridge","ipam":{"type":"host-local","subnet":"x"}}"#,
            "is no address with a prefix",
        ),
        (r#"{"type":"portmap"}"#, "has no prevResult"),
        (
            r#"{"type":"nothing-like-it"}"#,
            "there is no CNI plugin nothing-like-it in an empty plugin path",
        ),
    ] {
        let text = format!(r#"{{"cniVersion":"1.0.0","name":"n","plugins":[{plugin}]}}"#);
        let list = NetworkConfigList::parse(text.as_bytes()).unwrap();
        let error = host.caller.add(&list, &a).unwrap_err();
        let text = root(&error).to_string();
        assert!(text.contains(wanted), "{text}");
    }
    assert_eq!(leftovers(&host), "");
}
