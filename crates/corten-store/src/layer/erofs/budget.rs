//! Memory for indexes, shared by all layers that a process has in hand: three large ones at once get no more than one alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What there is to share. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// One index's part of it, given back when that goes.
pub(super) struct Claim {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(super) fn claim(&self) -> Claim {
        Claim {
            budget: self.clone(),
            bytes: 0,
        }
    }
}

impl Claim {
    /// Changes the part to so many bytes; returns what all have together.
    pub fn set(&mut self, bytes: usize) -> usize {
        let all = &self.budget.0;
        if bytes != self.bytes {
            all.fetch_add(bytes, Ordering::Relaxed);
            all.fetch_sub(self.bytes, Ordering::Relaxed);
            self.bytes = bytes;
        }
        all.load(Ordering::Relaxed)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_are_given_back() {
        let budget = Budget::default();
        let (mut a, mut b) = (budget.claim(), budget.claim());
        assert_eq!(a.set(10), 10);
        assert_eq!(b.set(5), 15);
        assert_eq!(a.set(4), 9);
        drop(a);
        assert_eq!(b.set(5), 5);
    }
}
