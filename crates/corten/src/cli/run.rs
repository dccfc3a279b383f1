//! `corten run` and `corten create`.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use corten_engine::container::Container;
use corten_engine::image::{Progress, PullOptions, PullPolicy};
use corten_engine::{Engine, Error};
use corten_registry::client::ClientConfig;
use corten_spec::Platform;

use super::Global;
use super::container_flags::ContainerFlags;
use crate::failure::Failure;
use crate::output::{self, progress};
use crate::session::Session;

/// Run a command in a new container
#[derive(clap::Args)]
pub struct RunArgs {
    /// Leave the container running and print its id
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    flags: ContainerFlags,
}

/// Make a container without starting it, and print its id
#[derive(clap::Args)]
pub struct CreateArgs {
    #[command(flatten)]
    flags: ContainerFlags,
}

pub fn run(global: &Global, args: RunArgs) -> Result<ExitCode, Failure> {
    let engine = global.engine()?;
    let container = make(&engine, &args.flags, args.detach)?;
    if args.detach {
        let started = engine.prepare(&container).and_then(|p| p.start());
        match started {
            Ok(_) => output::line(&container.id)?,
            Err(e) => return Err(not_started(&engine, &container, e)),
        }
        return Ok(ExitCode::SUCCESS);
    }
    foreground(&engine, &container, args.flags.interactive)
}

/// Starts a container with our stdio, stays until it ends, and ends as it did.
pub fn foreground(
    engine: &Engine,
    container: &Container,
    stdin: bool,
) -> Result<ExitCode, Failure> {
    let mut prepared = match engine.prepare(container) {
        Ok(p) => p,
        Err(e) => return Err(not_started(engine, container, e)),
    };
    let tty = container.record.options.process.tty;
    // `start -i` of a container that was made without `-i`: it has no stdin to give to.
    let stdin = stdin && container.record.options.process.open_stdin;
    let streams = match prepared.attach(stdin) {
        Ok(streams) => streams,
        Err(e) => {
            drop(prepared);
            return Err(not_started(engine, container, e));
        }
    };
    // Dropped with an error, `prepared` takes the container down again.
    let session = Session::new(streams, tty, stdin)?;
    let mut shim = match prepared.start() {
        Ok(shim) => shim,
        Err(e) => return Err(not_started(engine, container, e)),
    };
    // For this end, not for one of a run after it. Where its supervisor has gone, the record tells.
    let waiting = shim.begin_wait("").ok();
    let ended = session.run(engine.controller(container))?;
    if ended.detached {
        return Ok(ExitCode::SUCCESS);
    }
    let status = engine.finish(container, shim, waiting)?;
    if container.record.options.auto_remove {
        engine.sweep()?;
    }
    Ok(ExitCode::from(status.min(255) as u8))
}

/// docker keeps a container that could not be started, but for `--rm`.
fn not_started(engine: &Engine, container: &Container, error: Error) -> Failure {
    if container.record.options.auto_remove {
        // The first error is the one to tell; what stays has a row, and `system check` finds it.
        let _removed = engine.remove(container, true, true);
    }
    error.into()
}

pub fn create(global: &Global, args: CreateArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let container = make(&engine, &args.flags, false)?;
    Ok(output::line(&container.id)?)
}

fn make(engine: &Engine, flags: &ContainerFlags, detach: bool) -> Result<Container, Failure> {
    let mut options = flags.options(engine.config())?;
    // Who comes to a detached container later may come and go.
    options.process.stdin_once &= !detach;
    let cidfile = flags.cidfile.as_deref().map(reserve).transpose()?;
    let made = (|| {
        ensure_image(engine, flags.image(), flags.pull)?;
        let container = engine.create(options)?;
        if let Some(mut file) = cidfile {
            file.write_all(container.id.as_str().as_bytes())?;
        }
        Ok(container)
    })();
    if let (Err(_), Some(path)) = (&made, &flags.cidfile) {
        // It is ours and empty.
        let _gone = std::fs::remove_file(path);
    }
    made
}

/// The file is taken before anything else is made, so that a refusal leaves nothing.
fn reserve(path: &Path) -> Result<std::fs::File, Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).open(path);
    opened.map_err(|e| {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot make the container id file {0}")]
        struct CidFile(String, #[source] io::Error);
        Failure::hinted(
            CidFile(path.display().to_string(), e),
            "remove the file, or name another",
        )
    })
}

/// Pulls the image where the policy says so.
fn ensure_image(engine: &Engine, name: &str, policy: PullPolicy) -> Result<(), Failure> {
    let here = match engine.image(name) {
        Ok(_) => true,
        Err(Error::ImageMissing { .. }) => false,
        Err(e) => return Err(e.into()),
    };
    match (policy, here) {
        (PullPolicy::Never, false) => Err(Error::ImageMissing { name: name.into() }.into()),
        (PullPolicy::Never | PullPolicy::Missing, true) => Ok(()),
        (PullPolicy::Always, _) | (PullPolicy::Missing, false) => {
            pull(engine, name, Platform::host(), false).map(|_| ())
        }
    }
}

/// Pulls with progress on stderr.
pub fn pull(
    engine: &Engine,
    name: &str,
    platform: Platform,
    quiet: bool,
) -> Result<corten_store::ImageRecord, Failure> {
    let reference = name.parse().map_err(Error::from)?;
    let progress: Arc<dyn Progress> = match quiet {
        true => Arc::new(progress::Quiet),
        false => Arc::new(progress::Bars::new()),
    };
    let options = PullOptions {
        reference,
        platform,
        client: ClientConfig::load(engine.paths().etc()),
    };
    Ok(engine.pull(options, progress)?)
}
