//! YAML as far as descriptions of devices need it: one document of maps, lists and scalars.
//!
//! A scalar is text, but where the description has a number or a truth value: so `no`, `1.10` and `0x1` stay what
//! they look like in a name, and `0660` is octal in a file mode, as YAML 1.1 had it and its writers mean it. References
//! (`&a`, `*a`) are refused: a few of them can stand for more than any memory holds.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

use super::error::DocumentError;

/// Fields whose plain scalars are numbers, also in a list.
const NUMBERS: [&str; 7] = [
    "major",
    "minor",
    "fileMode",
    "uid",
    "gid",
    "timeout",
    "additionalGids",
];
const TRUTHS: [&str; 1] = ["enableMonitoring"];
/// A description is four deep.
const MAX_DEPTH: usize = 32;

/// The document as JSON has it.
pub(super) fn parse(text: &str) -> Result<Value, DocumentError> {
    let mut reader = Reader {
        stack: vec![],
        done: None,
    };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| refuse(e.marker().line(), e.info()))?;
        let line = span.start.line();
        reader
            .take(event)
            .map_err(|problem| refuse(line, problem))?;
    }
    reader.done.ok_or_else(|| refuse(1, "there is no document"))
}

fn refuse(line: usize, problem: impl Into<String>) -> DocumentError {
    DocumentError::Yaml {
        line,
        problem: problem.into(),
    }
}

/// What is being read: the containers that are open, the innermost last.
struct Reader {
    stack: Vec<Open>,
    done: Option<Value>,
}

enum Open {
    List {
        /// The field that holds it.
        key: String,
        items: Vec<Value>,
    },
    Map {
        fields: Map<String, Value>,
        /// Its value comes next.
        key: Option<String>,
        /// That of the field which holds this map.
        own: String,
    },
}

impl Reader {
    fn take(&mut self, event: Event<'_>) -> Result<(), String> {
        match event {
            Event::Alias(_) => Err("a reference (*) is not supported".into()),
            Event::SequenceStart(anchor, tag) => {
                plain(anchor, tag.is_some())?;
                let key = self.key();
                self.open(Open::List { key, items: vec![] })
            }
            Event::MappingStart(anchor, tag) => {
                plain(anchor, tag.is_some())?;
                let own = self.key();
                self.open(Open::Map {
                    fields: Map::new(),
                    key: None,
                    own,
                })
            }
            Event::SequenceEnd => match self.stack.pop() {
                Some(Open::List { items, .. }) => self.put(items.into()),
                _ => Err("a list ends that did not start".into()),
            },
            Event::MappingEnd => match self.stack.pop() {
                Some(Open::Map {
                    fields, key: None, ..
                }) => self.put(fields.into()),
                _ => Err("a map ends without a value".into()),
            },
            Event::Scalar(text, style, anchor, tag) => {
                plain(anchor, tag.is_some())?;
                self.scalar(text.into_owned(), style)
            }
            Event::DocumentStart(_) if self.done.is_some() => {
                Err("there is a second document".into())
            }
            _ => Ok(()),
        }
    }

    /// The field that the next value is of.
    fn key(&self) -> String {
        match self.stack.last() {
            Some(Open::List { key, .. }) => key.clone(),
            Some(Open::Map { key: Some(key), .. }) => key.clone(),
            Some(Open::Map { own, .. }) => own.clone(),
            None => String::new(),
        }
    }

    fn open(&mut self, new: Open) -> Result<(), String> {
        if let Some(Open::Map { key: None, .. }) = self.stack.last() {
            return Err("a key is a map or a list".into());
        }
        if self.stack.len() == MAX_DEPTH {
            return Err(format!("it is nested more than {MAX_DEPTH} deep"));
        }
        self.stack.push(new);
        Ok(())
    }

    fn scalar(&mut self, text: String, style: ScalarStyle) -> Result<(), String> {
        if let Some(Open::Map { key, fields, .. }) = self.stack.last_mut()
            && key.is_none()
        {
            if fields.contains_key(&text) {
                return Err(format!("{text:?} is there twice"));
            }
            *key = Some(text);
            return Ok(());
        }
        let value = match style {
            ScalarStyle::Plain => typed(&self.key(), text),
            _ => Value::String(text),
        };
        self.put(value)
    }

    fn put(&mut self, value: Value) -> Result<(), String> {
        match self.stack.last_mut() {
            Some(Open::List { items, .. }) => items.push(value),
            Some(Open::Map { fields, key, .. }) => match key.take() {
                Some(key) => drop(fields.insert(key, value)),
                None => return Err("a value has no key".into()),
            },
            None => self.done = Some(value),
        }
        Ok(())
    }
}

fn plain(anchor: usize, tagged: bool) -> Result<(), String> {
    match (anchor, tagged) {
        (0, false) => Ok(()),
        (0, true) => Err("a tag (!) is not supported".into()),
        _ => Err("a reference (&) is not supported".into()),
    }
}

fn typed(key: &str, text: String) -> Value {
    if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    if NUMBERS.contains(&key)
        && let Some(number) = number(&text)
    {
        return Value::Number(number);
    }
    match text.as_str() {
        "true" | "True" | "TRUE" if TRUTHS.contains(&key) => Value::Bool(true),
        "false" | "False" | "FALSE" if TRUTHS.contains(&key) => Value::Bool(false),
        _ => Value::String(text),
    }
}

/// `432`, `0660`, `0o660`, `0x1b0`.
fn number(text: &str) -> Option<Number> {
    let (digits, radix) = match text.strip_prefix('0') {
        None | Some("") => (text, 10),
        Some(rest) => match rest.strip_prefix(['x', 'o']) {
            Some(digits) if rest.starts_with('x') => (digits, 16),
            Some(digits) => (digits, 8),
            None => (rest, 8),
        },
    };
    let plain = digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let number = u64::from_str_radix(digits, radix).ok()?;
    plain.then(|| Number::from(number))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scalars_are_what_the_description_says() {
        let text = "name: no\nversion: 1.10\nmajor: 195\nfileMode: 0660\nuid: '7'\n\
            enableMonitoring: true\nother: true\nnothing: ~\nempty:\nadditionalGids: [1, 0x10]\n\
            text: |\n  two\n  lines\n";
        assert_eq!(
            parse(text).unwrap(),
            json!({
                "name": "no", "version": "1.10", "major": 195, "fileMode": 0o660, "uid": "7",
                "enableMonitoring": true, "other": "true", "nothing": null, "empty": null,
                "additionalGids": [1, 16], "text": "two\nlines\n",
            })
        );
    }

    #[test]
    fn what_is_no_plain_document_is_refused_with_its_line() {
        for (text, line, word) in [
            ("a: &x 1\nb: *x\n", 1, "reference"),
            ("a: 1\nb: !!str 1\n", 2, "tag"),
            ("a: 1\na: 2\n", 2, "twice"),
            ("? [1]\n: 2\n", 1, "key"),
            ("a: 1\n---\nb: 1\n", 2, "second"),
            ("", 1, "no document"),
            ("a: [1\n", 2, ""),
            (&"[".repeat(100), 1, "deep"),
        ] {
            match parse(text) {
                Err(DocumentError::Yaml { line: at, problem }) => {
                    assert!(
                        at == line && problem.contains(word),
                        "{text}: {at}: {problem}"
                    );
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
