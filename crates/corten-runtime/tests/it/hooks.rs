//! Hooks of all six kinds: what they are told, where they run, and what a failure of one does (runtime.md, "Lifecycle").

use serde_json::{Value, json};

use crate::harness::{Bundle, ours, text};

/// A hook that appends a line to `order` on the host.
fn note(bundle: &Bundle, name: &str, status: i32) -> Value {
    let order = bundle.dir.path().join("order");
    let script = format!(
        "cat > /dev/null; echo {name} >> {}; exit {status}",
        order.display()
    );
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

fn order(bundle: &Bundle) -> Vec<String> {
    let text = std::fs::read_to_string(bundle.dir.path().join("order")).unwrap_or_default();
    text.lines().map(String::from).collect()
}

fn gone(bundle: &Bundle) {
    assert!(
        !bundle.oci(["state", &bundle.id]).status.success(),
        "it is still there"
    );
}

#[test]
fn each_hook_is_told_the_state() {
    let mut bundle = Bundle::new(&["true"]);
    let keep = |name: &str| {
        let file = bundle.dir.path().join(name);
        let script = format!("cat > {}", file.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
    };
    let inside = json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /tmp/startContainer"], "env": ["PATH=/bin"]}]);
    let hooks = json!({
        "prestart": keep("prestart"), "createRuntime": keep("createRuntime"),
        "createContainer": keep("createContainer"), "startContainer": inside,
        "poststart": keep("poststart"), "poststop": keep("poststop"),
    });
    bundle.config["hooks"] = hooks;
    bundle.config["annotations"] = json!({"org.example.key": "value"});
    let (code, log) = bundle.create();
    assert_eq!(code, 0, "{log}");
    let pid = bundle.pid();
    bundle.ok(["start", &bundle.id]);
    bundle.wait_stopped(pid);
    bundle.ok(["delete", &bundle.id]);
    if !ours() {
        return;
    }
    for (name, status, number) in [
        ("prestart", "created", Some(pid)),
        ("createRuntime", "created", Some(pid)),
        ("createContainer", "created", Some(1)),
        ("rootfs/tmp/startContainer", "created", Some(1)),
        ("poststart", "running", Some(pid)),
        ("poststop", "stopped", None),
    ] {
        let text = std::fs::read_to_string(bundle.dir.path().join(name)).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(state["status"], status, "{name}");
        assert_eq!(state["pid"], json!(number), "{name}");
        assert_eq!(state["id"], bundle.id.as_str(), "{name}");
        assert_eq!(
            state["bundle"],
            bundle.dir.path().to_str().unwrap(),
            "{name}"
        );
        assert_eq!(state["annotations"]["org.example.key"], "value", "{name}");
        assert!(state["ociVersion"].is_string(), "{name}");
    }
}

#[test]
fn create_container_hooks_are_in_the_containers_namespaces() {
    if !ours() {
        return;
    }
    for user in [false, true] {
        let mut bundle = Bundle::new(&["true"]);
        let file = bundle.root().join("seen");
        std::fs::write(&file, "").unwrap();
        if user {
            bundle.namespaces(|n| n.push(json!({"type": "user"})));
            let ids = json!([{"containerID": 0, "hostID": 200_000, "size": 65_536}]);
            bundle
                .set("/linux/uidMappings", ids.clone())
                .set("/linux/gidMappings", ids);
            for path in [&bundle.root(), &file] {
                std::os::unix::fs::chown(path, Some(200_000), Some(200_000)).unwrap();
            }
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(bundle.dir.path(), open).unwrap();
        }
        let script = format!(
            "(hostname; echo $$; id -u; echo $0 $A) > {0}; test -e /etc/debian_version || test -e /etc/os-release && echo host >> {0}",
            file.display()
        );
        bundle.config["hooks"] = json!({"createContainer": [
            {"path": "/bin/sh", "args": ["named", "-c", script], "env": ["PATH=/bin:/usr/bin", "A=b"]}
        ]});
        let (code, log) = bundle.create();
        assert_eq!(code, 0, "{log}");
        let seen = std::fs::read_to_string(&file).unwrap();
        // Init is 1, and the hook's process the next.
        assert_eq!(seen, "corten\n2\n0\nnamed b\nhost\n");
        bundle.ok(["delete", "--force", &bundle.id]);
    }
}

#[test]
fn a_hook_that_fails_at_create_ends_it_with_poststop() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.config["hooks"] = json!({
            kind: [note(&bundle, "first", 0), note(&bundle, "second", 3), note(&bundle, "never", 0)],
            "poststop": [note(&bundle, "poststop", 0)],
        });
        let (code, log) = bundle.create();
        assert_ne!(code, 0, "{kind}");
        gone(&bundle);
        if ours() {
            let said =
                log.contains(&format!("{kind} hook")) && log.contains("failed: exit status 3");
            assert!(said, "{log}");
            assert_eq!(order(&bundle), ["first", "second", "poststop"], "{kind}");
        }
    }
}

