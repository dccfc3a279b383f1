//! `checkpoint`, and the options that it shares with `restore`.

use std::ffi::OsString;
use std::path::PathBuf;

use super::options::{End, Known, Parsed, UsageError, flag, parse, value};
use super::{Context, Failure, id};
use crate::{Checkpoint, Images, ManageCgroups};

const USAGE: &str = "usage: corten-oci checkpoint [OPTION...] CONTAINER-ID

Writes a running container's processes to files, by criu, and stops it.

  --image-path DIR            where the files go (default: ./checkpoint)
  --work-path DIR             where criu works and logs (default: the image path)
  --parent-path DIR           an earlier pre-dump, relative to the image path
  --leave-running             let the container run on
  --pre-dump                  write its memory only, and let it run on
  --tcp-established           keep established TCP connections
  --tcp-skip-in-flight        drop TCP connections that are not established yet
  --ext-unix-sk               allow connections to Unix sockets outside
  --shell-job                 the container's terminal is that of its caller
  --file-locks                keep file locks
  --link-remap                link deleted files that are open back into their folders
  --lazy-pages                serve memory to a restore that asks for it
  --status-fd N               write a null byte there when lazy pages can be asked for
  --page-server ADDRESS:PORT  send memory there
  --manage-cgroups-mode MODE  soft, full, strict or ignore
  --empty-ns network          restore this namespace without content (always so)
  --auto-dedup                drop pages from older images that are written again
";

/// Of both commands.
pub(super) const SHARED: [Known; 11] = [
    value("image-path"),
    value("work-path"),
    flag("tcp-established"),
    flag("ext-unix-sk"),
    flag("shell-job"),
    flag("file-locks"),
    flag("link-remap"),
    flag("lazy-pages"),
    flag("auto-dedup"),
    value("manage-cgroups-mode"),
    value("empty-ns"),
];

const OWN: [Known; 7] = [
    value("parent-path"),
    flag("leave-running"),
    flag("tcp-skip-in-flight"),
    value("status-fd"),
    value("page-server"),
    flag("pre-dump"),
    // Engines ask so whether there is such a command.
    flag("help").or('h'),
];

pub(super) fn checkpoint(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let table = [&SHARED[..], &OWN[..]].concat();
    let parsed = parse(args, &table, End::Never)?;
    if parsed.has("help") {
        print!("{USAGE}");
        return Ok(0);
    }
    let id = id(&parsed)?;
    let images = images(&parsed)?;
    crate::checkpoint(Checkpoint {
        id: &id,
        state_root: &context.root,
        images: &images,
        leave_running: parsed.has("leave-running"),
        pre_dump: parsed.has("pre-dump"),
        parent: path(&parsed, "parent-path"),
        tcp_skip_in_flight: parsed.has("tcp-skip-in-flight"),
        page_server: page_server(&parsed)?,
        status_fd: status_fd(&parsed)?,
    })?;
    context.log.debug(&format!("container {id} checkpointed"));
    Ok(0)
}

fn path(parsed: &Parsed, name: &str) -> Option<PathBuf> {
    parsed
        .get(name)
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
}

/// The shared options.
pub(super) fn images(parsed: &Parsed) -> Result<Images, Failure> {
    let mode = parsed.get("manage-cgroups-mode").unwrap_or_default();
    let manage_cgroups: ManageCgroups = mode.parse().map_err(|()| UsageError::Bad {
        name: "manage-cgroups-mode",
        text: mode.into(),
        must: "soft, full, strict or ignore",
    })?;
    if let Some(other) = parsed.all("empty-ns").find(|kind| *kind != "network") {
        return Err(UsageError::Bad {
            name: "empty-ns",
            text: other.into(),
            must: "network",
        }
        .into());
    }
    Ok(Images {
        program: None,
        path: path(parsed, "image-path").unwrap_or_else(|| "checkpoint".into()),
        work: path(parsed, "work-path"),
        tcp_established: parsed.has("tcp-established"),
        ext_unix_sk: parsed.has("ext-unix-sk"),
        shell_job: parsed.has("shell-job"),
        file_locks: parsed.has("file-locks"),
        link_remap: parsed.has("link-remap"),
        auto_dedup: parsed.has("auto-dedup"),
        lazy_pages: parsed.has("lazy-pages"),
        manage_cgroups,
    })
}

/// `ADDRESS:PORT`, and `[ADDRESS]:PORT` for those with colons of their own.
fn page_server(parsed: &Parsed) -> Result<Option<(String, u16)>, Failure> {
    let Some(text) = parsed.get("page-server").filter(|t| !t.is_empty()) else {
        return Ok(None);
    };
    let split = || {
        let (address, port) = text.rsplit_once(':')?;
        let address = match address.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']')?,
            None if address.contains(':') => return None,
            None => address,
        };
        let port = port.parse().ok().filter(|port| *port != 0)?;
        (!address.is_empty()).then(|| (address.to_owned(), port))
    };
    match split() {
        Some(server) => Ok(Some(server)),
        None => Err(UsageError::Bad {
            name: "page-server",
            text: text.into(),
            must: "ADDRESS:PORT",
        }
        .into()),
    }
}

/// A descriptor of our caller's, opened once more: ours to write to, and its own stays as it is.
fn status_fd(parsed: &Parsed) -> Result<Option<std::os::fd::OwnedFd>, Failure> {
    let Some(number) = parsed.number::<i32>("status-fd")?.filter(|n| *n >= 0) else {
        return Ok(None);
    };
    let path = PathBuf::from(format!("/proc/self/fd/{number}"));
    let file = std::fs::OpenOptions::new().write(true).open(&path);
    file.map(|file| Some(file.into()))
        .map_err(|source| Failure::File {
            what: "write to the status fd",
            path,
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(text: &str) -> Option<(String, u16)> {
        let args = ["--page-server", text].map(OsString::from);
        page_server(&parse(args, &OWN, End::Never).unwrap()).ok()?
    }

    #[test]
    fn page_servers() {
        assert_eq!(server("10.0.0.1:27"), Some(("10.0.0.1".into(), 27)));
        assert_eq!(server("[::1]:9"), Some(("::1".into(), 9)));
        assert_eq!(server("localhost:80"), Some(("localhost".into(), 80)));
        for bad in [":1", "a", "a:", "a:0", "a:65536", "::1:9", "[::1:9", "[]:9"] {
            assert_eq!(server(bad), None, "{bad}");
        }
    }

    #[test]
    fn modes_and_namespaces_are_checked() {
        let images = |args: &[&str]| {
            let args = args.iter().map(OsString::from);
            images(&parse(args, &SHARED, End::Never).unwrap()).map_err(|e| e.to_string())
        };
        let given = images(&["--manage-cgroups-mode", "strict", "--empty-ns", "network"]).unwrap();
        assert_eq!(given.manage_cgroups, ManageCgroups::Strict);
        assert_eq!(given.path, PathBuf::from("checkpoint"));
        let mode = images(&["--manage-cgroups-mode", "loose"]).unwrap_err();
        assert!(mode.contains("soft, full, strict or ignore"), "{mode}");
        let kind = images(&["--empty-ns", "ipc"]).unwrap_err();
        assert!(kind.contains("must be network"), "{kind}");
    }
}
