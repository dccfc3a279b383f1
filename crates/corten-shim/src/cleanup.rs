//! The `delete` action: what a shim that is gone has left of a container, or of the pod that it held.
//!
//! containerd calls it with the bundle as the working folder, after a crash and once more to be sure. Whatever is missing
//! already is none of its business, so it can be called again at any time.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use corten_spec::{ContainerId, Kind};
use prost::Message;

use crate::Error;
use crate::ExitRecord;
use crate::bootstrap::GROUPS;
use crate::command::{Flags, state_root, usage};
use crate::proto::task::DeleteResponse;
use crate::serve::{EXIT_FILE, STATE_ROOT_FILE};
use crate::time::{from_rfc3339, timestamp};

/// Where containerd 2 writes in which pod a container is whose shim it did not start.
const SANDBOX_FILE: &str = "sandbox";

/// Removes the container and says how it ended.
pub fn delete(flags: &Flags) -> Result<Vec<u8>, Error> {
    let id: Result<ContainerId, _> = flags.id.parse();
    let id = id.map_err(|e| usage(format!("-id: {e}")))?;
    let namespace: Result<ContainerId, _> = flags.namespace.parse();
    namespace.map_err(|e| usage(format!("-namespace: {e}")))?;
    let bundle = flags.bundle()?;
    let pid = remove(flags, &bundle, &id)?;
    let place = crate::bootstrap::place(flags, &bundle).unwrap_or_default();
    crate::bootstrap::forget(&place);
    for (member, bundle) in members(&root(flags, &bundle), &place, &id) {
        remove(flags, &bundle, &member)?;
    }
    let record = ExitRecord::read(&bundle.join(EXIT_FILE)).ok().flatten();
    let ended = record.and_then(|r| Some((r.pid, r.exit_status, from_rfc3339(&r.exited_at)?)));
    // Without a record nobody saw it end: it was killed at the latest just now.
    let (pid, status, at) = ended.unwrap_or((pid, 128 + 9, SystemTime::now()));
    Ok(DeleteResponse {
        pid,
        exit_status: status,
        exited_at: Some(timestamp(at)),
    }
    .encode_to_vec())
}

/// Ends and removes one container. Returns its init's process id, 0 if that is not known.
fn remove(flags: &Flags, bundle: &Path, id: &ContainerId) -> Result<u32, Error> {
    let root = root(flags, bundle);
    let pid = corten_runtime::state(&root, id).map_or(0, |state| state.pid);
    match corten_runtime::delete(&root, id, true) {
        Ok(warnings) => warnings.iter().for_each(|w| eprintln!("warning: {w}")),
        Err(e) if e.kind() == Kind::NotFound => {}
        Err(source) => {
            return Err(Error::Cleanup {
                id: id.to_string(),
                source: Box::new(source),
            });
        }
    }
    Ok(pid)
}

/// The other containers of a pod whose shim is dead: containerd 2 calls for the first one only. They are known by their
/// state, since a sandbox's bundle may lie elsewhere than theirs.
fn members(root: &Path, socket: &Path, id: &ContainerId) -> Vec<(ContainerId, PathBuf)> {
    if std::os::unix::net::UnixStream::connect(socket).is_ok() {
        return Vec::new();
    }
    // containerd may have removed its bundle by now, and then its annotations tell. While it is there, containerd up to 1.7 calls for it.
    let of_pod = |state: &corten_runtime::State| match std::fs::read_to_string(
        state.bundle.join(SANDBOX_FILE),
    ) {
        Ok(pod) => pod == id.as_str(),
        Err(_) => !state.bundle.exists() && group(state).is_some_and(|pod| pod == id.as_str()),
    };
    // What cannot be read is no member's.
    let all = corten_runtime::list(root).unwrap_or_default();
    let members = all.into_iter().filter(|s| s.id != *id && of_pod(s));
    members.map(|s| (s.id, s.bundle)).collect()
}

fn group(state: &corten_runtime::State) -> Option<&String> {
    GROUPS.iter().find_map(|name| state.annotations.get(*name))
}

/// Where the container's state is, which its options may have said.
fn root(flags: &Flags, bundle: &Path) -> PathBuf {
    let written = std::fs::read_to_string(bundle.join(STATE_ROOT_FILE));
    written.map_or_else(|_| state_root(flags, &flags.namespace), PathBuf::from)
}
