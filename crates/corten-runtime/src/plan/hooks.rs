//! Hooks, as far as they can be judged without the host (config.md, "POSIX-platform Hooks").

use std::path::Path;

use oci_spec::runtime::{Hook, Spec};

use crate::error::{Error, invalid};

/// Every hook's path is absolute, and its timeout more than nothing.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    let Some(hooks) = spec.hooks() else {
        return Ok(());
    };
    #[allow(
        deprecated,
        reason = "the specification still asks for prestart hooks to be run"
    )]
    let prestart = hooks.prestart();
    let all = [
        ("hooks.prestart", prestart),
        ("hooks.createRuntime", hooks.create_runtime()),
        ("hooks.createContainer", hooks.create_container()),
        ("hooks.startContainer", hooks.start_container()),
        ("hooks.poststart", hooks.poststart()),
        ("hooks.poststop", hooks.poststop()),
    ];
    for (field, list) in all {
        list.iter()
            .flatten()
            .try_for_each(|hook| one(field, hook))?;
    }
    Ok(())
}

fn one(field: &str, hook: &Hook) -> Result<(), Error> {
    let path: &Path = hook.path();
    if !path.is_absolute() {
        let problem = format!("holds {path:?}, which is not absolute");
        return Err(invalid(field, problem));
    }
    match hook.timeout() {
        Some(seconds) if seconds <= 0 => {
            let problem = format!("gives {path:?} a timeout of {seconds} seconds");
            Err(invalid(field, problem))
        }
        _ => Ok(()),
    }
}
