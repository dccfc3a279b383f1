//! A backend without containers: commands and ports that do what a test needs.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use corten_cri::stream::{Answer, AttachAsk, Backend, Duplex, ExecAsk, Failure, Streams};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes that cannot be mistaken for others at another place.
pub fn pattern(from: usize, len: usize) -> Bytes {
    let at = |i: usize| (i ^ (i >> 8) ^ (i >> 16).wrapping_mul(31)) as u8;
    (from..from + len).map(at).collect()
}

#[derive(Debug, Default)]
pub struct Fake {
    /// Pieces of output that were taken.
    pub taken: AtomicUsize,
    /// Commands that were dropped before they had ended.
    pub dropped: AtomicUsize,
}

struct Dropped<'a>(&'a AtomicUsize, bool);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Fake {
    async fn command(&self, ask: &ExecAsk, streams: Streams) -> Result<i32, Failure> {
        let words: Vec<&str> = ask.command.iter().map(String::as_str).collect();
        let number = |i: usize| words.get(i).and_then(|w| w.parse().ok()).unwrap_or(0usize);
        let (out, err) = (streams.stdout, streams.stderr);
        let gone = |_| Failure::new("nobody reads");
        match words[0] {
            "exit" => Ok(number(1) as i32),
            "say" => {
                if let Some(out) = &out {
                    out.send(words[1].to_owned().into()).await.map_err(gone)?;
                }
                if let Some(err) = &err {
                    err.send(words[2].to_owned().into()).await.map_err(gone)?;
                }
                Ok(0)
            }
            "cat" => {
                let (mut input, out) = (streams.stdin.unwrap(), out.unwrap());
                while let Some(bytes) = input.next().await {
                    out.send(bytes).await.map_err(gone)?;
                }
                Ok(0)
            }
            "give" => {
                let (out, mut sent) = (out.unwrap(), 0);
                while sent < number(1) {
                    let piece = pattern(sent, (number(1) - sent).min(100_000));
                    sent += piece.len();
                    out.send(piece).await.map_err(gone)?;
                    self.taken.fetch_add(1, Ordering::SeqCst);
                }
                Ok(0)
            }
            "count" => {
                let (mut input, mut right, mut count) = (streams.stdin.unwrap(), true, 0);
                while let Some(bytes) = input.next().await {
                    right &= bytes == pattern(count, bytes.len());
                    count += bytes.len();
                }
                let words = format!("{count} {right}");
                out.unwrap().send(words.into()).await.map_err(gone)?;
                Ok(0)
            }
            "sizes" => {
                let (mut sizes, out) = (streams.resize.unwrap(), out.unwrap());
                for _ in 0..number(1) {
                    let size = sizes.next().await.ok_or(Failure::new("no size"))?;
                    let words = format!("{}x{};", size.width, size.height);
                    out.send(words.into()).await.map_err(gone)?;
                }
                Ok(0)
            }
            "hang" => {
                // Nothing is read, and nothing sent.
                let (_input, _out, _err) = (streams.stdin, out, err);
                std::future::pending().await
            }
            other => Err(Failure::new(format_args!("no command {other:?}"))),
        }
    }
}

impl Backend for Fake {
    fn exec<'a>(&'a self, ask: &'a ExecAsk, streams: Streams) -> Answer<'a, i32> {
        Box::pin(async move {
            let mut guard = Dropped(&self.dropped, false);
            let answer = self.command(ask, streams).await;
            guard.1 = true;
            answer
        })
    }

    fn attach<'a>(&'a self, ask: &'a AttachAsk, streams: Streams) -> Answer<'a, ()> {
        Box::pin(async move {
            let words = format!("attached to {}", ask.container);
            let out = streams.stdout.ok_or(Failure::new("no output"))?;
            let sent = out.send(words.into()).await;
            sent.map_err(|_| Failure::new("nobody reads"))
        })
    }

    /// 7 echoes; 13 greets and closes; 19 sends a lot; another refuses.
    fn port<'a>(&'a self, _pod: &'a str, port: u16) -> Answer<'a, Box<dyn Duplex>> {
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            match port {
                7 => drop(tokio::spawn(async move {
                    let (mut from, mut to) = tokio::io::split(ours);
                    let _broken = tokio::io::copy(&mut from, &mut to).await;
                    let _broken = to.shutdown().await;
                })),
                13 => drop(tokio::spawn(async move {
                    let mut ours = ours;
                    let _broken = ours.write_all(b"it is noon").await;
                })),
                19 => drop(tokio::spawn(async move {
                    let (mut ours, mut sent) = (ours, 0);
                    while sent < 5_000_000 {
                        let piece = pattern(sent, 50_000);
                        sent += piece.len();
                        if ours.write_all(&piece).await.is_err() {
                            return;
                        }
                    }
                    let mut rest = [0; 100];
                    let _closed = ours.read(&mut rest).await;
                })),
                _ => return Err(Failure::new("nobody listens")),
            }
            Ok(Box::new(theirs) as Box<dyn Duplex>)
        })
    }
}
