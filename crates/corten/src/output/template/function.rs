//! What a template may call: Go's functions and docker's.

use std::cmp::Ordering;

use serde_json::Value;

use super::TemplateError;

type Result<T> = std::result::Result<T, TemplateError>;

const NAMES: [&str; 24] = [
    "and", "eq", "ge", "gt", "index", "join", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "replace", "split", "title", "trim", "truncate",
    "upper",
];

pub fn is_known(name: &str) -> bool {
    NAMES.contains(&name)
}

pub fn call(name: &str, arguments: &[Value]) -> Result<Value> {
    let wants = |n: usize| match arguments.len() == n {
        true => Ok(()),
        false => Err(TemplateError::Value(format!(
            "{name} takes {n} values and has {}",
            arguments.len()
        ))),
    };
    let arg = |i: usize| arguments.get(i).unwrap_or(&Value::Null);
    let text = |i: usize| print(arg(i));
    Ok(match name {
        "json" => wants(1).map(|()| arg(0).to_string().into())?,
        "upper" => wants(1).map(|()| text(0).to_uppercase().into())?,
        "lower" => wants(1).map(|()| text(0).to_lowercase().into())?,
        "title" => wants(1).map(|()| title(&text(0)).into())?,
        "trim" => wants(1).map(|()| text(0).trim().into())?,
        "len" => wants(1).and_then(|()| length(arg(0)))?,
        "not" => wants(1).map(|()| (!truth(arg(0))).into())?,
        "join" => wants(2).and_then(|()| join(arg(0), &text(1)))?,
        "split" => wants(2).map(|()| text(0).split(&text(1)).map(Value::from).collect())?,
        "truncate" => wants(2).map(|()| truncate(&text(0), arg(1)).into())?,
        "replace" => wants(3).map(|()| text(0).replace(&text(1), &text(2)).into())?,
        "pad" => wants(3).map(|()| pad(&text(0), arg(1), arg(2)).into())?,
        "index" => index(arguments)?,
        "and" => arguments
            .iter()
            .find(|v| !truth(v))
            .or(arguments.last())
            .cloned()
            .unwrap_or_default(),
        "or" => arguments
            .iter()
            .find(|v| truth(v))
            .or(arguments.last())
            .cloned()
            .unwrap_or_default(),
        "eq" => arguments.iter().skip(1).any(|v| same(arg(0), v)).into(),
        "ne" => wants(2).map(|()| (!same(arg(0), arg(1))).into())?,
        "lt" => wants(2)
            .and_then(|()| compare(arg(0), arg(1)))
            .map(|o| o.is_lt().into())?,
        "le" => wants(2)
            .and_then(|()| compare(arg(0), arg(1)))
            .map(|o| o.is_le().into())?,
        "gt" => wants(2)
            .and_then(|()| compare(arg(0), arg(1)))
            .map(|o| o.is_gt().into())?,
        "ge" => wants(2)
            .and_then(|()| compare(arg(0), arg(1)))
            .map(|o| o.is_ge().into())?,
        "print" => all(arguments, "").into(),
        "println" => format!("{}\n", all(arguments, " ")).into(),
        "printf" => printf(arguments)?.into(),
        _ => {
            return Err(TemplateError::Value(format!(
                "there is no function {name:?}"
            )));
        }
    })
}

/// As Go prints: lists in brackets, maps with their keys in order, nothing as `<no value>`.
pub fn print(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".into(),
        Value::String(s) => s.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(print).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let mut all: Vec<String> = fields
                .iter()
                .map(|(k, v)| format!("{k}:{}", print(v)))
                .collect();
            all.sort();
            format!("map[{}]", all.join(" "))
        }
        other => other.to_string(),
    }
}

/// Go's: what is empty, zero or nothing is false.
pub fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn all(values: &[Value], between: &str) -> String {
    values.iter().map(print).collect::<Vec<_>>().join(between)
}

fn title(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}

fn length(value: &Value) -> Result<Value> {
    match value {
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(fields) => Ok(fields.len().into()),
        Value::String(s) => Ok(s.len().into()),
        Value::Null => Ok(0.into()),
        other => Err(TemplateError::Value(format!("{other} has no length"))),
    }
}

fn join(list: &Value, between: &str) -> Result<Value> {
    match list {
        Value::Array(items) => Ok(all(items, between).into()),
        Value::Null => Ok("".into()),
        other => Err(TemplateError::Value(format!(
            "{:?} is no list to join",
            print(other)
        ))),
    }
}

fn number(value: &Value) -> usize {
    value
        .as_u64()
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0)
}

fn truncate(text: &str, to: &Value) -> String {
    text.chars().take(number(to)).collect()
}

/// More than a terminal is wide is a mistake; memory is not to pay for it.
fn pad(text: &str, before: &Value, after: &Value) -> String {
    let blanks = |n: &Value| " ".repeat(number(n).min(1000));
    format!("{}{text}{}", blanks(before), blanks(after))
}

fn index(arguments: &[Value]) -> Result<Value> {
    let Some((from, keys)) = arguments.split_first() else {
        return Err(TemplateError::Value(
            "index takes a list or map and a key".into(),
        ));
    };
    let mut at = from;
    for key in keys {
        at = match (at, key) {
            (Value::Array(items), Value::Number(n)) => {
                let i = n.as_u64().and_then(|n| usize::try_from(n).ok());
                i.and_then(|i| items.get(i)).ok_or_else(|| {
                    TemplateError::Value(format!("index {n} is outside a list of {}", items.len()))
                })?
            }
            (Value::Object(fields), key) => fields.get(&print(key)).unwrap_or(&Value::Null),
            _ => &Value::Null,
        };
    }
    Ok(at.clone())
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || matches!(compare(a, b), Ok(Ordering::Equal))
}

fn compare(a: &Value, b: &Value) -> Result<Ordering> {
    let order = match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    order.ok_or_else(|| {
        TemplateError::Value(format!(
            "{:?} and {:?} cannot be compared",
            print(a),
            print(b)
        ))
    })
}

/// `%s`, `%v`, `%d`, `%q` with an optional width; `%%`.
fn printf(arguments: &[Value]) -> Result<String> {
    let format = arguments.first().map(print).unwrap_or_default();
    let mut values = arguments.iter().skip(1);
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut width = String::new();
        while let Some(d) = chars.next_if(|d| d.is_ascii_digit() || *d == '-') {
            width.push(d);
        }
        let verb = chars.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let value = values
            .next()
            .ok_or_else(|| TemplateError::Value(format!("printf {format:?} has too few values")))?;
        let text = match verb {
            Some('s' | 'v' | 'd') => print(value),
            Some('q') => format!("{:?}", print(value)),
            _ => {
                return Err(TemplateError::Value(format!(
                    "printf knows %s %v %d %q, not {format:?}"
                )));
            }
        };
        out.push_str(&padded(&text, &width));
    }
    Ok(out)
}

fn padded(text: &str, width: &str) -> String {
    let left = width.starts_with('-');
    let n = width.trim_start_matches('-').parse().unwrap_or(0).min(1000);
    match left {
        true => format!("{text:<n$}"),
        false => format!("{text:>n$}"),
    }
}
