//! Devices of the Container Device Interface 1.1.0: files in which vendors describe what a container needs to use a
//! device, and the names by which requests ask for one.
//!
//! [`Registry::read`] reads the folders, a later one winning over an earlier one; [`wanted`] finds the names in a
//! request; [`Registry::edits`] gives the sum of what they change, or an error that names the device. A file that
//! cannot be read spoils nothing but its own devices: it is told of where one of those is asked for.
//!
//! What edits do to a container is for [`spec`](crate::spec) to say.

mod document;
mod error;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod name;
mod registry;
#[cfg(test)]
mod tests;
mod yaml;

use crate::proto::ContainerConfig;

pub use document::{DeviceNode, Document, Edits, Hook, HookName, IntelRdt, Mount, NetDevice};
pub use error::{DocumentError, Error};
pub use name::Name;
pub use registry::{FOLDERS, Registry};

/// Annotations that ask for devices have it in front.
const ANNOTATION: &str = "cdi.k8s.io/";

/// The devices of a request, each once: those of the field, then those of annotations (`NAME,NAME`).
pub fn wanted(container: &ContainerConfig) -> Result<Vec<Name>, Error> {
    let mut names: Vec<Name> = Vec::new();
    let listed = container.cdi_devices.iter().map(|d| d.name.as_str());
    let annotated = container.annotations.iter();
    let annotated = annotated.filter(|(key, _)| key.starts_with(ANNOTATION));
    let annotated = annotated.flat_map(|(_, value)| value.split(','));
    for text in listed.chain(annotated) {
        let name: Name = text.parse()?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}
