//! The engine blocks; what calls it from here does so on a thread that may.

use tonic::Status;
use tracing::Span;

use crate::status;

/// As [`run`], for work that speaks of failures in gRPC's words already.
pub(crate) async fn status<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let span = Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.unwrap_or_else(|_| Err(Status::internal("the work ended without a result")))
}

/// Runs `work` on a thread that may block, in the span of the call.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, corten_engine::Error> + Send + 'static,
) -> Result<T, Status> {
    let span = Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    match done {
        Ok(done) => done.map_err(|e| status::of(&e)),
        Err(_) => Err(Status::internal("the work ended without a result")),
    }
}
