//! `state`, `list`.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::options::{End, flag, parse, value};
use super::{Context, Failure, UsageError, id};
use crate::State;

pub(super) fn state(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &[], End::Never)?;
    let state = crate::state(&context.root, &id(&parsed)?)?;
    println!("{}", pretty(&document(&state)));
    Ok(0)
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// runc's fields: the specification's, and where it is from.
fn document(state: &State) -> Value {
    let mut document = json!({
        "ociVersion": crate::OCI_VERSION,
        "id": state.id,
        "pid": state.pid,
        "status": state.status.as_str(),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "owner": owner(state.owner),
    });
    if !state.annotations.is_empty() {
        document["annotations"] = json!(state.annotations);
    }
    document
}

/// The user's name; `#` and the number if there is none, as runc has it.
fn owner(uid: u32) -> String {
    if uid == 0 {
        return "root".into();
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    };
    users
        .lines()
        .find_map(of)
        .unwrap_or_else(|| format!("#{uid}"))
}

/// `table` or `json`.
pub(super) fn is_json(format: Option<&str>) -> Result<bool, UsageError> {
    match format {
        None | Some("table") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(UsageError::Bad {
            name: "format",
            text: other.into(),
            must: "table or json",
        }),
    }
}

pub(super) fn list(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let table = [value("format").or('f'), flag("quiet").or('q')];
    let parsed = parse(args, &table, End::Never)?;
    if let Some(extra) = parsed.positional.first() {
        return Err(UsageError::Many(extra.clone()).into());
    }
    let json = is_json(parsed.get("format"))?;
    let states = crate::list(&context.root)?;
    if parsed.has("quiet") {
        states.iter().for_each(|s| println!("{}", s.id));
    } else if json {
        let all: Vec<Value> = states.iter().map(document).collect();
        println!("{}", Value::from(all));
    } else {
        let rows = states.iter().map(|s| {
            [
                s.id.to_string(),
                s.pid.to_string(),
                s.status.as_str().into(),
                s.bundle.display().to_string(),
                s.created.clone(),
                owner(s.owner),
            ]
            .to_vec()
        });
        let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(String::from);
        let head = head.to_vec();
        print_table(std::iter::once(head).chain(rows).collect());
    }
    Ok(0)
}

/// Columns as wide as their widest cell, but the last.
pub(super) fn print_table(rows: Vec<Vec<String>>) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
