//! Who holds which address, on disk: one folder a network, one file an address that says
//! `CONTAINER\r\nIFNAME`, `last_reserved_ip.N` for each range set, and a lock file. That is the
//! layout of the reference host-local plugin, so either can follow the other.
//!
//! A reservation is one exclusive creation of a file that is linked into place with its owner's
//! name already in it: a process killed at any instruction leaves either nothing or a file that
//! names its owner. The lock only makes the walk cheap; two processes without it would still not
//! get the same address.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use super::range::{Range, RangeSet};
use crate::Error;
use crate::error::file_error;
use crate::nameless::Nameless;

const LOCK: &str = "lock";
const LAST: &str = "last_reserved_ip.";
/// A reservation before it has its name, on file systems that have no files without one.
const NEW: &str = ".new";
const LINE_BREAK: &str = "\r\n";
/// The longest content that is one of ours, or the reference plugin's.
const MAX_FILE: u64 = 4096;

/// An address and its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub address: IpAddr,
    pub container_id: String,
    /// Empty in files of old versions of the reference plugin.
    pub ifname: String,
}

/// The reservations of one network, locked against other processes.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// Holds the lock until it is closed.
    _lock: File,
}

impl Store {
    /// Opens the folder of `network` below `data_dir`, made if missing, and waits for its lock.
    pub fn open(data_dir: &Path, network: &str) -> Result<Self, Error> {
        let folder = data_dir.join(network);
        loop {
            fs::create_dir_all(&folder).map_err(file_error("make", &folder))?;
            match Self::lock(&folder, true)? {
                Some(store) => return Ok(store),
                // Removed by network::remove between the two steps.
                None => continue,
            }
        }
    }

    /// Opens the folder if it is there.
    pub fn open_existing(data_dir: &Path, network: &str) -> Result<Option<Self>, Error> {
        Self::lock(&data_dir.join(network), false)
    }

    /// `None` if the folder is gone.
    fn lock(folder: &Path, create: bool) -> Result<Option<Self>, Error> {
        let path = folder.join(LOCK);
        if !create && !folder.is_dir() {
            return Ok(None);
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::from(0o600)) {
            Ok(fd) => File::from(fd),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(e) => return Err(file_error("open", &path)(e.into())),
        };
        rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
            .map_err(|e| file_error("lock", &path)(e.into()))?;
        // Whoever held it may have removed the folder.
        if path.exists() {
            return Ok(Some(Self {
                folder: folder.into(),
                _lock: file,
            }));
        }
        Ok(None)
    }

