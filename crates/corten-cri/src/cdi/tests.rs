//! Files of devices: what is taken, what is refused, and who wins.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::proto::CdiDevice;

fn document(change: impl FnOnce(&mut Value)) -> Result<Document, DocumentError> {
    let mut value = json!({
        "cdiVersion": "1.1.0",
        "kind": "vendor.com/gpu",
        "devices": [
            { "name": "a", "containerEdits": { "env": ["A=1"] } },
            { "name": "b", "containerEdits": { "env": ["B=1"] } },
        ],
    });
    change(&mut value);
    Document::parse(value)
}

fn edits(edits: Value) -> Result<Document, DocumentError> {
    document(|d| d["devices"][0]["containerEdits"] = edits)
}

#[test]
fn writers_in_go_leave_nulls() {
    let parsed = document(|d| {
        d["containerEdits"] = Value::Null;
        d["annotations"] = Value::Null;
        d["devices"][0]["containerEdits"]["mounts"] = Value::Null;
        d["devices"][0]["containerEdits"]["intelRdt"] = Value::Null;
    });
    assert_eq!(parsed.unwrap().devices.len(), 2);
}

#[test]
fn what_is_wrong_is_named_by_its_field() {
    type Change = fn(&mut Value);
    let bad: [(Change, &str); 10] = [
        (|d| d["kind"] = json!("gpu"), "kind is \"gpu\""),
        (|d| d["kind"] = json!("1.com/gpu"), "kind"),
        (
            |d| d["cdiVersion"] = json!("2.0.0"),
            "cdiVersion is \"2.0.0\"",
        ),
        (|d| d["devices"] = json!([]), "devices is empty"),
        (
            |d| d["devices"][1]["name"] = json!("a"),
            "devices[1].name is \"a\" again",
        ),
        (
            |d| d["devices"][1]["name"] = json!("a b"),
            "devices[1].name",
        ),
        (
            |d| d["devices"][1]["containerEdits"] = json!({}),
            "devices[1].containerEdits changes nothing",
        ),
        (|d| d["device"] = json!([]), "unknown field `device`"),
        (
            |d| d["containerEdits"] = json!({ "envs": [] }),
            "unknown field `envs`",
        ),
        (|d| d["devices"] = json!([{}]), "missing field `name`"),
    ];
    for (change, word) in bad {
        let error = document(change).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(word), "{word}: {text}");
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let below = error.source().map(|e| format!(": {}", chain(e)));
    format!("{error}{}", below.unwrap_or_default())
}

#[test]
fn edits_are_checked() {
    let node = |node: Value| json!({ "deviceNodes": [node] });
    for (bad, word) in [
        (json!({ "env": ["A"] }), "env holds \"A\""),
        (json!({ "env": ["=1"] }), "env"),
        (node(json!({ "path": "dev" })), "deviceNodes.path"),
        (node(json!({ "path": "/d", "hostPath": "d" })), "hostPath"),
        (node(json!({ "path": "/d", "type": "x" })), "type is \"x\""),
        (
            node(json!({ "path": "/d", "permissions": "rx" })),
            "permissions",
        ),
        (node(json!({ "path": "/d", "major": -1 })), "invalid value"),
        (
            json!({ "hooks": [{ "hookName": "later", "path": "/h" }] }),
            "unknown variant `later`",
        ),
        (
            json!({ "hooks": [{ "hookName": "prestart", "path": "h" }] }),
            "hooks.path",
        ),
        (
            json!({ "hooks": [{ "hookName": "prestart", "path": "/h", "env": ["x"] }] }),
            "hooks.env",
        ),
        (
            json!({ "mounts": [{ "hostPath": "", "containerPath": "/a" }] }),
            "hostPath",
        ),
        (
            json!({ "mounts": [{ "hostPath": "/a", "containerPath": "a" }] }),
            "containerPath",
        ),
        (json!({ "intelRdt": { "closID": "a/b" } }), "closID"),
        (json!({ "intelRdt": { "closID": ".." } }), "closID"),
        (
            json!({ "netDevices": [{ "hostInterfaceName": "", "name": "n" }] }),
            "empty name",
        ),
        (
            json!({ "netDevices": [
                { "hostInterfaceName": "e", "name": "n" }, { "hostInterfaceName": "f", "name": "n" },
            ] }),
            "again",
        ),
    ] {
        let error = edits(bad.clone()).unwrap_err();
        let text = chain(&error);
        assert!(text.contains(word), "{bad}: {text}");
    }
    edits(json!({ "intelRdt": { "closID": "/" } })).unwrap();
    edits(node(json!({ "path": "/d", "permissions": "none" }))).unwrap();
}

