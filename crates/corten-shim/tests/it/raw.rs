//! Calls of any service of a shim, as any client of ttrpc would make them.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use corten_shim::ttrpc::frame::{Decoder, Event};
use corten_shim::ttrpc::status::Status;
use corten_shim::ttrpc::{answer, request};
use prost::Message;

pub struct Raw {
    socket: UnixStream,
    stream: u32,
}

impl Raw {
    pub fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        Self { socket, stream: 1 }
    }

    /// No answer is waited for longer than this.
    pub fn limit(&self, seconds: u64) {
        let limit = Some(std::time::Duration::from_secs(seconds));
        self.socket.set_read_timeout(limit).unwrap();
    }

    pub fn send(&mut self, service: &str, method: &str, message: &impl Message) {
        let frame = request(self.stream, service, method, message.encode_to_vec()).unwrap();
        self.stream += 2;
        self.socket.write_all(&frame).unwrap();
    }

    /// The next answer, to whatever request.
    pub fn receive<T: Message + Default>(&mut self) -> Result<T, Status> {
        let mut decoder = Decoder::default();
        let mut found = None;
        while found.is_none() {
            // A byte at a time: nothing of a next answer may be swallowed.
            let mut byte = [0];
            assert_eq!(self.socket.read(&mut byte).unwrap(), 1, "hung up");
            decoder.feed(&byte, |event| match event {
                Event::Frame(frame) => found = Some(frame),
                Event::Oversized(_) => panic!("oversized"),
            });
        }
        answer(&found.unwrap()).map(|bytes| T::decode(bytes.as_slice()).unwrap())
    }

    pub fn call<T: Message + Default>(
        &mut self,
        service: &str,
        method: &str,
        message: &impl Message,
    ) -> Result<T, Status> {
        self.send(service, method, message);
        self.receive()
    }
}
