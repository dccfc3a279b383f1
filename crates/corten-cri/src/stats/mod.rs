//! What pods and containers use: from the kernel's counters to the interface's messages and metrics.
//!
//! ```text
//!   control group ── Sample::read ──▶ Sample ─┬─ usage ──▶ ContainerStats, PodSandboxStats
//!   /proc/PID     ── Processes::read ─────────┤            (kubelet asks every ten seconds)
//!   interfaces    ── network::read ───────────┴─ metrics ▶ Metric (Prometheus's terms)
//! ```
//!
//! Reading is thin and blocking, and reads nothing that is not asked for; all else is pure. What the kernel does not
//! count is absent, not 0. [`Rates`] alone remembers something: the sample before, to tell how fast CPU time goes.

mod descriptors;
pub mod metrics;
pub mod network;
mod process;
mod rate;
mod sample;
#[cfg(test)]
mod tests;
pub mod usage;

pub use descriptors::descriptors;
pub use process::Processes;
pub use rate::Rates;
pub(crate) use sample::now;
pub use sample::{FileSystem, Layer, Sample, devices};
