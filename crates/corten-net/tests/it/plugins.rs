//! Each plugin three times: ours in process, ours as an executable, the reference's. The results
//! and what `ip` and `tc` show afterwards, on the host and in the container, are the same.

use corten_net::cni::{Attachment, Caller, CniResult, NetworkConfigList};
use corten_testkit::need;
use serde_json::{Map, Value, json};

use crate::reload::ruleset;
use crate::rig::{Host, Namespace, reference, shell};

/// A list, and what the host has before it is used.
pub struct Case {
    name: &'static str,
    pub host: &'static str,
    plugins: Value,
    args: &'static [(&'static str, &'static str)],
    pub capabilities: Value,
    /// What is tried before DEL.
    pub traffic: fn(&CniResult, &Namespace),
    /// Whether CHECK of Debian's version of the reference can succeed.
    pub their_check: bool,
    /// Whether Debian's version passes on what IPAM says of resolvers.
    their_dns: bool,
}

impl Case {
    pub fn new(name: &'static str, plugins: Value) -> Self {
        Self {
            name,
            host: "true",
            plugins,
            args: &[],
            capabilities: json!({}),
            traffic: |_, _| {},
            their_check: true,
            their_dns: true,
        }
    }

    fn list(&self, host: &Host) -> NetworkConfigList {
        self.list_of("1.0.0", host)
    }

    pub fn list_of(&self, version: &str, host: &Host) -> NetworkConfigList {
        let text = self.plugins.to_string();
        let text = text.replace("DIR", &host.dir.path().display().to_string());
        let plugins: Value = serde_json::from_str(&text).unwrap();
        NetworkConfigList::from_document(
            json!({"cniVersion": version, "name": "n", "plugins": plugins}),
        )
        .unwrap()
    }
}

