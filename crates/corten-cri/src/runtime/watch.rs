//! How the world tells us of ends: exit records that supervisors write into one folder, and supervisors that end themselves.
//! Nothing is polled: an idle node wakes nobody.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid};
use tokio::io::unix::AsyncFd;

use super::Shared;
use super::book::PodEntry;
use crate::readable::readable;

/// A folder whose new files are told by name.
pub struct Folder(AsyncFd<OwnedFd>);

impl Folder {
    pub fn watch(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Files are renamed into it, whole.
        inotify::add_watch(&fd, path, WatchFlags::MOVED_TO)?;
        Ok(Self(readable(fd)?))
    }

    /// The next names; `None`: some were lost, and the whole folder is to be looked at.
    pub async fn next(&self) -> io::Result<Option<Vec<String>>> {
        loop {
            let mut ready = self.0.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 8192];
            let mut reader = inotify::Reader::new(self.0.get_ref(), &mut buffer);
            let mut names = Vec::new();
            loop {
                match reader.next() {
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                        return Ok(None);
                    }
                    Ok(event) => {
                        let name = event.file_name().map(|n| n.to_string_lossy().into_owned());
                        names.extend(name);
                    }
                    Err(Errno::INTR) => continue,
                    Err(Errno::AGAIN) => break,
                    Err(errno) => return Err(errno.into()),
                }
                if reader.is_buffer_empty() && !names.is_empty() {
                    return Ok(Some(names));
                }
            }
            ready.clear_ready();
            if !names.is_empty() {
                return Ok(Some(names));
            }
        }
    }
}

impl Shared {
    /// Hears of exits for as long as the server runs.
    pub(super) async fn watch_exits(self: Arc<Self>, folder: Folder) {
        loop {
            match folder.next().await {
                Ok(Some(names)) => {
                    for name in names {
                        self.exited(&name).await;
                    }
                }
                Ok(None) => {
                    for container in self.book.containers() {
                        self.exited(container.id.as_str()).await;
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "exits of containers can no longer be watched");
                    return;
                }
            }
        }
    }

    /// Hears of the end of what holds a pod: its supervisor, and the first of its processes, if it has one.
    pub(super) fn watch_supervisor(self: &Arc<Self>, pod: &Arc<PodEntry>) {
        let run = pod.now().pod.record.run.clone().unwrap_or_default();
        let pid = |number: u32| Pid::from_raw(number as i32);
        let Some(supervisor) = pid(run.shim) else {
            return;
        };
        let (watched, first) = (hold(supervisor), pid(run.pid).map(hold));
        let (shared, pod) = (self.clone(), pod.clone());
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = end_of(watched) => ended,
                ended = async {
                    match first {
                        Some(first) => end_of(first).await,
                        None => std::future::pending().await,
                    }
                } => ended,
            };
            if let Err(error) = ended {
                tracing::error!(%error, pod = pod.id.as_str(), "a supervisor cannot be watched");
                return;
            }
            // If it was our child, and has ended.
            let _reaped = waitpid(Some(supervisor), WaitOptions::NOHANG);
            shared.supervisor_ended(&pod).await;
        });
    }
}

fn hold(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    readable(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

async fn end_of(process: io::Result<AsyncFd<OwnedFd>>) -> io::Result<()> {
    match process {
        Ok(fd) => fd.readable().await.map(drop),
        // It has gone already.
        Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(()),
        Err(error) => Err(error),
    }
}
