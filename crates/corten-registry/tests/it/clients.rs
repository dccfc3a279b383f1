//! docker, podman, skopeo and containerd against our server: in plain HTTP, with TLS and an account, and through a cache.
//!
//! All of it runs in namespaces of its own, daemons included: with the first process the others end, and no mount, link or
//! socket of theirs is ever the host's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::image::busybox;
use crate::peer::{PASSWORD, USER, run};

/// What every script begins with. `d` is a folder of the test's own.
const PRELUDE: &str = r#"
set -eu
mount -t tmpfs tmpfs /run
ip link set lo up
echo '127.0.0.1 localhost registry.test' >$d/hosts
mount --bind $d/hosts /etc/hosts
mkdir -p $d/etc-docker /etc/docker
mount --bind $d/etc-docker /etc/docker
export HOME=$d/home DOCKER_HOST=unix://$d/docker.sock DOCKER_CONFIG=$d/docker-config
mkdir -p $HOME $DOCKER_CONFIG $d/copies
echo '{}' >$DOCKER_CONFIG/config.json
copy() { skopeo copy -q --insecure-policy "$@"; }
digest() { skopeo inspect --format '{{.Digest}}' "$@"; }
wait_for() { for i in $(seq 200); do "$@" >/dev/null 2>&1 && return; sleep 0.1; done; echo "no $*" >&2; cat $d/*.log >&2; exit 1; }
listens() { curl -sk -o $d/ignored $1; }
podman() {
    command podman --root $d/pr --runroot $d/prr --tmpdir $d/ptmp --storage-driver vfs \
        --cgroup-manager cgroupfs --events-backend none "$@"
}
start_containerd() {
    printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n' \
        $d/c-root $d/c-state $d/c.sock >$d/c.toml
    containerd --config $d/c.toml >$d/containerd.log 2>&1 &
    wait_for ctr -a $d/c.sock version
}
images() { ctr -a $d/c.sock images "$@" >$d/ctr.log; }
start_docker() {
    dockerd --data-root $d/docker --exec-root $d/exec --pidfile $d/docker.pid -H $DOCKER_HOST --bridge none \
        --iptables=false --ip6tables=false --storage-driver vfs --containerd $d/c.sock >$d/docker.log 2>&1 &
    wait_for docker version
}
# What docker, podman and containerd say that they have pulled.
docker_has() { docker image inspect --format '{{index .RepoDigests 0}}' $1 | sed 's/.*@//'; }
podman_has() { podman image inspect --format '{{.Digest}}' $1; }
ctr_has() { ctr -a $d/c.sock images ls "name==$1" | awk 'NR==2 { print $3 }'; }
# `!` would not end a script.
fails() { if "$@"; then echo "$* succeeded"; exit 1; fi; }
same() { [ "$1" = "$2" ] || { echo "$3: $1 is not $2" >&2; exit 1; }; }
"#;

fn server() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let built = own.parent().and_then(Path::parent).unwrap();
    built.join("examples/serve")
}

/// Runs the script where nothing that it starts or mounts outlives it.
fn apart(dir: &Path, script: &str) {
    let source = busybox(dir);
    let text = format!("{PRELUDE}\n{script}");
    let out = Command::new("unshare")
        .args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["sh", "-c", &text])
        .env("d", dir)
        .env("serve", server())
        .env("source", source)
        .env("user", USER)
        .env("password", PASSWORD)
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&out.stderr);
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{}\n{said}\n{err}", out.status);
}

/// A short path: sockets lie in it, whose names have 107 bytes at most.
fn folder() -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix("crt")
        .tempdir_in("/tmp")
        .unwrap()
}

#[test]
fn in_plain_http() {
    let dir = folder();
    apart(
        dir.path(),
        r#"
$serve $d/root addr=127.0.0.1:5000 >$d/serve.log 2>&1 &
wait_for listens http://127.0.0.1:5000/v2/
at=127.0.0.1:5000
copy --dest-tls-verify=false $source docker://$at/team/busybox:v1
want=$(digest --tls-verify=false docker://$at/team/busybox:v1)

podman pull -q --tls-verify=false $at/team/busybox:v1
same "$(podman_has $at/team/busybox:v1)" $want podman
podman push -q --tls-verify=false $at/team/busybox:v1 $at/podman/busybox:v1

start_containerd
images pull --plain-http $at/team/busybox:v1
same "$(ctr_has $at/team/busybox:v1)" $want ctr
images tag $at/team/busybox:v1 $at/ctr/busybox:v1
images push --plain-http $at/ctr/busybox:v1
same "$(digest --tls-verify=false docker://$at/ctr/busybox:v1)" $want 'pushed by ctr'

start_docker
docker pull -q $at/team/busybox:v1
same "$(docker_has $at/team/busybox:v1)" $want docker
docker tag $at/team/busybox:v1 $at/docker/busybox:v1
docker push -q $at/docker/busybox:v1
# What each has pushed the others can pull.
for from in podman ctr docker; do
    docker pull -q $at/$from/busybox:v1
    images pull --plain-http $at/$from/busybox:v1
    podman pull -q --tls-verify=false $at/$from/busybox:v1
    copy --src-tls-verify=false docker://$at/$from/busybox:v1 dir:$d/copies/$from
done
docker search $at/team | grep team/busybox
podman search --tls-verify=false $at/team | grep team/busybox
skopeo delete --tls-verify=false docker://$at/docker/busybox:v1
fails docker pull -q $at/docker/busybox:v1 2>$d/gone
grep -q 'manifest unknown\|not found' $d/gone
"#,
    );
}

#[test]
fn with_tls_and_an_account() {
    let dir = folder();
    let (key, cert) = (dir.path().join("key.pem"), dir.path().join("cert.pem"));
    let args = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=registry.test \
        -addext subjectAltName=DNS:registry.test -keyout";
    let mut args: Vec<&str> = args.split_whitespace().collect();
    args.extend([key.to_str().unwrap(), "-out", cert.to_str().unwrap()]);
    run("openssl", args);
    let users = run("htpasswd", ["-Bbn", USER, PASSWORD]);
    std::fs::write(dir.path().join("htpasswd"), users).unwrap();
    apart(
        dir.path(),
        r#"
$serve $d/root addr=127.0.0.1:5000 tls=$d htpasswd=$d/htpasswd >$d/serve.log 2>&1 &
wait_for listens https://registry.test:5000/v2/
at=registry.test:5000
mkdir -p $d/certs /etc/docker/certs.d/$at
cp $d/cert.pem $d/certs/ca.crt
cp $d/cert.pem /etc/docker/certs.d/$at/ca.crt
fails skopeo inspect --cert-dir $d/certs docker://$at/team/busybox:v1 2>$d/refused
grep -q -i 'unauthorized\|authentication required\|access to the requested resource\|user and a password' $d/refused
fails skopeo login --cert-dir $d/certs -u $user -p wrong $at 2>$d/refused
skopeo login --cert-dir $d/certs -u $user -p "$password" $at
copy --dest-cert-dir $d/certs $source docker://$at/team/busybox:v1
want=$(digest --cert-dir $d/certs docker://$at/team/busybox:v1)

podman login --cert-dir $d/certs -u $user -p "$password" $at
podman pull -q --cert-dir $d/certs $at/team/busybox:v1
same "$(podman_has $at/team/busybox:v1)" $want podman
podman push -q --cert-dir $d/certs $at/team/busybox:v1 $at/podman/busybox:v1

start_containerd
images pull --tlscacert $d/cert.pem --user "$user:$password" $at/team/busybox:v1
same "$(ctr_has $at/team/busybox:v1)" $want ctr
images tag $at/team/busybox:v1 $at/ctr/busybox:v1
images push --tlscacert $d/cert.pem --user "$user:$password" $at/ctr/busybox:v1

start_docker
fails docker --config $d/nobody pull -q $at/team/busybox:v1 2>$d/refused
printf %s "$password" | docker login -u $user --password-stdin $at
docker pull -q $at/team/busybox:v1
same "$(docker_has $at/team/busybox:v1)" $want docker
docker tag $at/team/busybox:v1 $at/docker/busybox:v1
docker push -q $at/docker/busybox:v1
for from in podman ctr docker; do
    copy --src-cert-dir $d/certs docker://$at/$from/busybox:v1 dir:$d/copies/$from
done
"#,
    );
}

#[test]
fn through_a_cache() {
    let dir = folder();
    apart(
        dir.path(),
        r#"
$serve $d/upstream addr=127.0.0.1:5001 >$d/upstream.log 2>&1 &
upstream=$!
$serve $d/cache addr=127.0.0.1:5000 proxy=http://127.0.0.1:5001 >$d/serve.log 2>&1 &
wait_for listens http://127.0.0.1:5001/v2/
wait_for listens http://127.0.0.1:5000/v2/
at=127.0.0.1:5000
for name in docker podman ctr skopeo; do
    copy --dest-tls-verify=false $source docker://127.0.0.1:5001/$name/busybox:v1
done
want=$(digest --tls-verify=false docker://127.0.0.1:5001/ctr/busybox:v1)
start_containerd
start_docker
pulls() {
    docker pull -q $at/docker/busybox:v1
    same "$(docker_has $at/docker/busybox:v1)" $want docker
    podman pull -q --tls-verify=false $at/podman/busybox:v1
    same "$(podman_has $at/podman/busybox:v1)" $want podman
    images pull --plain-http $at/ctr/busybox:v1
    same "$(ctr_has $at/ctr/busybox:v1)" $want ctr
    copy --src-tls-verify=false docker://$at/skopeo/busybox:v1 dir:$d/copies/skopeo
}
pulls
fails podman push -q --tls-verify=false $at/podman/busybox:v1 $at/other:v1 2>$d/refused
grep -q 'cache of' $d/refused
# What is here stays to be had.
kill $upstream
docker rmi -f $at/docker/busybox:v1
podman rmi -f $at/podman/busybox:v1
images rm --sync $at/ctr/busybox:v1
pulls
"#,
    );
}
