//! The little of TOML that a flat table of options needs: one `key = value` a line, where a value is a string, an
//! integer or a boolean, and comments. All else is refused with its line, so nothing is misread.

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Flag(bool),
    Number(i64),
    Text(String),
}

impl Value {
    pub fn flag(self) -> Result<bool, &'static str> {
        match self {
            Self::Flag(on) => Ok(on),
            _ => Err("must be true or false"),
        }
    }

    pub fn number(self) -> Result<u32, &'static str> {
        match self {
            Self::Number(n) => u32::try_from(n).map_err(|_| "is out of range"),
            _ => Err("must be a number"),
        }
    }

    pub fn text(self) -> Result<String, &'static str> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err("must be a string"),
        }
    }
}

/// Why a text is no such table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Bad {
    line: usize,
    problem: &'static str,
}

/// The pairs of a table with their lines, in order.
pub fn parse(text: &str) -> Result<Vec<(usize, String, Value)>, Bad> {
    let mut pairs: Vec<(usize, String, Value)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line_number = index + 1;
        let bad = |problem| Bad {
            line: line_number,
            problem,
        };
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, rest) = line.split_once('=').ok_or(bad("is not KEY = VALUE"))?;
        let key = key.trim();
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if key.is_empty() || !key.chars().all(bare) {
            return Err(bad("the key is not a bare word"));
        }
        if pairs.iter().any(|(_, known, _)| known == key) {
            return Err(bad("the key is there twice"));
        }
        let (value, rest) = value(rest.trim_start()).map_err(bad)?;
        let rest = rest.trim();
        if !rest.is_empty() && !rest.starts_with('#') {
            return Err(bad("more follows the value"));
        }
        pairs.push((line_number, key.into(), value));
    }
    Ok(pairs)
}

/// A value, and what follows it.
fn value(text: &str) -> Result<(Value, &str), &'static str> {
    if text.starts_with("\"\"\"") || text.starts_with("'''") {
        return Err("a string of several lines is not understood");
    }
    if let Some(rest) = text.strip_prefix('\'') {
        let (inside, rest) = rest.split_once('\'').ok_or("the string does not end")?;
        return Ok((Value::Text(inside.into()), rest));
    }
    if let Some(rest) = text.strip_prefix('"') {
        return basic(rest);
    }
    let end = text
        .find(|c: char| c.is_whitespace() || c == '#')
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let value = match word {
        "true" => Value::Flag(true),
        "false" => Value::Flag(false),
        number => Value::Number(
            number
                .replace('_', "")
                .parse()
                .map_err(|_| "the value is no string, integer or boolean")?,
        ),
    };
    Ok((value, rest))
}

/// After the opening quote.
fn basic(text: &str) -> Result<(Value, &str), &'static str> {
    let mut inside = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((Value::Text(inside), &text[at + 1..])),
            '\\' => inside.push(match letters.next().map(|(_, c)| c) {
                Some('n') => '\n',
                Some('t') => '\t',
                Some(c @ ('"' | '\\')) => c,
                _ => return Err("an escape that is not understood"),
            }),
            letter => inside.push(letter),
        }
    }
    Err("the string does not end")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_flat_is_refused_with_its_line() {
        for (text, line) in [
            ("a = 1\n[b]", 2),
            ("a.b = 1", 1),
            ("a = [1]", 1),
            ("a = 'x", 1),
            ("a = \"x", 1),
            ("a = \"\\q\"", 1),
            ("a = 1 2", 1),
            ("a = 1\n\na = 2", 3),
            ("a = \"\"\"x", 1),
            ("a", 1),
            ("a =", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn a_written_string_comes_back(text in "[^\\x00-\\x08\\x0a-\\x1f]{0,40}") {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            let parsed = parse(&format!("k = \"{escaped}\" # c")).unwrap();
            prop_assert_eq!(&parsed[0].2, &Value::Text(text));
        }
    }
}
