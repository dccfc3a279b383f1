//! Plans, and their carrying out on a tree of plain files, which this test makes look like resctrl.

use std::fs;

use super::*;

struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("corten-rdt-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("info")).unwrap();
        let tree = Self(path);
        tree.class("");
        tree
    }

    /// A class of the host's; in a real one the kernel makes the files.
    fn class(&self, name: &str) -> PathBuf {
        let folder = self.0.join(name);
        fs::create_dir_all(folder.join("mon_groups")).unwrap();
        fs::write(
            folder.join("schemata"),
            "    L3:0=7ff;1=7ff\n    MB:0=100;1= 20\n",
        )
        .unwrap();
        fs::write(folder.join("tasks"), "").unwrap();
        folder
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn planned(json: &str) -> Result<Plan, Error> {
    plan(&serde_json::from_str(json).unwrap(), "web-1")
}

#[test]
fn a_class_of_the_hosts_takes_the_container() {
    let tree = Tree::new("host");
    tree.class("gold");
    let plan = planned(r#"{"closID":"gold"}"#).unwrap();
    plan.apply(&tree.0, 77).unwrap();
    assert_eq!(tree.read("gold/tasks"), "77");
    assert!(
        tree.read("gold/schemata").starts_with("    L3:0=7ff"),
        "not written"
    );
    plan.place(&tree.0).remove().unwrap();
    assert!(tree.0.join("gold").exists(), "it is not ours");
    let missing = planned(r#"{"closID":"silver"}"#).unwrap();
    let error = missing.apply(&tree.0, 77).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::NOENT), "{error}");
    assert!(!tree.0.join("silver").exists());
}

#[test]
fn the_roots_class_can_be_named() {
    let tree = Tree::new("root");
    let plan = planned(r#"{"closID":"/"}"#).unwrap();
    plan.apply(&tree.0, 5).unwrap();
    assert_eq!(tree.read("tasks"), "5");
    plan.place(&tree.0).remove().unwrap();
    assert!(tree.0.exists());
}

#[test]
fn a_class_that_exists_must_be_as_the_spec_has_it() {
    let tree = Tree::new("same");
    tree.class("gold");
    for same in ["L3:0=7ff;1=7ff", "L3:1=0x07FF", "L3:0=7ff\\nMB:0=99"] {
        let json =
            format!(r#"{{"closID":"gold","l3CacheSchema":"{same}","memBwSchema":"MB:1=20"}}"#);
        planned(&json).unwrap().apply(&tree.0, 7).unwrap();
    }
    for other in ["L3:0=3ff", "L2:0=7ff", "L3:9=7ff"] {
        let json = format!(r#"{{"closID":"gold","l3CacheSchema":"{other}"}}"#);
        let error = planned(&json).unwrap().apply(&tree.0, 8).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("bad value {other} for intelRdt schema: the class exists and has another")
        );
    }
    assert_eq!(tree.read("gold/tasks"), "7");
}

#[test]
fn schemata_are_written_last_and_to_any_class() {
    let tree = Tree::new("write");
    tree.class("gold");
    let plan =
        planned(r#"{"closID":"gold","memBwSchema":"MB:0=100","schemata":["L3:0=f","L2:0=3"]}"#);
    plan.unwrap().apply(&tree.0, 7).unwrap();
    let text = tree.read("gold/schemata");
    assert!(text.starts_with("L3:0=f\nL2:0=3\n"), "{text}");
}

#[test]
fn a_class_of_the_containers_own_goes_with_it() {
    let tree = Tree::new("own");
    let plan = planned(
        r#"{"l3CacheSchema":"L3:0=f\nMB:0=10","memBwSchema":"MB:0=50","enableMonitoring":true}"#,
    )
    .unwrap();
    assert_eq!(plan.schema, ["L3:0=f", "MB:0=50"]);
    let place = plan.place(&tree.0);
    assert_eq!(
        place.monitor.as_deref(),
        Some(&*tree.0.join("web-1/mon_groups/web-1"))
    );
    // Plain folders get no files by themselves: the class is made, the write fails, and it is taken back.
    let error = plan.apply(&tree.0, 7).unwrap_err();
    assert!(error.to_string().starts_with("cannot write "), "{error}");
    assert!(!place.class.exists(), "what was made is taken back");
    // As after a crash between its making and the rest: a class of our id is ours.
    tree.class("web-1");
    fs::create_dir_all(place.monitor.as_ref().unwrap()).unwrap();
    fs::write(place.monitor.as_ref().unwrap().join("tasks"), "").unwrap();
    plan.apply(&tree.0, 7).unwrap();
    assert!(tree.read("web-1/schemata").starts_with("L3:0=f\nMB:0=50\n"));
    assert_eq!(tree.read("web-1/mon_groups/web-1/tasks"), "7");
    place.join(&tree.0, 8).unwrap();
    assert_eq!(tree.read("web-1/tasks"), "8");
    // The kernel removes a class with its files; a plain folder must be emptied for it.
    fs::remove_dir_all(&place.class).unwrap();
    fs::create_dir_all(place.monitor.as_ref().unwrap()).unwrap();
    let error = place.remove().unwrap_err();
    assert_eq!(
        error.errno(),
        Some(Errno::NOTEMPTY),
        "mon_groups is left: {error}"
    );
    fs::remove_dir(place.class.join("mon_groups")).unwrap();
    place.remove().unwrap();
    assert!(!place.class.exists());
    place.remove().unwrap();
}

#[test]
fn the_kernels_reason_is_told() {
    let tree = Tree::new("reason");
    fs::write(
        tree.0.join("info/last_cmd_status"),
        "Mask f0f has non-consecutive 1-bits\n",
    )
    .unwrap();
    let error = planned(r#"{"closID":"no"}"#)
        .unwrap()
        .apply(&tree.0, 7)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "cannot write {}/no/tasks (Mask f0f has non-consecutive 1-bits)",
            tree.0.display()
        )
    );
}

#[test]
fn bad_settings_are_named() {
    for (json, name) in [
        (r#"{"closID":"../x"}"#, "intelRdt.closID"),
        (r#"{"closID":".."}"#, "intelRdt.closID"),
        (r#"{"closID":"info"}"#, "intelRdt.closID"),
        (r#"{"closID":"a/b"}"#, "intelRdt.closID"),
        (r#"{"memBwSchema":"L3:0=f"}"#, "intelRdt.memBwSchema"),
        (
            r#"{"memBwSchema":"MB:0=1\nL3:0=f"}"#,
            "intelRdt.memBwSchema",
        ),
        (r#"{"l3CacheSchema":"nonsense"}"#, "intelRdt.l3CacheSchema"),
        (r#"{"schemata":["L3:0=f\nMB:0=1"]}"#, "intelRdt.schemata"),
    ] {
        let error = planned(json).unwrap_err().to_string();
        assert!(error.contains(name), "{json}: {error}");
    }
}

#[test]
fn the_mount_is_found_where_it_is() {
    let text = "22 1 0:20 / /sys rw - sysfs sysfs rw\n30 22 0:9 / /sys/fs/resctrl rw,relatime shared:9 - resctrl resctrl rw\n";
    assert_eq!(find(text), Some("/sys/fs/resctrl".into()));
    assert_eq!(find("22 1 0:20 / /resctrl rw - tmpfs resctrl rw\n"), None);
    if !Path::new("/sys/fs/resctrl/schemata").exists() {
        let error = mounted().unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot apply linux.intelRdt: this host has no resctrl filesystem mounted"
        );
    }
}
