//! Networks under less tidy use: named by id, ports that lose their network, configurations that go, many at once.

use std::net::SocketAddr;

use corten_testkit::registry::free_port;
use corten_testkit::{Result, Sandbox, wait};

use super::networks::{ask, inspect, look_up, serve, start};
use super::{SOON, with_busybox};

fn id(sandbox: &Sandbox, network: &str) -> String {
    sandbox
        .corten(&["network", "inspect", "-f", "{{.Id}}", network])
        .ok()
        .trim()
        .to_owned()
}

#[test]
fn a_network_by_its_id_is_that_network() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["network", "create", "web"]).ok();
    let id = id(&sandbox, "web");
    let short = &id[..12];
    start(
        &sandbox,
        &image,
        "c",
        &["--network", &format!("{short}:alias=www")],
    );
    assert!(look_up(&sandbox, "c", "www").is_some());
    assert_ne!(inspect(&sandbox, "c", "Networks.web.IPAddress"), "");
    let names = inspect(&sandbox, "c", "Networks.web.DNSNames");
    assert!(names.contains("www") && names.contains('c'), "{names}");
    let none = inspect(&sandbox, "c", "Networks.web.GlobalIPv6Address");
    assert_eq!(none, "");
    let members = sandbox
        .corten(&["network", "inspect", "-f", "{{json .Containers}}", "web"])
        .ok();
    assert!(members.contains(r#""Name":"c""#), "{members}");
    let said = sandbox.corten(&["network", "rm", short]).fails(125);
    assert!(
        said.whole.contains("network web is in use by c"),
        "{said:?}"
    );
    let said = sandbox.corten(&["network", "connect", &id, "c"]).fails(125);
    assert!(said.whole.contains("is on network web already"), "{said:?}");
    let twice = [
        "run",
        "--rm",
        "--network",
        "web",
        "--network",
        short,
        &image,
    ];
    let said = sandbox.corten(&twice).fails(125);
    assert!(
        said.whole.contains("network web is given twice"),
        "{said:?}"
    );
    sandbox.corten(&["network", "disconnect", short, "c"]).ok();
    sandbox.corten(&["network", "rm", short]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn a_name_is_not_taken_for_part_of_an_id() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["network", "create", "made"]).ok();
    let made = id(&sandbox, "made");
    let part = &made[..4];
    foreign(&sandbox, part);
    let addresses = ["ip", "-o", "-4", "addr"];
    let mut args = vec!["run", "--rm", "--network", part, image.as_str()];
    args.extend(addresses);
    let said = sandbox.corten(&args).ok();
    assert!(said.contains("10.203.9."), "{said}");
    sandbox.finish();
    Ok(())
}

/// A CNI configuration in the folder, which leaves nothing on the host: its file.
fn foreign(sandbox: &Sandbox, name: &str) -> std::path::PathBuf {
    let folder = sandbox.etc().join("net.d");
    std::fs::create_dir_all(&folder).expect("a folder");
    let list = format!(
        r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [{{"type": "ptp", "ipam": {{
            "type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.203.9.0/24"}}]]}}}}]}}"#,
        sandbox.folder().join("ipam-of-file").display()
    );
    let file = folder.join("foreign.conflist");
    std::fs::write(&file, list).expect("a file");
    file
}

#[test]
fn a_configuration_that_goes_keeps_nobody() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["network", "create", "web"]).ok();
    let file = foreign(&sandbox, "foreign");
    let both = ["--network", "foreign", "--network", "web"];
    start(&sandbox, &image, "lives", &both);
    start(&sandbox, &image, "dies", &["--network", "foreign"]);
    std::fs::remove_file(file).expect("the file");

    // Off it, and the other network with its names stays.
    sandbox
        .corten(&["network", "disconnect", "foreign", "lives"])
        .ok();
    let links = sandbox.corten(&["exec", "lives", "ip", "-o", "link"]).ok();
    assert!(links.contains("eth1") && !links.contains("eth0"), "{links}");
    assert!(look_up(&sandbox, "lives", "lives").is_some());

    // Its attachment is found although no network leads to it, and its address is given back.
    let leases = sandbox.folder().join("ipam-of-file/foreign");
    let held = || {
        let files = std::fs::read_dir(&leases).expect("leases");
        let names = files.map(|f| f.expect("a file").file_name());
        names
            .filter(|n| n.to_string_lossy().starts_with("10."))
            .count()
    };
    assert_eq!(held(), 1);
    let bundle = sandbox.run_folder().join("containers").join(
        sandbox
            .corten(&["inspect", "-f", "{{.Id}}", "dies"])
            .ok()
            .trim(),
    );
    let shim = std::fs::read_to_string(bundle.join("shim.pid")).expect("a pid");
    let shim = shim
        .trim()
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(shim.expect("a pid"), rustix::process::Signal::KILL)
        .expect("a process");
    let found = sandbox.corten(&["system", "check"]);
    assert!(found.text().contains("eth0 on network foreign"), "{found}");
    sandbox.corten(&["system", "check", "--repair"]);
    assert_eq!(held(), 0);
    sandbox.corten(&["system", "check"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn ports_without_a_network_go_on_with_the_next() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["network", "create", "web"]).ok();
    sandbox
        .corten(&["network", "create", "--internal", "back"])
        .ok();
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:80");
    let options = ["--network", "web", "--network", "back", "-p", &publish];
    serve(&sandbox, &image, "server", &options);
    let host = SocketAddr::from(([127, 0, 0, 1], port));
    wait::until("the published port", SOON, || ask(host))?;
    sandbox
        .corten(&["network", "disconnect", "web", "server"])
        .ok();
    assert_eq!(ask(host), None);
    sandbox
        .corten(&["network", "connect", "web", "server"])
        .ok();
    wait::until("the port again", SOON, || ask(host))?;
    sandbox.corten(&["network", "check"]).ok();
    sandbox.finish();
    Ok(())
}

