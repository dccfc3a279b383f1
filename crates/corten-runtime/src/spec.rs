//! The spec to start from.

use oci_spec::runtime::Spec;

/// What `corten-oci spec` prints: a shell on a terminal, in five namespaces and a cgroup namespace.
pub fn default() -> Spec {
    Spec::default()
}
