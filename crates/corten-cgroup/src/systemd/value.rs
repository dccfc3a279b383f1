//! D-Bus values as bytes (D-Bus specification 0.43, "Type System" and "Marshaling").
//!
//! What comes in is written by somebody else, so every length is bounded before it is believed, padding
//! must be zero, and nesting is limited. Descriptors are never asked for and are refused. No I/O here.

use std::fmt;

/// Arrays and structs inside one another; the specification has 32 of each.
const DEPTH: usize = 32;

/// Bytes that are no D-Bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) &'static str);

/// A value of any type but a descriptor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// With the signature of its elements, as it may have none.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    /// Of a dictionary, which is an array of these.
    Entry(Box<Value>, Box<Value>),
    Variant(Box<Value>),
}

impl Value {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Str(text.into())
    }

    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Str(s) | Self::Path(s) | Self::Signature(s) => Some(s),
            Self::Variant(inner) => inner.as_text(),
            _ => None,
        }
    }

    pub(crate) fn signature(&self) -> String {
        match self {
            Self::Byte(_) => "y".into(),
            Self::Bool(_) => "b".into(),
            Self::I16(_) => "n".into(),
            Self::U16(_) => "q".into(),
            Self::I32(_) => "i".into(),
            Self::U32(_) => "u".into(),
            Self::I64(_) => "x".into(),
            Self::U64(_) => "t".into(),
            Self::Double(_) => "d".into(),
            Self::Str(_) => "s".into(),
            Self::Path(_) => "o".into(),
            Self::Signature(_) => "g".into(),
            Self::Array(of, _) => format!("a{of}"),
            Self::Struct(fields) => format!("({})", signature(fields)),
            Self::Entry(key, value) => format!("{{{}{}}}", key.signature(), value.signature()),
            Self::Variant(_) => "v".into(),
        }
    }
}

/// For messages and golden tests, close to GVariant's text.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, values: &[Value]| {
            for (i, value) in values.iter().enumerate() {
                let comma = if i == 0 { "" } else { ", " };
                write!(f, "{comma}{value}")?;
            }
            Ok(())
        };
        match self {
            Self::Byte(n) => write!(f, "byte {n}"),
            Self::Bool(n) => write!(f, "{n}"),
            Self::I16(n) => write!(f, "int16 {n}"),
            Self::U16(n) => write!(f, "uint16 {n}"),
            Self::I32(n) => write!(f, "int32 {n}"),
            Self::U32(n) => write!(f, "uint32 {n}"),
            Self::I64(n) => write!(f, "int64 {n}"),
            Self::U64(n) => write!(f, "uint64 {n}"),
            Self::Double(n) => write!(f, "double {n}"),
            Self::Str(s) => write!(f, "{s:?}"),
            Self::Path(s) => write!(f, "objectpath {s:?}"),
            Self::Signature(s) => write!(f, "signature {s:?}"),
            Self::Array(of, values) => {
                write!(f, "@a{of} [")?;
                list(f, values)?;
                f.write_str("]")
            }
            Self::Struct(fields) => {
                f.write_str("(")?;
                list(f, fields)?;
                f.write_str(")")
            }
            Self::Entry(key, value) => write!(f, "{{{key}: {value}}}"),
            Self::Variant(inner) => write!(f, "<{inner}>"),
        }
    }
}

pub(crate) fn signature(values: &[Value]) -> String {
    values.iter().map(Value::signature).collect()
}

/// Values to bytes, little end first.
#[derive(Default)]
pub(super) struct Encoder {
    pub bytes: Vec<u8>,
}

