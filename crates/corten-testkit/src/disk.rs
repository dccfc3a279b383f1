//! A disk of the machine's that tests may write to: guests have one, and `CORTEN_TEST_DISK` names it.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::error::{Error, Result};
use crate::{need, tool};

/// The disk, for one test at a time.
#[derive(Debug)]
pub struct Disk {
    device: PathBuf,
    _lock: File,
}

impl Disk {
    /// `None`: the machine has none, and the reason is told.
    pub fn take() -> Result<Option<Self>> {
        match std::env::var_os("CORTEN_TEST_DISK") {
            Some(device) => Self::lock(device.into()).map(Some),
            None => {
                need::skip("CORTEN_TEST_DISK names no disk to write to");
                Ok(None)
            }
        }
    }

    fn lock(device: PathBuf) -> Result<Self> {
        let path = Path::new("/run/corten-test-disk.lock");
        let lock = File::create(path).map_err(Error::path("create", path))?;
        lock.lock().map_err(Error::path("lock", path))?;
        Ok(Self {
            device,
            _lock: lock,
        })
    }

    pub fn device(&self) -> &Path {
        &self.device
    }
}

/// A folder on a file system that maps ids (mount_setattr(2)), as layers of pods with users of their own must lie on one.
#[derive(Debug)]
pub struct IdMaps {
    /// Where that takes the disk: it, mounted.
    mounted: Option<(TempDir, Disk)>,
}

impl IdMaps {
    /// The usual folder of temporary files, or, in a guest whose tmpfs cannot map ids (before Linux 6.3), the disk.
    pub fn find() -> Result<Self> {
        let device = std::env::var_os("CORTEN_TEST_DISK");
        let Some(device) = device.filter(|_| !need::is_kernel(6, 3)) else {
            return Ok(Self { mounted: None });
        };
        let disk = Disk::lock(device.into())?;
        let device = disk.device().to_string_lossy().into_owned();
        tool::call("mkfs.ext4", &["-q", "-F", "-O", "^has_journal", &device])?;
        let folder =
            tempfile::tempdir().map_err(Error::system("cannot make a temporary folder"))?;
        let place = folder.path().to_string_lossy().into_owned();
        tool::call("mount", &["-t", "ext4", &device, &place])?;
        Ok(Self {
            mounted: Some((folder, disk)),
        })
    }

    pub fn folder(&self) -> PathBuf {
        match &self.mounted {
            Some((folder, _)) => folder.path().to_owned(),
            None => std::env::temp_dir(),
        }
    }
}

impl Drop for IdMaps {
    fn drop(&mut self) {
        if let Some((folder, _)) = &self.mounted {
            let place = folder.path().to_string_lossy().into_owned();
            // A test that failed may have left something in it.
            let _ = tool::call("umount", &["--lazy", &place]);
        }
    }
}
