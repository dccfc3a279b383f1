//! Documents that callers parse, beside runc's where it is installed; and help.

use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::{Bundle, ours, text};

/// Where a document has values: `cpu.usage.total`, `hugetlb.2MB.failcnt`; lists by their first entry.
fn shape(value: &Value) -> Vec<String> {
    let below = |name: &str, value: &Value| -> Vec<String> {
        shape(value)
            .into_iter()
            .map(|s| format!("{name}.{s}"))
            .collect()
    };
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(name, value)| below(name, value))
            .collect(),
        Value::Array(list) => list.first().map_or(vec![String::new()], shape),
        _ => vec![String::new()],
    }
}

/// What runc says to the same arguments, if it is there.
fn runc(bundle: &Bundle, args: &[&str]) -> Option<Output> {
    let mut command = Command::new("runc");
    command
        .arg("--root")
        .arg(bundle.dir.path().join("runc"))
        .args(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command.output().ok()
}

#[test]
fn documents_have_runcs_shape() {
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let id = format!("{}-runc", bundle.id);
    let mut config = bundle.config.clone();
    config["linux"]["cgroupsPath"] = json!(format!("/corten-it/{id}"));
    let other = bundle.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    config["root"]["path"] = json!(bundle.root());
    std::fs::write(other.join("config.json"), config.to_string()).unwrap();
    let mut create = Command::new("runc");
    create
        .arg("--root")
        .arg(bundle.dir.path().join("runc"))
        .arg("run")
        .arg("-d");
    create.arg("--bundle").arg(&other).arg(&id);
    create
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if !create.status().is_ok_and(|s| s.success()) {
        return; // nobody to compare with
    }
    let compare = |args: &[&str], left_out: &[&str]| {
        let with = |id| [args, &[id][..]].concat();
        let theirs = runc(&bundle, &with(id.as_str())).unwrap();
        let theirs: Value = serde_json::from_slice(&theirs.stdout).unwrap();
        let own: Value = serde_json::from_str(&bundle.ok(with(bundle.id.as_str()))).unwrap();
        let own = shape(&own);
        let missing =
            |path: &String| !own.contains(path) && !left_out.iter().any(|l| path.starts_with(l));
        let missing: Vec<String> = shape(&theirs).into_iter().filter(missing).collect();
        assert!(
            missing.is_empty(),
            "{args:?}: {missing:?} of runc are not in {own:?}"
        );
    };
    compare(&["state"], &[]);
    compare(&["ps", "--format", "json"], &[]);
    // Raw counters are the kernel's; runc says null where it has no network of its own.
    compare(
        &["events", "--stats"],
        &["data.memory.raw.", "data.network_interfaces"],
    );
    let listed = runc(&bundle, &["list", "--format", "json"]).unwrap();
    let theirs: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let own: Value = serde_json::from_str(&bundle.ok(["list", "--format", "json"])).unwrap();
    assert_eq!(shape(&theirs), shape(&own));
    let theirs: Value =
        serde_json::from_slice(&runc(&bundle, &["features"]).unwrap().stdout).unwrap();
    let own: Value = serde_json::from_str(&bundle.ok(["features"])).unwrap();
    let own = shape(&own);
    for path in shape(&theirs)
        .iter()
        .filter(|p| !p.starts_with("annotations."))
    {
        assert!(own.contains(path), "{path}");
    }
    runc(&bundle, &["delete", "--force", &id]);
}

#[test]
fn a_rootless_spec_maps_its_writer() {
    let bundle = Bundle::new(&["true"]);
    bundle.ok([
        "spec",
        "--rootless",
        "--bundle",
        bundle.dir.path().to_str().unwrap(),
    ]);
    let spec = std::fs::read(bundle.dir.path().join("config.json")).unwrap();
    let spec: Value = serde_json::from_slice(&spec).unwrap();
    assert_eq!(spec["linux"]["uidMappings"][0]["size"], 1);
    let kinds = spec["linux"]["namespaces"].to_string();
    assert!(
        kinds.contains("user") && !kinds.contains("network"),
        "{kinds}"
    );
    let again = bundle.oci(["spec", "--bundle", bundle.dir.path().to_str().unwrap()]);
    assert_eq!(again.status.code(), Some(1));
}

#[test]
fn help_is_there_for_every_command() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["true"]);
    let usage = bundle.ok(["--help"]);
    assert_eq!(usage, bundle.ok(["help"]));
    for line in usage.lines().skip_while(|l| *l != "commands:").skip(1) {
        let names = line[2..18.min(line.len())].split(", ").map(str::trim);
        // Two of them have files, and help, of their own.
        for name in names.filter(|n| !["checkpoint", "restore", ""].contains(n)) {
            let help = bundle.ok([name, "--help"]);
            assert!(
                help.starts_with(&format!("usage: corten-oci {name}")),
                "{name}: {help}"
            );
            assert_eq!(help, bundle.ok(["help", name]));
            assert_eq!(help, bundle.ok([name, "-h"]));
        }
    }
    for args in [&["frob"][..], &["help", "frob"]] {
        let output = bundle.oci(args);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("unknown command \"frob\""));
    }
}
