//! The OCI Runtime Specification, and runc's command line
