//! Where the server listens, what its URLs say, and how long it waits.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::error::Error;
use super::listen::TlsFiles;

/// Settings of a [`Server`](super::Server).
#[derive(Clone, Debug)]
pub struct Settings {
    /// One, or one of each family. Port 0 is any free one, the same for all.
    pub addresses: Vec<SocketAddr>,
    /// How clients reach it: a name or an address. `None`: the first address.
    pub host: Option<String>,
    /// `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// A connection on which nothing has gone either way for so long is closed.
    pub idle_timeout: Duration,
    /// How long a client may take to open the streams that it has asked for.
    pub creation_timeout: Duration,
    /// How long a URL is good.
    pub token_ttl: Duration,
    /// How many URLs may be good at a time.
    pub max_tokens: usize,
}

impl Default for Settings {
    /// Kubernetes' own; the loopback address, any port.
    fn default() -> Self {
        Self {
            addresses: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            host: None,
            tls: None,
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            creation_timeout: Duration::from_secs(30),
            token_ttl: Duration::from_secs(60),
            max_tokens: 1000,
        }
    }
}

impl Settings {
    /// The host of URLs.
    pub(super) fn check(&self) -> Result<String, Error> {
        let address = *self.addresses.first().ok_or(Error::NoAddress)?;
        match &self.host {
            Some(host) if host.is_empty() => Err(Error::Missing {
                what: "a host name",
            }),
            Some(host) if host.parse::<Ipv6Addr>().is_ok() => Ok(format!("[{host}]")),
            Some(host) => Ok(host.clone()),
            None if address.ip().is_unspecified() => Err(Error::NoHost { address }),
            None => Ok(match address {
                SocketAddr::V4(v4) => v4.ip().to_string(),
                SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_that_can_be_reached() {
        let host = |address: &str, host: Option<&str>| {
            Settings {
                addresses: vec![address.parse().unwrap()],
                host: host.map(Into::into),
                ..Settings::default()
            }
            .check()
            .map_err(|e| e.to_string())
        };
        assert_eq!(host("127.0.0.1:1", None).unwrap(), "127.0.0.1");
        assert_eq!(host("[::1]:1", None).unwrap(), "[::1]");
        assert_eq!(host("0.0.0.0:1", Some("node-1")).unwrap(), "node-1");
        assert_eq!(host("[::]:1", Some("fd00::1")).unwrap(), "[fd00::1]");
        assert!(host("0.0.0.0:1", None).unwrap_err().contains("0.0.0.0:1"));
        assert!(host("[::]:1", None).is_err());
        assert!(host("[::1]:1", Some("")).is_err());
    }
}
