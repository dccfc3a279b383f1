//! The texts of a container's `/etc/hosts` and `/etc/resolv.conf`. Pure: who writes them where
//! is the engine's business.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::{PORT, SERVER};
use crate::Error;

/// The text of `/etc/hosts`: the loopback names, `addresses` of the container under
/// `hostname` and `aliases`, then `extra` lines (`--add-host`) as given.
pub fn hosts(
    hostname: &str,
    aliases: &[String],
    addresses: &[IpAddr],
    extra: &[(String, IpAddr)],
) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    // Writing to a String cannot fail.
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    let names: Vec<&str> = std::iter::once(hostname)
        .chain(aliases.iter().map(String::as_str))
        .filter(|n| !n.is_empty())
        .collect();
    if !names.is_empty() {
        for address in addresses {
            let _ = writeln!(text, "{address}\t{}", names.join(" "));
        }
    }
    text
}

/// What the user set in place of the host's resolver configuration. An empty list leaves the
/// host's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolverOverrides {
    pub nameservers: Vec<String>,
    /// A single `.` means none, as in Docker.
    pub search: Vec<String>,
    pub options: Vec<String>,
}

/// The text of a container's `/etc/resolv.conf`, from the host's and what the user set.
///
/// The host's loopback servers are left out: in the container's own network namespace there is
/// nobody at 127.0.0.53. If none is left the file names none; queries are never sent to a third
/// party that the host does not use.
pub fn resolv_conf(host: &str, overrides: &ResolverOverrides) -> String {
    let mut nameservers = overrides.nameservers.clone();
    let mut search = overrides.search.clone();
    let mut options = overrides.options.clone();
    let (mut host_search, mut host_options) = (Vec::new(), Vec::new());
    for line in host.lines() {
        // glibc: a comment starts the line with # or ;, or follows white space.
        let line = line.split(['#', ';']).next().unwrap_or("");
        let mut words = line.split_whitespace();
        match (words.next(), overrides.nameservers.is_empty()) {
            (Some("nameserver"), true) => {
                nameservers.extend(words.next().filter(|s| reachable(s)).map(str::to_owned));
            }
            // The last of several counts (resolv.conf(5)); `domain` is a list of one.
            (Some("search" | "domain"), _) => {
                host_search = words.map(str::to_owned).collect();
            }
            (Some("options"), _) => host_options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    if search.is_empty() {
        search = host_search;
    }
    search.retain(|s| s != ".");
    if options.is_empty() {
        options = host_options;
    }
    let mut text = String::new();
    for server in &nameservers {
        let _ = writeln!(text, "nameserver {server}");
    }
    if !search.is_empty() {
        let _ = writeln!(text, "search {}", search.join(" "));
    }
    if !options.is_empty() {
        let _ = writeln!(text, "options {}", options.join(" "));
    }
    text
}

/// The text of `/etc/resolv.conf` of a container whose lookups the resolver answers: that is its only
/// server; `overrides.nameservers` are whom the resolver asks ([`upstream`]). Search list and options
/// are the user's, or the host's.
///
/// `ndots:0`, unless somebody chose otherwise: a name of one label is asked as it is before the search
/// list is tried, so that a container's name costs one lookup and the search list's owner does
/// not hear of it.
pub fn resolv_conf_of_served(host: &str, overrides: &ResolverOverrides) -> String {
    let asked = ResolverOverrides {
        nameservers: vec![SERVER.to_string()],
        ..overrides.clone()
    };
    let text = resolv_conf(host, &asked);
    let chosen = |line: &str| {
        let options = line.strip_prefix("options ");
        options.is_some_and(|o| o.split(' ').any(|o| o.starts_with("ndots:")))
    };
    if text.lines().any(chosen) {
        return text;
    }
    match text.split_once("options ") {
        Some((before, options)) => format!("{before}options ndots:0 {options}"),
        None => text + "options ndots:0\n",
    }
}

/// The servers that the user set (`--dns`), as [`super::Registration::upstream`] wants them.
/// Empty if there are none: then the resolver asks the host's, whatever they are at the time.
pub fn upstream(overrides: &ResolverOverrides) -> Result<Vec<SocketAddr>, Error> {
    let parse = |text: &String| {
        let address: IpAddr = text.parse().map_err(|_| Error::Invalid {
            what: "name server",
            value: text.chars().take(64).collect(),
            reason: "is no address".into(),
        })?;
        Ok((address, PORT).into())
    };
    overrides.nameservers.iter().map(parse).collect()
}

/// Whether a container in its own namespace can reach this server of the host.
fn reachable(server: &str) -> bool {
    // A link-local server is bound to a link (`fe80::1%eth0`) that the container lacks.
    if server.contains('%') {
        return false;
    }
    server.parse::<IpAddr>().is_ok_and(|a| !a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_has_loopback_then_extra_then_own_names() {
        let text = hosts(
            "web",
            &["www".into()],
            &["10.79.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            &[("db".into(), "10.0.0.9".parse().unwrap())],
        );
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"));
        assert!(text.ends_with("10.0.0.9\tdb\n10.79.0.2\tweb www\nfd00::2\tweb www\n"));
    }

    #[test]
    fn loopback_servers_of_the_host_do_not_reach_the_container() {
        let host = "# made by\nnameserver 127.0.0.53\nnameserver 9.9.9.9 # here\nnameserver fe80::1%eth0\n\
                    domain old\nsearch a.example b.example\noptions edns0 trust-ad\n";
        assert_eq!(
            resolv_conf(host, &ResolverOverrides::default()),
            "nameserver 9.9.9.9\nsearch a.example b.example\noptions edns0 trust-ad\n"
        );
    }

    #[test]
    fn a_container_that_is_served_asks_the_resolver_alone() {
        let host = "nameserver 9.9.9.9\nsearch a.example\noptions edns0\n";
        assert_eq!(
            resolv_conf_of_served(host, &ResolverOverrides::default()),
            "nameserver 127.0.0.11\nsearch a.example\noptions ndots:0 edns0\n"
        );
        let o = ResolverOverrides {
            nameservers: vec!["192.0.2.53".into(), "::1".into()],
            search: vec!["b.example".into()],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(
            resolv_conf_of_served(host, &o),
            "nameserver 127.0.0.11\nsearch b.example\noptions ndots:2\n"
        );
        let servers: Vec<String> = upstream(&o)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(servers, ["192.0.2.53:53", "[::1]:53"]);
        assert_eq!(
            resolv_conf_of_served("", &ResolverOverrides::default()),
            "nameserver 127.0.0.11\noptions ndots:0\n"
        );
        let wrong = ResolverOverrides {
            nameservers: vec!["dns.example".into()],
            ..ResolverOverrides::default()
        };
        assert!(upstream(&wrong).is_err());
    }

    #[test]
    fn what_the_user_sets_replaces_the_hosts() {
        let o = ResolverOverrides {
            nameservers: vec!["127.0.0.1".into()],
            search: vec![".".into()],
            options: vec!["ndots:1".into()],
        };
        assert_eq!(
            resolv_conf("nameserver 9.9.9.9\nsearch x\n", &o),
            "nameserver 127.0.0.1\noptions ndots:1\n"
        );
        assert_eq!(resolv_conf("", &ResolverOverrides::default()), "");
    }
}
