//! Entrances for the fuzzer, and the same entrances tried with its corpus by an ordinary test.
//!
//! One function for each kind of foreign bytes. None may panic, whatever it is given; where the answer
//! has a promise to keep (a path that cannot lead elsewhere), that is asserted too. Not part of the library:
//! compiled with `--cfg fuzzing` and for the tests only.

use std::ffi::OsString;
use std::path::{Component, Path};

use corten_cgroup::plan::{Facts as Observed, v1, v2};
use corten_sys::seccomp::Call;
use oci_spec::runtime::{LinuxResources, LinuxSeccomp, Process, Spec};

use crate::cli;
use crate::handshake::{self, Message};
use crate::init::program;
use crate::plan::{self, Facts, process, seccomp};
use crate::state;

/// An entrance, by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 8] = [
    ("config", config),
    ("state", state_file),
    ("process", process_document),
    ("seccomp", seccomp_profile),
    ("resources", resources),
    ("handshake", message),
    ("command_line", command_line),
    ("text", text),
];

/// `config.json`: from bytes to a plan.
pub fn config(bytes: &[u8]) {
    let Ok(spec) = serde_json::from_slice::<Spec>(bytes) else {
        return;
    };
    let terminal = spec.process().as_ref().and_then(|p| p.terminal());
    let facts = Facts {
        id: "fuzz",
        bundle: Path::new("/bundle"),
        terminal: terminal.unwrap_or(false),
        capabilities: u64::MAX,
        detached_root: false,
        systemd: None,
        around: Default::default(),
    };
    let Ok(plan) = plan::plan(&spec, &facts) else {
        return;
    };
    assert!(plain(&plan.cgroup_path), "{}", plan.cgroup_path);
    for setting in &plan.sysctls {
        let file = setting.file.as_path();
        assert!(file.starts_with("sys") && plain(file), "{file:?}");
    }
    assert!(plan.process.cwd.as_bytes().starts_with(b"/"));
    writes(&plan.resources);
    // What was understood can be written down, and is understood again.
    let written = serde_json::to_vec(&spec).expect("a spec can be written");
    let again: Spec = serde_json::from_slice(&written).expect("a spec of ours can be read");
    assert!(plan::plan(&again, &facts).is_ok());
}

/// No component that leads elsewhere.
fn plain(path: impl AsRef<Path>) -> bool {
    let ordinary = |c| matches!(c, Component::Normal(_) | Component::RootDir);
    path.as_ref().components().all(ordinary)
}

/// `state.json` and `/proc/PID/stat`.
pub fn state_file(bytes: &[u8]) {
    state::fuzz(bytes);
}

/// The document of `exec --process`.
pub fn process_document(bytes: &[u8]) {
    let Ok(document) = serde_json::from_slice::<Process>(bytes) else {
        return;
    };
    let facts = process::Facts {
        capabilities: u64::MAX,
        terminal: document.terminal().unwrap_or(false),
        seccomp: None,
        personality: None,
        memory_policy: None,
    };
    let mut warnings = Vec::new();
    if let Ok(plan) = process::plan(&document, &facts, &mut warnings) {
        assert!(!plan.paths.is_empty());
    }
}

/// A seccomp profile: compiled, then asked about calls of every sort.
pub fn seccomp_profile(bytes: &[u8]) {
    let Ok(profile) = serde_json::from_slice::<LinuxSeccomp>(bytes) else {
        return;
    };
    if let Ok(Some(seccomp)) = seccomp::compile(&profile) {
        let filter = seccomp.filter;
        assert!(filter.len() <= 4096);
        for audit in [0xc000_003e, 0x4000_0003, 0] {
            for number in [0, 1, 59, 322, 435, 0x4000_0000, u32::MAX] {
                let arguments = [0, 1, u64::MAX, 1 << 63, 7, number.into()];
                filter.judge(&Call {
                    audit,
                    number,
                    arguments,
                });
            }
        }
    }
}

/// The document of `update --resources`.
pub fn resources(bytes: &[u8]) {
    if let Ok(resources) = serde_json::from_slice::<LinuxResources>(bytes) {
        writes(&resources);
    }
}

fn writes(resources: &LinuxResources) {
    let observed = Observed {
        memory_and_swap: Some(1 << 40),
        memory_usage: Some(1 << 20),
        cpu_quota: Some(-1),
        cpu_period: Some(100_000),
        ..Observed::default()
    };
    let lists = [
        v1::plan(resources, &observed),
        v2::plan(resources, &observed),
    ];
    for write in lists.into_iter().flatten().flatten() {
        // A file of the group itself: nothing that a name says leads out of it.
        let file = Path::new(&write.file);
        assert!(plain(file) && file.components().count() == 1, "{write:?}");
    }
}

/// What an init, or who speaks in its name, sends.
pub fn message(bytes: &[u8]) {
    if let Message::Failed { step, errno, path } = handshake::parse(bytes) {
        let error = handshake::error(step, errno, path, "program".as_ref());
        let _ = (error.to_string(), error.kind());
    }
}

/// Arguments, one a line.
pub fn command_line(bytes: &[u8]) {
    use std::os::unix::ffi::OsStringExt as _;
    let args = bytes.split(|b| *b == b'\n');
    let args: Vec<OsString> = args.map(|a| OsString::from_vec(a.to_vec())).collect();
    cli::fuzz(args);
}

/// Files of the container, words of its mounts, and the kernel's tables.
pub fn text(bytes: &[u8]) {
    program::fuzz(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    // Of another crate, which knows only by this that it is fuzzed.
    #[cfg(fuzzing)]
    corten_cgroup::stats::fuzz(text);
    let words: Vec<String> = text.split(',').map(String::from).collect();
    let _ = crate::plan::words::sort(&words, Path::new("/mnt"));
    crate::rootfs::fuzz(text);
    if let Ok(id) = text.parse::<corten_spec::ContainerId>() {
        let path = Path::new("/run").join(id.as_str());
        assert!(plain(&path) && path.components().count() == 3, "{id}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every input that has ever shown something new, or broken something.
    #[test]
    fn the_corpus_is_survived() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
        for (name, target) in TARGETS {
            let folder = folder.join(name);
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{folder:?} is empty");
        }
    }
}
