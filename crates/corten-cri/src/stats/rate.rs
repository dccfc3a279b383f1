//! How fast CPU time goes: from two samples of each container and pod.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Closer samples tell more about the clock than about the container.
const SHORTEST: i64 = 500_000_000;
const SECOND: u128 = 1_000_000_000;

/// The last samples, by id. One for the daemon's life; what it forgets at a restart it knows again two samples later.
#[derive(Debug, Default)]
pub struct Rates {
    last: Mutex<HashMap<String, Last>>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    /// Nanoseconds.
    at: i64,
    usage: u64,
    rate: Option<u64>,
}

impl Rates {
    /// Billionths of one CPU since the sample before; `None` for the first. Samples that come too soon get the
    /// answer of the one before.
    pub fn update(&self, id: &str, at: i64, usage: u64) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(before) = last.get_mut(id) else {
            let first = Last {
                at,
                usage,
                rate: None,
            };
            last.insert(id.to_owned(), first);
            return None;
        };
        let elapsed = at.saturating_sub(before.at);
        // A clock that was set back, or a counter that starts again (a container with the id of an older one).
        if elapsed < 0 || usage < before.usage {
            *before = Last {
                at,
                usage,
                rate: None,
            };
            return None;
        }
        if elapsed < SHORTEST {
            return before.rate;
        }
        let used = u128::from(usage - before.usage);
        let rate = used * SECOND / u128::from(elapsed.unsigned_abs());
        let rate = Some(u64::try_from(rate).unwrap_or(u64::MAX));
        *before = Last { at, usage, rate };
        rate
    }

    /// Forgets what has gone.
    pub fn retain(&self, there: impl Fn(&str) -> bool) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.retain(|id, _| there(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn a_rate_takes_two_samples_that_are_apart() {
        let rates = Rates::default();
        assert_eq!(rates.update("a", 10 * S, 100), None);
        assert_eq!(rates.update("a", 10 * S + 1, 200), None, "too soon");
        // Half a CPU for two seconds.
        let half = Some(500_000_000);
        assert_eq!(rates.update("a", 12 * S, 100 + 1_000_000_000), half);
        assert_eq!(rates.update("a", 12 * S + 1, u64::MAX), half, "too soon");
        assert_eq!(rates.update("b", 12 * S, 0), None);
    }

    #[test]
    fn what_goes_backwards_starts_again() {
        let rates = Rates::default();
        rates.update("a", 10 * S, 100);
        assert_eq!(rates.update("a", 5 * S, 200), None, "the clock");
        assert_eq!(rates.update("a", 6 * S, 150), None, "the counter");
        assert_eq!(rates.update("a", 7 * S, 151), Some(1));
        rates.retain(|id| id != "a");
        assert_eq!(rates.update("a", 8 * S, 152), None);
    }

    #[test]
    fn no_sample_is_too_large() {
        let rates = Rates::default();
        rates.update("a", 0, 0);
        assert_eq!(rates.update("a", SHORTEST, u64::MAX), Some(u64::MAX));
        rates.update("b", i64::MIN, 0);
        assert!(rates.update("b", i64::MAX, 1).is_some());
    }
}
