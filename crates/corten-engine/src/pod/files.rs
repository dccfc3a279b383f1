//! The files of /etc that a pod's containers share.

use std::fs;
use std::path::PathBuf;

use crate::error::Error;

/// A resolver's configuration, in resolv.conf(5)'s terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// The name, the host's own hosts file, and the resolver's configuration: the host's, where the pod says nothing.
///
/// Containers may write to them, as under docker and containerd; the pod's supervisor keeps them where that fills nothing of the host's.
pub(super) fn texts(
    hostname: &str,
    dns: Option<&Dns>,
) -> Result<[(&'static str, String); 3], Error> {
    let resolver = match dns {
        Some(dns) => text(dns),
        None => of_host("/etc/resolv.conf")?,
    };
    Ok([
        ("hostname", format!("{hostname}\n")),
        ("hosts", of_host("/etc/hosts")?),
        ("resolv.conf", resolver),
    ])
}

/// A host without one has pods with an empty one.
fn of_host(path: &'static str) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(Error::io("read", PathBuf::from(path))),
    }
}

fn text(dns: &Dns) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolvers_file_has_a_line_for_each_server() {
        let dns = Dns {
            servers: vec!["10.0.0.10".into(), "fd00::a".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        let wanted =
            "search a.svc svc\nnameserver 10.0.0.10\nnameserver fd00::a\noptions ndots:5\n";
        assert_eq!(text(&dns), wanted);
        assert_eq!(text(&Dns::default()), "");
    }
}
