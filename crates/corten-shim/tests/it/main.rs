//! The shim as its users see it: our engine's client, and a real containerd. As root.
//! Every test removes what it makes and checks that.

mod answers;
mod bootstrap;
mod checkpoint;
mod containerd;
mod crash;
mod cri;
mod engine;
mod foreign;
mod grpc;
mod hold;
mod killed;
mod killed_pod;
mod peer;
mod raw;
mod rig;
mod sandbox;
mod stdio;
mod supervise;
mod systemd;
mod traces;
