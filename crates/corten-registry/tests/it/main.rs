//! Both ends against the real peers (docker-registry, skopeo, podman) and against a hostile network.
//! Runs on loopback, writes to temporary folders, and leaves no process behind.

mod cache;
mod client_server;
mod clients;
mod collecting;
mod crash;
mod faults;
mod hostile;
mod image;
mod manifests;
mod parts;
mod peer;
mod proxy;
mod serving;
mod skopeo_podman;
mod their_registry;
mod uploads;
