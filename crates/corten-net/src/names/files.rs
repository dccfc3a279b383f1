//! The texts of a container's `/etc/hosts` and `/etc/resolv.conf`. Pure: who writes them where
//! is the engine's business.

use std::fmt::Write as _;
use std::net::IpAddr;

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
