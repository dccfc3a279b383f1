//! The runtime from outside: bundles of busybox, run by `corten-oci`, or by any runtime with runc's
//! command line that `CORTEN_TEST_RUNTIME` names. Needs root, and `busybox-static`.

mod cli;
mod criu;
mod criu_wire;
mod crowd;
mod documents;
mod events;
mod fields;
mod harness;
mod hooks;
mod hostile;
mod library;
mod lifecycle;
mod mount_words;
mod mounts;
mod namespaces;
mod net_devices;
mod peers;
mod process;
mod rootless;
mod rootless_podman;
mod seccomp;
mod stacked_roots;
mod systemd;
mod unified;
mod user;
