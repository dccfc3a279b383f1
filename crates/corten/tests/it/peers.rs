//! Our parts under others' engines: podman drives `corten-oci`, containerd our shim.
//!
//! (`CORTEN_BIN=/usr/sbin/runc` and `=/usr/bin/containerd-shim-runc-v2` show that the scripts ask for no
//! more than those give.) Each peer runs in namespaces of its own, so that its bridges, mounts and daemons end with it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use corten_testkit::{Image, Result, Sandbox, tool};

use super::sandbox;

/// A folder with our binary under its other names, first in the peer's PATH.
fn names(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.files().join("bin");
    fs::create_dir_all(&folder).expect("folder");
    for name in ["corten-oci", "containerd-shim-corten-v2"] {
        let link = folder.join(name);
        if !link.exists() {
            symlink(sandbox.binary(), link).expect("link");
        }
    }
    folder
}

/// The image as one file, as `podman load` and `ctr image import` take it.
pub fn archive(sandbox: &Sandbox, image: Image) -> Result<String> {
    let file = sandbox.files().join("image.tar");
    let target = format!(
        "oci-archive:{}:example.test/{}:latest",
        file.display(),
        image.name()
    );
    tool::call(
        "skopeo",
        &[
            "copy",
            "--quiet",
            "--insecure-policy",
            &image.layout()?.skopeo(),
            &target,
        ],
    )?;
    Ok(file.to_string_lossy().into_owned())
}

/// Runs a script where nothing that it starts or mounts outlives it.
pub fn apart(sandbox: &Sandbox, script: &str) -> Result<String> {
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        names(sandbox).display()
    );
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-euc",
        script,
    ]);
    command
        .current_dir(sandbox.files())
        .env("PATH", path)
        .env("HOME", sandbox.home());
    let said = tool::run(&mut command);
    sweep();
    said
}

/// Peers leave parent groups behind; empty ones go, by their names.
fn sweep() {
    for parent in ["libpod_parent", "default"] {
        for hierarchy in fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
        {
            let folder = hierarchy.path().join(parent);
            let below = fs::read_dir(&folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path());
            below
                .filter(|path| path.is_dir())
                .chain([folder.clone()])
                .for_each(|path| {
                    // Not ours to empty: one that somebody uses stays.
                    let _ = fs::remove_dir(path);
                });
        }
    }
    // podman makes plain folders where a v1 controller is not mounted.
    for hierarchy in ["hugetlb", "net_cls", "net_prio", "perf_event"] {
        let _ = fs::remove_dir(format!("/sys/fs/cgroup/{hierarchy}"));
    }
}

#[test]
fn podman_runs_containers_with_our_runtime() -> Result<()> {
    let sandbox = sandbox()?;
    let archive = archive(&sandbox, Image::Busybox)?;
    let script = format!(
        r#"
        for fixed in /run /var/lib/containers /var/lib/cni; do mkdir -p $fixed; mount -t tmpfs test $fixed; done
        ip link set lo up
        cat >run <<'END'
#!/bin/sh
exec podman --cgroup-manager=cgroupfs --events-backend=file --runtime "$(command -v corten-oci)" \
    --root "$PWD/podman" --runroot /run/podman --tmpdir /run/podman-tmp "$@"
END
        chmod +x run
        ./run load --quiet --input {archive} >/dev/null
        image=example.test/busybox:latest
        limits="--ulimit nofile=1024:20000 --ulimit nproc=4096:4096"
        ./run run --rm $limits --network none $image echo first
        ./run run --rm $limits $image sh -c 'ls /sys/class/net | grep -c eth0'
        code=0; ./run run --rm $limits --network none $image sh -c 'exit 3' || code=$?; echo code $code
        code=0; ./run run --rm $limits --network none $image /no/such 2>/dev/null || code=$?; echo code $code
        ./run run --rm $limits --network none --memory 32m --pids-limit 50 --read-only --cap-drop ALL -u nobody $image id -u
        ./run run -d $limits --network none --name box $image sleep 1000 >/dev/null
        ./run exec box echo through exec
        ./run pause box >/dev/null; ./run unpause box >/dev/null
        ./run kill box >/dev/null
        ./run wait box
        ./run rm -f -t 0 box >/dev/null
        ./run ps -aq | wc -l
        "#
    );
    let said = apart(&sandbox, &script)?;
    let expected = [
        "first",
        "1",
        "code 3",
        "code 127",
        "65534",
        "through exec",
        "137",
        "0",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    sandbox.finish();
    Ok(())
}

#[test]
fn containerd_runs_containers_with_our_shim() -> Result<()> {
    let sandbox = sandbox()?;
    let archive = archive(&sandbox, Image::Busybox)?;
    let script = format!(
        r#"
        mount -t tmpfs test /run
        cat >config.toml <<END
version = 2
root = "$PWD/containerd"
state = "/run/c"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "/run/c.sock"
END
        containerd --config config.toml >containerd.log 2>&1 &
        daemon=$!
        for try in $(seq 200); do ctr -a /run/c.sock version >/dev/null 2>&1 && break; sleep 0.05; done
        c="ctr -a /run/c.sock"
        $c images import {archive} >/dev/null
        image=example.test/busybox:latest
        corten="--runtime io.containerd.corten.v2"
        $c run --rm $corten $image one echo first
        code=0; $c run --rm $corten $image two sh -c 'exit 3' || code=$?; echo code $code
        # This ctr loses an end of stdin that comes before the task is there.
        {{ printf 'piped\n'; sleep 1; }} | $c run --rm $corten $image three cat
        $c run -d $corten $image box sleep 1000
        $c task exec --exec-id e1 box echo through exec
        $c task ls | grep -c 'box.*RUNNING'
        $c task pause box; $c task ls | grep -c 'box.*PAUSED'; $c task resume box
        # The shim outlives the daemon, and the next daemon finds it.
        kill -9 $daemon; wait $daemon || true
        containerd --config config.toml >>containerd.log 2>&1 &
        for try in $(seq 200); do $c version >/dev/null 2>&1 && break; sleep 0.05; done
        $c task exec --exec-id e2 box echo still there
        $c task kill -s KILL box
        for try in $(seq 100); do $c task ls | grep -q 'box.*STOPPED' && break; sleep 0.05; done
        $c task rm box >/dev/null 2>&1 || true
        $c container rm box
        $c task ls -q | wc -l
        shim=$(readlink -f "$(command -v containerd-shim-corten-v2)")
        shims() {{ ls -l /proc/[0-9]*/exe 2>/dev/null | grep -c -- "-> $shim\$"; }}
        for try in $(seq 60); do test "$(shims)" = 0 && break; sleep 0.05; done
        shims || true
        "#
    );
    let said = apart(&sandbox, &script)?;
    let expected = [
        "first",
        "code 3",
        "piped",
        "through exec",
        "1",
        "1",
        "still there",
        "0",
        "0",
    ];
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        expected,
        "containerd said:\n{}",
        log(&sandbox)
    );
    sandbox.finish();
    Ok(())
}

fn log(sandbox: &Sandbox) -> String {
    let text = fs::read_to_string(sandbox.files().join("containerd.log")).unwrap_or_default();
    text.lines().rev().take(20).collect::<Vec<_>>().join("\n")
}