#[test]
fn a_word_is_there_since_its_version() {
    let mount = json!({ "hostPath": "/a", "containerPath": "/b", "type": "tmpfs" });
    for (edit, since, before) in [
        (json!({ "mounts": [mount] }), "0.4.0", "0.3.0"),
        (
            json!({ "deviceNodes": [{ "path": "/d", "hostPath": "/e" }] }),
            "0.5.0",
            "0.4.0",
        ),
        (json!({ "additionalGids": [7] }), "0.7.0", "0.6.0"),
        (json!({ "intelRdt": { "closID": "c" } }), "0.7.0", "0.6.0"),
        (
            json!({ "intelRdt": { "enableMonitoring": true } }),
            "1.1.0",
            "1.0.0",
        ),
        (
            json!({ "netDevices": [{ "hostInterfaceName": "e", "name": "n" }] }),
            "1.1.0",
            "1.0.0",
        ),
    ] {
        let at = |version: &str| {
            document(|d| {
                d["cdiVersion"] = json!(version);
                d["devices"][0]["containerEdits"] = edit.clone();
            })
        };
        at(since).unwrap();
        let error = at(before).unwrap_err().to_string();
        assert!(error.contains(since), "{edit}: {error}");
    }
    let old = |change: fn(&mut Value)| {
        document(|d| {
            d["cdiVersion"] = json!("0.4.0");
            change(d);
        })
    };
    old(|_| {}).unwrap();
    assert!(old(|d| d["annotations"] = json!({ "a": "b" })).is_err());
    assert!(old(|d| d["kind"] = json!("v/c.d")).is_err());
    assert!(old(|d| d["devices"][0]["name"] = json!("0")).is_err());
}

fn write(folder: &Path, name: &str, value: &Value) {
    fs::write(folder.join(name), value.to_string()).unwrap();
}

fn one(name: &str, variable: &str) -> Value {
    json!({
        "cdiVersion": "0.6.0", "kind": "v/c",
        "containerEdits": { "env": [format!("ALL={variable}")] },
        "devices": [{ "name": name, "containerEdits": { "env": [variable] } }],
    })
}

fn names(all: &[&str]) -> Vec<Name> {
    all.iter().map(|n| n.parse().unwrap()).collect()
}

#[test]
fn a_later_folder_wins_and_two_files_of_one_folder_do_not() {
    let (first, last) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let absent = first.path().join("absent");
    let folders = [first.path(), absent.as_path(), last.path()];
    write(first.path(), "a.json", &one("x", "FIRST=1"));
    write(first.path(), "b.json", &one("x", "SECOND=1"));
    write(first.path(), "c.txt", &one("y", "TEXT=1"));
    let registry = Registry::read(&folders);
    let error = registry.edits(&names(&["v/c=x"])).unwrap_err();
    assert!(matches!(&error, Error::Conflict { name, first, second }
        if name == "v/c=x" && first.ends_with("a.json") && second.ends_with("b.json")));
    assert!(matches!(
        registry.edits(&names(&["v/c=y"])),
        Err(Error::Missing { .. })
    ));
    write(last.path(), "d.json", &one("x", "THIRD=1"));
    let edits = Registry::read(&folders).edits(&names(&["v/c=x"])).unwrap();
    assert_eq!(edits.env, ["ALL=THIRD=1", "THIRD=1"]);
}

