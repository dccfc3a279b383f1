//! What a `start` was told, from whichever of its two sources, and the answer in the form that this containerd reads.
//!
//! | containerd | stdin | answer on stdout | Task API |
//! | --- | --- | --- | --- |
//! | up to 1.6 | options, or nothing | the address | 2 |
//! | 1.7 to 2.2 (`MAX_SHIM_VERSION` is set) | options, or nothing | JSON | 2, or as many as that says |
//! | 2.3 and later | binary `BootstrapParams` | binary `BootstrapResult` | 3 |
//!
//! The third also sets the flags and variables of the second, so stdin alone tells them apart. Of the second, 1.7
//! refuses a shim of version 3 and says 2; so do 2.0 to 2.2, which would take 3 and lose nothing by 2.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use corten_spec::ContainerId;
use prost::Message;
use prost_types::Any;

use crate::Error;
use crate::command::{Flags, usage};
use crate::options;
use crate::proto::bootstrap::{BootstrapParams, BootstrapResult};
use crate::proto::task::RuncOptions;

/// Where containerd's shims have their sockets; the full path must fit into 108 bytes.
const SOCKETS: &str = "/run/containerd/s";
/// `LOG_LEVEL_DEBUG` of the bootstrap protocol. Lower is more.
const LEVEL_DEBUG: i32 = -4;
/// The versions of the Task API that are served, under the same messages.
const VERSIONS: (i32, i32) = (2, 3);

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Address,
    Json { max: i32 },
    Binary,
}

/// A `start`, understood.
#[derive(Debug)]
pub struct Asked {
    form: Form,
    pub id: String,
    pub namespace: String,
    /// containerd's gRPC socket; a name in ours.
    pub address: String,
    /// containerd's ttrpc socket, for events.
    pub ttrpc: String,
    pub debug: bool,
    pub sockets: PathBuf,
    pub options: RuncOptions,
}

/// Reads stdin in the light of the flags.
pub fn read(stdin: &[u8], flags: &Flags) -> Result<Asked, Error> {
    let params = BootstrapParams::decode(stdin).ok();
    // An `Any` has a string and bytes as its first two fields as well: what tells them apart is that the strings are the
    // flags', where there are flags.
    let same = |flag: &str, field: &str| !field.is_empty() && (flag.is_empty() || flag == field);
    let params =
        params.filter(|p| same(&flags.id, &p.instance_id) && same(&flags.namespace, &p.namespace));
    let asked = match params {
        Some(params) => of_params(params, flags)?,
        None => of_flags(stdin, flags)?,
    };
    // Both become parts of paths.
    for (what, name) in [("id", &asked.id), ("namespace", &asked.namespace)] {
        let parsed: Result<ContainerId, _> = name.parse();
        parsed.map_err(|e| usage(format!("{what}: {e}")))?;
    }
    Ok(asked)
}

fn of_params(params: BootstrapParams, flags: &Flags) -> Result<Asked, Error> {
    let first = |a: String, b: &str| if a.is_empty() { b.into() } else { a };
    // Other extensions are for other shims, or for later ones.
    let mut options = params.extensions.into_iter().filter_map(|e| e.value);
    let options = options.rfind(options::is_known);
    let sockets = params.socket_dir.unwrap_or_default();
    if !sockets.is_empty() && !sockets.starts_with('/') {
        return Err(usage(format!(
            "socket_dir {sockets:?} is not an absolute path"
        )));
    }
    Ok(Asked {
        form: Form::Binary,
        id: params.instance_id,
        namespace: params.namespace,
        address: first(params.containerd_grpc_address, &flags.address),
        ttrpc: first(params.containerd_ttrpc_address, &flags.ttrpc),
        debug: flags.debug || params.log_level <= LEVEL_DEBUG,
        sockets: PathBuf::from(first(sockets, SOCKETS)),
        options: runc(options.as_ref())?,
    })
}

fn of_flags(stdin: &[u8], flags: &Flags) -> Result<Asked, Error> {
    let any = Any::decode(stdin).map_err(|e| {
        usage(format!(
            "stdin is neither options nor BootstrapParams for {:?} in {:?}: {e}",
            flags.id, flags.namespace
        ))
    })?;
    let any = Some(any).filter(options::is_known);
    Ok(Asked {
        form: match flags.max_version {
            None => Form::Address,
            Some(max) => Form::Json { max },
        },
        id: flags.id.clone(),
        namespace: flags.namespace.clone(),
        address: flags.address.clone(),
        ttrpc: flags.ttrpc.clone(),
        debug: flags.debug,
        sockets: SOCKETS.into(),
        options: runc(any.as_ref())?,
    })
}