#[test]
fn exposed_ports_are_published_and_told() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox.corten(&["create", "--name", "base", &image]).ok();
    let changes = ["--change", "EXPOSE 80 53/udp"];
    let mut commit = vec!["commit"];
    commit.extend(changes);
    commit.extend(["base", "exposes:1"]);
    sandbox.corten(&commit).ok();
    sandbox.corten(&["network", "create", "web"]).ok();
    let port = free_port()?;
    let publish = format!("127.0.0.1:{port}:80");
    let options = ["-P", "-p", &publish, "-p", "0:81", "--network", "web"];
    start(&sandbox, "exposes:1", "c", &options);
    let all = sandbox.corten(&["port", "c"]).ok();
    assert!(
        all.contains(&format!("80/tcp -> 127.0.0.1:{port}")),
        "{all}"
    );
    assert!(all.contains("53/udp -> 0.0.0.0:"), "{all}");
    assert!(all.contains("81/tcp -> [::]:"), "{all}");
    assert_eq!(all.lines().count(), 5, "{all}");
    let one = sandbox.corten(&["port", "c", "80"]).ok();
    assert_eq!(one.trim(), format!("127.0.0.1:{port}"));
    let said = sandbox.corten(&["port", "c", "99"]).fails(125);
    assert!(said.whole.contains("is not published"), "{said:?}");

    let networks = |filter: &str| {
        let format = "{{.Names}}: {{.Networks}}";
        sandbox
            .corten(&["ps", "--filter", filter, "--format", format])
            .ok()
    };
    assert_eq!(networks("network=web").trim(), "c: web");
    assert_eq!(networks("network=bridge").trim(), "");
    let listed = sandbox
        .corten(&["network", "ls", "-q", "--filter", "type=custom"])
        .ok();
    assert_eq!(listed.trim(), "web");
    sandbox.finish();
    Ok(())
}

#[test]
fn two_networks_do_not_get_in_each_others_way() -> Result<()> {
    let (sandbox, _) = with_busybox()?;
    let create = |options: &[&str]| {
        let mut args = vec!["network", "create"];
        args.extend(options);
        sandbox.corten(&args)
    };
    let refused = |options: &[&str], why: &str| {
        let said = create(options).fails(125);
        assert!(said.whole.contains(why), "{said:?}");
        assert!(!said.hint.is_empty(), "{said:?}");
    };
    create(&["web"]).ok();
    let bridge = format!("--interface-name={}", sandbox.bridge());
    refused(&[&bridge, "x"], "is that of network bridge");
    refused(&["a b"], "no network can be named \"a b\"");
    let subnet = "--subnet=10.203.11.0/24";
    refused(&[subnet, "--gateway=10.203.11.0", "x"], "subnet's own");
    refused(&[subnet, "--gateway=10.203.11.255", "x"], "broadcast");
    // A subnet of our choice is nobody's, whatever the driver.
    create(&["-d", "macvlan", "-o", "parent=lo", "lan"]).ok();
    let subnets = sandbox
        .corten(&["network", "ls", "--format", "{{.Subnets}}"])
        .ok();
    let mut all: Vec<&str> = subnets.lines().collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 3, "{subnets}");
    sandbox.finish();
    Ok(())
}

#[test]
fn who_looks_harms_no_start_and_sees_no_fault() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    std::thread::scope(|s| {
        let starts = s.spawn(|| {
            for _ in 0..15 {
                sandbox.corten(&["run", "--rm", &image, "true"]).ok();
            }
        });
        while !starts.is_finished() {
            sandbox.corten(&["network", "check"]).ok();
            sandbox.corten(&["ps"]).ok();
        }
    });
    sandbox.finish();
    Ok(())
}

#[test]
fn what_another_container_has_is_told() -> Result<()> {
    let (sandbox, image) = with_busybox()?;
    sandbox
        .corten(&["network", "create", "--subnet", "10.203.12.0/24", "web"])
        .ok();
    let fixed = ["--network", "web:ip=10.203.12.9"];
    start(&sandbox, &image, "first", &fixed);
    sandbox.corten(&["stop", "-t", "0", "first"]).ok();
    start(&sandbox, &image, "second", &fixed);
    let said = sandbox.corten(&["start", "first"]).fails(125);
    assert!(said.whole.contains("10.203.12.9 is held by"), "{said:?}");
    assert!(said.hint.contains("stop the container"), "{said:?}");
    sandbox.corten(&["stop", "-t", "0", "second"]).ok();
    sandbox.corten(&["start", "first"]).ok();

    start(&sandbox, &image, "guest", &["--network", "container:first"]);
    sandbox.corten(&["stop", "-t", "0", "guest"]).ok();
    sandbox.corten(&["rm", "-f", "first"]).ok();
    let said = sandbox.corten(&["start", "guest"]).fails(125);
    assert!(
        said.whole.contains("container guest cannot be started"),
        "{said:?}"
    );
    assert!(said.whole.contains("it is removed"), "{said:?}");
    assert!(said.hint.contains("make the container anew"), "{said:?}");
    sandbox.finish();
    Ok(())
}
