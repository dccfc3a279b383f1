//! Images, volumes, processes and callers that want out. A family of lessons a file, each lesson one that some
//! runtime has paid for, for `run` and for `exec`.
//!
//! A case says whether it saw a break. [`proven`] runs it with every wall up, where it must not, and then with
//! the one wall down that stands between (`corten_sys::weaken`), where it must: a case that cannot see the
//! break would prove nothing.

mod arguments;
mod capabilities;
mod cgroups;
mod descriptors;
mod devices;
mod entering;
mod executable;
mod procfs;
mod records;
mod release;
mod roots;
mod terminals;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::{Bundle, ours, runtime};

/// Which walls stand.
#[derive(Clone, Copy)]
pub struct Side {
    down: Option<&'static str>,
}

impl Side {
    /// Are all of them up?
    pub fn is_up(self) -> bool {
        self.down.is_none()
    }

    pub fn bundle(self, args: &[&str]) -> Bundle {
        let mut bundle = Bundle::new(args);
        if let Some(walls) = self.down {
            bundle.runtime = weak();
            bundle.weakened = Some(walls);
        }
        bundle
    }

    pub fn script(self, script: &str) -> Bundle {
        self.bundle(&["sh", "-c", script])
    }
}

/// Can walls be taken down here? Not those of another runtime, and a guest has no compiler.
pub fn proves() -> bool {
    ours() && std::env::var_os("CORTEN_GUEST").is_none()
}

/// `broken` sees nothing with all walls up, and the break with `walls` down.
pub fn proven(walls: &'static str, broken: impl Fn(Side) -> bool) {
    assert!(!broken(Side { down: None }), "broken, with every wall up");
    if proves() {
        let side = Side { down: Some(walls) };
        assert!(broken(side), "not seen to break without {walls}");
    }
}

/// [`proven`] for a case with a second wall behind the first: with either of them alone nothing breaks.
pub fn proven_in_depth(walls: &'static str, broken: impl Fn(Side) -> bool) {
    if proves() {
        for wall in walls.split(',') {
            let side = Side { down: Some(wall) };
            assert!(!broken(side), "broken without {wall} alone");
        }
    }
    proven(walls, broken);
}

/// The executable whose walls can be taken down, built when it is older than the one without that.
pub fn weak() -> PathBuf {
    let strong = runtime();
    let folder = strong.with_file_name("examples");
    let weak = folder.join("corten-oci-weak");
    // Tests are processes, and cargo takes the old one away before the new one is there.
    let lock = std::fs::File::create(folder.join("corten-oci-weak.lock")).unwrap();
    lock.lock().unwrap();
    let age = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
    if age(&weak).is_none_or(|built| age(&strong).is_some_and(|other| built < other)) {
        build(&weak);
    }
    weak
}

/// In the same target folder: everything below the three crates with walls is there already.
fn build(weak: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "--quiet", "--example", "corten-oci-weak"])
        .args(["--features", "weaken"]);
    if weak.components().any(|c| c.as_os_str() == "release") {
        command.arg("--release");
    }
    assert!(command.status().unwrap().success(), "the weak build fails");
    // Cargo does not touch what is fresh, and this is asked by age.
    let file = std::fs::File::options().write(true).open(weak).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
}

/// A folder of the host that nothing may be written to.
pub fn victim(bundle: &Bundle) -> PathBuf {
    let path = bundle.dir.path().join("victim");
    std::fs::create_dir(&path).unwrap();
    path
}

/// Was it written to?
pub fn touched(victim: &Path) -> bool {
    std::fs::read_dir(victim).unwrap().count() != 0
}

/// Without mounts on `/dev` and below: the image's own is used.
pub fn own_dev(bundle: &mut Bundle) -> &mut Bundle {
    for target in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.unmount(target);
    }
    bundle
}
