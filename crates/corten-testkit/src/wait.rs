//! Waiting for something that has no descriptor to poll: a file, a port, a line.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

const STEP: Duration = Duration::from_millis(10);

/// Asks `probe` until it answers, or fails with what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Result<T> {
    let since = Instant::now();
    loop {
        if let Some(answer) = probe() {
            return Ok(answer);
        }
        if since.elapsed() > limit {
            return Err(Error::Late {
                what: what.to_owned(),
                limit,
                detail: String::new(),
            });
        }
        thread::sleep(STEP);
    }
}