#[test]
fn what_a_file_needs_is_added_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut value = one("x", "X=1");
    let devices = value["devices"].as_array_mut().unwrap();
    devices.push(json!({ "name": "y", "containerEdits": { "env": ["Y=1"] } }));
    write(folder.path(), "a.json", &value);
    write(folder.path(), "b.json", &one("z", "Z=1"));
    let registry = Registry::read(&[folder.path()]);
    let edits = registry
        .edits(&names(&["v/c=x", "v/c=z", "v/c=y"]))
        .unwrap();
    assert_eq!(edits.env, ["ALL=X=1", "X=1", "ALL=Z=1", "Z=1", "Y=1"]);
    assert_eq!(registry.edits(&[]).unwrap(), Edits::default());
}

#[test]
fn a_broken_file_spoils_its_own_devices_alone() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "a.json", &one("x", "X=1"));
    fs::write(folder.path().join("b.json"), "{").unwrap();
    fs::write(folder.path().join("c.yaml"), "a: *b\n").unwrap();
    fs::create_dir(folder.path().join("d.json")).unwrap();
    let big = fs::File::create(folder.path().join("e.json")).unwrap();
    big.set_len((4 << 20) + 1).unwrap();
    let registry = Registry::read(&[folder.path()]);
    let faults: Vec<String> = registry
        .faults()
        .map(|(path, error)| format!("{} {error}", path.file_name().unwrap().display()))
        .collect();
    assert_eq!(faults.len(), 3, "{faults:?}");
    assert!(faults[2].starts_with("e.json is larger"), "{faults:?}");
    assert!(registry.edits(&names(&["v/c=x"])).is_ok());
    let Err(Error::Missing { unread, .. }) = registry.edits(&names(&["v/c=y"])) else {
        panic!("there is such a device");
    };
    assert_eq!(unread.len(), 3);
}

#[test]
fn devices_are_asked_for_by_field_and_by_annotation() {
    let mut container = ContainerConfig {
        cdi_devices: ["v/c=x", "v/c=x"]
            .map(|name| CdiDevice { name: name.into() })
            .into(),
        ..Default::default()
    };
    let annotate = |container: &mut ContainerConfig, key: &str, value: &str| {
        container.annotations.insert(key.into(), value.into());
    };
    annotate(&mut container, "cdi.k8s.io/p_1", "v/c=y,v/c=x");
    annotate(&mut container, "other/p", "nonsense");
    assert_eq!(wanted(&container).unwrap(), names(&["v/c=x", "v/c=y"]));
    annotate(&mut container, "cdi.k8s.io/q", "v/c=y, v/c=z");
    assert!(matches!(wanted(&container), Err(Error::Name { text, .. }) if text == " v/c=z"));
}

mod properties {
    use proptest::prelude::*;

    use super::super::fuzz;

    /// Words of a description and signs of YAML, in any order.
    fn text() -> impl Strategy<Value = String> {
        let word = prop_oneof![
            "[ -~\\n\\t]{0,3}",
            proptest::sample::select(vec![
                "cdiVersion: 1.1.0\n",
                "kind: a/b\n",
                "devices:\n",
                "- name: x\n",
                "  containerEdits:\n",
                "    env: [A=1]\n",
                "major: ",
                "0660",
                "&a ",
                "*a",
                "!!str ",
                "? ",
                "|\n",
                ">-\n",
                "---\n",
                "...\n",
                "{",
                "}",
                "[",
                "]",
                ", ",
                "'",
                "\"",
                "#",
                "%YAML 1.2\n",
                "\u{feff}",
                "\u{85}",
                "é",
            ])
            .prop_map(String::from),
        ];
        proptest::collection::vec(word, 0..24).prop_map(|words| words.concat())
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in text(), yaml: bool) {
            let mut bytes = vec![u8::from(yaml)];
            bytes.extend_from_slice(text.as_bytes());
            fuzz::document(&bytes);
        }
    }
}
