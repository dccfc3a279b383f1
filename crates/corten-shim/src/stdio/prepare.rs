//! From what a client wants to descriptors for the process and an [`Io`] for us.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use corten_runtime::Stdio;
use rustix::io::Errno;

use super::logger::Started;
use super::open::{self, End, OpenError, Target};
use super::{Input, Io, Sink};
use crate::attach::Size;
use crate::log::{Log, Stream};

/// What is to be connected.
#[derive(Debug)]
pub struct Plan<'a> {
    pub terminal: bool,
    /// URIs of stdin, stdout, stderr.
    pub uris: [&'a str; 3],
    /// Those that [`open::loggers`] names, started and ready.
    pub loggers: Vec<Started>,
    pub log: Option<Log>,
    /// Whether `attach:` gives the process a standard input.
    pub open_stdin: bool,
    pub stdin_once: bool,
    /// Whether output waits for the first attached client.
    pub await_client: bool,
    /// User and group of the pipes.
    pub owner: (u32, u32),
    pub size: Option<Size>,
    /// Pipes with names, for a process that somebody else starts: this, then `stdin`, `stdout`, `stderr`. A
    /// terminal is then that somebody's, and there is one FIFO for each direction.
    pub fifos: Option<PathBuf>,
}

impl Plan<'_> {
    fn pipe(&self, name: &str, ours: End) -> Result<(OwnedFd, OwnedFd), Errno> {
        match &self.fifos {
            None => open::pipe(ours, self.owner),
            Some(prefix) => open::fifo(&prefixed(prefix, name), ours),
        }
    }
}

/// A path ends in `/` or in the beginning of a name.
fn prefixed(prefix: &Path, name: &str) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(name);
    path.into()
}

/// Half of the way: the process is not there yet.
#[derive(Debug)]
pub struct Prepared {
    pub io: Io,
    /// For a terminal: what its output and input will be joined with.
    sinks: Vec<Sink>,
    input: Option<Source>,
    fifos: Option<PathBuf>,
    terminal: bool,
}

#[derive(Debug)]
struct Source {
    fifo: Option<super::input::Fifo>,
    once: bool,
}

/// Why stdio could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("cannot make the pipes of the process: {0}")]
    Pipe(#[from] Errno),
}

impl PrepareError {
    pub fn kind(&self) -> corten_spec::Kind {
        match self {
            Self::Open(e) => e.kind(),
            Self::Pipe(_) => corten_spec::Kind::Internal,
        }
    }
}

/// Opens everything.
pub fn prepare(mut plan: Plan<'_>) -> Result<(Prepared, Stdio), PrepareError> {
    let [stdin, stdout, stderr] = plan.uris;
    let [out_sink, err_sink] = open::sinks([stdout, stderr], std::mem::take(&mut plan.loggers))?;
    let to_clients = [stdout, stderr].map(|u| matches!(open::parse(u), Ok(Target::Attach)));
    let input = match open::parse(stdin)? {
        Target::Null => None,
        Target::Attach if !plan.open_stdin => None,
        Target::Attach => Some(Source {
            fifo: None,
            once: plan.stdin_once,
        }),
        _ => Some(Source {
            fifo: open::input_fifo(stdin)?,
            once: false,
        }),
    };
    let io = Io {
        awaits_client: plan.await_client && to_clients.contains(&true),
        by_others: plan.fifos.is_some(),
        ..Io::default()
    };
    let mut prepared = Prepared {
        io,
        sinks: Vec::new(),
        input: None,
        fifos: plan.fifos.clone(),
        terminal: plan.terminal,
    };
    let logged = plan.log.is_some();
    prepared.io.log = plan.log.take();
    let foreign_terminal = plan.terminal && plan.fifos.is_some();
    if plan.terminal && !foreign_terminal {
        prepared.sinks = out_sink.into_iter().collect();
        prepared.input = input;
        let size = plan.size.unwrap_or(Size { rows: 0, cols: 0 });
        let (rows, cols) = (size.rows, size.cols);
        return Ok((prepared, Stdio::Terminal { rows, cols }));
    }
    let stdin = match input {
        None => open::null()?,
        Some(source) => {
            let (ours, theirs) = plan.pipe("stdin", End::Write)?;
            let input = Input::new(ours, foreign_terminal, source.fifo, source.once);
            prepared.io.input = Some(input);
            theirs
        }
    };
    let mut output = |stream: Stream, sink: Option<Sink>, attach: bool| -> Result<OwnedFd, Errno> {
        let of_terminal = foreign_terminal && stream == Stream::Stdout;
        let unheard = sink.is_none() && !attach && !logged && !of_terminal;
        if unheard || (foreign_terminal && stream == Stream::Stderr) {
            return open::null();
        }
        let (ours, theirs) = plan.pipe(stream.name(), End::Read)?;
        prepared
            .io
            .add_output(stream, ours, sink.into_iter().collect());
        Ok(theirs)
    };
    let stdout = output(Stream::Stdout, out_sink, to_clients[0])?;
    let stderr = output(Stream::Stderr, err_sink, to_clients[1])?;
    let stdio = Stdio::Fds {
        stdin,
        stdout,
        stderr,
    };
    Ok((prepared, stdio))
}

impl Prepared {
    /// The names of the FIFOs that were made; empty where there is none.
    pub fn fifo_names(&self) -> [String; 3] {
        let has = |stream| self.io.outputs.iter().any(|o| o.stream == stream);
        let made = [
            self.io.input.is_some(),
            has(Stream::Stdout),
            has(Stream::Stderr),
        ];
        let one_output = made[1] != made[2] && !self.terminal;
        let mut names = ["stdin", "stdout", "stderr"].map(String::from);
        for (name, made) in names.iter_mut().zip(made) {
            *name = match (&self.fifos, made) {
                (Some(prefix), true) => prefixed(prefix, name).display().to_string(),
                // Who is given one output wants to open both.
                _ if one_output && name != "stdin" => "/dev/null".into(),
                _ => String::new(),
            };
        }
        names
    }

    /// The process is there; a terminal's master joins what was opened for it.
    pub fn finish(mut self, console: Option<OwnedFd>) -> Result<Io, PrepareError> {
        let Some(console) = console else {
            return Ok(self.io);
        };
        open::unblock(&console)?;
        let again = || rustix::io::fcntl_dupfd_cloexec(&console, 3);
        self.io.add_output(Stream::Stdout, again()?, self.sinks);
        if let Some(source) = self.input {
            let input = Input::new(again()?, true, source.fifo, source.once);
            self.io.input = Some(input);
        }
        self.io.console = Some(console);
        Ok(self.io)
    }
}
