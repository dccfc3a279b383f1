//! The maker's side: everything that init will need is opened, built and checked here, before the clone or while
//! init is on its way.

pub(crate) mod cgroups;
pub(crate) mod dev;
pub(crate) mod driver;
pub(crate) mod group;
pub(crate) mod hooks;
pub(crate) mod idmap;
pub(crate) mod launch;
pub(crate) mod mounts;
pub(crate) mod net_devices;
pub(crate) mod place;
pub(crate) mod prepare;
pub(crate) mod rdt;
pub(crate) mod shipment;
pub(crate) mod stage;
pub(crate) mod users;
pub(crate) mod watch;
