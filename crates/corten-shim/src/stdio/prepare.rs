//! From what a client wants to descriptors for the process and an [`Io`] for us.

use std::os::fd::OwnedFd;

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
}

/// Half of the way: the process is not there yet.
#[derive(Debug)]
pub struct Prepared {
    pub io: Io,
    /// For a terminal: what its output and input will be joined with.
    sinks: Vec<Sink>,
    input: Option<Source>,
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
pub fn prepare(plan: Plan<'_>) -> Result<(Prepared, Stdio), PrepareError> {
    let [stdin, stdout, stderr] = plan.uris;
    let [out_sink, err_sink] = open::sinks([stdout, stderr], plan.loggers)?;
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
        ..Io::default()
    };
    let mut prepared = Prepared {
        io,
        sinks: Vec::new(),
        input: None,
    };
    let logged = plan.log.is_some();
    prepared.io.log = plan.log;
    if plan.terminal {
        prepared.sinks = out_sink.into_iter().collect();
        prepared.input = input;
        let size = plan.size.unwrap_or(Size { rows: 0, cols: 0 });
        let (rows, cols) = (size.rows, size.cols);
        return Ok((prepared, Stdio::Terminal { rows, cols }));
    }
    let stdin = match input {
        None => open::null()?,
        Some(source) => {
            let (ours, theirs) = open::pipe(End::Write, plan.owner)?;
            prepared.io.input = Some(Input::new(ours, false, source.fifo, source.once));
            theirs
        }
    };
    let mut output = |stream: Stream, sink: Option<Sink>, attach: bool| -> Result<OwnedFd, Errno> {
        if sink.is_none() && !attach && !logged {
            return open::null();
        }
        let (ours, theirs) = open::pipe(End::Read, plan.owner)?;
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
