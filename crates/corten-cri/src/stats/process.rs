//! What a container's processes hold: their number, descriptors and sockets.

use std::fs;
use std::path::PathBuf;

/// Counted one by one, so only for those who ask for metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Processes {
    pub count: u64,
    pub descriptors: u64,
    pub sockets: u64,
    /// How many files the first may open, if there is a limit.
    pub max_files: Option<u64>,
}

impl Processes {
    /// Of these processes, the container's first one in front. One that ends meanwhile is not counted.
    pub fn read(pids: &[i32]) -> Self {
        let mut found = Self::default();
        for pid in pids {
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
                continue;
            };
            found.count += 1;
            for entry in entries.filter_map(Result::ok) {
                found.descriptors += 1;
                let target: PathBuf = fs::read_link(entry.path()).unwrap_or_default();
                found.sockets += u64::from(target.to_string_lossy().starts_with("socket:"));
            }
        }
        let limits = pids.first().map(|pid| format!("/proc/{pid}/limits"));
        let limits = limits.and_then(|path| fs::read_to_string(path).ok());
        found.max_files = limits.as_deref().and_then(max_files);
        found
    }
}

/// The soft limit: `Max open files            1024                 524288               files`.
fn max_files(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"));
    line?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn our_own_sockets_are_counted() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = Processes::read(&[own]);
        let _sockets = [(); 3].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
        let after = Processes::read(&[own, i32::MAX]);
        assert_eq!((before.count, after.count), (1, 1));
        assert_eq!(after.sockets, before.sockets + 3);
        assert!(after.descriptors >= before.descriptors + 3);
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert_eq!(after.max_files, limit);
        assert_eq!(Processes::read(&[]), Processes::default());
    }
}
