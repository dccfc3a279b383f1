//! The options that a user of containerd gives to the runtime, in the two messages that containerd has for them.
//!
//! | message | who sends it |
//! | --- | --- |
//! | `containerd.runc.v1.Options` | `ctr`, nerdctl, docker; CRI for `io.containerd.runc.v2` |
//! | `runtimeoptions.v1.Options` | CRI for every other runtime: a path to a TOML file, or the TOML itself |
//!
//! Both end as [`RuncOptions`]. A field that cannot be honoured is refused by its name. What is read here is
//! neither opened nor applied.

use std::io::Read;
use std::path::Path;

use corten_spec::Kind;
use prost::Message;
use prost_types::Any;

use crate::proto::task::{RuncOptions, RuntimeOptions};
use crate::toml::{self, Value};
use crate::ttrpc::status::Status;

const RUNC: &str = "containerd.runc.v1.Options";
const RUNTIME: &str = "runtimeoptions.v1.Options";
/// The name of the runtime that is built in, as `BinaryName` may repeat it.
const BUILT_IN: &str = "corten-oci";
/// A table of options has a dozen lines.
const FILE_MAX: u64 = 64 << 10;

/// Whether this is a message for [`runc`].
pub fn is_known(any: &Any) -> bool {
    matches!(name(any), RUNC | RUNTIME)
}

/// A type URL may have a host in front: `type.googleapis.com/…`.
pub fn name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// The options of containerd's shim for runc, in whichever of the messages they came.
pub fn runc(any: &Any) -> Result<RuncOptions, Status> {
    let bad = |e: prost::DecodeError| invalid(format!("bad options {}: {e}", any.type_url));
    let options = match name(any) {
        RUNC => RuncOptions::decode(any.value.as_slice()).map_err(bad)?,
        RUNTIME => from_toml(&RuntimeOptions::decode(any.value.as_slice()).map_err(bad)?)?,
        other => {
            return Err(invalid(format!(
                "options of type {other} are not understood"
            )));
        }
    };
    check(&options)?;
    Ok(options)
}

/// What would be ignored otherwise.
fn check(options: &RuncOptions) -> Result<(), Status> {
    let binary = Path::new(&options.binary_name).file_name();
    if binary.is_some_and(|name| name != BUILT_IN) {
        return Err(invalid(format!(
            "BinaryName {:?}: this shim has its runtime built in; \
             for another one use the runtime type io.containerd.runc.v2",
            options.binary_name
        )));
    }
    for (name, path) in [
        ("Root", &options.root),
        ("CriuPath", &options.criu_path),
        ("CriuImagePath", &options.criu_image_path),
        ("CriuWorkPath", &options.criu_work_path),
        ("ShimCgroup", &options.shim_cgroup),
    ] {
        if !path.is_empty() && !path.starts_with('/') {
            return Err(invalid(format!("{name} {path:?} is not an absolute path")));
        }
    }
    Ok(())
}

