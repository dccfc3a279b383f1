//! `org.systemd.property.NAME`: properties of the unit in the annotations of a spec, as runc and crun take
//! them. The value is GVariant's text (GLib, "GVariant Text Format"), of which a unit's properties need
//! numbers, strings, booleans, arrays and tuples.

use super::Property;
use super::value::{Value, is_type};
use crate::Error;

pub(crate) const PREFIX: &str = "org.systemd.property.";
const DEPTH: usize = 8;

/// What is wrong with a value; the caller names the annotation.
type Result<T> = std::result::Result<T, &'static str>;

/// The property that an annotation asks for; `None` if it is about something else.
pub(crate) fn property(key: &str, text: &str) -> Option<std::result::Result<Property, Error>> {
    let name = key.strip_prefix(PREFIX)?;
    Some(parse(name, text).map_err(|reason| Error::Invalid {
        setting: format!("annotation {key}"),
        value: text.into(),
        reason,
    }))
}

fn parse(name: &str, text: &str) -> Result<Property> {
    if name.len() < 3 || !name.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Err("a property's name is made of three letters or more");
    }
    // These decide what the unit is and who is in it: they are ours.
    if matches!(name, "PIDs" | "Slice" | "Delegate" | "DefaultDependencies") {
        return Err("the runtime sets this property itself");
    }
    let mut parser = Parser { rest: text.trim() };
    let value = parser.value(0)?;
    if !parser.rest.trim_start().is_empty() {
        return Err("something follows the value");
    }
    // Its length is one byte on the wire.
    if value.signature().len() > 255 {
        return Err("its type is longer than 255 bytes");
    }
    // On the bus times are whole microseconds. People write seconds, and runc set the custom.
    let Some(stem) = name.strip_suffix("Sec").filter(|s| !s.ends_with('U')) else {
        return Ok(Property::new(name, value));
    };
    let micros = match value {
        Value::I32(n) => u64::try_from(n).ok().and_then(|n| n.checked_mul(1_000_000)),
        Value::I64(n) => u64::try_from(n).ok().and_then(|n| n.checked_mul(1_000_000)),
        Value::U32(n) => Some(u64::from(n) * 1_000_000),
        Value::U64(n) => n.checked_mul(1_000_000),
        Value::Double(n) if (0.0..1e12).contains(&n) => Some((n * 1e6) as u64),
        _ => None,
    };
    let micros = micros.ok_or("a time is a number of seconds")?;
    Ok(Property::new(&format!("{stem}USec"), Value::U64(micros)))
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// A value of its own type, or of the type that a word or `@signature` in front names.
    fn value(&mut self, depth: usize) -> Result<Value> {
        if depth > DEPTH {
            return Err("it is nested too deep");
        }
        self.rest = self.rest.trim_start();
        if let Some(rest) = self.rest.strip_prefix('@') {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            let (signature, rest) = rest.split_at(end);
            if !is_type(signature) {
                return Err("after @ comes a type");
            }
            self.rest = rest;
            return self.typed(signature, depth);
        }
        let word: &str = &self.rest[..self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(self.rest.len())];
        let code = match word {
            "boolean" => "b",
            "byte" => "y",
            "int16" => "n",
            "uint16" => "q",
            "int32" => "i",
            "uint32" => "u",
            "int64" => "x",
            "uint64" => "t",
            "double" => "d",
            "string" => "s",
            "objectpath" => "o",
            "signature" => "g",
            _ => return self.plain(depth),
        };
        self.rest = &self.rest[word.len()..];
        self.typed(code, depth)
    }

    /// A value without a type in front: what it looks like decides.
    fn plain(&mut self, depth: usize) -> Result<Value> {
        match self.rest.chars().next() {
            Some('\'' | '"') => self.string().map(Value::Str),
            Some('[') => {
                let values = self.list('[', ']', |p| p.value(depth + 1))?;
                let of = values.first().map(Value::signature);
                let of = of.ok_or("an empty array needs its type: @as []")?;
                match values.iter().all(|v| v.signature() == of) {
                    true => Ok(Value::Array(of, values)),
                    false => Err("an array's elements are of one type"),
                }
            }
            Some('(') => {
                let fields = self.list('(', ')', |p| p.value(depth + 1))?;
                match fields.is_empty() {
                    true => Err("a tuple has a field at least"),
                    false => Ok(Value::Struct(fields)),
                }
            }
            Some(_) => {
                let word = self.word();
                match word {
                    "true" | "false" => Ok(Value::Bool(word == "true")),
                    _ if word.contains(['.', 'e', 'E']) && !word.starts_with("0x") => double(word),
                    _ => number::<i32>(word).map(Value::I32),
                }
            }
            None => Err("it is empty"),
        }
    }

    fn typed(&mut self, signature: &str, depth: usize) -> Result<Value> {
        if depth > DEPTH {
            return Err("it is nested too deep");
        }
        self.rest = self.rest.trim_start();
        let (code, inner) = signature.split_at(1);
        Ok(match code {
            "s" => Value::Str(self.string()?),
            "o" => Value::Path(self.string()?),
            "g" => Value::Signature(self.string().and_then(|s| match s.len() {
                0..=255 => Ok(s),
                _ => Err("a signature is longer than 255 bytes"),
            })?),
            "a" => {
                let values = self.list('[', ']', |p| p.typed(inner, depth + 1))?;
                Value::Array(inner.into(), values)
            }
            "b" => match self.word() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => return Err("a boolean is true or false"),
            },
            "y" => Value::Byte(number(self.word())?),
            "n" => Value::I16(number(self.word())?),
            "q" => Value::U16(number(self.word())?),
            "i" => Value::I32(number(self.word())?),
            "u" => Value::U32(number(self.word())?),
            "x" => Value::I64(number(self.word())?),
            "t" => Value::U64(number(self.word())?),
            "d" => double(self.word())?,
            "(" => {
                let value = self.plain(depth + 1)?;
                match value.signature() == signature {
                    true => value,
                    false => return Err("a tuple is not of the type in front of it"),
                }
            }
            _ => return Err("a type that properties of units do not have"),
        })
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|c: char| c.is_whitespace() || ",])".contains(c))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn string(&mut self) -> Result<String> {
        let mut letters = self.rest.char_indices();
        let quote = match letters.next() {
            Some((_, c @ ('\'' | '"'))) => c,
            _ => return Err("a string is in quotes"),
        };
        let mut text = String::new();
        while let Some((at, c)) = letters.next() {
            match c {
                '\0' => return Err("a string holds a null byte"),
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(text);
                }
                '\\' => match letters.next() {
                    Some((_, 'n')) => text.push('\n'),
                    Some((_, 't')) => text.push('\t'),
                    Some((_, c @ ('\\' | '\'' | '"'))) => text.push(c),
                    _ => return Err("an escape is one of \\n \\t \\\\ \\' \\\""),
                },
                c => text.push(c),
            }
        }
        Err("a string does not end")
    }

    fn list(
        &mut self,
        open: char,
        close: char,
        mut one: impl FnMut(&mut Self) -> Result<Value>,
    ) -> Result<Vec<Value>> {
        let wrong = "a list is in brackets, with commas between";
        self.rest = self.rest.trim_start().strip_prefix(open).ok_or(wrong)?;
        let mut values = Vec::new();
        loop {
            self.rest = self.rest.trim_start();
            if let Some(rest) = self.rest.strip_prefix(close) {
                self.rest = rest;
                return Ok(values);
            }
            values.push(one(self)?);
            self.rest = self.rest.trim_start();
            match self.rest.strip_prefix(',') {
                Some(rest) => self.rest = rest,
                None if self.rest.starts_with(close) => {}
                None => return Err(wrong),
            }
        }
    }
}

