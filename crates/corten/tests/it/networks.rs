//! Networks as people use them: made, named, joined, left; several for one container; names; published ports.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use corten_testkit::registry::free_port;
use corten_testkit::{Result, Sandbox, need, tool, wait};

use super::{SOON, with_busybox};

/// A container that stays, on these networks.
pub(super) fn start(sandbox: &Sandbox, image: &str, name: &str, options: &[&str]) {
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(options);
    args.extend([image, "sleep", "1000"]);
    sandbox.corten(&args).ok();
}

/// A container that answers on port 80 with its name.
pub(super) fn serve(sandbox: &Sandbox, image: &str, name: &str, options: &[&str]) {
    let script = format!("while :; do echo {name} | nc -l -p 80; done");
    let mut args = vec!["run", "-d", "--name", name];
    args.extend(options);
    args.extend([image, "sh", "-c", &script]);
    sandbox.corten(&args).ok();
}

/// The addresses that `name` has for `container`, sorted; `None` if there is no such name.
pub(super) fn look_up(sandbox: &Sandbox, container: &str, name: &str) -> Option<Vec<String>> {
    let answer = sandbox.corten(&["exec", container, "nslookup", name]);
    if answer.code != 0 {
        return None;
    }
    let text = answer.text();
    let answers = text.lines().skip_while(|l| !l.starts_with("Name:"));
    let mut all: Vec<String> = answers
        .filter_map(|l| l.strip_prefix("Address:"))
        .map(|a| a.trim().to_owned())
        .collect();
    all.sort();
    Some(all)
}

pub(super) fn inspect(sandbox: &Sandbox, container: &str, field: &str) -> String {
    let format = format!("{{{{.NetworkSettings.{field}}}}}");
    sandbox
        .corten(&["inspect", "--format", &format, container])
        .ok()
}

fn address(sandbox: &Sandbox, container: &str, network: &str) -> String {
    inspect(sandbox, container, &format!("Networks.{network}.IPAddress"))
}

/// What a server says.
pub(super) fn ask(to: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    // Until then the other side waits for our words.
    stream.write_all(b"\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text.trim().to_owned()).filter(|t| !t.is_empty())
}

/// Whether a container reaches another's port 80.
fn reaches(sandbox: &Sandbox, from: &str, to: &str) -> bool {
    let script = format!("echo | nc -w 2 {to} 80");
    sandbox.corten(&["exec", from, "sh", "-c", &script]).text() != ""
}

/// The resolver's process, if there is one.
fn resolver(sandbox: &Sandbox) -> Option<u32> {
    let named = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(b"corten-dns\0")
    };
    sandbox.processes().into_iter().find(named)
}

