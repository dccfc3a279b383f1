//! Others' clients against our server.

use crate::image::{busybox, pull};
use crate::peer::{Ours, client, reference, run};

#[tokio::test]
async fn skopeo_pushes_inspects_lists_pulls_and_deletes() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(&dir.path().join("root"));
    let source = busybox(dir.path());
    let there = |name: &str| format!("docker://{}/{name}", ours.address);
    for (format, tag) in [("oci", "v1"), ("v2s2", "docker")] {
        let to = there(&format!("team/busybox:{tag}"));
        run(
            "skopeo",
            [
                "copy",
                "-q",
                "--format",
                format,
                "--dest-tls-verify=false",
                &source,
                &to,
            ],
        );
        pull(
            &client(),
            &reference(ours.address, &format!("team/busybox:{tag}")),
        )
        .await;
    }
    let tags = run(
        "skopeo",
        ["list-tags", "--tls-verify=false", &there("team/busybox")],
    );
    let tags: serde_json::Value = serde_json::from_slice(&tags).unwrap();
    assert_eq!(tags["Tags"], serde_json::json!(["docker", "v1"]));
    // Between two repositories the blobs are mounted.
    let both = ["--src-tls-verify=false", "--dest-tls-verify=false"];
    run(
        "skopeo",
        [
            "copy",
            "-q",
            both[0],
            both[1],
            &there("team/busybox:v1"),
            &there("other/box:v1"),
        ],
    );
    let layout = format!("oci:{}:back", dir.path().join("back").display());
    run(
        "skopeo",
        [
            "copy",
            "-q",
            "--src-tls-verify=false",
            &there("other/box:v1"),
            &layout,
        ],
    );
    run(
        "skopeo",
        [
            "delete",
            "--tls-verify=false",
            &there("team/busybox:docker"),
        ],
    );
    let tags = run(
        "skopeo",
        ["list-tags", "--tls-verify=false", &there("team/busybox")],
    );
    assert!(String::from_utf8(tags).unwrap().contains("\"v1\""));
    pull(&client(), &reference(ours.address, "other/box:v1")).await;
}

#[tokio::test]
async fn podman_pulls_and_pushes() {
    let dir = tempfile::tempdir().unwrap();
    let ours = Ours::start(&dir.path().join("root"));
    let source = busybox(dir.path());
    let image = format!("{}/busybox:v1", ours.address);
    let to = format!("docker://{image}");
    run(
        "skopeo",
        ["copy", "-q", "--dest-tls-verify=false", &source, &to],
    );
    let folder = |n: &str| dir.path().join(n).display().to_string();
    let (root, runroot, tmp) = (folder("pr"), folder("prr"), folder("ptmp"));
    // vfs: no mounts to leave behind.
    let podman = |args: &[&str]| {
        let own = [
            "--root",
            &root,
            "--runroot",
            &runroot,
            "--tmpdir",
            &tmp,
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "none",
        ];
        run("podman", own.iter().chain(args))
    };
    podman(&["pull", "-q", "--tls-verify=false", &image]);
    let pushed = format!("{}/from/podman:v2", ours.address);
    podman(&["push", "-q", "--tls-verify=false", &image, &pushed]);
    podman(&["rmi", "-a", "-f"]);
    let resolved = pull(&client(), &reference(ours.address, "from/podman:v2")).await;
    assert_eq!(resolved.manifest.layers.len(), 2);
}
