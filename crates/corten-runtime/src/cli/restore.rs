//! `restore`: like `run`, with the processes of a checkpoint.

use std::ffi::OsString;

use super::checkpoint::{SHARED, images};
use super::create::{bundle, process, socket};
use super::options::{End, Known, flag, parse, value};
use super::process::{Console, console, hand_over, pid_file, stdio};
use super::{Context, Failure, foreground, id};
use crate::{Create, Execed, Options, Restore, Rootfs};

const USAGE: &str = "usage: corten-oci restore [OPTION...] CONTAINER-ID

Makes a container of a checkpoint's files, by criu, and waits for its end.

  -b, --bundle DIR            the bundle (default: .)
  -d, --detach                do not wait
  --console-socket PATH       where the terminal goes
  --pid-file FILE             where init's process id goes
  --image-path DIR            where the files are (default: ./checkpoint)
  --work-path DIR             where criu works and logs (default: the image path)
  --tcp-established           keep established TCP connections
  --ext-unix-sk               allow connections to Unix sockets outside
  --shell-job                 the container's terminal is that of its caller
  --file-locks                keep file locks
  --link-remap                link deleted files that are open back into their folders
  --lazy-pages                get memory when it is touched, from criu's lazy-pages
  --manage-cgroups-mode MODE  soft, full, strict or ignore
  --empty-ns network          restore this namespace without content (always so)
  --auto-dedup                drop pages from the images once they are restored
  --lsm-profile TYPE:NAME     use this profile instead of the processes' own
  --lsm-mount-context TEXT    use this SELinux context for mounts
  --no-pivot                  for a host whose root is an initramfs
  --no-new-keyring            keep the caller's session keyring
  --keep                      do not delete the container after its end
  --no-subreaper              never done: there is nothing to reap but init
";

const OWN: [Known; 11] = [
    value("bundle").or('b'),
    flag("detach").or('d'),
    value("console-socket"),
    value("pid-file"),
    value("lsm-profile"),
    value("lsm-mount-context"),
    flag("no-pivot"),
    flag("no-new-keyring"),
    flag("keep"),
    // We never become one.
    flag("no-subreaper"),
    flag("help").or('h'),
];

pub(super) fn restore(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let table = [&SHARED[..], &OWN[..]].concat();
    let parsed = parse(args, &table, End::Never)?;
    if parsed.has("help") {
        print!("{USAGE}");
        return Ok(0);
    }
    let id = id(&parsed)?;
    let images = images(&parsed)?;
    let text = |name| parsed.get(name).filter(|t| !t.is_empty()).map(String::from);
    let bundle = bundle(&parsed)?;
    let process = process(&bundle.spec)?;
    let detached = parsed.has("detach");
    let console = console(process, parsed.get("console-socket"), detached)?;
    let socket = socket(console)?;
    let signals = match detached {
        true => None,
        false => Some(foreground::Signals::catch()?),
    };
    let restored = crate::restore(Restore {
        create: Create {
            id: &id,
            bundle: &bundle.path,
            spec: &bundle.spec,
            state_root: &context.root,
            rootfs: Rootfs::Bundle,
            stdio: stdio(console, process),
            options: Options {
                no_pivot: parsed.has("no-pivot"),
                no_new_keyring: parsed.has("no-new-keyring"),
                systemd_cgroup: context.systemd_cgroup,
                ..Options::default()
            },
        },
        images: &images,
        lsm_profile: text("lsm-profile"),
        lsm_mount_context: text("lsm-mount-context"),
    })?;
    restored
        .warnings
        .iter()
        .for_each(|w| context.log.warning(w));
    let follow = || -> Result<u8, Failure> {
        let own = terminal(&restored, console, socket.as_ref())?;
        pid_file(parsed.get("pid-file"), restored.pid)?;
        match &signals {
            None => Ok(0),
            Some(signals) => foreground::follow(&restored.pidfd, own, signals),
        }
    };
    let status = follow();
    if (!detached && !parsed.has("keep")) || status.is_err() {
        let warnings = crate::delete(&context.root, &id, true)?;
        warnings.iter().for_each(|w| context.log.warning(w));
    }
    status
}

/// Hands the terminal over, or is its other end.
fn terminal<'a>(
    restored: &'a Execed,
    console: Console<'_>,
    socket: Option<&std::os::fd::OwnedFd>,
) -> Result<Option<&'a std::os::fd::OwnedFd>, Failure> {
    match (console, socket, &restored.console) {
        (Console::None, ..) => Ok(None),
        (Console::Socket(_), Some(socket), Some(master)) => {
            hand_over(socket, master)?;
            Ok(None)
        }
        (Console::Own, _, Some(master)) => Ok(Some(master)),
        // Restored as a job of our own terminal, it has no master of ours.
        (Console::Own, _, None) => Ok(None),
        (Console::Socket(_), ..) => Err(Failure::Refused(
            "the restored container has no terminal for --console-socket",
        )),
    }
}
