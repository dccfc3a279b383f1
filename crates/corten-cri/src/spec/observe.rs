//! Looking: what the plans of this host, and of one container, depend on.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::devices::ALL;
use super::error::Refused;
use super::facts::{AppArmor, Host, Needs, Node, Observed, Propagation, SeLinux, Source};

/// Profiles are small; a larger file is a mistake.
const MAX_PROFILE: u64 = 4 << 20;
/// Folders in folders of devices.
const MAX_DEPTH: usize = 8;

/// Looks at all of it. Absent sources of mounts and absent devices are no error here.
pub fn look(needs: &Needs) -> Result<Observed, Refused> {
    let mut observed = Observed::default();
    let mounts = match needs.sources.is_empty() {
        true => String::new(),
        false => text("mounts", Path::new("/proc/self/mountinfo"))?,
    };
    for path in &needs.sources {
        let source = source(path, &mounts).map_err(unreadable("mounts", path))?;
        observed.sources.insert(path.clone(), source);
    }
    for path in &needs.devices {
        let mut nodes = Vec::new();
        below(path, Path::new(""), 0, &mut nodes).map_err(unreadable("devices", path))?;
        observed.devices.insert(path.clone(), nodes);
    }
    for path in &needs.seccomp {
        const FIELD: &str = "linux.security_context.seccomp";
        let text = text(FIELD, path)?;
        let profile: Value = serde_json::from_str(&text)
            .map_err(|e| unreadable(FIELD, path)(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        observed.seccomp.insert(path.clone(), profile);
    }
    Ok(observed)
}

fn unreadable<'a>(field: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> Refused + 'a {
    |source| Refused::Unreadable {
        field: field.into(),
        path: path.into(),
        source,
    }
}

fn text(field: &str, path: &Path) -> Result<String, Refused> {
    let read = || {
        let mut text = String::new();
        let taken = File::open(path)?
            .take(MAX_PROFILE + 1)
            .read_to_string(&mut text)?;
        match taken as u64 > MAX_PROFILE {
            true => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
            false => Ok(text),
        }
    };
    read().map_err(unreadable(field, path))
}

/// What is there, or where it would be; and what that mount shares with others.
fn source(path: &Path, mounts: &str) -> io::Result<Source> {
    match mount_id(path) {
        Ok(id) => Ok(Source::Present(propagation(mounts, id))),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let there = path.ancestors().skip(1).find_map(|p| mount_id(p).ok());
            let found = there.map_or(Propagation::Private, |id| propagation(mounts, id));
            Ok(Source::Absent(found))
        }
        Err(e) => Err(e),
    }
}

/// statx(2) has it since Linux 5.8.
fn mount_id(path: &Path) -> io::Result<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)?;
    Ok(found.stx_mnt_id)
}

/// By the optional fields of proc_pid_mountinfo(5): `36 35 98:0 / /mnt rw,noatime shared:1 master:2 - ext4 …`.
fn propagation(mounts: &str, id: u64) -> Propagation {
    let line = mounts.lines().find(|line| {
        let first = line.split(' ').next();
        first.and_then(|n| n.parse().ok()) == Some(id)
    });
    let fields = line.into_iter().flat_map(|l| l.split(' ').skip(6));
    let fields: Vec<&str> = fields.take_while(|f| *f != "-").collect();
    let has = |word: &str| fields.iter().any(|f| f.starts_with(word));
    match (has("shared:"), has("master:")) {
        (true, _) => Propagation::Shared,
        (false, true) => Propagation::Slave,
        (false, false) => Propagation::Private,
    }
}

/// The device at `path`, or those below a folder.
fn below(path: &Path, name: &Path, depth: usize, found: &mut Vec<Node>) -> io::Result<()> {
    let meta = match fs::metadata(path) {
        // Unplugged just now, or never there: the plan says what that means.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        meta => meta?,
    };
    if meta.is_dir() {
        if depth == MAX_DEPTH {
            return Err(io::Error::from(io::ErrorKind::QuotaExceeded));
        }
        let mut entries: Vec<_> = fs::read_dir(path)?.collect::<Result<_, _>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            // Terminals, shared memory and queues are the container's own.
            const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", "ptmx", "hugepages"];
            let own = path == Path::new(ALL) && OWN.iter().any(|own| entry.file_name() == *own);
            // A link in a folder is another name of a node, or leads elsewhere.
            if !own && !entry.file_type()?.is_symlink() {
                below(
                    &entry.path(),
                    &name.join(entry.file_name()),
                    depth + 1,
                    found,
                )?;
            }
        }
        return Ok(());
    }
    let kind = meta.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        found.push(Node {
            below: name.into(),
            character: kind.is_char_device(),
            major: rustix::fs::major(meta.rdev()),
            minor: rustix::fs::minor(meta.rdev()),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
        });
    }
    Ok(())
}

impl Host {
    /// Looks at this host.
    pub fn probe() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok())
                .unwrap_or(0)
        };
        let layout = corten_cgroup::Layout::probe().map_err(io::Error::other)?;
        Ok(Self {
            kernel: kernel(),
            machine: std::env::consts::ARCH,
            unified: matches!(layout, corten_cgroup::Layout::V2 { .. }),
            swap_accounting: corten_engine::system::swap_accounting(),
            hugetlb: layout.controls("hugetlb"),
            bounding: field("CapBnd:"),
            lowest_oom_score: lowest_oom_score(field("CapEff:"))?,
            apparmor: apparmor(),
            selinux: selinux(),
        })
    }
}

/// Only CAP_SYS_RESOURCE may go below where it stands (proc_pid_oom_score_adj(5)).
fn lowest_oom_score(effective: u64) -> io::Result<Option<i32>> {
    const CAP_SYS_RESOURCE: u64 = 24;
    if effective & 1 << CAP_SYS_RESOURCE != 0 {
        return Ok(None);
    }
    let text = fs::read_to_string("/proc/self/oom_score_adj")?;
    Ok(text.trim().parse().ok())
}

fn kernel() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    let mut next = || parts.next().and_then(|p| p.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// Profiles as the kernel lists them: `web (enforce)`.
fn apparmor() -> Option<AppArmor> {
    let on = fs::read_to_string("/sys/module/apparmor/parameters/enabled").ok()?;
    if !on.starts_with('Y') {
        return None;
    }
    let list = fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default();
    let name = |line: &str| line.rsplit_once(" (").map(|(name, _)| name.to_owned());
    let profiles: BTreeSet<String> = list.lines().filter_map(name).collect();
    Some(AppArmor { profiles })
}

/// The policy's own labels for containers; those of the reference policy where it names none.
fn selinux() -> Option<SeLinux> {
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        return None;
    }
    let config = fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    let kind = config.lines().find_map(|l| l.strip_prefix("SELINUXTYPE="));
    let folder = Path::new("/etc/selinux").join(kind.unwrap_or("targeted").trim());
    let contexts: PathBuf = folder.join("contexts/lxc_contexts");
    let contexts = fs::read_to_string(contexts).unwrap_or_default();
    let label = |key: &str, usual: &str| {
        let lines = contexts.lines().filter_map(|l| l.split_once('='));
        let mut lines = lines.filter(|(k, _)| k.trim() == key);
        let found = lines
            .next()
            .map(|(_, v)| v.trim().trim_matches('"').to_owned());
        found.unwrap_or_else(|| usual.into())
    };
    Some(SeLinux {
        process: label("process", "system_u:system_r:container_t:s0"),
        file: label("file", "system_u:object_r:container_file_t:s0"),
    })
}
