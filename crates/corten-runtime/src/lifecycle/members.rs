//! The processes of a container that has no control group to count them: those of its pid namespace.

use std::path::Path;

use corten_sys::process;
use rustix::fs::stat;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, failed, failed_io, unsupported};
use crate::state::Found;

/// Their ids, as this process sees them.
pub(crate) fn pids(found: &Found) -> Result<Vec<i32>, Error> {
    let Some(init) = &found.init else {
        return Ok(Vec::new());
    };
    let namespace = |process: &str| {
        let link = Path::new("/proc").join(process).join("ns/pid");
        stat(&link).map(|s| (s.st_dev, s.st_ino))
    };
    let wanted =
        namespace(&init.pid.to_string()).map_err(failed("find the pid namespace of", "init"))?;
    if namespace("self") == Ok(wanted) {
        return Err(unsupported(
            "to tell the processes of a container that has neither a control group nor a pid namespace",
        ));
    }
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").map_err(failed_io("read", "/proc"))? {
        let name = entry.map_err(failed_io("read", "/proc"))?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // Of others we may not know, and what has ended has none.
        if namespace(&pid.to_string()) == Ok(wanted) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

/// Sends a signal to each. The kernel ends all of them with init.
pub(crate) fn signal(found: &Found, signal: i32) -> Result<(), Error> {
    for pid in pids(found)? {
        let sent = Pid::from_raw(pid)
            .ok_or(Errno::SRCH)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .and_then(|pidfd| process::send_signal(&pidfd, signal));
        match sent {
            // It ended meanwhile.
            Ok(()) | Err(Errno::SRCH | Errno::INVAL) => {}
            Err(errno) => {
                return Err(failed("send a signal to", format!("process {pid}"))(errno));
            }
        }
    }
    Ok(())
}
