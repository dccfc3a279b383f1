//! Blobs, metadata and snapshots: one transaction domain
