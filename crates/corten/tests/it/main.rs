//! End to end: the built `corten` against parts that we did not write. Images come from
//! Debian packages, out of Debian's registry; every test ends with the host compared.
//!
//! | module | shows |
//! | --- | --- |
//! | `exit`, `flags`, `interactive`, `lifecycle` | busybox: codes, flags, terminals, streams, `-d` to `rm` |
//! | `restart`, `crash_restart` | restart policies: who is started again, what commands do meanwhile, what a `kill -9` of each process leaves |
//! | `health`, `logs` | health checks; logs over rotated files and restarts |
//! | `server`, `limits` | Python: published ports on both families, memory, processor, processes |
//! | `database` | PostgreSQL on a bind mount through a `kill -9` of everything |
//! | `peers` | podman on corten-oci, containerd on our shim |
//! | `callers` | our CNI plugins under podman and containerd, beside the reference plugins |
//! | `crash`, `crash_networks` | `kill -9` at random moments, then repair |
//! | `serve`, `serve_images` | the daemon: its socket, settings, metrics, spans; images as kubelet handles them (`daemon`: the client) |
//! | `serve_pods`, `serve_calls`, `serve_figures`, `serve_exec`, `serve_settings` | the runtime service, call by call (`pods`: kubelet's part) |
//! | `serve_crash`, `serve_many` | kill -9 of each process, a reboot, 200 pods at once, a full disk, no registry |
//! | `serve_races` | its calls beside each other, cut in their middle, and ends that nobody asked for |
//! | `serve_unified` | the same on version 2 of control groups: limits, figures and ends against the files |
//! | `systemd_pods` | the systemd driver and the daemon's units, where systemd is process 1 |
//! | `serve_clock` | the machine's clock jumps, in a guest |
//! | `serve_checkpoint` | containers of pods into archives, and out of them |
//! | `install` | links, units and kubelet's settings, and the files of others |
//! | `registry` | `registry serve` and `gc`: TLS, accounts, a cache, what is refused |
//! | `images` | names, lists, filters, formats, removal |
//! | `mounts` | layers and images mounted on the host, and what stays of them |
//! | `transfer` | push, save, load, copy: docker-registry, skopeo, podman, docker and containerd at the other end |
//! | `policy` | signatures by skopeo, GnuPG and openssl, and what is tried to avoid them |
//! | `remote` | all tags, search, accounts, referrers, lists, sync |
//! | `runtimes` | containers of others' shims: `--runtime runc` |
//! | `roundtrip` | through everybody, and the digests stay |
//! | `networks`, `networks_use` | networks made, named, joined, left; ids, ports, files that go, looks beside starts |
//! | `refusal`, `pull` | bad input, broken registries: three lines, and nothing left |
#![forbid(unsafe_code)]
// A test that fails early leaves its child to the sandbox, which ends everything of its own.
#![allow(clippy::zombie_processes)]

mod callers;
mod crash;
mod crash_networks;
mod crash_restart;
mod daemon;
mod database;
mod exit;
mod flags;
mod health;
mod hostile;
mod images;
mod install;
mod interactive;
mod lifecycle;
mod limits;
mod logs;
mod mounts;
mod networks;
mod networks_use;
mod peers;
mod pods;
mod policy;
mod pull;
mod refusal;
mod registry;
mod remote;
mod restart;
mod roundtrip;
mod runtimes;
mod serve;
mod serve_calls;
mod serve_checkpoint;
mod serve_clock;
mod serve_crash;
mod serve_exec;
mod serve_figures;
mod serve_images;
mod serve_many;
mod serve_pods;
mod serve_races;
mod serve_settings;
mod serve_unified;
mod server;
mod systemd_pods;
mod transfer;

use std::time::Duration;

use corten_testkit::{Image, Result, Sandbox};

const SOON: Duration = Duration::from_secs(20);

/// `CORTEN_BIN` puts another engine under the same tests: one with docker's command line shows
/// whether a test asks for docker's behaviour or for ours.
fn sandbox() -> Result<Sandbox> {
    match std::env::var_os("CORTEN_BIN") {
        Some(other) => Sandbox::new(other),
        None => Sandbox::new(env!("CARGO_BIN_EXE_corten")),
    }
}

/// A sandbox with the busybox image in it.
fn with_busybox() -> Result<(Sandbox, String)> {
    let sandbox = sandbox()?;
    let image = sandbox.image(Image::Busybox)?;
    Ok((sandbox, image))
}