fn from_toml(options: &RuntimeOptions) -> Result<RuncOptions, Status> {
    let type_url = options.type_url.rsplit('/').next().unwrap_or_default();
    if !type_url.is_empty() && type_url != RUNC {
        return Err(invalid(format!(
            "options of type {type_url} are not understood: {RUNC} is what this shim has"
        )));
    }
    if options.config_path.is_empty() {
        let text = std::str::from_utf8(&options.config_body);
        return table(
            "config_body",
            text.map_err(|e| invalid(format!("config_body: {e}")))?,
        );
    }
    let path = &options.config_path;
    let unreadable = |e: std::io::Error| {
        let kind = match e.kind() {
            std::io::ErrorKind::NotFound => Kind::NotFound,
            _ => Kind::Invalid,
        };
        Status::of(kind, format!("cannot read the options {path}: {e}"))
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let read = file.take(FILE_MAX + 1).read_to_string(&mut text);
    if read.map_err(unreadable)? as u64 > FILE_MAX {
        return Err(invalid(format!(
            "the options {path} are longer than 64 KiB"
        )));
    }
    table(path, &text)
}

/// Fills in the fields that a table names.
fn table(place: &str, text: &str) -> Result<RuncOptions, Status> {
    let mut options = RuncOptions::default();
    let lines = toml::parse(text).map_err(|e| invalid(format!("{place}: {e}")))?;
    for (line, key, value) in lines {
        // Go's decoder takes any case.
        set(&mut options, &key.to_ascii_lowercase(), value)
            .map_err(|problem| invalid(format!("{place}: line {line}: {key} {problem}")))?;
    }
    Ok(options)
}

fn set(options: &mut RuncOptions, key: &str, value: Value) -> Result<(), &'static str> {
    match key {
        "nopivotroot" => options.no_pivot_root = value.flag()?,
        "nonewkeyring" => options.no_new_keyring = value.flag()?,
        "shimcgroup" => options.shim_cgroup = value.text()?,
        "iouid" => options.io_uid = value.number()?,
        "iogid" => options.io_gid = value.number()?,
        "binaryname" => options.binary_name = value.text()?,
        "root" => options.root = value.text()?,
        "criupath" => options.criu_path = value.text()?,
        "systemdcgroup" => options.systemd_cgroup = value.flag()?,
        "criuimagepath" => options.criu_image_path = value.text()?,
        "criuworkpath" => options.criu_work_path = value.text()?,
        "taskapiaddress" => options.task_api_address = value.text()?,
        "taskapiversion" => options.task_api_version = value.number()?,
        _ => return Err("is no option of this shim"),
    }
    Ok(())
}

fn invalid(text: String) -> Status {
    Status::of(Kind::Invalid, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, message: &impl Message) -> Any {
        Any {
            type_url: type_url.into(),
            value: message.encode_to_vec(),
        }
    }

    fn body(text: &str) -> Any {
        any(
            RUNTIME,
            &RuntimeOptions {
                config_body: text.into(),
                ..RuntimeOptions::default()
            },
        )
    }

    #[test]
    fn a_table_of_cri_is_the_same_as_the_message() {
        let text = "# of config.toml\nSystemdCgroup = true\nBinaryName = \"\"\nIoUid = 1000\n\
                    Root = '/run/x' # here\nCriuWorkPath = \"/tmp/\\\"w\\\"\"\n";
        let options = runc(&body(text)).unwrap();
        let expected = RuncOptions {
            systemd_cgroup: true,
            io_uid: 1000,
            root: "/run/x".into(),
            criu_work_path: "/tmp/\"w\"".into(),
            ..RuncOptions::default()
        };
        assert_eq!(options, expected);
        assert_eq!(runc(&any(RUNC, &expected)).unwrap(), expected);
    }

    #[test]
    fn a_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.toml");
        std::fs::write(&path, "NoPivotRoot = true\n").unwrap();
        let of = |path: &Path| {
            let options = RuntimeOptions {
                type_url: RUNC.into(),
                config_path: path.display().to_string(),
                ..RuntimeOptions::default()
            };
            runc(&any(RUNTIME, &options))
        };
        assert!(of(&path).unwrap().no_pivot_root);
        let missing = of(&dir.path().join("none")).unwrap_err();
        assert_eq!(missing.kind(), Kind::NotFound, "{missing:?}");
    }

    #[test]
    fn what_cannot_be_honoured_is_named() {
        for (text, named) in [
            ("BinaryName = \"runc\"", "BinaryName \"runc\""),
            ("Shiny = true", "Shiny"),
            ("IoUid = -1", "line 1: IoUid"),
            ("\nRoot = \"relative\"", "Root \"relative\""),
            ("SystemdCgroup = \"yes\"", "SystemdCgroup"),
            ("[table]\n", "line 1"),
        ] {
            let error = runc(&body(text)).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid);
            assert!(error.message.contains(named), "{text:?}: {}", error.message);
        }
        let other = Any {
            type_url: "io.containerd.runsc.v1.options".into(),
            value: vec![],
        };
        assert!(!is_known(&other));
        assert!(
            runc(&other)
                .unwrap_err()
                .message
                .contains("runsc.v1.options")
        );
    }
}
