//! `remount`: other options for a mount that is there.

use std::ffi::CString;

use oci_spec::runtime::Mount;

use super::c_string;
use super::mounts::{Anchor, Change, FIELD, Plan, Source, propagate};
use super::words::Options;
use crate::error::{Error, invalid};

/// A change to a mount that is there. The superblock of a bind mount is the host's, so only what this spec has
/// mounted itself is changed beyond the mount's own attributes.
pub(super) fn plan(
    mount: &Mount,
    target: CString,
    options: &Options,
    earlier: &[Plan],
) -> Result<Plan, Error> {
    let at = mount.destination();
    let of = earlier.iter().rposition(|p| p.target == target);
    let own = of.is_some_and(|i| matches!(earlier[i].source, Source::New { .. }));
    let rest = options.rest.iter();
    let words: Vec<_> = options
        .superblock
        .iter()
        .map(|flag| (*flag, None))
        .chain(rest.map(|(key, value)| (key.as_str(), value.as_deref())))
        .collect();
    if let Some((word, _)) = words.first()
        && (!own || options.bind)
    {
        let problem = format!(
            "of {at:?} asks to remount with {word}, and the file system there is not of this spec"
        );
        return Err(invalid(FIELD, problem));
    }
    if options.idmap.is_some() || options.copy_up || mount.uid_mappings().is_some() {
        let problem = format!("of {at:?} asks to remount with what only a new mount can have");
        return Err(invalid(FIELD, problem));
    }
    let raw = words.iter().map(|(key, value)| {
        let value = value.map(|v| c_string(FIELD, v.as_bytes())).transpose()?;
        Ok((c_string(FIELD, key.as_bytes())?, value))
    });
    Ok(Plan {
        target,
        source: Source::Remount {
            of,
            options: raw.collect::<Result<_, Error>>()?,
        },
        changes: remount_changes(options),
        idmap: None,
        anchor: Anchor::Lookup,
        plain: false,
        cover_link: options.cover_link,
        copy_up: false,
        keep_mode: false,
    })
}

/// What is named is changed, and nothing else, as mount(8) has it.
fn remount_changes(options: &Options) -> Vec<Change> {
    let change = |attributes, recursive| Change {
        attributes,
        propagation: None,
        recursive,
    };
    let mut changes: Vec<Change> = options.propagation.iter().map(propagate).collect();
    if !options.attributes.is_empty() {
        changes.push(change(options.attributes, false));
    }
    if !options.below.is_empty() {
        changes.push(change(options.below, true));
    }
    changes
}
