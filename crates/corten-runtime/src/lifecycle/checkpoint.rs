//! `checkpoint`: a container's processes become files, through CRIU.
//!
//! ```text
//!   running, paused ──dump──▶ images     and: stopped (marked as checkpointed), or as before with leave-running
//!                   ──pre-dump──▶ pages  and: as before
//! ```
//! What leads out of the container is named for criu by [`super::outside`], and stdio by `criu::descriptors`. A dump
//! that fails leaves the container running.

use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_cgroup::Layout;
use rustix::io::Errno;

use super::outside::{home_of, mounts, namespaces, plan_of};
use crate::criu::images::Folders;
use crate::criu::message::{Kind, Options, Response};
use crate::criu::yard::Yard;
use crate::criu::{Criu, Job, descriptors, find, log};
use crate::error::{Error, failed, invalid};
use crate::request::Checkpoint;
use crate::state::{Found, Status, refused, wait_end};

const LOG: &str = "dump.log";

/// Writes the container's processes to `images.path`.
pub fn checkpoint(checkpoint: Checkpoint<'_>) -> Result<(), Error> {
    let executable = find("checkpoint", checkpoint.images.program.as_deref())?;
    let found = Found::open(checkpoint.state_root, checkpoint.id)?;
    let status = found.status()?;
    let (Status::Running | Status::Paused, Some(init)) = (status, &found.init) else {
        return Err(found.conflict("checkpoint", status));
    };
    let spec = found.folder.read_config()?;
    let folders = Folders::make(checkpoint.images)?;
    let mut options = folders.options(checkpoint.images, &spec, LOG);
    let kind = choose(&checkpoint, &mut options)?;
    options.pid = Some(init.pid);
    options.root = found.record.rootfs.as_os_str().as_bytes().to_vec();
    options.freezer = freezer(&found.record.cgroup)?;
    let yard = Yard::lay(&found.folder.path)?;
    if let Some(yard) = &yard {
        options.yard = yard.path().as_os_str().as_bytes().to_vec();
    }
    let (bundle, id) = (&found.record.bundle, checkpoint.id.as_str());
    let plan = plan_of(&spec, bundle, id, home_of(&spec))?;
    options.external = namespaces(&plan, init.pid)?;
    if kind == Kind::Dump {
        let names = descriptors::of(init.pid)?;
        descriptors::write(&checkpoint.images.path, &names)?;
        options.external.extend(descriptors::external(&names));
        options.mounts = mounts(&plan, init.pid)?;
    }
    let mut criu = Criu::start(&Job {
        executable: &executable,
        stdio: [None; 3],
        descriptors: &[],
        session: true,
    })?;
    criu.check_version()?;
    criu.check_features(checkpoint.pre_dump, checkpoint.images.lazy_pages)?;
    let done = criu
        .request(kind, &options)
        .and_then(|()| attend(&criu, kind, checkpoint.status_fd));
    // After a pre-dump criu waits for the next one, and says so by its exit status.
    let ended = criu.end();
    if let Err(error) = done {
        settle(&found, status)?;
        return Err(explain(error, "checkpoint", &folders.log(LOG)));
    }
    ended?;
    if kind == Kind::Dump && !checkpoint.leave_running {
        wait_end(&init.pidfd)?;
        // Last, so that a container with the mark is certain to have its images.
        found.folder.mark_checkpointed()?;
    }
    Ok(())
}

/// Options that are of a dump only.
fn choose(checkpoint: &Checkpoint<'_>, options: &mut Options) -> Result<Kind, Error> {
    options.leave_running = checkpoint.leave_running;
    options.tcp_skip_in_flight = checkpoint.tcp_skip_in_flight;
    options.page_server = checkpoint.page_server.clone();
    options.track_memory = checkpoint.pre_dump || checkpoint.parent.is_some();
    if let Some(parent) = &checkpoint.parent {
        if parent.is_absolute() {
            let problem = format!("is {parent:?}, and must be relative to the image path");
            return Err(invalid("parent-path", problem));
        }
        let path = checkpoint.images.path.join(parent);
        if !path.is_dir() {
            return Err(failed("open the parent images", path)(Errno::NOTDIR));
        }
        options.parent = parent.as_os_str().as_bytes().to_vec();
    }
    if checkpoint.status_fd.is_some() && !checkpoint.images.lazy_pages {
        return Err(invalid("status-fd", "is for lazy-pages only"));
    }
    Ok(match checkpoint.pre_dump {
        true => Kind::PreDump,
        false => Kind::Dump,
    })
}

fn attend(criu: &Criu, kind: Kind, mut status: Option<OwnedFd>) -> Result<(), Error> {
    loop {
        let response = criu.hear()?.response;
        match response.kind {
            Some(Kind::Notify) => {
                if response.script.as_deref() == Some("status-ready")
                    && let Some(ready) = status.take()
                {
                    // Whoever waits for it reads one byte, or the end if we go.
                    rustix::io::write(&ready, &[0]).map_err(failed("write to", "the status fd"))?;
                }
                criu.acknowledge(true)?;
            }
            Some(answer) if answer == kind && response.success => return Ok(()),
            _ => return Err(refusal("checkpoint", &response)),
        }
    }
}

/// criu has said no; the reason is in its log.
pub(super) fn refusal(action: &'static str, response: &Response) -> Error {
    Error::Criu {
        action,
        errno: response.errno,
        problem: response.message.clone(),
        log: PathBuf::new(),
        lines: Vec::new(),
    }
}

/// Adds what criu's log says to a failure of the conversation.
pub(super) fn explain(error: Error, action: &'static str, path: &Path) -> Error {
    let Error::Criu { errno, problem, .. } = error else {
        return error;
    };
    let lines = log::last_lines(path);
    Error::Criu {
        action,
        errno,
        // Mostly the first of those lines.
        problem: match lines.contains(&problem) {
            true => String::new(),
            false => problem,
        },
        log: path.into(),
        lines,
    }
}

/// criu thaws what it froze, unless it was killed.
fn settle(found: &Found, before: Status) -> Result<(), Error> {
    match found.cgroup()? {
        Some(cgroup)
            if before == Status::Running
                && cgroup.is_frozen().map_err(refused("read the freezer"))? =>
        {
            cgroup.thaw().map_err(refused("resume the container"))
        }
        _ => Ok(()),
    }
}

/// The folder by which criu freezes the container: the one that `pause` uses.
fn freezer(group: &str) -> Result<Vec<u8>, Error> {
    let layout = Layout::probe().map_err(refused("find the control groups"))?;
    let has = |c: &String| c == "freezer";
    let v1 = layout
        .hierarchies()
        .iter()
        .find(|h| h.controllers.iter().any(has));
    let root = match (layout.unified(), v1) {
        (Some(unified), _) => unified,
        (None, Some(v1)) => v1.root.as_path(),
        // Without one criu stops the processes one by one, by ptrace.
        (None, None) => return Ok(Vec::new()),
    };
    let path = root.join(group.trim_start_matches('/'));
    Ok(path.into_os_string().into_encoded_bytes())
}
