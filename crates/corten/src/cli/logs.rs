//! `corten logs`.

use std::io::{self, Write};

use corten_engine::container::logs::{Entry, LogOptions, Stream};

use super::{Global, value};
use crate::failure::Failure;

/// Print what a container has written
///
/// With --follow, up to the container's end: one that its restart policy starts again has not ended.
#[derive(clap::Args)]
pub struct Args {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Print only so many lines from the end, or all
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Print nothing from before a time: 2026-11-23T14:46:41Z, a date, seconds since 1970, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    since: Option<i64>,
    /// Print nothing from after a time
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    until: Option<i64>,
    /// Put the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// The container, by name or id
    container: String,
}

/// A number of lines, or all of them.
#[derive(Clone, Copy, Debug)]
struct Tail(Option<usize>);

fn tail(s: &str) -> Result<Tail, String> {
    match s {
        "all" => Ok(Tail(None)),
        s => s
            .parse()
            .map(|n| Tail(Some(n)))
            .map_err(|_| "it is a number of lines, or all".into()),
    }
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let container = engine.container(&args.container)?;
    let options = LogOptions {
        follow: args.follow,
        tail: args.tail.0,
        since: args.since,
        until: args.until,
    };
    let mut failed = None;
    let mut line_starts = true;
    engine.logs(&container, &options, |entry| {
        let stamp = args.timestamps && line_starts;
        line_starts = entry.whole;
        match print(&entry, stamp) {
            Ok(()) => true,
            Err(e) => {
                failed = Some(e);
                false
            }
        }
    })?;
    match failed {
        // The reader has seen enough (`corten logs x | head`).
        Some(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// To the stream that the container wrote to.
fn print(entry: &Entry, stamp: bool) -> io::Result<()> {
    let mut text = Vec::with_capacity(entry.text.len() + 40);
    if stamp {
        text.extend_from_slice(entry.time.as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(&entry.text);
    if entry.whole {
        text.push(b'\n');
    }
    match entry.stream {
        Stream::Stdout => {
            let mut out = io::stdout().lock();
            out.write_all(&text)?;
            // Stdout buffers by line only where a line ends.
            if entry.whole { Ok(()) } else { out.flush() }
        }
        Stream::Stderr => io::stderr().write_all(&text),
    }
}
