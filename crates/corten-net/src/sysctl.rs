//! Kernel settings below `/proc/sys/net`, of the calling thread's network namespace. Written
//! only where they differ: a write to `forwarding` walks every link of the host.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::Error;

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(key)
}

/// The value of `ipv4/ip_forward` and so on; `None` where this kernel or link has none.
pub(crate) fn read(key: &str) -> Result<Option<String>, Error> {
    match fs::read_to_string(path(key)) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File {
            action: "read",
            path: path(key),
            source,
        }),
    }
}

/// Makes the setting `value`.
pub(crate) fn set(key: &str, value: &str) -> Result<(), Error> {
    if read(key)?.as_deref() == Some(value) {
        return Ok(());
    }
    fs::write(path(key), value).map_err(|source| Error::File {
        action: "write",
        path: path(key),
        source,
    })
}

/// Whether this kernel has IPv6.
pub(crate) fn has_ipv6() -> bool {
    path("ipv6").exists()
}

/// Lets the host route between its links.
pub(crate) fn forward(v4: bool) -> Result<(), Error> {
    if v4 {
        return set("ipv4/ip_forward", "1");
    }
    if read("ipv6/conf/all/forwarding")?.as_deref() == Some("1") {
        return Ok(());
    }
    // A router ignores router advertisements (accept_ra = 1 means "if not forwarding"): the
    // host would lose its default route when it expires.
    let links = fs::read_dir(path("ipv6/conf")).map_err(|source| Error::File {
        action: "list",
        path: path("ipv6/conf"),
        source,
    })?;
    for link in links.flatten() {
        let link = link.file_name();
        // Links to come keep the kernel's default: a container must not advertise to the host
        // (CVE-2020-10749).
        if link == "all" || link == "default" {
            continue;
        }
        let key = format!("ipv6/conf/{}/accept_ra", link.to_string_lossy());
        if read(&key)?.as_deref() == Some("1") {
            set(&key, "2")?;
        }
    }
    set("ipv6/conf/all/forwarding", "1")
}
