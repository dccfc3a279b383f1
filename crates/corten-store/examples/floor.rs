//! `floor FOLDER THREADS HOST:PORT REPOSITORY DIGEST...`: what a pull cannot be faster than.
//!
//! Each blob is fetched by plain HTTP, hashed, inflated, hashed again, written to one file and synced; nothing is kept of it
//! that a store would keep, and nothing is looked at. The largest should come first. Prints seconds, CPU seconds, and bytes.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use corten_spec::Digest;
use corten_spec::digest::Hasher;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, threads, host, repository, digests @ ..] = args.as_slice() else {
        return Err("usage: floor FOLDER THREADS HOST:PORT REPOSITORY DIGEST...".into());
    };
    let queue = Mutex::new(digests.iter());
    let bytes = Mutex::new(0);
    let start = Instant::now();
    std::thread::scope(|s| {
        let work = || -> Outcome<()> {
            loop {
                let next = queue.lock().map_err(|_| "a thread failed")?.next();
                let Some(digest) = next else { return Ok(()) };
                let n = one(Path::new(folder), host, repository, digest)?;
                *bytes.lock().map_err(|_| "a thread failed")? += n;
            }
        };
        let all: Vec<_> = (0..threads.parse()?).map(|_| s.spawn(work)).collect();
        all.into_iter()
            .try_for_each(|t| t.join().map_err(|_| "a thread failed")?)
    })?;
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    println!(
        "{:.3} {:.3} {}",
        start.elapsed().as_secs_f64(),
        cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
        bytes.lock().map_err(|_| "a thread failed")?,
    );
    Ok(())
}

/// Through the hash on its way.
struct Hashed<R> {
    source: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(out)?;
        self.hasher.update(&out[..n]);
        Ok(n)
    }
}

fn one(folder: &Path, host: &str, repository: &str, digest: &str) -> Outcome<u64> {
    let expected: Digest = digest.parse()?;
    let body = get(host, &format!("/v2/{repository}/blobs/{digest}"))?;
    let packed = Hashed {
        source: body,
        hasher: expected.hasher(),
    };
    let mut inflate =
        flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(256 << 10, packed));
    let mut tar = expected.hasher();
    let mut file = File::create(folder.join(expected.hex()))?;
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let n = inflate.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        tar.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
        total += n as u64;
    }
    file.sync_all()?;
    tar.finish();
    match inflate.into_inner().into_inner().hasher.finish() == expected {
        true => Ok(total),
        false => Err(format!("{digest} is something else").into()),
    }
}

/// The body of an answer that says how long it is.
fn get(host: &str, path: &str) -> Outcome<impl Read + use<>> {
    let mut stream = TcpStream::connect(host)?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut reader = BufReader::with_capacity(256 << 10, stream);
    let mut length = None;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.contains(" 200 ") {
        return Err(format!("{path}: {line}").into());
    }
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                length = Some(value.parse()?);
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(reader.take(length.ok_or("the server does not say how long the blob is")?))
}
