//! `state`, `list`, `ps`.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::options::{End, Parsed, flag, parse, value};
use super::{Context, Failure, UsageError, first_id, id};
use crate::{State, Status};

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
    let owner = match state.owner {
        0 => "root".into(),
        uid => uid.to_string(),
    };
    let mut document = json!({
        "ociVersion": crate::OCI_VERSION,
        "id": state.id,
        "pid": state.pid,
        "status": state.status.as_str(),
        "bundle": state.bundle,
        "rootfs": state.rootfs,
        "created": state.created,
        "owner": owner,
    });
    if !state.annotations.is_empty() {
        document["annotations"] = json!(state.annotations);
    }
    document
}

/// `table` or `json`.
fn is_json(parsed: &Parsed) -> Result<bool, UsageError> {
    match parsed.get("format") {
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
    let json = is_json(&parsed)?;
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
            ]
        });
        let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED"].map(String::from);
        print_table(std::iter::once(head).chain(rows).collect());
    }
    Ok(0)
}

fn print_table<const N: usize>(rows: Vec<[String; N]>) {
    let width = |column: usize| {
        rows.iter()
            .map(|r| r[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..N).map(width).collect();
    for row in &rows {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

pub(super) fn ps(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &[value("format").or('f')], End::At(0))?;
    if let Some(extra) = parsed
        .rest
        .iter()
        .find(|a| !a.as_encoded_bytes().starts_with(b"-"))
    {
        return Err(UsageError::Many(extra.clone()).into());
    }
    let format = parse(parsed.rest.clone(), &[value("format").or('f')], End::Never)?;
    let json = is_json(&parsed)? || is_json(&format)?;
    let id = first_id(&parsed)?;
    let state = crate::state(&context.root, &id)?;
    if state.status == Status::Stopped {
        return Err(Failure::Refused("container not running"));
    }
    let mut pids = crate::pids(&context.root, &id)?;
    pids.sort_unstable();
    if json {
        println!("{}", json!(pids));
        return Ok(0);
    }
    let head = ["PID", "PPID", "UID", "CMD"].map(String::from);
    let rows = pids.iter().filter_map(|pid| describe(*pid));
    print_table(std::iter::once(head).chain(rows).collect());
    Ok(0)
}

/// `None`: it has ended meanwhile.
fn describe(pid: i32) -> Option<[String; 4]> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next())
            .unwrap_or("?")
            .to_owned()
    };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    let command = match line.trim() {
        "" => format!("[{}]", field("Name")),
        command => command.into(),
    };
    Some([pid.to_string(), field("PPid"), field("Uid"), command])
}
