//! The library as the shim calls it: in process, detached roots, descriptors for stdio.

use std::io::Read as _;
use std::os::fd::OwnedFd;

use corten_runtime::rootfs::{Mount, assemble};
use corten_runtime::{Create, Error, Exec, Options, Rootfs, Status, Stdio};
use corten_spec::ContainerId;
use oci_spec::runtime::Spec;
use serde_json::json;

use crate::harness::{Bundle, ours, text};

struct Out {
    read: std::io::PipeReader,
}

fn stdio() -> (Stdio, Out) {
    let (read, write) = std::io::pipe().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let copy: OwnedFd = write.try_clone().unwrap().into();
    let stdio = Stdio::Fds {
        stdin: null.into(),
        stdout: write.into(),
        stderr: copy,
    };
    (stdio, Out { read })
}

impl Out {
    fn text(mut self) -> String {
        let mut bytes = Vec::new();
        self.read.read_to_end(&mut bytes).unwrap();
        text(&bytes)
    }
}

fn spec(bundle: &Bundle) -> Spec {
    serde_json::from_value(bundle.config.clone()).unwrap()
}

fn detached(bundle: &Bundle) -> OwnedFd {
    let folder = |name: &str| {
        let path = bundle.dir.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path.display().to_string()
    };
    let options = vec![
        format!("lowerdir={}", bundle.root().display()),
        format!("upperdir={}", folder("upper")),
        format!("workdir={}", folder("work")),
    ];
    let mount = Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        options,
    };
    match assemble(std::slice::from_ref(&mount)) {
        Ok(root) => root,
        // An upper folder may not lie on every file system (another overlay): then a plain bind does.
        Err(_) => assemble(&[Mount {
            fstype: "bind".into(),
            source: bundle.root().display().to_string(),
            options: vec!["rbind".into()],
        }])
        .unwrap(),
    }
}

#[test]
fn a_container_in_process() {
    if !ours() {
        return;
    }
    let bundle = Bundle::script("echo hello; echo x > /written; exit 5");
    let (spec, state_root) = (spec(&bundle), bundle.state_root());
    let id: ContainerId = bundle.id.parse().unwrap();
    let (stdio, out) = stdio();
    let mut created = corten_runtime::create(Create {
        id: &id,
        bundle: bundle.dir.path(),
        spec: &spec,
        state_root: &state_root,
        rootfs: Rootfs::Mount(detached(&bundle)),
        stdio,
        options: Options::default(),
    })
    .unwrap();
    assert_eq!(
        corten_runtime::state(&state_root, &id).unwrap().status,
        Status::Created
    );
    created.start().unwrap();
    let exit = corten_sys::process::wait(&created.pidfd).unwrap();
    assert_eq!(exit.status(), 5);
    assert_eq!(out.text(), "hello\n");
    assert_eq!(
        corten_runtime::state(&state_root, &id).unwrap().status,
        Status::Stopped
    );
    corten_runtime::delete(&state_root, &id, false).unwrap();
}

#[test]
fn errors_carry_step_errno_and_path() {
    if !ours() {
        return;
    }
    let mut bundle = Bundle::new(&["nope"]);
    let id: ContainerId = bundle.id.parse().unwrap();
    let state_root = bundle.state_root();
    let dir = bundle.dir.path().to_owned();
    let create = |spec: &Spec| {
        corten_runtime::create(Create {
            id: &id,
            bundle: &dir,
            spec,
            state_root: &state_root,
            rootfs: Rootfs::Bundle,
            stdio: stdio().0,
            options: Options::default(),
        })
        .unwrap_err()
    };
    let missing = create(&spec(&bundle));
    assert!(
        matches!(&missing, Error::ExecutableNotFound { path, .. } if path.as_os_str() == "nope")
    );
    assert_eq!((missing.errno(), missing.exit_code()), (Some(2), 127));
    bundle.mount(json!({"destination": "/bin/busybox/x", "type": "tmpfs", "source": "tmpfs"}));
    let target = create(&spec(&bundle));
    assert_eq!(target.step(), "make the mount point");
    assert_eq!(target.errno(), Some(20));
    assert_eq!(target.path().unwrap().as_os_str(), "bin/busybox/x");
    bundle.unmount("/bin/busybox/x");
    bundle.mount(
        json!({"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=bogus"]}),
    );
    let log = create(&spec(&bundle)).to_string();
    assert!(log.contains("size") || log.contains("bogus"), "{log}");
}

#[test]
fn exec_in_process_with_a_terminal() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["sleep", "100"]);
    bundle.up();
    let id: ContainerId = bundle.id.parse().unwrap();
    let process = serde_json::from_value(json!({
        "terminal": true, "args": ["sh", "-c", "tty; stty size"], "env": ["PATH=/bin"], "cwd": "/",
        "user": {"uid": 0, "gid": 0},
    }))
    .unwrap();
    let added = corten_runtime::exec(Exec {
        id: &id,
        state_root: &bundle.state_root(),
        process: &process,
        stdio: Stdio::Terminal { rows: 20, cols: 70 },
        options: Options::default(),
    })
    .unwrap();
    assert_eq!(corten_sys::process::wait(&added.pidfd).unwrap().status(), 0);
    // A terminal may give its lines one by one; EIO: nobody has it open any more.
    let mut seen = Vec::new();
    let mut buffer = [0; 256];
    while let Ok(len @ 1..) = rustix::io::read(added.console.as_ref().unwrap(), &mut buffer) {
        seen.extend_from_slice(&buffer[..len]);
    }
    let seen = text(&seen);
    assert!(
        seen.contains("/dev/pts/0") && seen.contains("20 70"),
        "{seen:?}"
    );
}

#[test]
fn many_layers_are_more_than_one_string() {
    if !ours() {
        return;
    }
    let bundle = Bundle::new(&["true"]);
    let mut lower = Vec::new();
    for number in 0..40 {
        let path = bundle
            .dir
            .path()
            .join(format!("layers/{number}/{}", "x".repeat(30)));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join(format!("f{number}")), "").unwrap();
        lower.push(path.display().to_string());
    }
    lower.push(bundle.root().display().to_string());
    let mount = Mount {
        fstype: "overlay".into(),
        source: "overlay".into(),
        options: vec!["ro".into(), format!("lowerdir={}", lower.join(":"))],
    };
    let root = assemble(&[mount]).unwrap();
    let open = corten_sys::rooted::open(&root, "f39", rustix::fs::OFlags::RDONLY);
    assert!(open.is_ok(), "{open:?}");
}
