//! The project's own tasks: `cargo xtask check | layers | deny | test | bench`.
//!
//! Everything that a contributor or CI runs goes through here, so that there is
//! one list of steps and no shell script beside it. A task prints what it runs,
//! stops at the first step that fails, and installs only what it needs.
#![forbid(unsafe_code)]

mod bench;
mod deny;
mod failure;
mod fuzz;
mod guest;
mod layers;
mod metadata;
mod packages;
mod source;
mod steps;

use std::process::ExitCode;

use failure::Result;

const USAGE: &str = "\
Usage: cargo xtask <TASK>

Tasks:
  check                  fmt, clippy with warnings as errors, layers, deny
  layers                 crate direction, where `unsafe` may be, size of the dependency graphs
  deny                   licences, banned crates, crates present twice
  test [-- ARGS]         install what the tests need, build fixtures, run everything with nextest;
                         ARGS go to `cargo nextest run`; without ARGS that choose tests, the
                         suite of the runtime runs in a User Mode Linux guest too
  test --guest[=RIG] [-- NAME...]
                         the runtime's and cgroups' tests on another kernel, where cgroup v2 is all
                         there is; RIG: uml (default), qemu (all controllers), systemd, or all;
                         NAME: parts of test names
  fixtures               build the test images and nothing else
  fuzz TARGET [SECONDS]  fuzz a parser (default 1800 s), from the corpus in fuzz/corpus/TARGET
  bench [WHAT]           measure beside the peers: run, memory, many, network, size, or all (default)
  bench oci [OPTIONS]    the runtime beside crun, runc and the floor of bare system calls; --quick, --fifo,
                         --rounds N, --gap MS, --soak N (no times: so many containers, and what is left),
                         and parts: run, lifecycle, cost, throughput, phases;
                         CORTEN_OCI=PATH measures another executable
  bench images [--rounds N]
                         pulls of a large image into empty stores, beside podman, docker, containerd and the floor of
                         a bare pipeline; the first run of an absent image, page cache, removal; needs 70 GB of disk
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let task = args.first().map_or("", String::as_str);
    let rest = args.get(1..).unwrap_or_default();
    match task {
        "check" => steps::check(),
        "layers" => layers::check(&metadata::Graph::load()?),
        "deny" => deny::check(&metadata::Graph::load()?),
        "test" => match guest::Request::parse(rest)? {
            Some(request) => guest::test(&request, guest::Scope::Packages),
            None => steps::test(rest.strip_prefix(&["--".to_owned()]).unwrap_or(rest)),
        },
        "fixtures" => steps::fixtures(),
        "fuzz" => fuzz::run(rest),
        "bench" => bench::run(rest),
        // How bench calls itself inside namespaces; nobody types these.
        "bench-inside" => bench::inside(rest),
        "bench-agent" => bench::agent(),
        // How guests call it: as their first process, and from there.
        "guest-init" => guest::init(rest),
        "guest-run" => guest::runner(rest),
        "bench-accept" => bench::network::accept(rest),
        "bench-lookup" => bench::network::look_up(rest),
        "bench-connect" => bench::network::connect(rest),
        "bench-images-inside" => bench::images_inside(rest),
        "bench-cri-inside" => bench::cri_inside(rest),
        "bench-oci-inside" => bench::oci_inside(rest),
        "bench-oci-agent" => bench::oci_agent(rest),
        "" | "help" | "-h" | "--help" => {
            print!("{USAGE}");
            Ok(())
        }
        other => Err(failure::failure(format!("unknown task {other}\n\n{USAGE}"))),
    }
}