#[test]
fn a_hook_that_fails_at_start_ends_the_container() {
    if !ours() {
        return;
    }
    for kind in ["startContainer", "poststart"] {
        let mut bundle = Bundle::new(&["sleep", "100"]);
        let failing = json!({"path": "/bin/false"});
        bundle.config["hooks"] =
            json!({kind: [failing], "poststop": [note(&bundle, "poststop", 0)]});
        let (code, log) = bundle.create();
        assert_eq!(code, 0, "{log}");
        let pid = bundle.pid();
        let output = bundle.oci(["start", &bundle.id]);
        assert!(!output.status.success(), "{kind}");
        let message = text(&output.stderr);
        assert!(
            message.contains(&format!("{kind} hook \"/bin/false\" failed")),
            "{message}"
        );
        bundle.wait_stopped(pid);
        gone(&bundle);
        assert_eq!(order(&bundle), ["poststop"], "{kind}");
    }
}

#[test]
fn poststop_hooks_only_warn() {
    let mut bundle = Bundle::new(&["true"]);
    bundle.config["hooks"] = json!({
        "poststop": [note(&bundle, "a", 1), {"path": "/not/there"}, note(&bundle, "b", 0)],
    });
    let (code, log) = bundle.create();
    assert_eq!(code, 0, "{log}");
    let pid = bundle.pid();
    bundle.ok(["start", &bundle.id]);
    bundle.wait_stopped(pid);
    let output = bundle.oci(["delete", &bundle.id]);
    gone(&bundle);
    assert_eq!(order(&bundle), ["a", "b"]);
    if ours() {
        assert!(output.status.success());
        let warned = text(&output.stderr);
        assert!(
            warned.contains("exit status 1") && warned.contains("/not/there"),
            "{warned}"
        );
    }
}

#[test]
fn time_runs_out_for_every_kind() {
    if !ours() {
        return;
    }
    let slow = json!([{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]);
    for kind in ["createRuntime", "createContainer", "startContainer"] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.config["hooks"] = json!({kind: slow});
        let before = std::time::Instant::now();
        let output = bundle.run();
        assert!(!output.status.success());
        let message = text(&output.stderr);
        assert!(
            message.contains("took longer than its timeout"),
            "{kind}: {message}"
        );
        assert!(before.elapsed().as_secs() < 30, "{kind}");
    }
    for (hook, problem) in [
        (json!({"path": "sh"}), "which is not absolute"),
        (
            json!({"path": "/bin/sh", "timeout": 0}),
            "a timeout of 0 seconds",
        ),
    ] {
        let mut bundle = Bundle::new(&["true"]);
        bundle.config["hooks"] = json!({"poststop": [hook]});
        let (code, log) = bundle.create();
        assert_eq!(code, 1);
        assert!(
            log.contains("hooks.poststop") && log.contains(problem),
            "{log}"
        );
    }
}

#[test]
fn a_hook_need_not_read_its_stdin() {
    let mut bundle = Bundle::new(&["true"]);
    // More than a pipe holds.
    bundle.config["annotations"] = json!({"org.example.long": "x".repeat(200_000)});
    bundle.config["hooks"] =
        json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "0.1"], "timeout": 20}]});
    let (code, log) = bundle.create();
    assert_eq!(code, 0, "{log}");
}

#[test]
fn a_container_without_a_process_cannot_be_started() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::new(&["true"]);
    bundle.config.as_object_mut().unwrap().remove("process");
    let (code, log) = bundle.create();
    assert_eq!(code, 0, "{log}");
    assert_eq!(bundle.status(), "created");
    let output = bundle.oci(["start", &bundle.id]);
    let message = text(&output.stderr);
    assert!(
        message.contains("process of the spec is missing"),
        "{message}"
    );
    assert_eq!(bundle.status(), "created");
    bundle.ok(["kill", &bundle.id, "KILL"]);
}