#[test]
fn containers_find_each_other_by_name_on_their_own_networks_only() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox
        .corten(&["network", "create", "--ipv6", "front"])
        .ok();
    sandbox.corten(&["network", "create", "back"]).ok();
    start(
        &sandbox,
        &image,
        "web",
        &["--network", "front", "--network-alias", "www"],
    );
    start(
        &sandbox,
        &image,
        "app",
        &["--network", "front", "--network", "back:alias=api"],
    );
    start(&sandbox, &image, "db", &["--network", "back"]);
    // Both families, by name, alias, id, and with the network's name behind.
    let web = look_up(&sandbox, "app", "web").expect("web");
    assert_eq!(web.len(), 2, "{web:?}");
    assert!(web.contains(&address(&sandbox, "web", "front")));
    let id = sandbox
        .corten(&["inspect", "--format", "{{.Id}}", "web"])
        .ok();
    for name in ["www", "web.front", "WEB", &id[..12]] {
        assert_eq!(
            look_up(&sandbox, "app", name).as_ref(),
            Some(&web),
            "{name}"
        );
    }
    assert_eq!(
        look_up(&sandbox, "db", "api"),
        Some(vec![address(&sandbox, "app", "back")])
    );
    // An alias is a name on its own network only, and what is elsewhere is not told.
    assert_eq!(look_up(&sandbox, "web", "api"), None);
    assert_eq!(look_up(&sandbox, "web", "db"), None);
    assert_eq!(look_up(&sandbox, "db", "web"), None);
    let reverse = sandbox
        .corten(&["exec", "db", "nslookup", &address(&sandbox, "app", "back")])
        .ok();
    assert!(reverse.contains("app.back"), "{reverse}");

    // Whoever ends the resolver: it is there again, and knows what it knew.
    let before = resolver(&sandbox).expect("a resolver");
    tool::call("kill", &["-KILL", &before.to_string()])?;
    wait::until("another resolver", SOON, || {
        resolver(&sandbox).filter(|pid| *pid != before)
    })?;
    wait::until("names after a kill", SOON, || {
        (look_up(&sandbox, "app", "web").as_ref() == Some(&web)).then_some(())
    })?;
    // A name ends with its container, and the resolver with the last of them.
    sandbox.corten(&["rm", "-f", "web"]).ok();
    assert_eq!(look_up(&sandbox, "app", "web"), None);
    sandbox.corten(&["rm", "-f", "app", "db"]).ok();
    wait::until("the resolver to end", SOON, || {
        resolver(&sandbox).is_none().then_some(())
    })?;
    sandbox.finish();
    Ok(())
}

#[test]
fn networks_come_and_go_while_a_container_runs() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    for name in ["one", "two"] {
        sandbox.corten(&["network", "create", name]).ok();
    }
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:80");
    serve(
        &sandbox,
        &image,
        "server",
        &["--network", "one", "-p", &publish],
    );
    start(&sandbox, &image, "client", &["--network", "two"]);
    let host = SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("the published port", SOON, || ask(host))?;
    assert_eq!(look_up(&sandbox, "client", "server"), None);

    sandbox
        .corten(&["network", "connect", "--alias", "late", "two", "server"])
        .ok();
    let links = sandbox
        .corten(&["exec", "server", "ip", "-o", "-4", "addr"])
        .ok();
    assert!(links.contains("eth0") && links.contains("eth1"), "{links}");
    assert_eq!(
        look_up(&sandbox, "client", "late"),
        Some(vec![address(&sandbox, "server", "two")])
    );
    assert!(reaches(&sandbox, "client", "late"));
    // The way out stays the first network's.
    let routes = sandbox.corten(&["exec", "server", "ip", "route"]).ok();
    assert!(
        routes.lines().next().is_some_and(|l| l.contains("eth0")),
        "{routes}"
    );

    // The ports and the way out go on through the other one.
    sandbox
        .corten(&["network", "disconnect", "one", "server"])
        .ok();
    wait::until("the port through the other network", SOON, || ask(host))?;
    let routes = sandbox.corten(&["exec", "server", "ip", "route"]).ok();
    assert!(
        routes.lines().next().is_some_and(|l| l.contains("eth1")),
        "{routes}"
    );
    assert!(!routes.contains("eth0"), "{routes}");
    sandbox.corten(&["network", "check"]).ok();

    // What was changed is so after a stop and a start, too.
    sandbox.corten(&["stop", "-t", "0", "server"]).ok();
    sandbox.corten(&["start", "server"]).ok();
    wait::until("the port after a start", SOON, || ask(host))?;
    assert_eq!(inspect(&sandbox, "server", "Networks.one"), "<no value>");
    assert!(reaches(&sandbox, "client", "server"));

    // Off the last one it has the loopback alone.
    sandbox
        .corten(&["network", "disconnect", "two", "server"])
        .ok();
    let links = sandbox.corten(&["exec", "server", "ip", "-o", "link"]).ok();
    assert_eq!(links.lines().count(), 1, "{links}");
    assert_eq!(ask(host), None);
    sandbox.finish();
    Ok(())
}

