//! What `CreateTaskRequest.options` may hold.

use std::path::PathBuf;

use prost::Message;
use prost_types::Any;

use crate::proto::corten::CreateOptions;
use crate::ttrpc::status::{Code, Status};

/// The options of whoever asked, in one form.
#[derive(Debug, Default)]
pub struct Options {
    pub corten: CreateOptions,
    pub state_root: Option<PathBuf>,
    pub systemd_cgroup: bool,
    pub lasting: Lasting,
}

/// Those that matter after Create.
#[derive(Clone, Debug, Default)]
pub struct Lasting {
    /// User and group that own the pipes.
    pub owner: (u32, u32),
    pub criu: Criu,
}

/// For checkpoints. What is empty has criu's own or containerd's default.
#[derive(Clone, Debug, Default)]
pub struct Criu {
    pub program: Option<PathBuf>,
    pub images: Option<PathBuf>,
    pub work: Option<PathBuf>,
}

/// Decodes them: our own, or those that containerd's users know, or none.
pub fn decode(any: Option<&Any>, namespace: &str) -> Result<Options, Status> {
    let Some(any) = any.filter(|a| !a.value.is_empty()) else {
        return Ok(Options::default());
    };
    if crate::options::name(any) == "corten.shim.v1.CreateOptions" {
        let corten = CreateOptions::decode(any.value.as_slice()).map_err(|e| {
            Status::new(
                Code::InvalidArgument,
                format!("bad options {}: {e}", any.type_url),
            )
        })?;
        return Ok(Options {
            state_root: path(&corten.state_root),
            systemd_cgroup: corten.systemd_cgroup,
            corten,
            ..Options::default()
        });
    }
    let runc = crate::options::runc(any)?;
    Ok(Options {
        corten: CreateOptions {
            no_pivot_root: runc.no_pivot_root,
            no_new_keyring: runc.no_new_keyring,
            ..CreateOptions::default()
        },
        state_root: path(&runc.root).map(|root| root.join(namespace)),
        systemd_cgroup: runc.systemd_cgroup,
        lasting: Lasting {
            owner: (runc.io_uid, runc.io_gid),
            criu: Criu {
                program: path(&runc.criu_path),
                images: path(&runc.criu_image_path),
                work: path(&runc.criu_work_path),
            },
        },
    })
}

fn path(text: &str) -> Option<PathBuf> {
    Some(text).filter(|t| !t.is_empty()).map(PathBuf::from)
}

/// Reads a type as JSON, as OCI documents travel in `Any`.
pub fn json<T: serde::de::DeserializeOwned>(what: &str, any: Option<&Any>) -> Result<T, Status> {
    let Some(any) = any else {
        return Err(Status::new(
            Code::InvalidArgument,
            format!("no {what} given"),
        ));
    };
    serde_json::from_slice(&any.value)
        .map_err(|e| Status::new(Code::InvalidArgument, format!("bad {what}: {e}")))
}
