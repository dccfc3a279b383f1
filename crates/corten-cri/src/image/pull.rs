//! `PullImage`: one pull for all who ask for the same, ended when the last of them has gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use corten_engine::image::{Progress, PullOptions};
use corten_engine::{Engine, Error};
use corten_registry::client::ClientConfig;
use corten_spec::{Digest, Kind, Platform, Reference};
use tonic::Status;

use super::flight::{Key, Outcome, Work};
use super::{Images, Pulled, auth};
use crate::proto::AuthConfig;
use crate::status;

impl Images {
    /// Pulls, and tells the image's id.
    pub(super) async fn pull(&self, name: &str, auth: Option<&AuthConfig>) -> Outcome {
        let reference: Reference = name.parse().map_err(|e| {
            Status::invalid_argument(format!(
                "{name:?} names no image: {}",
                corten_spec::chain(&e)
            ))
        })?;
        let credentials = auth::credentials(auth, &reference)?;
        let key = Key {
            reference: reference.clone(),
            credentials: credentials.clone(),
        };
        let mut client = ClientConfig::load(self.engine.paths().etc());
        // What root of this node has logged in to is not for every pod.
        client.docker_config = None;
        if let Some(credentials) = credentials {
            let registry = reference.registry().to_owned();
            client.credentials.insert(registry, credentials);
        }
        let options = PullOptions {
            reference,
            platform: Platform::host(),
            client,
        };
        let (engine, pulled) = (self.engine.clone(), self.pulled.clone());
        let limit = self.settings.pull_timeout;
        let span = tracing::Span::current();
        let slots = self.slots.clone();
        let waiting = self.flights.pull(key, move |work| {
            let turn = async move {
                let turn = tokio::select! {
                    // Never closed.
                    turn = slots.acquire_owned() => turn,
                    () = work.given_up() => return,
                };
                let work = move || span.in_scope(|| carry_out(&engine, options, work, &pulled));
                // Whoever waits is told by what the work leaves behind, or that it left nothing.
                let _done = tokio::task::spawn_blocking(work).await;
                drop(turn);
            };
            tokio::spawn(turn);
        });
        match limit {
            None => waiting.await,
            Some(limit) => tokio::time::timeout(limit, waiting)
                .await
                .unwrap_or_else(|_| {
                    let text = format!("the pull of {name} did not end within {limit:?}");
                    Err(Status::deadline_exceeded(text))
                }),
        }
    }
}

fn carry_out(engine: &Engine, options: PullOptions, work: Work, pulled: &Arc<Pulled>) {
    let name = options.reference.to_string();
    let began = std::time::Instant::now();
    pulled.under_way.fetch_add(1, Ordering::Relaxed);
    let progress = Arc::new(Counting(pulled.clone()));
    let done = engine.pull_until(options, progress, work.given_up());
    pulled.under_way.fetch_sub(1, Ordering::Relaxed);
    let (counter, outcome) = match done {
        Ok(Some(record)) => {
            tracing::info!(image = name, id = %record.config, ms = began.elapsed().as_millis(), "image pulled");
            (&pulled.whole, Ok(record.config.to_string()))
        }
        Ok(None) => {
            tracing::info!(
                image = name,
                "nobody waits for the pull any more, and it is given up"
            );
            (
                &pulled.failed,
                Err(Status::cancelled("the pull was given up")),
            )
        }
        Err(error) => (&pulled.failed, Err(refused(&error))),
    };
    counter.fetch_add(1, Ordering::Relaxed);
    let whole = outcome.is_ok();
    work.done(outcome);
    // Nobody waits for the disk.
    if whole && let Err(error) = engine.flush() {
        tracing::warn!(
            error = corten_spec::chain(&error),
            "what was pulled may not survive a power cut"
        );
    }
}

/// With the words by which kubelet tells these two apart from all else, in what it shows of a pod.
fn refused(error: &Error) -> Status {
    let plain = status::of(error);
    let word = match (error, error.kind()) {
        (Error::Policy(_), _) => "SignatureValidationFailed",
        (_, Kind::Unavailable) => "RegistryUnavailable",
        _ => return plain,
    };
    Status::new(plain.code(), format!("{word}: {}", plain.message()))
}

struct Counting(Arc<Pulled>);

impl Progress for Counting {
    fn layers(&self, _: &[(Digest, u64)]) {}

    fn present(&self, _: &Digest) {}

    fn advanced(&self, _: &Digest, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn done(&self, _: &Digest) {}
}
