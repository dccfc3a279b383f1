//! Network devices that move to the container (config-linux.md, "Network Devices").

use serde_json::json;

use crate::harness::{Bundle, error, ours, text};

/// A pair in a network namespace of the test's own; one end with addresses.
const PAIR: &str = "ip link add itv0 type veth peer name itv1; ip link set itv0 mtu 1300; \
    ip addr add 192.0.2.7/24 dev itv0; ip addr add 2001:db8::7/64 dev itv0 nodad; ip link set itv1 up";

/// User Mode Linux has none.
fn veth() -> bool {
    let made = Bundle::script("true").run_apart("-n", PAIR);
    let why = text(&made.stderr);
    corten_testkit::need::that(
        !why.contains("Unknown device type"),
        "this kernel has no veth",
    )
}

fn bundle(script: &str, devices: serde_json::Value) -> Bundle {
    let mut bundle = Bundle::script(script);
    bundle.set("/linux/netDevices", devices);
    bundle
}

#[test]
fn a_device_moves_with_its_addresses_and_is_up() {
    if !ours() || !veth() {
        return;
    }
    let bundle = bundle(
        "ip addr show web0; ip link",
        json!({"itv0": {"name": "web0"}}),
    );
    let output = bundle.run_apart("-n", PAIR);
    let out = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for part in ["192.0.2.7/24", "2001:db8::7/64", "mtu 1300", "UP"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(!out.contains("itv0"), "{out}");
}

#[test]
fn a_name_may_be_kept_or_left_to_the_kernel() {
    if !ours() || !veth() {
        return;
    }
    for (asked, shown) in [(json!({}), "itv0"), (json!({"name": "eth%d"}), "eth0")] {
        let bundle = bundle("ip -o link", json!({"itv0": asked}));
        let output = bundle.run_apart("-n", PAIR);
        let out = text(&output.stdout);
        assert!(out.contains(shown), "{out}{}", text(&output.stderr));
    }
}

#[test]
fn what_cannot_move_is_named_and_nothing_else_moves() {
    if !ours() || !veth() {
        return;
    }
    let two = bundle("true", json!({"itv0": {"name": "a"}, "nope": {}}));
    let output = two.run_apart("-n", PAIR);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(
        message.contains("cannot move the network device \"nope\""),
        "{message}"
    );
    let taken = bundle("true", json!({"itv0": {"name": "lo"}}));
    let output = taken.run_apart("-n", PAIR);
    assert!(
        text(&output.stderr).contains("\"itv0\": file exists"),
        "{}",
        text(&output.stderr)
    );
    let shared = {
        let mut bundle = bundle("true", json!({"itv0": {}}));
        bundle.namespaces(|n| n.retain(|n| n["type"] != "network"));
        bundle.unmount("/sys");
        bundle
    };
    assert!(error(&shared, 1).contains("linux.netDevices"));
    for devices in [
        json!({"itv0": {"name": "a/b"}}),
        json!({"itv0": {"name": "a"}, "itv1": {"name": "a"}}),
    ] {
        assert!(error(&bundle("true", devices), 1).contains("linux.netDevices"));
    }
}

#[test]
fn a_failure_brings_back_what_had_moved() {
    if !ours() || !veth() {
        return;
    }
    let bundle = bundle("true", json!({"itv0": {"name": "a"}, "nope": {}}));
    bundle.write();
    let line = format!(
        "set -e; {PAIR}; {} --root {} run -b {} {} || ip -o addr show itv0",
        crate::harness::runtime().display(),
        bundle.state_root().display(),
        bundle.dir.path().display(),
        bundle.id
    );
    let output = std::process::Command::new("unshare")
        .args(["-n", "sh", "-c", &line])
        .output()
        .unwrap();
    let out = text(&output.stdout);
    assert!(
        out.contains("192.0.2.7/24"),
        "{out}{}",
        text(&output.stderr)
    );
}