fn runc(any: Option<&Any>) -> Result<RuncOptions, Error> {
    let Some(any) = any else {
        return Ok(RuncOptions::default());
    };
    options::runc(any).map_err(|status| usage(status.message))
}

impl Asked {
    /// The form that this containerd understands.
    pub fn answer(&self, socket: &Path) -> Vec<u8> {
        let address = format!("unix://{}", socket.display());
        let (oldest, newest) = VERSIONS;
        match self.form {
            Form::Address => address.into_bytes(),
            Form::Json { max } => {
                let version = newest.min(max).max(oldest);
                let answer = serde_json::json!({
                    "version": version,
                    "address": address,
                    "protocol": "ttrpc",
                });
                answer.to_string().into_bytes()
            }
            Form::Binary => BootstrapResult {
                version: newest,
                address,
                protocol: "ttrpc".into(),
                capabilities: Vec::new(),
                metadata: BTreeMap::new(),
            }
            .encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::bootstrap::Extension;

    fn flags(max_version: Option<i32>) -> Flags {
        Flags {
            id: "web".into(),
            namespace: "default".into(),
            address: "/run/c.sock".into(),
            max_version,
            ..Flags::default()
        }
    }

    fn options() -> Any {
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: RuncOptions {
                shim_cgroup: "/shims".into(),
                ..RuncOptions::default()
            }
            .encode_to_vec(),
        }
    }

    fn answered(stdin: &[u8], max: Option<i32>) -> Vec<u8> {
        read(stdin, &flags(max)).unwrap().answer(Path::new("/s"))
    }

    #[test]
    fn each_containerd_gets_its_form() {
        assert_eq!(answered(b"", None), b"unix:///s");
        for (max, version) in [(2, 2), (3, 3), (9, 3), (0, 2)] {
            let json = answered(b"", Some(max));
            let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(json["address"], "unix:///s");
            assert_eq!(json["version"], version);
        }
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "default".into(),
            ..BootstrapParams::default()
        };
        let result = answered(&params.encode_to_vec(), Some(2));
        let result = BootstrapResult::decode(result.as_slice()).unwrap();
        assert_eq!((result.address.as_str(), result.version), ("unix:///s", 3));
        // An option of an older one is no BootstrapParams.
        assert_eq!(answered(&options().encode_to_vec(), None), b"unix:///s");
    }

    #[test]
    fn params_are_the_source_of_everything_they_say() {
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "k8s.io".into(),
            log_level: -8,
            containerd_grpc_address: "/run/other.sock".into(),
            containerd_ttrpc_address: "/run/other.ttrpc".into(),
            socket_dir: Some("/run/s".into()),
            extensions: vec![
                Extension {
                    value: Some(options()),
                },
                Extension {
                    value: Some(Any {
                        type_url: "containerd.io/of.tomorrow".into(),
                        value: vec![1],
                    }),
                },
            ],
            ..BootstrapParams::default()
        };
        let asked = read(&params.encode_to_vec(), &Flags::default()).unwrap();
        assert_eq!(asked.form, Form::Binary);
        assert_eq!(
            (asked.id.as_str(), asked.namespace.as_str()),
            ("web", "k8s.io")
        );
        assert_eq!(asked.address, "/run/other.sock");
        assert_eq!(asked.ttrpc, "/run/other.ttrpc");
        assert_eq!(asked.sockets, Path::new("/run/s"));
        assert_eq!(asked.options.shim_cgroup, "/shims");
        assert!(asked.debug);
    }

    #[test]
    fn options_come_on_stdin_before_there_were_params() {
        let asked = read(&options().encode_to_vec(), &flags(None)).unwrap();
        assert_eq!(asked.options.shim_cgroup, "/shims");
        assert!(!asked.debug);
    }

    #[test]
    fn what_cannot_be_understood_is_said() {
        let told = |stdin: &[u8], flags: &Flags| read(stdin, flags).unwrap_err().to_string();
        assert!(told(&[0xff; 9], &flags(None)).contains("stdin is neither"));
        assert!(told(b"", &Flags::default()).contains("id:"));
        let bad = Flags {
            namespace: "../x".into(),
            ..flags(None)
        };
        assert!(told(b"", &bad).contains("namespace:"));
        let binary = Any {
            value: RuncOptions {
                binary_name: "crun".into(),
                ..RuncOptions::default()
            }
            .encode_to_vec(),
            ..options()
        };
        assert!(told(&binary.encode_to_vec(), &flags(None)).contains("BinaryName \"crun\""));
    }

    proptest::proptest! {
        #[test]
        fn garbage_on_stdin_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..500)) {
            let _ = read(&bytes, &flags(None));
            let _ = read(&bytes, &Flags::default());
        }
    }
}
