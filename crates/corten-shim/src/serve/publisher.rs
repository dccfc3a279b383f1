//! Events to containerd, in the order in which they happened.
//!
//! One is on its way at a time: the next is sent when the one before was taken. If
//! containerd is away the queue waits for it, and begins again with the one that was not answered.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use prost::Message;
use prost_types::Any;
use rustix::event::PollFlags;

use super::connection::Connection;
use crate::listen::connect_now;
use crate::proto::events::{Envelope, ForwardRequest};
use crate::time::timestamp;
use crate::ttrpc::{self, frame::Event};

pub const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const METHOD: &str = "Forward";
/// A containerd that stays away must not cost memory without end: the oldest are given up.
const QUEUE_MAX: usize = 1024;
const RETRY: Duration = Duration::from_secs(1);

pub struct Publisher {
    address: Option<PathBuf>,
    namespace: String,
    queue: VecDeque<Vec<u8>>,
    connection: Option<Connection>,
    /// Stream of the event that waits for its answer; it is the queue's first.
    sent: Option<u32>,
    stream: u32,
    retry_at: Option<Instant>,
}

impl Publisher {
    pub fn new(address: Option<PathBuf>, namespace: String) -> Self {
        Self {
            address,
            namespace,
            queue: VecDeque::new(),
            connection: None,
            sent: None,
            stream: 1,
            retry_at: None,
        }
    }

    /// Queues an event. `name` is the message's in `containerd.events`.
    pub fn publish(&mut self, topic: &str, name: &str, event: &impl Message) {
        if self.address.is_none() {
            return;
        }
        let envelope = Envelope {
            timestamp: Some(timestamp(SystemTime::now())),
            namespace: self.namespace.clone(),
            topic: topic.into(),
            event: Some(Any {
                type_url: format!("containerd.events.{name}"),
                value: event.encode_to_vec(),
            }),
        };
        let request = ForwardRequest {
            envelope: Some(envelope),
        };
        if self.queue.len() >= QUEUE_MAX {
            // The first may be on its way; the second is the oldest that is not.
            self.queue.remove(1);
        }
        self.queue.push_back(request.encode_to_vec());
        self.advance();
    }

    /// Sends the next event if none is on its way.
    pub fn advance(&mut self) {
        let Some(address) = &self.address else { return };
        if self.queue.is_empty() || self.sent.is_some() {
            return;
        }
        if self.connection.is_none() {
            if self.retry_at.is_some_and(|at| Instant::now() < at) {
                return;
            }
            match connect_now(address) {
                Ok(socket) => self.connection = Some(Connection::new(socket)),
                Err(_) => {
                    self.retry_at = Some(Instant::now() + RETRY);
                    return;
                }
            }
        }
        self.retry_at = None;
        let (Some(connection), Some(event)) = (&mut self.connection, self.queue.front()) else {
            return;
        };
        // An event is far below the bound of a frame.
        if let Ok(frame) = ttrpc::request(self.stream, SERVICE, METHOD, event.clone()) {
            connection.send(&frame);
            self.sent = Some(self.stream);
            // Streams are odd and grow; a wrap-around needs a new connection's numbering.
            self.stream = self.stream.checked_add(2).unwrap_or(1);
        }
    }

    pub fn ready(&mut self) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        let mut scratch = [0; 4096];
        for event in connection.ready(&mut scratch) {
            let Event::Frame(frame) = event else { continue };
            if Some(frame.header.stream) == self.sent {
                // Refused is answered too: the same event would be refused again.
                if let Err(status) = ttrpc::answer(&frame) {
                    super::say(format_args!(
                        "containerd refuses an event: {}",
                        status.message
                    ));
                }
                self.sent = None;
                self.queue.pop_front();
            }
        }
        if connection.is_gone() {
            self.connection = None;
            self.sent = None;
            self.stream = 1;
            self.retry_at = Some(Instant::now() + RETRY);
        }
    }

    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let connection = self.connection.as_ref()?;
        Some((connection.as_fd(), connection.interest()))
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at
            .filter(|_| !self.queue.is_empty() && self.connection.is_none())
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
