//! What a container may leave on the host, wherever that could be. All is found by the container's id or the test's
//! namespace, since other tests run beside this one.

use std::fs;
use std::path::{Path, PathBuf};

use corten_spec::Digest;

use super::containerd::Containerd;
use super::rig::eventually;

/// Where containerd 1.6 has its shims listen.
const SOCKETS: &str = "/run/containerd/s";
/// Where ctr makes FIFOs, and leaves them if it comes to no end.
const FIFOS: &str = "/run/containerd/fifo";

/// Where the shim of a container or pod listens, whether it does or not.
pub fn socket(it: &Containerd, group: &str) -> PathBuf {
    let address = it.path().join("c.sock");
    let name = format!("{}/{}/{group}", address.display(), it.namespace);
    Path::new(SOCKETS).join(Digest::of(name.as_bytes()).hex())
}

/// Processes that are in the container's control group, or whose command line names it as theirs.
pub fn processes(it: &Containerd, id: &str) -> Vec<i32> {
    let group = format!("/{}/{id}", it.namespace);
    let of = |pid: &i32| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}"));
        let groups = read("cgroup").unwrap_or_default();
        let inside = groups.lines().any(|l| {
            let path = l.splitn(3, ':').nth(2).unwrap_or_default();
            path == group || path.starts_with(&format!("{group}/"))
        });
        // One that is a zombie has neither.
        inside || is_shim(&read("cmdline").unwrap_or_default(), it, id)
    };
    pids().filter(of).collect()
}

/// The resident shims of a container or pod.
pub fn shims(it: &Containerd, id: &str) -> Vec<i32> {
    let line = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    pids().filter(|pid| is_shim(&line(pid), it, id)).collect()
}

fn is_shim(line: &str, it: &Containerd, id: &str) -> bool {
    let has = |flag: &str, value: &str| line.contains(&format!("\0{flag}\0{value}\0"));
    has("-id", id) && has("-namespace", &it.namespace)
}

fn pids() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok())
}

fn names(folder: impl AsRef<Path>) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let name = |e: std::io::Result<fs::DirEntry>| e.ok()?.file_name().into_string().ok();
    entries.filter_map(name).collect()
}

/// Everything of the container that is there. FIFOs are their client's.
pub fn of(it: &Containerd, id: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for pid in processes(it, id) {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        found.push(format!("process {pid}: {}", line.replace('\0', " ")));
    }
    let mut places = vec![
        socket(it, id),
        it.bundle(id),
        Path::new("/run/corten/containerd")
            .join(&it.namespace)
            .join(id),
    ];
    let hierarchies = names("/sys/fs/cgroup").into_iter();
    let hierarchies = hierarchies.map(|name| Path::new("/sys/fs/cgroup").join(name));
    for root in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        places.push(root.join(&it.namespace).join(id));
    }
    let there = places.iter().filter(|p| p.symlink_metadata().is_ok());
    found.extend(there.map(|p| format!("{}: {:?}", p.display(), names(p))));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = it.bundle(id).display().to_string();
    let mounts = mounts.lines().filter(|l| l.contains(&bundle));
    found.extend(mounts.map(|l| format!("mount {l}")));
    found
}

/// Removes what ctr has left, and no shim would touch: its FIFOs.
pub fn remove_fifos(id: &str) {
    for folder in names(FIFOS) {
        let folder = Path::new(FIFOS).join(folder);
        if names(&folder)
            .iter()
            .any(|name| name.starts_with(&format!("{id}-")))
        {
            // ctr may be at it.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Removes the socket of a shim that is dead, of a task that containerd does not know.
pub fn remove_dead_socket(it: &Containerd, id: &str) {
    let path = socket(it, id);
    let dead = std::os::unix::net::UnixStream::connect(&path).is_err();
    if dead && !it.bundle(id).exists() {
        let _gone = fs::remove_file(path);
    }
}

/// What nobody waits for may take a moment: a shim of which a dead containerd made nothing ends after half a minute.
pub fn assert_none(it: &Containerd, id: &str, story: &str) {
    let mut left = Vec::new();
    for _ in 0..4500 {
        left = of(it, id);
        if left.is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("{story}: left of {id}: {left:#?}");
}

/// Nothing of the whole namespace: no state of containers that nobody knows by name.
pub fn assert_no_state(it: &Containerd) {
    let folder = Path::new("/run/corten/containerd").join(&it.namespace);
    eventually("the end of all state", || names(&folder).is_empty());
}
