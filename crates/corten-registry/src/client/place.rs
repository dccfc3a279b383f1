//! A URL taken apart, as far as HTTP needs it: scheme, host, port, path with query.

use std::fmt;

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub tls: bool,
    /// A name or address; an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// Path and query, from the slash.
    pub path: String,
}

impl Place {
    /// Parses an absolute `http(s)://` URL. User information is refused: it would be a secret in a log.
    pub fn parse(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let rest = rest.split('#').next()?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let (host, port) = split_authority(authority, tls)?;
        let path = match path.starts_with('/') {
            true => path.to_owned(),
            false => format!("/{path}"),
        };
        // What is no valid request target must not get as far as the wire.
        path.parse::<http::Uri>().ok()?;
        Some(Self {
            tls,
            host,
            port,
            path,
        })
    }

    /// The place that a `Location` header on an answer from here means.
    pub fn join(&self, location: &str) -> Option<Self> {
        if location.contains("://") {
            return Self::parse(location);
        }
        let scheme = if self.tls { "https" } else { "http" };
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let folder = self.path.split('?').next()?.rsplit_once('/')?.0;
        let path = match location.starts_with('/') {
            true => location.to_owned(),
            false => format!("{folder}/{location}"),
        };
        path.parse::<http::Uri>().ok()?;
        Some(Self {
            path,
            ..self.clone()
        })
    }

    /// The `Host` header, and what people are told: without the scheme's own port.
    pub fn authority(&self) -> String {
        let default = if self.tls { 443 } else { 80 };
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port == default {
            true => host,
            false => format!("{host}:{}", self.port),
        }
    }

    /// May credentials for the one go to the other?
    pub fn same_origin(&self, other: &Self) -> bool {
        (self.tls, &self.host, self.port) == (other.tls, &other.host, other.port)
    }

    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// `HOST`, `HOST:PORT`, `[V6]`, `[V6]:PORT`; the port defaults to the scheme's.
pub(super) fn split_authority(authority: &str, tls: bool) -> Option<(String, u16)> {
    let default = if tls { 443 } else { 80 };
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, after) = v6.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let fine = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
    if host.is_empty() || !host.bytes().all(fine) {
        return None;
    }
    let port = match port {
        None | Some("") => default,
        Some(p) => p.parse().ok().filter(|p| *p != 0)?,
    };
    Some((host.to_ascii_lowercase(), port))
}

/// 127.0.0.0/8, ::1, and the names that mean them (RFC 6761 §6.3).
pub(super) fn is_loopback(host: &str) -> bool {
    match host.parse::<std::net::IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints() {
        for url in [
            "https://a.b/v2/",
            "http://[::1]:5000/x?y=1",
            "http://127.0.0.1:80/",
        ] {
            let place = Place::parse(url).unwrap();
            assert_eq!(place.to_string(), url.replace(":80/", "/"));
        }
        for bad in [
            "ftp://a/",
            "https://",
            "https://u:p@h/",
            "https://h:0/",
            "/x",
            "https://h/a b",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn joins_every_form_of_location() {
        let base = Place::parse("https://h:5000/v2/a/blobs/uploads/?x").unwrap();
        let join = |l: &str| base.join(l).unwrap().to_string();
        assert_eq!(join("/v2/u"), "https://h:5000/v2/u");
        assert_eq!(join("u?s=1"), "https://h:5000/v2/a/blobs/uploads/u?s=1");
        assert_eq!(join("//cdn/x"), "https://cdn/x");
        assert_eq!(join("http://cdn/x"), "http://cdn/x");
    }

    #[test]
    fn loopback() {
        for yes in ["127.0.0.1", "127.9.9.9", "::1", "localhost"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["10.0.0.1", "localhost.example.com", "127.0.0.1.example.com"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
