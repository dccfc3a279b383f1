//! One large blob by several requests at once, handed on in order.
//!
//! ```text
//!  part 1 ══════════════════► sink        the first in line streams through
//!  part 2 ════► waits (1 MiB)             the others fill their room, then their connection waits
//!  part 3 ════► waits
//!  part 4 ════► waits                     part 5 begins when part 1 has ended
//! ```
//!
//! The first part is fetched alone. It shows whether the server knows ranges, and where it keeps its blobs. Memory is
//! bounded by the room of each part, whatever the parts' size. A part has the tries of a whole blob, and goes on where
//! it broke off.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::Error;
use super::blob::{Delivery, Sink};
use super::config::Parallel;
use super::endpoint::Endpoint;
use super::place::Place;
use crate::protocol::header::Span;

/// A part on its way.
struct Part {
    from: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
    task: Task,
}

/// A task that ends with its owner.
struct Task(JoinHandle<Result<(), Error>>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn settings(delivery: &Delivery<'_>) -> Parallel {
    delivery.client.inner.session.config().parallel
}

/// Is enough missing?
pub(super) fn worth_while(delivery: &Delivery<'_>) -> bool {
    let settings = settings(delivery);
    let left = delivery.descriptor.size.saturating_sub(delivery.position);
    settings.requests > 1 && settings.part > 0 && left >= settings.from.max(settings.part * 2)
}

/// Fetches in parts as long as that goes well. `Ok` means that a single stream may go on from where this stopped,
/// which is the end if all went well; an error is final.
pub(super) async fn run(whole: &mut Delivery<'_>, endpoint: &Arc<Endpoint>) -> Result<(), Error> {
    let settings = settings(whole);
    let Some(shortcut) = first(whole, endpoint, &settings).await? else {
        return Ok(());
    };
    let mut line: VecDeque<Part> = VecDeque::new();
    let mut next = whole.position;
    loop {
        while line.len() < settings.requests && next < whole.descriptor.size {
            let end = next
                .saturating_add(settings.part)
                .min(whole.descriptor.size);
            let span = Span { start: next, end };
            line.push_back(start(whole, endpoint, span, shortcut.clone(), &settings));
            next = end;
        }
        let Some(mut part) = line.pop_front() else {
            return Ok(());
        };
        while let Some((bytes, room)) = part.from.recv().await {
            whole.hand_on(bytes).await?;
            drop(room);
        }
        match (&mut part.task.0).await {
            Ok(Ok(())) => {}
            // A server that loses its way in parts may yet manage a stream, and says why not if it does not.
            Ok(Err(Error::NotARegistry { .. })) => return Ok(()),
            Ok(Err(e)) => return Err(e),
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }
}

fn start(
    whole: &Delivery<'_>,
    endpoint: &Arc<Endpoint>,
    span: Span,
    shortcut: Option<Place>,
    settings: &Parallel,
) -> Part {
    let (to, from) = mpsc::unbounded_channel();
    let most = (settings.in_flight / settings.requests as u64).clamp(64 << 10, 1 << 30) as u32;
    let sink = Sink::Waiting {
        to,
        room: Arc::new(Semaphore::new(most as usize)),
        most,
    };
    let (client, endpoint) = (whole.client.clone(), endpoint.clone());
    let (reference, descriptor) = (whole.reference.clone(), whole.descriptor.clone());
    let task = tokio::spawn(async move {
        let mut part = Delivery::part(&client, &reference, &descriptor, span, sink);
        part.shortcut = shortcut;
        part.stream(&endpoint).await
    });
    Part {
        from,
        task: Task(task),
    }
}

/// Fetches the first part by itself. Tells whether others can be had, and where: `Some` place is where the endpoint
/// sent us for the bytes, if that is elsewhere.
async fn first(
    whole: &mut Delivery<'_>,
    endpoint: &Arc<Endpoint>,
    settings: &Parallel,
) -> Result<Option<Option<Place>>, Error> {
    match whole.stream_until(endpoint, settings.part).await {
        Ok(()) => {}
        // It knows no ranges.
        Err(Error::NotARegistry { .. }) => return Ok(None),
        Err(e) => return Err(e),
    }
    let place = whole.served_by.take();
    Ok(Some(place.filter(|p| !endpoint.owns(p))))
}