#[test]
fn addresses_that_are_asked_for_are_had() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let made = sandbox
        .corten(&["--json", "network", "create", "--ipv6", "fixed"])
        .ok();
    assert!(made.contains("\"Name\""), "{made}");
    let subnets = "{{range .IPAM.Config}}{{.Subnet}} {{end}}";
    let subnets = sandbox
        .corten(&["network", "inspect", "--format", subnets, "fixed"])
        .ok();
    let subnets: Vec<&str> = subnets.split_whitespace().collect();
    let v4 = subnets[0].replace(".0/26", ".20").replace("64/26", "84");
    let v4 = match v4.ends_with("/26") {
        // The pool's other quarters.
        true => v4.replace("128/26", "148").replace("192/26", "212"),
        false => v4,
    };
    let v6 = subnets[1].replace("::/64", "::20");
    let wish = format!("fixed:ip={v4},ip6={v6},mac=02:00:00:00:00:77,interface_name=lan0");
    start(&sandbox, &image, "a", &["--network", &wish]);
    assert_eq!(address(&sandbox, "a", "fixed"), v4);
    let link = sandbox
        .corten(&["exec", "a", "ip", "-o", "addr", "show", "lan0"])
        .ok();
    assert!(link.contains(&v4) && link.contains(&v6), "{link}");
    assert_eq!(
        inspect(&sandbox, "a", "Networks.fixed.MacAddress"),
        "02:00:00:00:00:77"
    );
    // Taken: the second container does not start, and nothing of it is left.
    let again = format!("fixed:ip={v4}");
    let refused = sandbox.corten(&[
        "run",
        "-d",
        "--name",
        "b",
        "--network",
        &again,
        &image,
        "true",
    ]);
    let said = refused.fails(125);
    assert!(said.cause.contains(&v4), "{said:?}");
    assert_eq!(
        sandbox
            .corten(&["ps", "-aq", "--filter", "name=b"])
            .ok()
            .lines()
            .count(),
        1
    );
    // By the flags of one network.
    let other = v4.rsplit_once('.').map_or(String::new(), |(head, last)| {
        format!("{head}.{}", last.parse::<u8>().unwrap_or(0) + 1)
    });
    start(
        &sandbox,
        &image,
        "c",
        &[
            "--network",
            "fixed",
            "--ip",
            &other,
            "--network-alias",
            "third",
        ],
    );
    assert_eq!(
        look_up(&sandbox, "a", "third").map(|a| a.contains(&other)),
        Some(true)
    );
    sandbox.finish();
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_and_leaves_nothing() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    let net = |args: &[&str]| {
        let mut all = vec!["network"];
        all.extend(args);
        sandbox.corten(&all).fails(125)
    };
    let error = |said: corten_testkit::Complaint, wanted: &str| {
        assert!(said.whole.contains(wanted), "{said:?}");
        assert!(!said.hint.is_empty(), "{said:?}");
    };
    sandbox.corten(&["network", "create", "n"]).ok();
    error(net(&["create", "n"]), "network n is there already");
    error(net(&["create", "host"]), "no network can be named host");
    error(
        net(&["create", "--driver", "overlay", "x"]),
        "no network driver overlay",
    );
    error(
        net(&["create", "--opt", "colour=red", "x"]),
        "no option colour",
    );
    error(
        net(&["create", "--gateway", "192.0.2.1", "x"]),
        "belongs to none of the subnets",
    );
    error(
        net(&["create", "--subnet", "127.0.0.0/8", "x"]),
        "no single link",
    );
    error(net(&["rm", "bridge"]), "cannot be removed");
    error(net(&["rm", "absent"]), "no network absent");
    error(net(&["inspect", "absent"]), "no network absent");
    error(net(&["disconnect", "n", "absent"]), "no container named");
    let run = |options: &[&str]| {
        let mut args = vec!["run", "--rm"];
        args.extend(options);
        args.extend([image.as_str(), "true"]);
        sandbox.corten(&args).fails(125)
    };
    error(run(&["--network", "absent"]), "no network absent");
    error(
        run(&["--network", "n", "--ip", "192.0.2.9"]),
        "address 192.0.2.9 cannot be given",
    );
    error(
        run(&["--network", "host", "-p", "80"]),
        "published ports cannot be set",
    );
    error(
        run(&["--network", "container:absent"]),
        "no container named",
    );
    error(
        run(&["--network", "ns:/etc/passwd"]),
        "no network namespace",
    );
    error(
        run(&["--network", "host", "--network", "n"]),
        "one of several",
    );
    error(
        run(&["--network", "n:interface_name=x,alias=-"]),
        "invalid value",
    );
    error(
        run(&[
            "--network",
            "n:interface_name=x",
            "--network",
            "bridge:interface_name=x",
        ]),
        "twice",
    );
    sandbox
        .corten(&["network", "create", "--internal", "inner"])
        .ok();
    error(
        run(&["--network", "inner", "-p", "80"]),
        "can publish ports",
    );
    assert_eq!(sandbox.containers(), Vec::<String>::new());

    start(&sandbox, &image, "c", &["--network", "n"]);
    error(net(&["rm", "n"]), "in use by c");
    error(net(&["connect", "n", "c"]), "on network n already");
    error(net(&["disconnect", "inner", "c"]), "not on network inner");
    sandbox.corten(&["stop", "-t", "0", "c"]).ok();
    // One that does not run needs its network, too.
    error(net(&["rm", "n"]), "in use by c");
    start(&sandbox, &image, "alone", &["--network", "none"]);
    error(
        net(&["connect", "n", "alone"]),
        "beside which it can have no other",
    );
    sandbox.corten(&["network", "rm", "--force", "n"]).ok();
    assert_eq!(sandbox.containers().len(), 1);
    sandbox.corten(&["network", "exists", "n"]).exits(1);
    sandbox.finish();
    Ok(())
}

