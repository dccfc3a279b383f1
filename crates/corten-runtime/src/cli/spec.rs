//! `spec`: a configuration to start from.

use std::ffi::OsString;
use std::path::PathBuf;

use super::options::{End, flag, parse, value};
use super::{Failure, UsageError};

pub(super) fn spec(args: Vec<OsString>) -> Result<u8, Failure> {
    let table = [value("bundle").or('b'), flag("rootless")];
    let parsed = parse(args, &table, End::Never)?;
    if let Some(extra) = parsed.positional.first() {
        return Err(UsageError::Many(extra.clone()).into());
    }
    let path = PathBuf::from(parsed.get("bundle").unwrap_or(".")).join("config.json");
    let spec = match parsed.has("rootless") {
        true => crate::spec::rootless(
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        ),
        false => crate::spec::default(),
    };
    let json = serde_json::to_vec_pretty(&spec);
    let json = json.map_err(|source| Failure::Json {
        path: path.clone(),
        source,
    })?;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create_new(&path)?;
        std::io::Write::write_all(&mut file, &json)
    };
    write().map_err(|source| Failure::File {
        what: "write",
        path: path.clone(),
        source,
    })?;
    Ok(0)
}
