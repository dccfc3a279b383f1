//! Commands that are one call: `start`, `kill`, `delete`, `pause`, `resume`.

use std::ffi::OsString;
use std::path::Path;

use corten_spec::ContainerId;

use super::options::{End, flag, parse};
use super::{Context, Failure, UsageError, first_id, id};
use crate::Error;

type Verb = fn(&Path, &ContainerId) -> Result<(), Error>;

fn verb(args: Vec<OsString>, context: &Context, call: Verb) -> Result<u8, Failure> {
    let parsed = parse(args, &[], End::Never)?;
    call(&context.root, &id(&parsed)?)?;
    Ok(0)
}

pub(super) fn start(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    verb(args, context, crate::start)
}

pub(super) fn pause(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    verb(args, context, crate::pause)
}

pub(super) fn resume(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    verb(args, context, crate::resume)
}

pub(super) fn delete(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &[flag("force").or('f')], End::Never)?;
    let warnings = crate::delete(&context.root, &id(&parsed)?, parsed.has("force"))?;
    warnings.iter().for_each(|w| context.log.warning(w));
    Ok(0)
}

pub(super) fn kill(args: Vec<OsString>, context: &Context) -> Result<u8, Failure> {
    let parsed = parse(args, &[flag("all").or('a')], End::Never)?;
    let id = first_id(&parsed)?;
    let signal = match parsed.positional.as_slice() {
        [_] => 15,
        [_, signal] => {
            let text = signal.to_string_lossy();
            number(&text).ok_or_else(|| UsageError::Signal(text.clone().into_owned()))?
        }
        [_, _, extra, ..] => return Err(UsageError::Many(extra.clone()).into()),
        [] => return Err(UsageError::Missing("CONTAINER-ID").into()),
    };
    crate::kill(&context.root, &id, signal, parsed.has("all"))?;
    Ok(0)
}

/// signal(7), in the order of x86 and ARM; the place is the number less one.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// `SIGTERM`, `term`, `15`, `RTMIN+3`.
fn number(text: &str) -> Option<i32> {
    const RTMIN: i32 = 34;
    const RTMAX: i32 = 64;
    if let Ok(number) = text.parse::<i32>() {
        // 0 asks whether it is there.
        return (0..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|n| *n == name) {
        return Some(index as i32 + 1);
    }
    let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
        Some(digits) => digits.parse::<i32>().ok(),
        None => rest.is_empty().then_some(0),
    };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => RTMIN.checked_add(offset(rest, '+')?)?,
        (_, Some(rest)) => RTMAX.checked_sub(offset(rest, '-')?)?,
        _ => {
            return match name {
                "IOT" => Some(6),
                "POLL" => Some(29),
                _ => None,
            };
        }
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn signals_by_name_and_number() {
        for (text, expected) in [
            ("SIGKILL", Some(9)),
            ("term", Some(15)),
            ("15", Some(15)),
            ("RTMIN", Some(34)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGSYS", Some(31)),
            ("0", Some(0)),
            ("65", None),
            ("-1", None),
            ("RTMIN+99", None),
            ("NOPE", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
    }
}
