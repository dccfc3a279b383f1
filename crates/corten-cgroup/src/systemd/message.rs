//! D-Bus messages as bytes (D-Bus specification 0.43, "Message Protocol").
//!
//! A message is bounded before it is read, and a body must be exactly what its signature says. No I/O here.

use super::value::{Decoder, Encoder, Malformed, Value, signature};

/// Larger messages are not for us: the specification allows 128 MiB, a reply of systemd's is below 1 KiB.
pub(crate) const MESSAGE_MAX: usize = 256 << 10;
/// The fixed part of a header, with the length of the field array.
pub(crate) const FIXED: usize = 16;
/// What a message is for. Others are to be ignored, says the specification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    Call,
    Return,
    Error,
    Signal,
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Message {
    pub kind: Kind,
    pub serial: u32,
    pub reply_to: Option<u32>,
    pub path: Option<String>,
    pub interface: Option<String>,
    pub member: Option<String>,
    pub error: Option<String>,
    pub destination: Option<String>,
    pub sender: Option<String>,
    pub body: Vec<Value>,
}

/// Codes of header fields.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR: u8 = 4;
const REPLY_TO: u8 = 5;
const DESTINATION: u8 = 6;
const SENDER: u8 = 7;
const SIGNATURE: u8 = 8;

impl Message {
    /// As bytes, in this machine's order being little: what all of ours are.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::default();
        self.body.iter().for_each(|value| body.value(value));
        let kind = match self.kind {
            Kind::Call => 1,
            Kind::Return => 2,
            Kind::Error => 3,
            Kind::Signal | Kind::Unknown => 4,
        };
        let mut fields = Vec::new();
        let mut field = |code: u8, value: Option<Value>| {
            if let Some(value) = value {
                let value = Value::Variant(Box::new(value));
                fields.push(Value::Struct(vec![Value::Byte(code), value]));
            }
        };
        field(PATH, self.path.clone().map(Value::Path));
        field(INTERFACE, self.interface.clone().map(Value::Str));
        field(MEMBER, self.member.clone().map(Value::Str));
        field(ERROR, self.error.clone().map(Value::Str));
        field(REPLY_TO, self.reply_to.map(Value::U32));
        field(DESTINATION, self.destination.clone().map(Value::Str));
        field(SENDER, self.sender.clone().map(Value::Str));
        let of_body = (!self.body.is_empty()).then(|| Value::Signature(signature(&self.body)));
        field(SIGNATURE, of_body);
        let mut message = Encoder::default();
        message.bytes.extend_from_slice(&[b'l', kind, 0, 1]);
        message.value(&Value::U32(body.bytes.len() as u32));
        message.value(&Value::U32(self.serial));
        message.value(&Value::Array("(yv)".into(), fields));
        message.align(8);
        message.bytes.extend_from_slice(&body.bytes);
        message.bytes
    }

    /// The whole length of the message that begins with `fixed`.
    pub(crate) fn length(fixed: &[u8; FIXED]) -> Result<usize, Malformed> {
        let word = |at: usize| {
            let bytes = [fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]];
            match fixed[0] {
                b'B' => u32::from_be_bytes(bytes),
                _ => u32::from_le_bytes(bytes),
            }
        };
        if !matches!(fixed[0], b'l' | b'B') || fixed[3] != 1 {
            return Err(Malformed("a message does not begin as one of protocol 1"));
        }
        let (body, fields) = (word(4) as usize, word(12) as usize);
        let length = FIXED
            .checked_add(fields)
            .and_then(|n| n.checked_next_multiple_of(8))
            .and_then(|n| n.checked_add(body));
        length
            .filter(|n| *n <= MESSAGE_MAX)
            .ok_or(Malformed("a message is too long"))
    }

    /// Of exactly the bytes of one message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let fixed = bytes.first_chunk::<FIXED>();
        let length = Self::length(fixed.ok_or(Malformed("a message is cut short"))?)?;
        if length != bytes.len() {
            return Err(Malformed("a message is cut short"));
        }
        let mut message = Self {
            kind: match bytes[1] {
                0 => return Err(Malformed("a message has no type")),
                1 => Kind::Call,
                2 => Kind::Return,
                3 => Kind::Error,
                4 => Kind::Signal,
                _ => Kind::Unknown,
            },
            ..Self::default()
        };
        let mut decoder = Decoder {
            bytes,
            at: 4,
            big: bytes[0] == b'B',
        };
        let body = decoder.u32()? as usize;
        message.serial = decoder.u32()?;
        if message.serial == 0 {
            return Err(Malformed("a message has no serial"));
        }
        let Value::Array(_, fields) = decoder.value("a(yv)", 0)? else {
            return Err(Malformed("a header has no fields"));
        };
        let mut of_body = String::new();
        for field in fields {
            message.field(field, &mut of_body)?;
        }
        decoder.align(8)?;
        if bytes.len() - decoder.at != body {
            return Err(Malformed("a body is not of the length that was said"));
        }
        // A body starts at a multiple of 8, so alignment counts from it as well.
        decoder.bytes = &bytes[decoder.at..];
        decoder.at = 0;
        message.body = decoder.values(&of_body, 0)?;
        if decoder.at != body {
            return Err(Malformed("a body is longer than its signature"));
        }
        Ok(message)
    }

    fn field(&mut self, field: Value, of_body: &mut String) -> Result<(), Malformed> {
        let wrong = Err(Malformed("a header field has the wrong type"));
        let Value::Struct(pair) = field else {
            return wrong;
        };
        let (code, value) = match <[Value; 2]>::try_from(pair) {
            Ok([Value::Byte(code), Value::Variant(value)]) => (code, *value),
            _ => return wrong,
        };
        match (code, value) {
            (0, _) => return Err(Malformed("a header field has no code")),
            (PATH, Value::Path(v)) => self.path = Some(v),
            (INTERFACE, Value::Str(v)) => self.interface = Some(v),
            (MEMBER, Value::Str(v)) => self.member = Some(v),
            (ERROR, Value::Str(v)) => self.error = Some(v),
            (REPLY_TO, Value::U32(v)) => self.reply_to = Some(v),
            (DESTINATION, Value::Str(v)) => self.destination = Some(v),
            (SENDER, Value::Str(v)) => self.sender = Some(v),
            (SIGNATURE, Value::Signature(v)) => *of_body = v,
            (PATH..=SIGNATURE, _) => return wrong,
            // Fields to come, and the count of descriptors: their type is refused where it is used.
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
