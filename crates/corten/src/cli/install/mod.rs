//! `corten system install`: links and files by which others (containerd, podman, systemd, kubelet) find this executable.
//!
//! First all is planned and looked at, then written: whoever is told of a file of somebody else finds nothing changed.

mod kubernetes;
mod units;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Global;
use crate::failure::Failure;
use crate::output;

/// Where systemd looks for an administrator's units.
const UNITS: &str = "/etc/systemd/system";
/// How a file of ours begins; one that begins so may be replaced.
const MARK: &str = "# Written by 'corten system install'.";

/// Lay the links by which containerd, podman and CNI runtimes call this executable, and set a node up for Kubernetes
///
/// Prints what it lays. What is there already and the same is left; what somebody else has put there is named, and then nothing at all is
/// laid.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for corten-oci and containerd-shim-corten-v2
    #[arg(long, value_name = "DIR", default_value = "/usr/local/bin")]
    bin: PathBuf,
    /// Folder for the CNI plugins (bridge, host-local, portmap and so on); none are laid without it
    #[arg(long, value_name = "DIR")]
    cni: Option<PathBuf>,
    /// Folder for units: corten-restart.service and .timer, which run 'system start', and corten.service and .socket, which run 'serve'; none
    /// are laid without it
    #[arg(long, value_name = "DIR")]
    systemd: Option<PathBuf>,
    /// Also what kubelet needs: a drop-in of its configuration with our socket and control groups, its unit's order after ours, and crictl's
    /// settings; units go to /etc/systemd/system, if --systemd names no other folder
    #[arg(long)]
    kubernetes: bool,
    /// Write below this folder, as if it were /
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// Only print what would be laid, files with their text
    #[arg(long)]
    dry_run: bool,
}

/// Something to be laid.
#[derive(Debug, PartialEq, Eq)]
enum Item {
    Link { at: PathBuf, to: PathBuf },
    File { at: PathBuf, text: String },
}

/// What is where an item goes.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Same,
    /// An older text of ours.
    Ours,
    Others,
}

#[derive(Debug, thiserror::Error)]
enum InstallError {
    #[error("{} is somebody else's", .0.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", "))]
    Others(Vec<PathBuf>),
    #[error("cannot {doing} {path:?}")]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl InstallError {
    fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}

impl From<InstallError> for Failure {
    fn from(error: InstallError) -> Self {
        let hint = match error {
            InstallError::Others(_) => "remove what is there, or name another folder",
            InstallError::Io { .. } => "name a folder that can be written to",
        };
        Self::hinted(error, hint)
    }
}

pub fn run(global: &Global, args: &Args) -> Result<(), Failure> {
    let plan = plan(global, args)?;
    let mut todo = Vec::new();
    let mut others = Vec::new();
    for item in plan {
        match item.found()? {
            Found::Same => {}
            Found::Others => others.push(item.at().to_owned()),
            found => todo.push((item, found)),
        }
    }
    if !others.is_empty() {
        return Err(InstallError::Others(others).into());
    }
    for (item, found) in &todo {
        if args.dry_run {
            item.show()?;
            continue;
        }
        item.lay()?;
        match found {
            Found::Ours => output::line(format!("{} (replaced)", item.at().display()))?,
            _ => output::line(item.at().display())?,
        }
    }
    if args.kubernetes {
        eprintln!("hint: {}", kubernetes::NEXT);
    }
    Ok(())
}

fn plan(global: &Global, args: &Args) -> Result<Vec<Item>, Failure> {
    let executable = std::env::current_exe()?;
    let mut plan: Vec<Item> = ["corten-oci", "containerd-shim-corten-v2"]
        .map(|name| link(&args.bin, name, &executable))
        .into();
    if let Some(folder) = &args.cni {
        let names = corten_net::plugin::NAMES.iter();
        plan.extend(names.map(|name| link(folder, name, &executable)));
    }
    let default = args.kubernetes.then(|| PathBuf::from(UNITS));
    let systemd = args.systemd.clone().or(default);
    if let Some(folder) = &systemd {
        plan.extend(units::plan(global, folder)?);
        if args.kubernetes {
            plan.extend(kubernetes::plan(global, folder)?);
        }
    }
    if let Some(prefix) = &args.prefix {
        for item in &mut plan {
            item.below(prefix);
        }
    }
    Ok(plan)
}

fn link(folder: &Path, name: &str, executable: &Path) -> Item {
    Item::Link {
        at: folder.join(name),
        to: executable.to_owned(),
    }
}

/// A file that tells whose it is.
fn file(at: PathBuf, text: &str) -> Item {
    Item::File {
        at,
        text: format!("{MARK} Changes are lost when it writes the file again.\n{text}"),
    }
}

impl Item {
    fn at(&self) -> &Path {
        match self {
            Self::Link { at, .. } | Self::File { at, .. } => at,
        }
    }

    fn below(&mut self, prefix: &Path) {
        let (Self::Link { at, .. } | Self::File { at, .. }) = self;
        let relative = at.strip_prefix("/").unwrap_or(at);
        *at = prefix.join(relative);
    }

    fn found(&self) -> Result<Found, InstallError> {
        let read = match self {
            Self::Link { at, to } => fs::read_link(at).map(|there| there == *to).or_else(|e| {
                // It is there, and no link.
                match e.kind() {
                    io::ErrorKind::InvalidInput => Ok(false),
                    _ => Err(e),
                }
            }),
            Self::File { at, text } => match fs::read_to_string(at) {
                Ok(there) if there.starts_with(MARK) && there != *text => return Ok(Found::Ours),
                read => read.map(|there| there == *text),
            },
        };
        match read {
            Ok(true) => Ok(Found::Same),
            Ok(false) => Ok(Found::Others),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(Found::Others),
            Err(e) => Err(InstallError::io("read", self.at())(e)),
        }
    }

    /// A file of ours is replaced whole, or not at all.
    fn lay(&self) -> Result<(), InstallError> {
        if let Some(folder) = self.at().parent() {
            fs::create_dir_all(folder).map_err(InstallError::io("make folder", folder))?;
        }
        match self {
            Self::Link { at, to } => symlink(to, at).map_err(InstallError::io("lay the link", at)),
            Self::File { at, text } => {
                let mut name = at.file_name().unwrap_or_default().to_owned();
                name.push(".new");
                let new = at.with_file_name(name);
                let written = fs::File::create(&new).and_then(|mut f| {
                    f.write_all(text.as_bytes())?;
                    f.sync_all()
                });
                written.map_err(InstallError::io("write", &new))?;
                fs::rename(&new, at).map_err(InstallError::io("write", at))
            }
        }
    }

    fn show(&self) -> io::Result<()> {
        match self {
            Self::Link { at, to } => output::line(format!("{} -> {}", at.display(), to.display())),
            Self::File { at, text } => {
                output::line(format!("{}:", at.display()))?;
                for line in text.lines() {
                    output::line(format!("    {line}").trim_end())?;
                }
                Ok(())
            }
        }
    }
}
