//! Old mistakes of others, to be made again where a test takes a wall down. In no build that anybody runs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use corten_sys::weakened;

use crate::plan::{Plan, mounts};

/// Looks at a mount point, and then makes it by its name (CVE-2021-30465, CVE-2024-45310). In between is the
/// time that a racer needs.
pub(crate) fn make_target_by_path(plan: &Plan, mount: &mounts::Plan) {
    let Some(root) = plan.root.path.as_ref() else {
        return;
    };
    if !weakened!("targets.by_path") {
        return;
    }
    let path = root.join(OsStr::from_bytes(mount.target.as_bytes()));
    if path
        .canonicalize()
        .is_ok_and(|real| !real.starts_with(root))
    {
        return;
    }
    std::thread::sleep(Duration::from_millis(1));
    // As the mistake was: whoever fails here is seen later.
    let _ = std::fs::create_dir_all(&path);
}
