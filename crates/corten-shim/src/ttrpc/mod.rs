//! ttrpc: containerd's small RPC for sockets on one machine.
//!
//! A connection carries frames: a header of ten bytes (length, stream, type, flags; big
//! endian) and up to 4 MiB. A call is one request frame on a new odd stream and one response
//! frame on the same. Streaming calls (type 3) are not spoken here: nothing in the Task API needs
//! one, and a peer that tries is told so.

pub mod frame;
pub mod status;

use prost::Message;

use crate::proto::ttrpc::{Request, Response};
use frame::{Frame, Header, Oversized, RESPONSE};
use status::Status;

/// The response frame to a request on `stream`.
pub fn response(stream: u32, answer: Result<Vec<u8>, Status>) -> Vec<u8> {
    let response = match answer {
        Ok(payload) => Response {
            status: None,
            payload,
        },
        Err(status) => Response {
            status: Some(status.into()),
            payload: Vec::new(),
        },
    };
    match frame::encode(stream, RESPONSE, &response.encode_to_vec()) {
        Ok(bytes) => bytes,
        Err(Oversized { len }) => {
            let status = Status::new(
                status::Code::ResourceExhausted,
                format!("the answer of {len} bytes exceeds the bound of ttrpc"),
            );
            let response = Response {
                status: Some(status.into()),
                payload: Vec::new(),
            };
            // A text of a hundred bytes is below the bound.
            frame::encode(stream, RESPONSE, &response.encode_to_vec()).unwrap_or_default()
        }
    }
}

/// The request frame of a call.
pub fn request(
    stream: u32,
    service: &str,
    method: &str,
    payload: Vec<u8>,
) -> Result<Vec<u8>, Oversized> {
    let request = Request {
        service: service.into(),
        method: method.into(),
        payload,
        timeout_nano: 0,
        metadata: Vec::new(),
    };
    frame::encode(stream, frame::REQUEST, &request.encode_to_vec())
}

/// What a response frame says.
pub fn answer(frame: &Frame) -> Result<Vec<u8>, Status> {
    let Header { kind, .. } = frame.header;
    if kind != RESPONSE {
        let text = format!("frame of type {kind} where a response was due");
        return Err(Status::new(status::Code::Unavailable, text));
    }
    let response = Response::decode(frame.payload.as_slice())
        .map_err(|e| Status::new(status::Code::Unavailable, format!("bad response: {e}")))?;
    match response.status {
        Some(status) if status.code != 0 => Err(status.into()),
        _ => Ok(response.payload),
    }
}