fn number<T: TryFrom<i128>>(word: &str) -> Result<T> {
    let (sign, digits) = match word.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, word.strip_prefix('+').unwrap_or(word)),
    };
    let value = match digits.strip_prefix("0x") {
        Some(hex) => i128::from_str_radix(hex, 16),
        None => digits.parse::<i128>(),
    };
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let value = value.ok().filter(|_| plain).ok_or("not a number")?;
    T::try_from(sign * value).map_err(|_| "a number is out of its type's range")
}

fn double(word: &str) -> Result<Value> {
    let value = word.parse::<f64>().map_err(|_| "not a number")?;
    match value.is_finite() {
        true => Ok(Value::Double(value)),
        false => Err("not a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(name: &str, value: &str) -> String {
        match parse(name, value) {
            Ok(property) => property.to_string(),
            Err(reason) => format!("refused: {reason}"),
        }
    }

    #[test]
    fn values_as_people_write_them() {
        for (name, value, is) in [
            (
                "CollectMode",
                "'inactive-or-failed'",
                r#"CollectMode = "inactive-or-failed""#,
            ),
            (
                "TimeoutStopUSec",
                "uint64 123456789",
                "TimeoutStopUSec = uint64 123456789",
            ),
            ("TimeoutStopSec", "5", "TimeoutStopUSec = uint64 5000000"),
            ("TimeoutStopSec", "0.5", "TimeoutStopUSec = uint64 500000"),
            ("IPAccounting", "true", "IPAccounting = true"),
            (
                "Before",
                "['a.service', \"b.service\"]",
                r#"Before = @as ["a.service", "b.service"]"#,
            ),
            ("After", "@as []", "After = @as []"),
            (
                "DeviceAllow",
                "[('/dev/x', 'rw')]",
                r#"DeviceAllow = @a(ss) [("/dev/x", "rw")]"#,
            ),
            ("OOMScoreAdjust", "int32 -5", "OOMScoreAdjust = int32 -5"),
            ("KillSignal", "0x9", "KillSignal = int32 9"),
            ("IODeviceWeight", "@a(st) []", "IODeviceWeight = @a(st) []"),
            ("CPUWeight", "uint64 x", "refused: not a number"),
            (
                "CPUWeight",
                "byte 256",
                "refused: a number is out of its type's range",
            ),
            (
                "X",
                "1",
                "refused: a property's name is made of three letters or more",
            ),
            (
                "A.B.C",
                "1",
                "refused: a property's name is made of three letters or more",
            ),
            (
                "PIDs",
                "[uint32 1]",
                "refused: the runtime sets this property itself",
            ),
            (
                "Before",
                "[]",
                "refused: an empty array needs its type: @as []",
            ),
            (
                "Before",
                "['a', 1]",
                "refused: an array's elements are of one type",
            ),
            ("Before", "'a' 'b'", "refused: something follows the value"),
            (
                "TimeoutStopSec",
                "-1",
                "refused: a time is a number of seconds",
            ),
            ("Description", "'open", "refused: a string does not end"),
            ("Description", "", "refused: it is empty"),
        ] {
            assert_eq!(text(name, value), is, "{name} {value}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(value in ".{0,64}") {
            let _ = parse("Property", &value);
        }

        #[test]
        fn no_likely_text_makes_it_panic(value in r#"[@\[\]()',"0-9a-z. \\-]{0,40}"#) {
            if let Ok(property) = parse("Property", &value) {
                // What was understood can be sent.
                prop_assert!(is_type(&property.value.signature()));
            }
        }
    }
}
