//! What a group's counters say at one moment, and what a container has written.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use corten_cgroup::detail::Pressures;
use corten_cgroup::{Cgroup, Stats};

/// A group's counters.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Nanoseconds since 1970.
    pub at: i64,
    pub stats: Stats,
    pub pressures: Pressures,
    /// Highest usage of huge pages, by size.
    pub hugetlb_peaks: Vec<(String, u64)>,
}

impl Sample {
    /// Reads the counters of a group, and of those below it.
    pub fn read(group: &Cgroup) -> Result<Self, corten_cgroup::Error> {
        Ok(Self {
            at: now(),
            stats: group.stats()?,
            pressures: group.pressures()?,
            hugetlb_peaks: group.hugetlb_peaks()?,
        })
    }

    /// Of a pod without a group of its own: what its containers use together. Pressure is no sum and is left out.
    pub fn sum<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut sum = Self::default();
        for sample in all {
            sum.at = sum.at.max(sample.at);
            if let Some(cpu) = &sample.stats.cpu {
                let total = sum.stats.cpu.get_or_insert_default();
                total.usage = total.usage.saturating_add(cpu.usage);
                total.user = total.user.saturating_add(cpu.user);
                total.system = total.system.saturating_add(cpu.system);
            }
            if let Some(pids) = &sample.stats.pids {
                let total = sum.stats.pids.get_or_insert_default();
                total.current = total.current.saturating_add(pids.current);
            }
            if let Some(memory) = &sample.stats.memory {
                let total = sum.stats.memory.get_or_insert_default();
                total.v1 = memory.v1;
                total.usage = total.usage.saturating_add(memory.usage);
                total.swap_usage = total.swap_usage.saturating_add(memory.swap_usage);
                total.inactive_file = total.inactive_file.saturating_add(memory.inactive_file);
                for (key, value) in &memory.detail {
                    let at = total.detail.entry(key.clone()).or_default();
                    *at = at.saturating_add(*value);
                }
            }
        }
        sum
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX))
}

/// What a container has written, by the engine's account.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    /// Nanoseconds since 1970: it may have been counted a while ago.
    pub at: i64,
    /// The folder that names its file system to kubelet.
    pub mountpoint: String,
    pub bytes: u64,
    pub inodes: u64,
}

/// The file system that layers lie on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// `/dev/sda1`, or where there is none, its numbers.
    pub device: String,
    pub bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl FileSystem {
    /// The one that `path` lies on.
    pub fn read(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        let device = fs::metadata(path)?.dev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        Ok(Self {
            device: name(device),
            bytes: found.f_blocks.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            inodes_free: found.f_ffree,
        })
    }
}

/// Names of the block devices that a sample counts.
pub fn devices(stats: &Stats) -> BTreeMap<(u32, u32), String> {
    let at = stats.io.iter().map(|io| (io.major, io.minor));
    at.map(|device| (device, name(device))).collect()
}

/// `/dev/sda` of `8:0`; file systems without a device have numbers alone.
fn name((major, minor): (u32, u32)) -> String {
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let target = fs::read_link(link).ok();
    let last = target.as_deref().and_then(Path::file_name);
    match last.and_then(|n| n.to_str()) {
        // A slash of a device's name is an exclamation mark there.
        Some(name) => format!("/dev/{}", name.replace('!', "/")),
        None => format!("{major}:{minor}"),
    }
}
