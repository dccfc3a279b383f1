//! The test binaries that guests run, built here.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::job::Binary;
use crate::failure::{Context, Result, failure};

/// Whose tests need a kernel of another sort, and which of them ([`Binary::only`]).
const PACKAGES: &[(&str, &str)] = &[
    ("corten", PODS),
    ("corten-cgroup", ""),
    ("corten-net", "kinds::"),
    ("corten-runtime", ""),
    ("corten-shim", "peer:: checkpoint:: systemd_"),
    ("corten-store", "verity"),
];

/// What is about pods, and jumps of the clock; not hundreds of pods at once, images, and the daemon apart from them.
const PODS: &str = "serve_pods:: serve_calls:: serve_figures:: serve_settings:: serve_exec:: serve_crash:: \
                    serve_races:: serve_checkpoint:: serve_unified:: serve_clock:: systemd_";
/// Of those, what an emulated guest runs unless it is told which: what needs its controllers, its huge pages or a criu that works.
const PODS_EMULATED: &str = "serve_unified:: a_container_goes_on serve_clock:: systemd_";

/// What to build. Features are decided together, so binaries of the whole workspace are others than those
/// of two packages: after a run of all tests the first costs nothing, in daily work the second is quicker.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    Workspace,
    Packages,
}

pub fn build(scope: Scope) -> Result<Vec<Binary>> {
    let mut args = vec![
        "test",
        "--no-run",
        "--locked",
        "--message-format=json-render-diagnostics",
    ];
    match scope {
        Scope::Workspace => args.push("--workspace"),
        Scope::Packages => args.extend(PACKAGES.iter().flat_map(|(name, _)| ["-p", name])),
    }
    println!("step guest build: cargo {}", args.join(" "));
    let out = Command::new(env!("CARGO"))
        .args(&args)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !out.status.success() {
        return Err(failure("step guest build failed"));
    }
    let text = String::from_utf8_lossy(&out.stdout);
    let binaries: Vec<Binary> = text.lines().filter_map(binary).collect();
    match binaries.is_empty() {
        true => Err(failure("cargo built no test binary of the runtime")),
        false => Ok(binaries),
    }
}

/// For a guest that takes eight times as long.
pub fn emulated(binaries: &[Binary]) -> Vec<Binary> {
    let mut few = binaries.to_vec();
    for binary in few.iter_mut().filter(|b| b.only == PODS) {
        binary.only = PODS_EMULATED.to_owned();
    }
    few
}

/// The test binary that a line of cargo's tells of, if it is one of ours.
fn binary(line: &str) -> Option<Binary> {
    let value: Value = serde_json::from_str(line).ok()?;
    let path = value["executable"].as_str()?;
    let folder = PathBuf::from(value["manifest_path"].as_str()?);
    let folder = folder.parent()?;
    let package = folder.file_name()?.to_str()?;
    let (_, only) = PACKAGES.iter().find(|(name, _)| *name == package)?;
    if !value["profile"]["test"].as_bool()? {
        return None;
    }
    let target = value["target"]["name"].as_str()?;
    let name = match value["target"]["kind"][0].as_str()? {
        "lib" => package.to_owned(),
        "test" => format!("{package}::{target}"),
        _ => return None,
    };
    Some(Binary {
        name,
        path: path.into(),
        folder: folder.into(),
        only: (*only).to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"reason":"compiler-artifact","manifest_path":"/w/crates/corten-cgroup/Cargo.toml",
        "target":{"kind":["test"],"name":"it"},"profile":{"test":true},"executable":"/w/target/deps/it-1"}"#;

    #[test]
    fn test_binaries_of_the_packages_are_taken() {
        let found = binary(LINE).unwrap();
        assert_eq!(found.name, "corten-cgroup::it");
        assert_eq!(found.path.to_str(), Some("/w/target/deps/it-1"));
        assert_eq!(found.folder.to_str(), Some("/w/crates/corten-cgroup"));
        assert_eq!(found.only, "");
        let store = binary(&LINE.replace("cgroup/", "store/")).unwrap();
        assert_eq!(store.only, "verity");
        let net = binary(&LINE.replace("cgroup/", "net/")).unwrap();
        assert_eq!(net.only, "kinds::");
        assert_eq!(binary(&LINE.replace("cgroup/", "spec/")), None);
        assert_eq!(binary(&LINE.replace("true", "false")), None);
        assert_eq!(binary(r#"{"reason":"build-finished"}"#), None);
    }
}