#[test]
fn a_namespace_can_be_another_containers_or_a_files() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["network", "create", "n"]).ok();
    start(
        &sandbox,
        &image,
        "owner",
        &["--network", "n", "--hostname", "boss"],
    );
    let pid = sandbox
        .corten(&["inspect", "--format", "{{.State.Pid}}", "owner"])
        .ok();
    let seen = |network: &str| {
        let script = "hostname; ip -o -4 addr show eth0; cat /etc/hosts";
        sandbox
            .corten(&[
                "run",
                "--rm",
                "--network",
                network,
                &image,
                "sh",
                "-c",
                script,
            ])
            .ok()
    };
    let joined = seen("container:owner");
    let own = address(&sandbox, "owner", "n");
    assert!(joined.starts_with("boss\n"), "{joined}");
    assert_eq!(joined.matches(&own).count(), 2, "{joined}");
    let by_file = seen(&format!("ns:/proc/{pid}/ns/net"));
    assert_eq!(by_file.matches(&own).count(), 1, "{by_file}");
    // A joined network stays with those who have it.
    start(&sandbox, &image, "guest", &["--network", "container:owner"]);
    assert_eq!(look_up(&sandbox, "guest", "owner"), Some(vec![own]));
    sandbox.corten(&["rm", "-f", "owner"]).ok();
    sandbox.corten(&["exec", "guest", "ip", "addr"]).ok();
    let said = sandbox
        .corten(&[
            "run",
            "--rm",
            "--network",
            "container:guest",
            &image,
            "ip",
            "-o",
            "link",
        ])
        .ok();
    assert!(said.contains("lo"), "{said}");
    sandbox.finish();
    Ok(())
}