impl Encoder {
    pub fn align(&mut self, to: usize) {
        let length = self.bytes.len().next_multiple_of(to);
        self.bytes.resize(length, 0);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.align(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
    }

    pub fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(n) => self.put(&[*n]),
            Value::Bool(n) => self.put(&u32::from(*n).to_le_bytes()),
            Value::I16(n) => self.put(&n.to_le_bytes()),
            Value::U16(n) => self.put(&n.to_le_bytes()),
            Value::I32(n) => self.put(&n.to_le_bytes()),
            Value::U32(n) => self.put(&n.to_le_bytes()),
            Value::I64(n) => self.put(&n.to_le_bytes()),
            Value::U64(n) => self.put(&n.to_le_bytes()),
            Value::Double(n) => self.put(&n.to_le_bytes()),
            Value::Str(s) | Value::Path(s) => {
                self.put(&(s.len() as u32).to_le_bytes());
                self.text(s);
            }
            Value::Signature(s) => {
                self.bytes.push(s.len() as u8);
                self.text(s);
            }
            Value::Array(of, values) => {
                self.put(&[0; 4]);
                let length_at = self.bytes.len() - 4;
                // The padding before the first element does not count, and is there without one too.
                self.align(alignment(of.as_bytes().first().copied().unwrap_or(b'y')));
                let start = self.bytes.len();
                values.iter().for_each(|value| self.value(value));
                let length = (self.bytes.len() - start) as u32;
                self.bytes[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
            }
            Value::Struct(fields) => {
                self.align(8);
                fields.iter().for_each(|field| self.value(field));
            }
            Value::Entry(key, value) => {
                self.align(8);
                self.value(key);
                self.value(value);
            }
            Value::Variant(inner) => {
                self.value(&Value::Signature(inner.signature()));
                self.value(inner);
            }
        }
    }
}

fn alignment(code: u8) -> usize {
    match code {
        b'n' | b'q' => 2,
        b'b' | b'i' | b'u' | b's' | b'o' | b'a' => 4,
        b'x' | b't' | b'd' | b'(' | b'{' => 8,
        _ => 1,
    }
}

/// The length of the first complete type of a signature.
fn complete(signature: &[u8], depth: usize) -> Result<usize, Malformed> {
    let bad = Malformed("a signature is none");
    if depth > DEPTH {
        return Err(Malformed("values are nested too deep"));
    }
    match signature.first().ok_or(bad)? {
        b'y' | b'b' | b'n' | b'q' | b'i' | b'u' | b'x' | b't' | b'd' | b's' | b'o' | b'g'
        | b'v' => Ok(1),
        b'a' if signature.get(1) == Some(&b'{') => {
            let key = signature.get(2).ok_or(bad)?;
            if matches!(key, b'a' | b'(' | b'{' | b'v') {
                return Err(Malformed("a dictionary's key is no basic type"));
            }
            let key = complete(&signature[2..], depth + 1)?;
            let value = complete(&signature[2 + key..], depth + 1)?;
            match signature.get(2 + key + value) {
                Some(b'}') => Ok(3 + key + value),
                _ => Err(bad),
            }
        }
        b'a' => Ok(1 + complete(&signature[1..], depth + 1)?),
        b'(' => {
            let mut at = 1;
            while signature.get(at) != Some(&b')') {
                at += complete(&signature[at..], depth + 1)?;
            }
            match at {
                1 => Err(bad),
                _ => Ok(at + 1),
            }
        }
        b'h' => Err(Malformed("a descriptor came unasked")),
        _ => Err(bad),
    }
}

/// Whether `text` is one complete type.
pub(crate) fn is_type(text: &str) -> bool {
    complete(text.as_bytes(), 0) == Ok(text.len())
}

/// Bytes to values. Alignment counts from the first byte.
pub(super) struct Decoder<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub big: bool,
}