    /// Reserves the next free address of the set. `set` is its number in the configuration.
    pub fn reserve_next<'r>(
        &self,
        set: usize,
        ranges: &'r RangeSet,
        container_id: &str,
        ifname: &str,
    ) -> Result<(IpAddr, &'r Range), Error> {
        let last = self.last(set)?;
        for (address, range) in ranges.from(last) {
            if self.take(address, container_id, ifname)? {
                self.set_last(set, address)?;
                return Ok((address, range));
            }
        }
        Err(Error::RangeFull {
            range: ranges.text(),
        })
    }

    /// Reserves this very address. One that the link holds already, from an ADD that was killed, is
    /// as good.
    pub fn reserve(&self, address: IpAddr, container_id: &str, ifname: &str) -> Result<(), Error> {
        if self.take(address, container_id, ifname)? {
            return Ok(());
        }
        let owner = self.read(&self.path_of(address), address)?;
        let own = |r: &Reservation| r.container_id == container_id && r.ifname == ifname;
        if owner.as_ref().is_some_and(own) {
            return Ok(());
        }
        Err(Error::AddressTaken {
            address,
            owner: owner.map_or_else(
                || "nobody any more".into(),
                |r| format!("container {}", r.container_id),
            ),
        })
    }

    /// Whether the address was free and is now taken.
    fn take(&self, address: IpAddr, container_id: &str, ifname: &str) -> Result<bool, Error> {
        let path = self.path_of(address);
        if path.exists() {
            return Ok(false);
        }
        // Its content comes first and its name last: no empty file is ever seen. Who has the lock is alone with the other name.
        let text = format!("{container_id}{LINE_BREAK}{ifname}");
        Nameless::write(self.folder.join(NEW), text.as_bytes())
            .and_then(|new| new.claim(&path))
            .map_err(file_error("write", &path))
    }

    /// Frees what the container holds by this link and returns the addresses; nothing held is no
    /// error.
    pub fn release(&self, container_id: &str, ifname: &str) -> Result<Vec<IpAddr>, Error> {
        self.release_if(|r| {
            r.container_id == container_id && (r.ifname == ifname || r.ifname.is_empty())
        })
    }

    /// Frees every reservation that `which` picks.
    pub fn release_if(&self, which: impl Fn(&Reservation) -> bool) -> Result<Vec<IpAddr>, Error> {
        let mut freed = Vec::new();
        for reservation in self.list()?.into_iter().filter(|r| which(r)) {
            let path = self.path_of(reservation.address);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &path)(e));
                }
                _ => freed.push(reservation.address),
            }
        }
        Ok(freed)
    }

    /// The addresses that the container holds by this link.
    pub fn held(&self, container_id: &str, ifname: &str) -> Result<Vec<IpAddr>, Error> {
        let mut all = self.list()?;
        all.retain(|r| r.container_id == container_id && r.ifname == ifname);
        Ok(all.into_iter().map(|r| r.address).collect())
    }

    /// All reservations, in the order of their addresses.
    pub fn list(&self) -> Result<Vec<Reservation>, Error> {
        let failed = || file_error("list", &self.folder);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(failed())? {
            let entry = entry.map_err(failed())?;
            let name = entry.file_name();
            // Everything else (lock, last_reserved_ip.N) is named otherwise.
            let Some(address) = name.to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            all.extend(self.read(&entry.path(), address)?);
        }
        all.sort_by_key(|r| r.address);
        Ok(all)
    }

    /// Deletes the folder if no address is held; says whether it did.
    pub fn remove_if_empty(self) -> Result<bool, Error> {
        if !self.list()?.is_empty() {
            return Ok(false);
        }
        fs::remove_dir_all(&self.folder).map_err(file_error("remove", &self.folder))?;
        Ok(true)
    }

    fn read(&self, path: &Path, address: IpAddr) -> Result<Option<Reservation>, Error> {
        let failed = || file_error("read", path);
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed()(e)),
            Ok(m) if m.len() > MAX_FILE => {
                return Err(Error::Invalid {
                    what: "reservation file",
                    value: path.display().to_string(),
                    reason: format!("has more than {MAX_FILE} bytes"),
                });
            }
            Ok(_) => {}
        }
        let bytes = fs::read(path).map_err(failed())?;
        let text = String::from_utf8_lossy(&bytes);
        let (container_id, ifname) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        Ok(Some(Reservation {
            address,
            container_id: container_id.trim().into(),
            ifname: ifname.trim().into(),
        }))
    }

    fn path_of(&self, address: IpAddr) -> PathBuf {
        self.folder.join(address.to_string())
    }

    fn last(&self, set: usize) -> Result<Option<IpAddr>, Error> {
        let path = self.folder.join(format!("{LAST}{set}"));
        match fs::read_to_string(&path) {
            // A file cut short by a power failure only costs the round robin.
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(file_error("read", &path)(e)),
        }
    }

    fn set_last(&self, set: usize, address: IpAddr) -> Result<(), Error> {
        let path = self.folder.join(format!("{LAST}{set}"));
        let text = address.to_string();
        // Not truncated first: ext4 takes that for a replacement and writes it to the disk (the
        // mount option auto_da_alloc), 10 ms for what may as well be lost.
        let write = || {
            let mut options = File::options();
            let mut file = options
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)?;
            file.write_all(text.as_bytes())?;
            file.set_len(text.len() as u64)
        };
        write().map_err(file_error("write", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nameless::tests::both;

    fn set() -> RangeSet {
        let json = serde_json::json!({"subnet": "10.0.0.0/29"});
        RangeSet::new(vec![
            Range::new(&serde_json::from_value(json).unwrap()).unwrap(),
        ])
        .unwrap()
    }

    #[test]
    fn gives_each_address_once_then_is_full_then_reuses_the_freed_one() {
        both(|dir| {
            let store = Store::open(dir, "n").unwrap();
            // A kill of somebody who had just taken an address.
            fs::write(dir.join("n").join(NEW), "c9\r\neth0").unwrap();
            gives_each_address_once(&store);
            assert!(store.remove_if_empty().unwrap());
        });
    }

    fn gives_each_address_once(store: &Store) {
        let set = set();
        let mut given = Vec::new();
        for i in 0..5 {
            let id = format!("c{i}");
            given.push(
                store
                    .reserve_next(0, &set, &id, "eth0")
                    .unwrap()
                    .0
                    .to_string(),
            );
        }
        assert_eq!(
            given,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        let full = store.reserve_next(0, &set, "c9", "eth0").unwrap_err();
        assert!(matches!(full, Error::RangeFull { range } if range == "10.0.0.1-10.0.0.6"));
        assert!(store.release("c2", "eth1").unwrap().is_empty());
        assert_eq!(store.release("c2", "eth0").unwrap().len(), 1);
        assert!(store.release("c2", "eth0").unwrap().is_empty());
        let again = store.reserve_next(0, &set, "c9", "eth0").unwrap().0;
        assert_eq!(again.to_string(), "10.0.0.4");
        for id in ["c0", "c1", "c3", "c4", "c9"] {
            assert_eq!(store.release(id, "eth0").unwrap().len(), 1, "{id}");
        }
    }

    #[test]
    fn an_address_asked_for_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "n").unwrap();
        let address = "fd00::7".parse().unwrap();
        store.reserve(address, "first", "eth0").unwrap();
        let taken = store.reserve(address, "second", "eth0").unwrap_err();
        assert!(matches!(taken, Error::AddressTaken { owner, .. } if owner == "container first"));
        assert_eq!(store.held("first", "eth0").unwrap(), [address]);
    }

    #[test]
    fn reads_what_the_reference_plugin_writes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "n").unwrap();
        fs::write(dir.path().join("n/10.0.0.9"), "abc\r\neth0").unwrap();
        fs::write(dir.path().join("n/10.0.0.8"), "old").unwrap();
        let all = store.list().unwrap();
        assert_eq!(all[0].container_id, "old");
        assert_eq!(
            (all[1].container_id.as_str(), all[1].ifname.as_str()),
            ("abc", "eth0")
        );
        assert_eq!(store.release("old", "eth0").unwrap().len(), 1);
    }

    #[test]
    fn the_folder_goes_with_its_last_reservation_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), "n").unwrap();
        store
            .reserve("10.0.0.2".parse().unwrap(), "c", "eth0")
            .unwrap();
        assert!(!store.remove_if_empty().unwrap());
        let store = Store::open(dir.path(), "n").unwrap();
        store.release("c", "eth0").unwrap();
        assert!(store.remove_if_empty().unwrap());
        assert!(!dir.path().join("n").exists());
        assert!(Store::open_existing(dir.path(), "n").unwrap().is_none());
    }
}
