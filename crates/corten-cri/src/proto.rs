//! The messages and services of `proto/cri.proto`, compiled.

// The interface's own names.
#![allow(clippy::doc_markdown, clippy::enum_variant_names)]

tonic::include_proto!("runtime.v1");
