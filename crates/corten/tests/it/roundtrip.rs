//! Round trips through everybody: what docker-registry holds is pulled, pushed to our registry, and pulled from there by skopeo,
//! podman, containerd and docker; what we saved docker loads, what docker saved we load. Digests stay what they were.
//!
//! All of it runs in namespaces of its own, daemons included.

use std::fs;

use corten_testkit::fixture::hostile::noise;
use corten_testkit::fixture::layout::{self, Layer};
use corten_testkit::fixture::tar::Tar;
use corten_testkit::{Image, Result, Sandbox, tool};

use super::sandbox;

const PRELUDE: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
for fixed in /var/lib/containers /var/lib/cni; do mkdir -p $fixed; mount -t tmpfs test $fixed; done
mkdir -p $d/etc-docker /etc/docker; mount --bind $d/etc-docker /etc/docker
ip link set lo up
export DOCKER_HOST=unix://$d/docker.sock DOCKER_CONFIG=$d/docker-config OTEL_TRACES_EXPORTER=none
mkdir -p $DOCKER_CONFIG; echo '{}' >$DOCKER_CONFIG/config.json
wait_for() { for i in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "no $*" >&2; cat $d/*.log >&2; exit 1; }
listens() { curl -s -o $d/ignored http://$1/v2/; }
ours() { $corten --root $d/root --run $d/run --etc $d/etc "$@"; }
podman() {
    command podman --root $d/pr --runroot $d/prr --tmpdir $d/ptmp --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend none "$@"
}
digest() { skopeo inspect --raw --tls-verify=false docker://$1 | sha256sum | sed 's/ .*//; s/^/sha256:/'; }
same() { [ "$1" = "$2" ] || { echo "$3: $1 is not $2" >&2; exit 1; }; }
start_containerd() {
    printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n' \
        $d/c-root $d/c-state $d/c.sock >$d/c.toml
    containerd --config $d/c.toml >$d/containerd.log 2>&1 &
    wait_for ctr -a $d/c.sock version
}
start_docker() {
    dockerd --data-root $d/docker --exec-root $d/exec --pidfile $d/docker.pid -H $DOCKER_HOST --bridge none \
        --iptables=false --ip6tables=false --storage-driver vfs --containerd $d/c.sock >$d/docker.log 2>&1 &
    wait_for docker version
}
printf 'version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: 127.0.0.1:5000\n' \
    $d/theirs >$d/theirs.yml
docker-registry serve $d/theirs.yml >$d/theirs.log 2>&1 &
$corten registry serve --addr 127.0.0.1:5001 --root $d/ours >$d/ours.log 2>&1 &
wait_for listens 127.0.0.1:5000
wait_for listens 127.0.0.1:5001
"#;

fn apart(sandbox: &Sandbox, script: &str) -> Result<String> {
    let mut command = std::process::Command::new("unshare");
    command.args([
        "--mount",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
    ]);
    command.arg(format!("{PRELUDE}\n{script}"));
    command
        .env("d", sandbox.files())
        .env("corten", sandbox.binary())
        .env("HOME", sandbox.home());
    tool::run(&mut command)
}

/// Layers of odd shapes: names, sizes, links, an empty one, the same one twice; different for each seed.
fn odd(sandbox: &Sandbox, seed: usize) -> Result<layout::Layout> {
    let bytes = noise(64 << 10);
    let layer = |n: usize| {
        let size = (seed * 7919 + n * 104_729) % bytes.len();
        let name = format!("f{}/{}", n, "n".repeat(1 + (seed * 13 + n * 29) % 90));
        let mut tar = Tar::new().folder(&format!("f{n}/")).file(
            &name,
            0o640 + (n as u32 % 8),
            &bytes[..size],
        );
        if (seed + n).is_multiple_of(2) {
            tar = tar
                .symlink(&format!("f{n}/link"), "../../nowhere")
                .hardlink(&format!("f{n}/hard"), &name);
        }
        if n > 0 && (seed + n).is_multiple_of(3) {
            tar = tar.file(&format!("f{}/.wh.link", n - 1), 0o644, b"").file(
                &format!("f{}/.wh..wh..opq", n - 1),
                0o644,
                b"",
            );
        }
        Layer::gzip(&tar.finish())
    };
    let mut layers: Vec<Layer> = (0..1 + seed % 5).map(layer).collect();
    if seed.is_multiple_of(2) {
        layers.push(Layer::gzip(&Tar::new().finish()));
        layers.push(layers[0].clone());
    }
    layout::write(&sandbox.files().join(format!("odd-{seed}")), &layers)
}

#[test]
fn registries_of_both_makes_and_clients_of_four() -> Result<()> {
    let sandbox = sandbox()?;
    fs::create_dir(sandbox.files().join("etc")).expect("folder");
    let busybox = Image::Busybox.layout()?.skopeo();
    let odd: Vec<String> = (0..6)
        .map(|seed| Ok(odd(&sandbox, seed)?.skopeo()))
        .collect::<Result<_>>()?;
    let script = format!(
        r#"
push() {{ from=$1; to=$2; shift 2; skopeo --insecure-policy copy -q --dest-tls-verify=false "$@" $from docker://127.0.0.1:5000/$to; }}
push {busybox} busybox:oci
push {busybox} busybox:docker --format v2s2
push {busybox} busybox:zstd --dest-compress --dest-compress-format zstd
n=0; for image in {odd}; do push $image odd:$n; n=$((n+1)); done
start_containerd
start_docker
for name in busybox:oci busybox:docker busybox:zstd odd:0 odd:1 odd:2 odd:3 odd:4 odd:5; do
    want=$(digest 127.0.0.1:5000/$name)
    to=127.0.0.1:5001/mirror/$name
    ours pull -q 127.0.0.1:5000/$name >/dev/null
    ours tag 127.0.0.1:5000/$name $to
    ours push -q $to >/dev/null
    same $(digest $to) $want "pushed $name"
    podman pull -q --tls-verify=false $to >/dev/null
    same $(podman image inspect --format '{{{{.Digest}}}}' $to) $want "podman $name"
    ctr -a $d/c.sock images pull --plain-http $to >/dev/null
    same $(ctr -a $d/c.sock images ls "name==$to" | awk 'NR==2 {{ print $3 }}') $want "containerd $name"
    # docker 20.10 knows no zstd.
    case $name in *zstd) ;; *)
        docker pull -q $to >/dev/null
        same $(docker image inspect --format '{{{{index .RepoDigests 0}}}}' $to | sed 's/.*@//') $want "docker $name"
        same $(docker image inspect --format '{{{{.Id}}}}' $to) $(ours image inspect --format '{{{{.Id}}}}' $to) "docker's id of $name"
        # What docker saved is loaded here as the same image, and the other way round.
        docker save -o $d/docker.tar $to
        docker rmi -f $to >/dev/null
        $corten --root $d/root2 --run $d/run --etc $d/etc load -q -i $d/docker.tar >/dev/null
        same $($corten --root $d/root2 --run $d/run --etc $d/etc image inspect --format '{{{{.Id}}}}' $to) $(ours image inspect --format '{{{{.Id}}}}' $to) "docker save of $name"
        ours save -q -o $d/ours.tar $to
        docker load -q -i $d/ours.tar >/dev/null
        same $(docker image inspect --format '{{{{.Id}}}}' $to) $(ours image inspect --format '{{{{.Id}}}}' $to) "docker load of $name"
        docker rmi -f $to >/dev/null
        rm $d/docker.tar $d/ours.tar
    esac
    podman save -q --format oci-archive -o $d/podman.tar $to
    $corten --root $d/root3 --run $d/run --etc $d/etc load -q -i $d/podman.tar >/dev/null
    # It tells the digest by which an image first came, and two of ours are one image.
    podman rmi -f $to >/dev/null
    rm $d/podman.tar
    echo "same $name"
done
"#,
        odd = odd.join(" ")
    );
    let said = apart(&sandbox, &script)?;
    assert_eq!(
        said.lines().filter(|l| l.starts_with("same ")).count(),
        9,
        "{said}"
    );
    sandbox.finish();
    Ok(())
}
