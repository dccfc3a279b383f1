//! Protocol Buffers' wire format, as much of it as a conversation with criu takes.
//!
//! By hand: about forty fields are ever written and eight read, always of three kinds. A generated codec would
//! cost `corten-oci` more pages than all of this module. What is read comes from a process that runs as
//! root, and is still bounded and checked: a message is at most one packet long.
//! Encoding: <https://protobuf.dev/programming-guides/encoding/>.

/// One message, as it grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writer(Vec<u8>);

const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field) << 3 | u64::from(kind));
    }

    /// `int32`, `uint32`, `enum`. A negative number takes ten bytes, as if it had 64 bits.
    pub fn int(&mut self, field: u32, value: i64) -> &mut Self {
        self.key(field, VARINT);
        self.varint(value as u64);
        self
    }

    /// `bool`; what is false is the default, and left out.
    pub fn flag(&mut self, field: u32, value: bool) -> &mut Self {
        match value {
            true => self.int(field, 1),
            false => self,
        }
    }

    /// `string` and `bytes`.
    pub fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Self {
        self.key(field, BYTES);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// A message in this one.
    pub fn message(&mut self, field: u32, value: &Self) -> &mut Self {
        self.bytes(field, &value.0)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A field's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Int(u64),
    Bytes(&'a [u8]),
}

/// A message that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The fields of a message, in order. After a mistake there are no more.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.0.split_first().ok_or(Malformed)?;
            self.0 = rest;
            let part = u64::from(byte & 0x7f);
            // The tenth byte has room for one bit.
            if shift == 63 && part > 1 {
                return Err(Malformed);
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Value<'a>), Malformed> {
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        if number == 0 || number >= 1 << 29 {
            return Err(Malformed);
        }
        let value = match (key & 7) as u8 {
            VARINT => Value::Int(self.varint()?),
            BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            // No field of ours has these kinds, but a later criu may add some: they are passed over.
            FIXED_64 => Value::Bytes(self.take(8)?),
            FIXED_32 => Value::Bytes(self.take(4)?),
            _ => return Err(Malformed),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_bytes() {
        // The examples of the encoding's documentation: 150 in field 1, "testing" in field 2.
        let mut writer = Writer::default();
        writer.int(1, 150).bytes(2, b"testing").flag(3, false);
        assert_eq!(writer.as_bytes(), b"\x08\x96\x01\x12\x07testing");
        let mut negative = Writer::default();
        negative.int(1, -1);
        assert_eq!(negative.as_bytes().len(), 11);
        assert_eq!(
            Reader::new(negative.as_bytes()).next(),
            Some(Ok((1, Value::Int(u64::MAX))))
        );
    }

    #[test]
    fn mistakes_end_a_message() {
        let bad: [&[u8]; 6] = [
            b"\x08",                                         // a key without a value
            b"\x12\x05abc",                                  // longer than there is
            b"\x00\x01",                                     // field 0
            b"\x0b",                                         // a group
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", // more than 64 bits
            b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // as long as the address space
        ];
        for bytes in bad {
            let fields: Vec<_> = Reader::new(bytes).collect();
            assert_eq!(fields, [Err(Malformed)], "{bytes:x?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Field {
        Int(u32, i64),
        Bytes(u32, Vec<u8>),
    }

    fn field() -> impl Strategy<Value = Field> {
        let number = 1u32..1 << 29;
        prop_oneof![
            (number.clone(), any::<i64>()).prop_map(|(n, v)| Field::Int(n, v)),
            (number, any::<Vec<u8>>()).prop_map(|(n, v)| Field::Bytes(n, v)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(fields in proptest::collection::vec(field(), 0..20)) {
            let mut writer = Writer::default();
            for field in &fields {
                match field {
                    Field::Int(number, value) => writer.int(*number, *value),
                    Field::Bytes(number, value) => writer.bytes(*number, value),
                };
            }
            let read: Vec<_> = Reader::new(writer.as_bytes()).map(Result::unwrap).collect();
            let wrote: Vec<_> = fields.iter().map(|field| match field {
                Field::Int(number, value) => (*number, Value::Int(*value as u64)),
                Field::Bytes(number, value) => (*number, Value::Bytes(value)),
            }).collect();
            prop_assert_eq!(read, wrote);
        }

        #[test]
        fn any_bytes_are_read_to_an_end(bytes in any::<Vec<u8>>()) {
            let fields = Reader::new(&bytes).count();
            prop_assert!(fields <= bytes.len());
        }
    }
}
