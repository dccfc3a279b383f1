//! Names: containers of a network find each other by them.

use super::Network;
use crate::Engine;
use crate::container::Container;
use crate::error::Error;

impl Engine {
    /// Whether a container on these networks asks our resolver.
    pub(crate) fn has_names<'n>(
        &self,
        networks: impl IntoIterator<Item = &'n str>,
    ) -> Result<bool, Error> {
        for name in networks {
            let network: Network = self.network(name)?;
            if network.dns {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn register_names(&self, _container: &Container) -> Result<(), Error> {
        Ok(())
    }

    pub(crate) fn withdraw_names(
        &self,
        _container: &Container,
        _of: Option<&str>,
    ) -> Result<(), Error> {
        Ok(())
    }
}
