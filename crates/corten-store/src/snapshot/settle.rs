//! Settling: what a layer could not know while it was unpacked alone, now that the stack below it is known.
//!
//! The layer itself is never changed, for other images may have it on other layers. What it learns goes into a patch: a
//! small tree that lies on top of it, with
//!
//! - the folders that the layer implies, with the attributes that they have below (an overlay takes a
//!   folder's attributes from the topmost layer that has it);
//! - hard links to files that only lower layers have;
//! - where an implied folder is a symlink below (`bin` → `usr/bin` under a layer with `bin/tool`): that symlink,
//!   and links to what the layer has in the folder, at the place where the symlink leads. So it would be had the layers been
//!   unpacked in order, one over the other.
//!
//! Links between layers cost no copy: layers are never written to, so they may share inodes. Most layers imply nothing and
//! have no patch. The design and what else was thought of: docs/design/0003-store.md.

use super::merged::{Folders, Merged};
use super::patch::{Fault, Patch};
use crate::content::partial::Partial;
use crate::error::{Error, Result};
use crate::layer::{Done, Form, LayerId, make_tree, rebuild};
use crate::metadata::Lease;
use crate::metadata::layer::{self as rows, LayerRow, NewLayer};
use crate::snapshot::attach;
use crate::store::Store;

/// The same stack, bottom first, with every layer that has open ends replaced by what it is on those below it.
/// The lease, if there is one, keeps what is new until the caller's own rows do.
pub(crate) fn settle(store: &Store, ids: &[LayerId]) -> Result<(Vec<LayerId>, Option<Lease>)> {
    let rows = rows::get_all(store, ids)?;
    if rows.iter().all(|r| !r.is_pending) {
        return Ok((ids.to_vec(), None));
    }
    let lease = store.lease("settle layers")?;
    let mut out: Vec<LayerId> = Vec::new();
    for row in rows {
        let settled = match row.is_pending {
            true => one(store, &lease, &row.id, &out)?,
            false => row.id,
        };
        out.push(settled);
    }
    Ok((out, Some(lease)))
}

/// The trees of a settled stack, top first: what an overlay takes as its lower folders.
pub(crate) fn trees(store: &Store, ids: &[LayerId]) -> Result<Vec<LayerRow>> {
    let mut out: Vec<LayerRow> = Vec::new();
    for row in rows::get_all(store, ids)?.into_iter().rev() {
        let base = match &row.base {
            Some(base) => rows::get_all(store, std::slice::from_ref(base))?,
            None => Vec::new(),
        };
        let opaque = row.opaque_root || base.iter().any(|b| b.opaque_root);
        // The kernel refuses a lower folder that it has already; the upper of the two shows all that the other would.
        for layer in std::iter::once(row).chain(base) {
            if out.iter().all(|l| l.id != layer.id) {
                out.push(layer);
            }
        }
        // The kernel does not look at a root for the mark that hides everything below.
        if opaque {
            break;
        }
    }
    Ok(out)
}

/// Makes every tree of the stack sound again, if a crash or a hand has damaged it; says whether rows were changed.
pub(crate) fn mend(store: &Store, stack: &[LayerRow]) -> Result<bool> {
    let mut changed = false;
    for row in stack.iter().rev() {
        if row.is_sound(store)? || row.prove(store)? {
            continue;
        }
        changed = true;
        let lease = store.lease("unpack a layer again")?;
        match &row.base {
            None => rebuild(store, &lease, &row.id)?,
            Some(base) => {
                let lowers = trees(store, &row.below)?;
                mend(store, &lowers)?;
                build(store, &lease, base, &row.below)?;
            }
        }
    }
    Ok(changed)
}

fn key(below: &[LayerId]) -> String {
    let ids: Vec<&str> = below.iter().map(LayerId::as_str).collect();
    ids.join(",")
}

fn one(store: &Store, lease: &Lease, layer: &LayerId, below: &[LayerId]) -> Result<LayerId> {
    let key = key(below);
    let known = store.db().write("settle a layer", |t| {
        let known = rows::settled(t, layer, &key).map_err(Error::db("settle a layer"))?;
        if let Some(id) = &known {
            lease.add_layer(t, id)?;
        }
        Ok(known)
    })?;
    match known {
        Some(id) => Ok(id),
        None => build(store, lease, layer, below),
    }
}

/// Makes the patch, or finds that none is needed; either is remembered.
fn build(store: &Store, lease: &Lease, layer: &LayerId, below: &[LayerId]) -> Result<LayerId> {
    let key = key(below);
    let id = LayerId::patch(layer, &key);
    let lock = Partial::lock_name(store, id.as_str())?;
    store.remove_tree(&lock.tree())?;
    let stack = trees(store, below)?;
    let row = &rows::get_all(store, std::slice::from_ref(layer))?[0];
    let lowers = match row.opaque_root {
        true => Vec::new(),
        false => stack
            .iter()
            .map(|l| attach::open(store, l))
            .collect::<Result<Folders>>()?,
    };
    let pending = rows::pending(store, layer)?;
    let raw = attach::open(store, row)?;
    let patch = make_tree(&lock.tree())?;
    let aside = lock.tree().join("replaced");
    let outcome = Patch::new(raw, Merged::new(lowers), patch, &aside, &pending)
        .write()
        .map_err(|f| fault(store, layer, f));
    let is_empty = match outcome {
        Ok(is_empty) => is_empty,
        Err(e) => {
            store.remove_tree(&lock.tree())?;
            return Err(e);
        }
    };
    store.remove_tree(&aside)?;
    let result = if is_empty { layer } else { &id };
    store.db().write("settle a layer", |t| {
        if !is_empty {
            let new = NewLayer {
                id: &id,
                base: Some(layer),
                below: Some(&key),
                form: Form::Folders,
                index: None,
                done: &Done::default(),
            };
            rows::publish(store, t, &lock.tree(), &new)?;
            lease.add_layer(t, &id)?;
        }
        rows::add_settled(t, layer, &key, result)
    })?;
    store.remove_tree(&lock.tree())?;
    Ok(result.clone())
}

fn fault(store: &Store, layer: &LayerId, fault: Fault) -> Error {
    let source = fault.into_layer_error();
    match layer.diff_id() {
        _ if source.is_full() => Error::NoSpace {
            path: store.root().into(),
            needed: None,
        },
        Some(digest) => Error::Layer { digest, source },
        None => rows::missing(layer),
    }
}
