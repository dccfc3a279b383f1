//! What the fuzzer gets to see of the plugins: each as an executable, from its environment and stdin to what it prints.
//!
//! The plugins run, so what they could touch is fenced in: the thread is in a network namespace of its own, the
//! container's does not exist, there is no other's plugin to run, and folders and sockets that a configuration names
//! are below a folder of this one call.

use std::cell::Cell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use corten_spec::cni::{CniResult, ErrorObject, Version, VersionInfo, code};
use rustix::thread::UnshareFlags;
#[expect(deprecated)]
use rustix::thread::unshare;
use serde_json::Value;

use super::{NAMES, process};

/// Lines: the plugin, CNI_COMMAND, CNI_CONTAINERID, CNI_IFNAME, CNI_ARGS, CNI_NETNS; then stdin.
pub fn executable(bytes: &[u8]) {
    enter_namespace();
    let mut parts = bytes.splitn(7, |b| *b == b'\n');
    let mut line = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (name, command, id, ifname, args, netns) = (line(), line(), line(), line(), line(), line());
    let folder = Folder::new();
    let stdin = fence(parts.next().unwrap_or_default(), &folder.0);
    let variable = |variable: &str| -> OsString {
        match variable {
            "CNI_COMMAND" => command.clone().into(),
            "CNI_CONTAINERID" => id.clone().into(),
            "CNI_IFNAME" => ifname.clone().into(),
            "CNI_ARGS" => args.clone().into(),
            "CNI_PATH" => folder.0.join("bin").into(),
            "CNI_NETNS" if netns.is_empty() => OsString::new(),
            // No `..` leads out of a folder that does not exist.
            "CNI_NETNS" => format!("{}/absent/{netns}", folder.0.display()).into(),
            _ => OsString::new(),
        }
    };
    let name = known(&name);
    let spoken = spoken(&stdin);
    match process::answer(name, &variable, &mut stdin.as_slice()) {
        Ok(printed) => check_success(&command, spoken, printed.as_ref()),
        Err(object) => check_failure(&command, spoken, &object),
    }
}

/// An error object that every caller understands.
fn check_failure(command: &str, spoken: Option<Version>, object: &ErrorObject) {
    assert!(command != "VERSION", "VERSION cannot fail: {object:?}");
    let defined = [
        code::INCOMPATIBLE_VERSION,
        code::UNSUPPORTED_FIELD,
        code::UNKNOWN_CONTAINER,
        code::INVALID_ENVIRONMENT,
        code::IO,
        code::DECODING,
        code::INVALID_CONFIG,
        code::TRY_AGAIN,
        code::NOT_AVAILABLE,
        code::LIMITED_CONNECTIVITY,
    ];
    assert!(
        defined.contains(&object.code) || object.code >= 100,
        "{object:?}"
    );
    assert!(!object.msg.is_empty(), "{object:?}");
    let wanted = match spoken {
        Some(version) if !command.is_empty() => version,
        _ => Version::V1_1_0,
    };
    assert_eq!(object.cni_version, wanted.as_str(), "{object:?}");
    let printed = serde_json::to_vec(object).expect("strings and a number");
    let read: ErrorObject = serde_json::from_slice(&printed).expect("what was printed");
    assert_eq!(read, *object);
}

/// A result for ADD, in the version of the configuration; versions for VERSION; for all others nothing.
fn check_success(command: &str, spoken: Option<Version>, printed: Option<&Value>) {
    match (command, printed) {
        ("VERSION", Some(document)) => {
            let versions: VersionInfo = serde_json::from_value(document.clone()).expect("versions");
            assert!(!versions.supported_versions.is_empty());
        }
        ("ADD", Some(document)) => {
            let version = spoken.expect("only a version that is spoken can succeed");
            assert_eq!(document["cniVersion"], version.as_str());
            let result = CniResult::parse(document, version).expect("what was printed");
            assert_eq!(result.to_document(version), *document);
        }
        ("DEL" | "CHECK" | "GC" | "STATUS", None) => {}
        other => panic!("{other:?}"),
    }
}

/// The version that the answer should have: the configuration's, if it is one of ours.
fn spoken(stdin: &[u8]) -> Option<Version> {
    let object: serde_json::Map<String, Value> = serde_json::from_slice(stdin).ok()?;
    let named = object.get("cniVersion").and_then(Value::as_str);
    named.unwrap_or("0.3.0").parse().ok()
}

/// One of ours, whatever the name.
fn known(name: &str) -> &'static str {
    let sum: usize = name.bytes().map(usize::from).sum();
    let exact = NAMES.iter().find(|n| **n == name);
    exact.unwrap_or(&NAMES[sum % NAMES.len()])
}

/// The configuration, with every path in it that a plugin would read or write below `folder`.
fn fence(stdin: &[u8], folder: &Path) -> Vec<u8> {
    let Ok(Value::Object(mut config)) = serde_json::from_slice(stdin) else {
        // The plugins get no further with it than reading.
        return stdin.to_vec();
    };
    let data = Value::from(folder.join("data").to_string_lossy());
    let socket = Value::from(folder.join("socket").to_string_lossy());
    config.insert("dataDir".into(), data.clone());
    if let Some(Value::Object(ipam)) = config.get_mut("ipam") {
        ipam.insert("dataDir".into(), data);
        ipam.insert("daemonSocketPath".into(), socket);
        if let Some(file) = ipam.get_mut("resolvConf").filter(|f| f.is_string()) {
            *file = "/proc/self/status".into();
        }
    }
    Value::Object(config).to_string().into_bytes()
}

/// Once a thread.
fn enter_namespace() {
    thread_local!(static ENTERED: Cell<bool> = const { Cell::new(false) });
    if !ENTERED.replace(true) {
        // Deprecated for what it could do with other flags; a network namespace is harmless.
        #[expect(deprecated)]
        unshare(UnshareFlags::NEWNET).expect("a network namespace, for which one has to be root");
    }
}

/// Gone with the call.
pub(crate) struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> Self {
        let own = format!("corten-fuzz-{}", rustix::thread::gettid().as_raw_nonzero());
        let path = std::env::temp_dir().join(own);
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("our own folder");
    }
}
