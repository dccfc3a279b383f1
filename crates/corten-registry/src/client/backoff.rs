//! Which failures pass by themselves, and how long to wait for that.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use super::{Error, Retry};

/// A registry that asks for more patience than this is reported instead of waited for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// The count of one operation's tries.
#[derive(Debug)]
pub(super) struct Backoff {
    retry: Retry,
    tried: u32,
    /// Has the host answered before? Then a refused connection is a restart, else a wrong address.
    reached: bool,
}

impl Backoff {
    pub fn new(retry: Retry, reached: bool) -> Self {
        Self {
            retry,
            tried: 0,
            reached,
        }
    }

    /// Something came through: the count starts again.
    pub fn progress(&mut self) {
        self.tried = 0;
        self.reached = true;
    }

    /// Waits before the next try, or gives the error back as final.
    pub async fn wait(&mut self, error: Error) -> Result<(), Error> {
        self.tried += 1;
        match self.delay(&error) {
            Some(delay) => {
                tracing::debug!(%error, ?delay, tried = self.tried, "trying again");
                tokio::time::sleep(delay).await;
                Ok(())
            }
            None => Err(counted(error, self.tried)),
        }
    }

    fn delay(&self, error: &Error) -> Option<Duration> {
        let named = match error {
            Error::RateLimited { retry_after, .. } => *retry_after,
            Error::Connect { .. } if self.reached => None,
            Error::Cut { .. } | Error::Timeout { .. } | Error::Slow { .. } => None,
            Error::Status {
                status: 408 | 500 | 502..=504,
                ..
            } => None,
            _ => return None,
        };
        if self.tried >= self.retry.tries || named.is_some_and(|d| d > RETRY_AFTER_MAX) {
            return None;
        }
        let doubled = self
            .retry
            .base
            .saturating_mul(1 << (self.tried - 1).min(16));
        let own = doubled.min(self.retry.max);
        // Full waits in lockstep would bring all clients of a restarted registry back at once.
        Some(named.unwrap_or_default() + own.mul_f64(0.5 + jitter() / 2.0))
    }
}

fn counted(error: Error, count: u32) -> Error {
    match error {
        Error::Cut {
            host,
            what,
            received,
            source,
            ..
        } => Error::Cut {
            host,
            what,
            received,
            tries: count,
            source,
        },
        other => other,
    }
}

/// 0 to 1. The standard library's hash keys are random, which is random enough to spread load.
fn jitter() -> f64 {
    let bits = std::hash::RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::error_body::Said;

    fn limited(seconds: u64) -> Error {
        Error::RateLimited {
            host: "h".into(),
            retry_after: Some(Duration::from_secs(seconds)),
            said: Said::default(),
        }
    }

    fn status(status: u16) -> Error {
        Error::Status {
            host: "h".into(),
            what: "x".into(),
            status,
            said: Said::default(),
        }
    }

    #[test]
    fn delays_grow_to_a_bound_and_end() {
        let mut b = Backoff::new(Retry::default(), false);
        let mut delays = Vec::new();
        loop {
            b.tried += 1;
            match b.delay(&status(503)) {
                Some(d) => delays.push(d),
                None => break,
            }
        }
        assert_eq!(delays.len(), 4);
        for (n, d) in delays.iter().enumerate() {
            let full = Duration::from_millis(200 << n);
            assert!(*d >= full / 2 && *d <= full, "{n}: {d:?}");
        }
    }

    #[test]
    fn the_registry_may_name_the_delay_within_reason() {
        let b = Backoff {
            tried: 1,
            ..Backoff::new(Retry::default(), false)
        };
        assert!(b.delay(&limited(2)).unwrap() >= Duration::from_secs(2));
        assert_eq!(b.delay(&limited(3600)), None);
    }

    #[test]
    fn what_does_not_pass_is_not_tried_again() {
        let b = Backoff {
            tried: 1,
            ..Backoff::new(Retry::default(), false)
        };
        for s in [400, 404, 501] {
            assert_eq!(b.delay(&status(s)), None, "{s}");
        }
        let refused = || Error::Connect {
            host: "h".into(),
            source: std::io::ErrorKind::ConnectionRefused.into(),
        };
        assert_eq!(b.delay(&refused()), None);
        let reached = Backoff { reached: true, ..b };
        assert!(reached.delay(&refused()).is_some());
    }
}