/// What a round shows.
#[derive(Debug, PartialEq)]
struct Seen {
    result: Value,
    host: Value,
    container: Value,
    /// The rules of nf_tables. The reference's are iptables', and nothing that could be compared.
    rules: Vec<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Whose {
    InProcess,
    Executable,
    Reference,
}

/// One attachment from beginning to end, in a host of its own.
fn round(case: &Case, whose: Whose, theirs: &std::path::Path) -> Seen {
    let host = Host::new();
    shell(case.host);
    let cache = host.dir.path().join("cni");
    let caller = match whose {
        Whose::InProcess => Caller::new(Vec::new(), &cache),
        Whose::Executable => Caller::new(vec![host.executables()], &cache).without_bundled(),
        Whose::Reference => Caller::new(vec![theirs.to_path_buf()], &cache).without_bundled(),
    };
    let list = case.list(&host);
    let namespace = Namespace::new();
    let before = shell("ip -o link show");
    let mut a = Attachment::new("c".parse().unwrap(), namespace.path());
    a.args = vec![("IgnoreUnknown".into(), "1".into())];
    let args = case.args.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    a.args.extend(args);
    a.capabilities = serde_json::from_value(case.capabilities.clone()).unwrap();
    let failed = |e: corten_net::Error| -> ! {
        let mut text = format!("{}: {e}", case.name);
        let mut next = std::error::Error::source(&e);
        while let Some(e) = next {
            text.push_str(&format!(": {e}"));
            next = e.source();
        }
        panic!("{text}")
    };
    let result = caller.add(&list, &a).unwrap_or_else(|e| failed(e));
    let seen = Seen {
        result: plain_result(result.to_document(list.version), whose),
        host: state(),
        container: namespace.run(state),
        rules: match whose {
            Whose::Reference => Vec::new(),
            _ => ruleset(),
        },
    };
    (case.traffic)(&result, &namespace);
    if case.their_check || whose != Whose::Reference {
        caller.check(&list, &a).unwrap_or_else(|e| failed(e));
    }
    caller.del(&list, &a).unwrap_or_else(|e| failed(e));
    if whose != Whose::Reference {
        caller.del(&list, &a).unwrap_or_else(|e| failed(e));
        let left = shell("ip -o link show");
        let names = |text: &str| -> Vec<String> {
            let names = text.lines().filter_map(|l| l.split([':', '@']).nth(1));
            names
                .map(|n| n.trim().to_owned())
                .filter(|n| n != "br9")
                .collect()
        };
        assert_eq!(names(&left), names(&before), "{}", case.name);
        let inside = namespace.run(|| shell("ip -o link show"));
        assert_eq!(names(&inside), ["lo"], "{}", case.name);
    }
    seen
}

/// The result without what is drawn at random, or ours alone.
fn plain_result(mut document: Value, whose: Whose) -> Value {
    for i in document["interfaces"].as_array_mut().into_iter().flatten() {
        i["sandbox"] = json!(!i["sandbox"].is_null());
        if i["name"] == json!("br9") {
            // Not ours where the test made it.
            i["mac"] = json!("");
        }
        if whose == Whose::Reference {
            i["mac"] = json!("");
            i["name"] = json!(plain_name(i["name"].as_str().unwrap()));
        }
    }
    document
}

/// As of the reference, to compare with it.
fn as_reference(seen: &Seen) -> Seen {
    Seen {
        result: plain_result(
            {
                let mut r = seen.result.clone();
                for i in r["interfaces"].as_array_mut().into_iter().flatten() {
                    if i["sandbox"] == json!(false) {
                        i.as_object_mut().unwrap().remove("sandbox");
                    }
                }
                r
            },
            Whose::Reference,
        ),
        host: seen.host.clone(),
        container: seen.container.clone(),
        rules: Vec::new(),
    }
}

fn plain_name(name: &str) -> String {
    for prefix in ["veth", "bwp"] {
        if name.starts_with(prefix) {
            return prefix.into();
        }
    }
    name.into()
}

fn ask(command: &str) -> Vec<Value> {
    let text = shell(command);
    match text.trim() {
        "" => Vec::new(),
        text => serde_json::from_str(text).unwrap(),
    }
}

/// Only these keys, names made plain.
fn pick(value: &Value, keys: &[&str]) -> Value {
    let mut out = Map::new();
    for key in keys {
        match value.get(*key) {
            Some(Value::String(s)) => out.insert((*key).into(), json!(plain_name(s))),
            Some(other) => out.insert((*key).into(), other.clone()),
            None => None,
        };
    }
    Value::Object(out)
}

fn sorted(mut all: Vec<Value>) -> Vec<Value> {
    all.sort_by_key(Value::to_string);
    all
}

/// Links, addresses, routes, rules and queues of this namespace, without counters and the like, and
/// without the length of the links' queues, which Debian's version sets to 0 by mistake.
fn state() -> Value {
    let links = ask("ip -j -d addr show").into_iter().map(|l| {
        let mut out = pick(&l, &["ifname", "mtu", "master", "promiscuity"]);
        out["up"] = json!(l["flags"].as_array().unwrap().contains(&json!("UP")));
        out["allmulti"] = json!(l["flags"].as_array().unwrap().contains(&json!("ALLMULTI")));
        out["kind"] = l["linkinfo"]["info_kind"].clone();
        let data = &l["linkinfo"]["info_data"];
        out["data"] = pick(data, &["mode", "id", "table", "vlan_filtering"]);
        out["port"] = pick(&l["linkinfo"]["info_slave_data"], &["hairpin", "isolated"]);
        let addresses = l["addr_info"].as_array().unwrap().iter();
        // Link-local ones: ours has none where nobody needs one.
        let addresses = addresses.filter(|a| a["scope"] != json!("link"));
        let keys = ["family", "local", "prefixlen", "broadcast", "scope"];
        out["addresses"] = json!(sorted(addresses.map(|a| pick(a, &keys)).collect()));
        out
    });
    let keys = [
        "dst", "gateway", "dev", "prefsrc", "scope", "table", "type", "metric",
    ];
    let mut routes = ask("ip -j -4 route show table all");
    routes.extend(ask("ip -j -6 route show table all"));
    let routes = routes.iter().filter(|r| {
        let dst = r["dst"].as_str().unwrap();
        !dst.starts_with("fe80:") && !dst.starts_with("ff00:")
    });
    // anycast, local: of the addresses, by the kernel; theirs may come when detection is over.
    let made = routes.filter(|r| r["type"].is_null() || r["type"] == json!("unicast"));
    let mut rules = ask("ip -j -4 rule show");
    rules.extend(ask("ip -j -6 rule show"));
    let queues = ask("tc -j qdisc show");
    let queues = queues.iter().filter(|q| q["kind"] != json!("noqueue"));
    let queue_keys = ["kind", "handle", "dev", "root", "parent", "options"];
    let vlans = ask("bridge -j vlan show");
    json!({
        "vlans": sorted(vlans.iter().map(|v| pick(v, &["ifname", "vlans"])).collect()),
        "links": sorted(links.collect()),
        "routes": sorted(made.map(|r| pick(r, &keys)).collect()),
        "rules": rules.iter().map(|r| pick(r, &["src", "srclen", "table"])).collect::<Vec<_>>(),
        "queues": sorted(queues.map(|q| pick(q, &queue_keys)).collect()),
    })
}

pub fn three(case: &Case) {
    let Some(theirs) = reference() else { return };
    let in_process = round(case, Whose::InProcess, &theirs);
    let by_exec = round(case, Whose::Executable, &theirs);
    assert_eq!(in_process, by_exec, "{}", case.name);
    let reference = round(case, Whose::Reference, &theirs);
    let mut ours = as_reference(&in_process);
    if !case.their_dns {
        ours.result["dns"] = json!({});
    }
    for (what, ours, reference) in [
        ("result", &ours.result, &reference.result),
        ("host", &ours.host, &reference.host),
        ("container", &ours.container, &reference.container),
    ] {
        let (ours, reference) = (format!("{ours:#}"), format!("{reference:#}"));
        let only = |a: &str, b: &str| -> Vec<String> {
            let lines = a.lines().filter(|l| !b.lines().any(|m| m == *l));
            lines.map(|l| l.trim().to_owned()).collect()
        };
        let difference = (only(&ours, &reference), only(&reference, &ours));
        assert!(
            ours == reference,
            "{} {what}: ours, theirs: {difference:?}
{ours}
{reference}",
            case.name
        );
    }
}

pub const MASTER: &str = "ip link add m0 address 02:00:00:00:00:99 type veth peer name far && ip link set m0 up && ip link set far up \
                      && ip addr add 192.0.2.1/24 dev m0 && ip route add default via 192.0.2.9 dev m0";

fn local() -> Value {
    json!({ "type": "host-local", "dataDir": "DIR/ipam",
            "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd00:90::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}, {"dst": "198.51.100.0/24", "gw": "10.90.0.9"}] })
}

pub fn v4() -> Value {
    json!({ "type": "host-local", "dataDir": "DIR/ipam", "ranges": [[{"subnet": "10.90.0.0/24"}]] })
}

fn bridge() -> Value {
    json!({ "type": "bridge", "bridge": "br9", "isGateway": true, "ipam": v4() })
}

#[test]
fn bridge_with_gateway_hairpin_and_mtu() {
    three(&Case::new(
        "bridge",
        json!([{ "type": "bridge", "bridge": "br9", "isDefaultGateway": true, "hairpinMode": true, "mtu": 1400,
                 "ipam": { "type": "host-local", "dataDir": "DIR/ipam",
                           "ranges": [[{"subnet": "10.90.0.0/24"}], [{"subnet": "fd00:90::/64"}]] } }]),
    ));
}

#[test]
fn bridge_of_layer_2_in_promiscuous_mode() {
    let mut case = Case::new(
        "bridge, layer 2",
        json!([{ "type": "bridge", "bridge": "br9", "promiscMode": true, "ipam": {} }]),
    );
    // 1.1.1 looks for an IPAM plugin without a name.
    case.their_check = false;
    three(&case);
}

#[test]
fn bridge_whose_address_is_forced() {
    let mut case = Case::new(
        "bridge, forced",
        json!([{ "type": "bridge", "bridge": "br9", "isGateway": true, "forceAddress": true, "ipam": v4() }]),
    );
    case.host = "ip link add name br9 type bridge && ip addr add 10.77.0.1/24 dev br9";
    three(&case);
}

#[test]
fn ptp_of_both_families() {
    let mut ipam = local();
    // By a gateway that a point-to-point link does not lead to.
    ipam["routes"].as_array_mut().unwrap().pop();
    three(&Case::new(
        "ptp",
        json!([{ "type": "ptp", "mtu": 1400, "ipam": ipam }]),
    ));
}

#[test]
fn macvlan_in_each_mode() {
    for mode in ["", "bridge", "private", "vepa", "passthru"] {
        // Once with IPv6, for which the reference waits a second or two.
        let ipam = if mode.is_empty() { local() } else { v4() };
        let mut case = Case::new(
            "macvlan",
            json!([{ "type": "macvlan", "master": "m0", "mode": mode, "mtu": 1400, "ipam": ipam }]),
        );
        case.host = MASTER;
        three(&case);
    }
}

#[test]
fn macvlan_on_the_default_routes_link() {
    let mut case = Case::new("macvlan", json!([{ "type": "macvlan", "ipam": v4() }]));
    case.host = MASTER;
    three(&case);
}

#[test]
fn host_device_by_name_and_by_address() {
    for (key, ipam) in [
        (json!({"device": "dev9"}), local()),
        (json!({"hwaddr": "02:00:00:00:00:77"}), v4()),
    ] {
        let mut plugin = json!({ "type": "host-device", "dataDir": "DIR/hd", "ipam": ipam });
        plugin
            .as_object_mut()
            .unwrap()
            .extend(key.as_object().unwrap().clone());
        let mut case = Case::new("host-device", json!([plugin]));
        case.host = "ip link add dev9 address 02:00:00:00:00:77 type veth peer name far && ip link set far up";
        three(&case);
    }
}

#[test]
fn static_addresses_by_configuration_and_by_argument() {
    let ipam = json!({ "type": "static",
        "addresses": [{"address": "10.90.0.5/24", "gateway": "10.90.0.1"}, {"address": "fd00:90::5/64"}],
        "routes": [{"dst": "0.0.0.0/0"}, {"dst": "198.51.100.0/24", "gw": "10.90.0.7"}],
        "dns": {"nameservers": ["10.90.0.1"], "domain": "x.test", "search": ["x.test"], "options": ["ndots:1"]} });
    let plugins =
        json!([{ "type": "bridge", "bridge": "br9", "capabilities": {"ips": true}, "ipam": ipam }]);
    let case = |name, plugins: &Value| Case {
        their_dns: false,
        ..Case::new(name, plugins.clone())
    };
    three(&case("static", &plugins));
    let mut by_args = case("static, CNI_ARGS", &plugins);
    by_args.args = &[
        ("IP", "10.90.0.6/24,10.90.0.8/24"),
        ("GATEWAY", "10.90.0.1"),
    ];
    three(&by_args);
    let mut by_capability = case("static, capability", &plugins);
    by_capability.capabilities = json!({"ips": ["10.90.0.66/24"]});
    // Without a gateway the default route would lead nowhere.
    by_capability.plugins[0]["ipam"]["routes"] =
        json!([{"dst": "198.51.100.0/24", "gw": "10.90.0.7"}]);
    three(&by_capability);
}

#[test]
fn tuning_of_link_and_settings() {
    let mut case = Case::new(
        "tuning",
        json!([bridge(), { "type": "tuning", "dataDir": "DIR/tuning", "mac": "02:00:00:00:00:55",
            "mtu": 1300, "promisc": true, "allmulti": true,
            "sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1"} }]),
    );
    // 1.1.1 looks for a link called IFNAME.
    case.their_check = false;
    three(&case);
}

#[test]
fn sbr_with_a_table_of_its_own() {
    let routed =
        json!({ "type": "bridge", "bridge": "br9", "isDefaultGateway": true, "ipam": v4() });
    let mut case = Case::new("sbr", json!([routed, {"type": "sbr"}]));
    // Its bridge does not find the default route that it made.
    case.their_check = false;
    three(&case);
}

#[test]
fn bandwidth_both_ways() {
    let mut case = Case::new(
        "bandwidth",
        json!([bridge(), { "type": "bandwidth", "capabilities": {"bandwidth": true} }]),
    );
    case.capabilities = json!({"bandwidth": {"ingressRate": 8_000_000, "ingressBurst": 800_000,
                                              "egressRate": 4_000_000, "egressBurst": 400_000}});
    three(&case);
}

#[test]
fn loopback_tells_of_lo() {
    three(&Case::new("loopback", json!([{ "type": "loopback" }])));
}

#[test]
fn what_this_kernel_lacks_is_named() {
    let (mut asked, mut present) = (0, Vec::new());
    for (kind, plugins) in [
        (
            "ipvlan",
            json!([{"type": "ipvlan", "master": "m0", "ipam": v4()}]),
        ),
        (
            "vlan",
            json!([{"type": "vlan", "master": "m0", "vlanId": 7, "ipam": v4()}]),
        ),
        ("dummy", json!([{"type": "dummy", "ipam": v4()}])),
        ("vrf", json!([bridge(), {"type": "vrf", "vrfname": "blue"}])),
        (
            "bridge with VLAN filtering",
            json!([{"type": "bridge", "bridge": "br9", "vlan": 7, "ipam": {}}]),
        ),
    ] {
        let host = Host::new();
        shell(MASTER);
        let namespace = Namespace::new();
        let case = Case::new(kind, plugins);
        let a = Attachment::new("c".parse().unwrap(), namespace.path());
        asked += 1;
        let Err(error) = host.caller.add(&case.list(&host), &a) else {
            present.push(kind);
            continue;
        };
        let mut source: &dyn std::error::Error = &error;
        let mut text = String::new();
        while let Some(next) = source.source() {
            source = next;
            text.push_str(&format!("{source}\n"));
        }
        assert!(
            text.contains(&format!("this kernel has no links of kind {kind}")),
            "{text}"
        );
        assert_eq!(error.to_object("1.0.0").code, 102);
        assert!(
            corten_net::recover::holdings(&case.list(&host))
                .unwrap()
                .is_empty(),
            "{kind}"
        );
    }
    if present.len() == asked {
        need::skip("this kernel has every kind of link");
    }
}