#[test]
fn a_cni_configuration_in_the_folder_is_a_network() -> Result<()> {
    let theirs = std::path::Path::new("/usr/lib/cni/ptp").exists();
    if !need::that(theirs, "the reference CNI plugins are not installed") {
        return Ok(());
    }
    let (sandbox, image) = with_busybox()?;
    let folder = sandbox.etc().join("net.d");
    std::fs::create_dir_all(folder.join("foreign")).expect("a folder");
    let state = sandbox.folder().join("ipam");
    let list = format!(
        r#"{{"cniVersion": "1.0.0", "name": "foreign", "plugins": [
            {{"type": "ptp", "ipam": {{"type": "host-local", "dataDir": "{}",
                "ranges": [[{{"subnet": "10.203.7.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}}]}}"#,
        state.display()
    );
    std::fs::write(folder.join("10-foreign.conflist"), list).expect("a file");
    // A plugin that we do not have at all, dropped in beside it.
    let recorder = sandbox.files().join("recorder");
    let script = format!(
        "#!/bin/sh\necho $CNI_COMMAND >> {0}/calls\npython3 -c 'import json,sys; c=json.load(sys.stdin); print(json.dumps(c.get(\"prevResult\", {{}})))'\n",
        sandbox.files().display()
    );
    std::fs::write(&recorder, script).expect("a plugin");
    tool::call("chmod", &["+x", &recorder.to_string_lossy()])?;
    std::fs::write(
        folder.join("foreign/50-more.conf"),
        r#"{"type": "recorder"}"#,
    )
    .expect("a file");
    let plugins = format!(
        "[network]\ncni-plugins = [\"{}\", \"/usr/lib/cni\"]\n",
        sandbox.files().display()
    );
    std::fs::write(sandbox.etc().join("config.toml"), plugins).expect("settings");
    std::fs::write(folder.join("20-broken.conflist"), "{").expect("a file");

    let listed = sandbox.corten(&["network", "ls"]);
    assert!(listed.ok().contains("foreign"), "{listed}");
    // A broken one is told, and keeps nobody from the others.
    assert!(listed.talk().contains("20-broken.conflist"), "{listed}");
    let said = sandbox
        .corten(&[
            "run",
            "--rm",
            "--network",
            "foreign",
            &image,
            "ip",
            "-o",
            "-4",
            "addr",
        ])
        .ok();
    assert!(said.contains("10.203.7."), "{said}");
    let calls = std::fs::read_to_string(sandbox.files().join("calls")).expect("calls");
    assert_eq!(calls, "ADD\nDEL\n");
    sandbox.corten(&["network", "rm", "foreign"]).fails(125);
    // Taken out of the folder while a container is on it: the container can still be taken off.
    start(&sandbox, &image, "c", &["--network", "foreign"]);
    std::fs::remove_file(folder.join("10-foreign.conflist")).expect("the file");
    sandbox.corten(&["rm", "-f", "c"]).ok();
    let calls = std::fs::read_to_string(sandbox.files().join("calls")).expect("calls");
    assert_eq!(calls, "ADD\nDEL\nADD\nDEL\n");
    std::fs::remove_file(folder.join("20-broken.conflist")).expect("the file");
    sandbox.finish();
    Ok(())
}

/// The address by which the host is reached from a network.
fn gateway(sandbox: &Sandbox, network: &str) -> String {
    let format = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
    sandbox
        .corten(&["network", "inspect", "--format", format, network])
        .ok()
}

#[test]
fn policies_hold() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["network", "create", "open"]).ok();
    sandbox
        .corten(&["network", "create", "--isolate", "shut"])
        .ok();
    sandbox
        .corten(&["network", "create", "--internal", "inner"])
        .ok();
    sandbox
        .corten(&["network", "create", "--opt", "host-loopback=true", "lo"])
        .ok();
    let port = free_port()?;
    let publish = format!("{port}:80");
    serve(&sandbox, &image, "open1", &["--network", "open"]);
    serve(
        &sandbox,
        &image,
        "shut1",
        &["--network", "shut", "-p", &publish],
    );
    serve(&sandbox, &image, "inner1", &["--network", "inner"]);
    serve(
        &sandbox,
        &image,
        "both",
        &["--network", "inner", "--network", "open"],
    );
    start(&sandbox, &image, "lo1", &["--network", "lo"]);
    let at = |name: &str, network: &str| address(&sandbox, name, network);
    let to = |name: &str, network: &str| -> SocketAddr {
        format!("{}:80", at(name, network))
            .parse()
            .expect("an address")
    };
    // The host reaches everybody.
    for (name, network) in [("open1", "open"), ("shut1", "shut"), ("inner1", "inner")] {
        wait::until(name, SOON, || ask(to(name, network)))?;
    }
    // Isolated: neither way; not from a network that is not; the published port is public.
    assert!(!reaches(&sandbox, "open1", &at("shut1", "shut")));
    assert!(!reaches(&sandbox, "shut1", &at("open1", "open")));
    assert!(reaches(&sandbox, "lo1", &at("open1", "open")));
    let published = format!("{} {port}", gateway(&sandbox, "open"));
    let script = format!("echo | nc -w 2 {published}");
    assert_eq!(
        sandbox
            .corten(&["exec", "open1", "sh", "-c", &script])
            .text(),
        "shut1"
    );
    // Internal: no route, and none that is added helps.
    let routes = sandbox.corten(&["exec", "inner1", "ip", "route"]).ok();
    assert!(!routes.contains("default"), "{routes}");
    assert!(reaches(&sandbox, "inner1", &at("both", "inner")));
    assert!(reaches(&sandbox, "both", &at("open1", "open")));
    let script = format!(
        "ip route add default via {}; echo | nc -w 2 {} 80",
        gateway(&sandbox, "inner"),
        at("open1", "open")
    );
    let privileged = [
        "run",
        "--rm",
        "--cap-add",
        "NET_ADMIN",
        "--network",
        "inner",
        &image,
        "sh",
        "-c",
        &script,
    ];
    assert_eq!(sandbox.corten(&privileged).text(), "");
    assert!(!reaches(&sandbox, "open1", &at("inner1", "inner")));

    // What the host serves on its loopback is for those only who were asked to have it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let local = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.and_then(|mut s| s.write_all(b"host\n"));
        }
    });
    let said = |name: &str, host: &str| {
        let script = format!("echo | nc -w 2 {host} {local}");
        sandbox.corten(&["exec", name, "sh", "-c", &script]).text()
    };
    assert_eq!(said("lo1", &gateway(&sandbox, "lo")), "host");
    assert_eq!(said("open1", &gateway(&sandbox, "open")), "");
    assert_eq!(said("open1", &gateway(&sandbox, "lo")), "");
    sandbox.finish();
    Ok(())
}

#[test]
fn rules_that_others_flush_come_back() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox
        .corten(&["network", "create", "--isolate", "n"])
        .ok();
    let port = free_port()?;
    let host = SocketAddr::from(([127, 0, 0, 1], port));
    let publish = format!("{port}:80");
    serve(&sandbox, &image, "c", &["--network", "n", "-p", &publish]);
    wait::until("the published port", SOON, || ask(host))?;
    sandbox.corten(&["network", "check"]).ok();
    // Only the sandbox's own table: the machine has others.
    tool::call("nft", &["delete", "table", "inet", &sandbox.table()])?;
    // Only what the supervisor passes on still gets through.
    let told = sandbox.corten(&["network", "check", "n"]);
    assert!(told.exits(1).text().contains("container c"), "{told}");
    let found = sandbox.corten(&["system", "check"]);
    assert!(
        found.exits(1).text().contains("firewall rule of network n"),
        "{found}"
    );
    let restored = sandbox.corten(&["network", "reload"]).ok();
    assert!(restored.contains(&format!("{port}/tcp")), "{restored}");
    wait::until("the port after a reload", SOON, || ask(host))?;
    sandbox.corten(&["network", "check"]).ok();
    assert_eq!(sandbox.corten(&["network", "reload"]).ok(), "");
    // The next container does it by the way.
    tool::call("nft", &["delete", "table", "inet", &sandbox.table()])?;
    start(&sandbox, &image, "d", &["--network", "n"]);
    wait::until("the port after another start", SOON, || ask(host))?;
    sandbox.finish();
    Ok(())
}