impl<'a> Decoder<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        self.at += taken.map_or(0, <[u8]>::len);
        taken.ok_or(Malformed("a value is cut short"))
    }

    pub fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let padding = self.take(self.at.next_multiple_of(to) - self.at)?;
        match padding.iter().all(|b| *b == 0) {
            true => Ok(()),
            false => Err(Malformed("padding is not zero")),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.align(N)?;
        let taken = self.take(N)?.first_chunk::<N>().copied();
        let mut bytes = taken.ok_or(Malformed("a value is cut short"))?;
        if self.big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn text(&mut self, length: usize) -> Result<String, Malformed> {
        let bytes = self.take(length)?;
        if self.take(1)? != [0] {
            return Err(Malformed("a text does not end in a null byte"));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => Ok(text.into()),
            _ => Err(Malformed("a text is not UTF-8 without null bytes")),
        }
    }

    /// All values of a signature.
    pub fn values(&mut self, signature: &str, depth: usize) -> Result<Vec<Value>, Malformed> {
        let mut rest = signature;
        let mut values = Vec::new();
        while !rest.is_empty() {
            // A type is ASCII throughout, so the cut is between characters.
            let (one, more) = rest.split_at(complete(rest.as_bytes(), 0)?);
            values.push(self.value(one, depth)?);
            rest = more;
        }
        Ok(values)
    }

    /// The value of one complete type, which the caller has checked.
    pub fn value(&mut self, signature: &str, depth: usize) -> Result<Value, Malformed> {
        if depth > DEPTH {
            return Err(Malformed("values are nested too deep"));
        }
        let (code, inner) = signature.split_at_checked(1).unwrap_or(("", ""));
        Ok(match code {
            "y" => Value::Byte(self.take(1)?[0]),
            "b" => match self.u32()? {
                n @ (0 | 1) => Value::Bool(n == 1),
                _ => return Err(Malformed("a boolean is neither 0 nor 1")),
            },
            "n" => Value::I16(i16::from_le_bytes(self.number()?)),
            "q" => Value::U16(u16::from_le_bytes(self.number()?)),
            "i" => Value::I32(i32::from_le_bytes(self.number()?)),
            "u" => Value::U32(self.u32()?),
            "x" => Value::I64(i64::from_le_bytes(self.number()?)),
            "t" => Value::U64(u64::from_le_bytes(self.number()?)),
            "d" => Value::Double(f64::from_le_bytes(self.number()?)),
            "s" => {
                let length = self.u32()? as usize;
                Value::Str(self.text(length)?)
            }
            "o" => {
                let length = self.u32()? as usize;
                Value::Path(checked_path(self.text(length)?)?)
            }
            "g" => Value::Signature(self.signature()?),
            "v" => {
                let of = self.signature()?;
                if complete(of.as_bytes(), 0)? != of.len() {
                    return Err(Malformed("a variant is not of one type"));
                }
                Value::Variant(Box::new(self.value(&of, depth + 1)?))
            }
            "a" => self.array(inner, depth)?,
            "(" => {
                self.align(8)?;
                Value::Struct(self.values(&inner[..inner.len() - 1], depth + 1)?)
            }
            "{" => {
                self.align(8)?;
                let mut pair = self.values(&inner[..inner.len() - 1], depth + 1)?;
                match (pair.pop(), pair.pop()) {
                    (Some(value), Some(key)) => Value::Entry(Box::new(key), Box::new(value)),
                    _ => return Err(Malformed("a dictionary's entry is no pair")),
                }
            }
            _ => return Err(Malformed("a signature is none")),
        })
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let length = usize::from(self.take(1)?[0]);
        self.text(length)
    }

    fn array(&mut self, of: &str, depth: usize) -> Result<Value, Malformed> {
        let length = self.u32()? as usize;
        self.align(alignment(of.as_bytes().first().copied().unwrap_or(0)))?;
        let end = self
            .at
            .checked_add(length)
            .filter(|end| *end <= self.bytes.len())
            .ok_or(Malformed("an array is longer than its message"))?;
        let mut values = Vec::new();
        while self.at < end {
            values.push(self.value(of, depth + 1)?);
        }
        match self.at == end {
            true => Ok(Value::Array(of.into(), values)),
            false => Err(Malformed("an array's last element does not fit it")),
        }
    }
}

/// `/` or names of letters, digits and `_`, each after one slash.
fn checked_path(path: String) -> Result<String, Malformed> {
    let name = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let rest = path.strip_prefix('/');
    match rest {
        Some("") => Ok(path),
        Some(rest) if rest.split('/').all(name) => Ok(path),
        _ => Err(Malformed("an object path is none")),
    }
}
