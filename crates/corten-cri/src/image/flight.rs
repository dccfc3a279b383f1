//! Pulls under way: who asks for what is on its way already, waits for that; the last to go away ends it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use corten_registry::auth::Credentials;
use corten_spec::Reference;
use tokio::sync::watch;
use tonic::Status;

/// What makes two pulls the same. Somebody without the right credentials must not profit by another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub reference: Reference,
    pub credentials: Option<Credentials>,
}

/// An image's id, or why there is none.
pub(super) type Outcome = Result<String, Status>;

#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The number of the next; none is ever another's.
    next: u64,
    under_way: Vec<Flight>,
}

#[derive(Debug)]
struct Flight {
    key: Key,
    number: u64,
    waiting: usize,
    /// Dropped when nobody waits any more.
    _given_up: watch::Sender<()>,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// One who waits. Dropping it is going away.
struct Waiting {
    flights: Arc<Flights>,
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

/// Where the work says what came of it.
pub(super) struct Work {
    flights: Arc<Flights>,
    number: u64,
    outcome: watch::Sender<Option<Outcome>>,
    given_up: watch::Receiver<()>,
}

impl Flights {
    /// Waits for the pull of `key`, which `begin` sets going if it is not under way.
    pub async fn pull(self: &Arc<Self>, key: Key, begin: impl FnOnce(Work)) -> Outcome {
        let mut waiting = self.join(key, begin);
        let outcome = waiting.outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => outcome.clone(),
            _ => Err(Status::internal("the pull ended without a result")),
        }
    }

    fn join(self: &Arc<Self>, key: Key, begin: impl FnOnce(Work)) -> Waiting {
        let mut state = self.lock();
        let waiting = |number, outcome| Waiting {
            flights: self.clone(),
            number,
            outcome,
        };
        if let Some(found) = state.under_way.iter_mut().find(|f| f.key == key) {
            found.waiting += 1;
            return waiting(found.number, found.outcome.clone());
        }
        let number = state.next;
        state.next += 1;
        let (given_up, gone) = watch::channel(());
        let (sender, outcome) = watch::channel(None);
        state.under_way.push(Flight {
            key,
            number,
            waiting: 1,
            _given_up: given_up,
            outcome: outcome.clone(),
        });
        drop(state);
        begin(Work {
            flights: self.clone(),
            number,
            outcome: sender,
            given_up: gone,
        });
        waiting(number, outcome)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    /// Ready once nobody waits any more.
    pub fn given_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut gone = self.given_up.clone();
        async move { while gone.changed().await.is_ok() {} }
    }

    /// Whoever asks from now on gets a pull of its own.
    pub fn done(self, outcome: Outcome) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let mut state = self.flights.lock();
        state.under_way.retain(|f| f.number != self.number);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.flights.lock();
        let flights = &mut state.under_way;
        let Some(at) = flights.iter().position(|f| f.number == self.number) else {
            return;
        };
        flights[at].waiting -= 1;
        if flights[at].waiting == 0 {
            flights.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(user: &str) -> Key {
        Key {
            reference: "example.com/a:1".parse().unwrap(),
            credentials: Some(Credentials::password(user, "p")),
        }
    }

    #[tokio::test]
    async fn the_same_twice_is_one_pull_and_others_are_apart() {
        let flights = Arc::new(Flights::default());
        let (works, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let ask = |user: &str| {
            let (flights, works, key) = (flights.clone(), works.clone(), key(user));
            tokio::spawn(async move { flights.pull(key, |w| drop(works.send(w))).await })
        };
        let (one, two, other) = (ask("a"), ask("a"), ask("b"));
        let (first, second) = (begun.recv().await.unwrap(), begun.recv().await.unwrap());
        first.done(Ok("id".into()));
        second.done(Err(Status::permission_denied("no")));
        let mut results = vec![];
        for task in [one, two, other] {
            results.push(task.await.unwrap().map_err(|s| s.code()));
        }
        // Which of the two works was whose is up to the scheduler.
        let whole = results.iter().filter(|r| r.is_ok()).count();
        assert!(whole == 2 || whole == 1, "{results:?}");
        assert_eq!(results[0], results[1]);
        assert_ne!(results[0], results[2]);
        assert!(begun.try_recv().is_err());
        assert!(flights.lock().under_way.is_empty());
    }

    #[tokio::test]
    async fn the_last_to_go_ends_it() {
        let flights = Arc::new(Flights::default());
        let (works, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let ask = || {
            let (flights, works) = (flights.clone(), works.clone());
            tokio::spawn(async move { flights.pull(key("a"), |w| drop(works.send(w))).await })
        };
        let (one, two) = (ask(), ask());
        let work = begun.recv().await.unwrap();
        while flights
            .lock()
            .under_way
            .first()
            .is_none_or(|f| f.waiting < 2)
        {
            tokio::task::yield_now().await;
        }
        one.abort();
        assert!(one.await.unwrap_err().is_cancelled());
        let soon = std::time::Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, work.given_up()).await.is_err());
        two.abort();
        work.given_up().await;
        // A new one does not join what is being given up.
        let three = ask();
        let again = begun.recv().await.unwrap();
        work.done(Err(Status::cancelled("given up")));
        again.done(Ok("id".into()));
        assert_eq!(three.await.unwrap().unwrap(), "id");
    }
}
