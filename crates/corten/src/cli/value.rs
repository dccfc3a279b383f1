//! Words of the command line that have a grammar: sizes, ports, volumes, limits. Each parser
//! says what it wanted when it did not get it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use corten_engine::container::options::{MountRequest, MountSource, PortMapping, Protocol, Ulimit};

/// A text that is not what the flag takes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ValueError {
    #[error(
        "a size is a number and at most one of the units b, k, m, g, t (powers of 1024), such as 64m"
    )]
    Size,
    #[error("the least is {0}")]
    TooSmall(&'static str),
    #[error("a number of processors is a decimal above 0 and at most {0}, such as 0.5")]
    Cpus(usize),
    #[error("a limit is a number above 0, or -1 for none")]
    Pids,
    #[error(
        "a ulimit is NAME=SOFT[:HARD] with a name such as nofile, nproc or core, and numbers or -1"
    )]
    Ulimit,
    #[error("a soft limit is at most the hard limit")]
    UlimitOrder,
    #[error("{0:?} is no resource that Linux limits")]
    UlimitName(String),
    #[error("a published port is [[HOST-IP:]HOST-PORT:]PORT[/tcp|/udp], or ranges of one length")]
    Port,
    #[error("{0:?} is no port between 1 and 65535")]
    PortNumber(String),
    #[error("the two port ranges differ in length")]
    PortRange,
    #[error("{0:?} is no IP address")]
    Address(String),
    #[error("{0:?} is no protocol that can be published (tcp and udp are)")]
    Protocol(String),
    #[error("a volume is [SOURCE:]TARGET[:OPTIONS] with an absolute target")]
    Volume,
    #[error("the target must be an absolute path other than /")]
    Target,
    #[error("{0:?} is no option of a mount here")]
    MountOption(String),
    #[error("a host entry is NAME:ADDRESS")]
    Host,
    #[error("a variable is NAME or NAME=VALUE, and its name is not empty")]
    Variable,
    #[error("a label is KEY or KEY=VALUE, and its key is not empty")]
    Label,
    #[error(
        "a host name is at most 64 letters, digits, dots and hyphens, and starts and ends with a letter or digit"
    )]
    Hostname,
    #[error("{0:?} is no name that a container can be found by")]
    Alias(String),
    #[error("a namespace is ns:PATH, and the path begins with /")]
    NamespacePath,
    #[error("it is one word of at most 64 characters")]
    Word,
    #[error("{0:?} is no unicast MAC address such as 02:00:00:00:00:01")]
    Mac(String),
    #[error("{0:?} is no interface name: 1 to 15 characters, no slash, colon or space")]
    Interface(String),
    #[error("{0:?} is no network name: letters, digits, '_', '.' and '-', a letter or digit first")]
    NetworkName(String),
    #[error("{0:?} is none of alias=, ip=, ip6=, mac=, interface_name=")]
    NetworkOption(String),
    #[error("security options are seccomp=FILE, seccomp=unconfined and no-new-privileges")]
    SecurityOption,
    #[error("a time is numbers with units (h, m, s, ms, us, ns), such as 1m30s or 500ms")]
    Time,
    #[error(
        "a moment is a time such as 2026-11-23T14:46:41Z, a date, seconds since 1970, or how long ago, such as 10m"
    )]
    Moment,
    #[error("a signal is a name such as TERM or a number from 1 to 64")]
    Signal,
}

/// `1m30s`, `500ms`, `0`.
pub fn duration(s: &str) -> Result<std::time::Duration, ValueError> {
    corten_engine::container::health::duration(s).ok_or(ValueError::Time)
}

/// A time, in nanoseconds since 1970: RFC 3339, a date or date and time of UTC, seconds since 1970 with or without a
/// fraction, or how long ago.
pub fn moment(s: &str) -> Result<i64, ValueError> {
    if let Ok(ago) = duration(s)
        && s != "0"
    {
        let ago = i64::try_from(ago.as_nanos()).map_err(|_| ValueError::Moment)?;
        return Ok(now().saturating_sub(ago));
    }
    if let Some(at) = epoch(s) {
        return Ok(at);
    }
    let local = |s: &str| {
        let midnight = || Some(s.parse::<jiff::civil::Date>().ok()?.at(0, 0, 0, 0));
        let at: jiff::civil::DateTime = s.parse().ok().or_else(midnight)?;
        Some(at.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    };
    let at = s.parse::<jiff::Timestamp>().ok().or_else(|| local(s));
    let at = at.ok_or(ValueError::Moment)?.as_nanosecond();
    i64::try_from(at).map_err(|_| ValueError::Moment)
}

/// `1795445201.5`
fn epoch(s: &str) -> Option<i64> {
    let (seconds, fraction) = s.split_once('.').unwrap_or((s, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if seconds.is_empty() || !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds: i64 = seconds.parse().ok()?;
    let nanoseconds: i64 = format!("{fraction:0<9}").parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

fn now() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// `64m`, `1g`, `512` (bytes), as docker's: binary units, a trailing `b` welcome.
pub fn size(s: &str) -> Result<i64, ValueError> {
    let lower = s.to_ascii_lowercase();
    let body = lower.strip_suffix('b').unwrap_or(&lower);
    let body = body.strip_suffix('i').unwrap_or(body);
    let (digits, shift) = match body.char_indices().next_back() {
        Some((i, 'k')) => (&body[..i], 10),
        Some((i, 'm')) => (&body[..i], 20),
        Some((i, 'g')) => (&body[..i], 30),
        Some((i, 't')) => (&body[..i], 40),
        _ => (body, 0),
    };
    let whole = digits.bytes().all(|b| b.is_ascii_digit());
    if whole && let Ok(n) = digits.parse::<i64>() {
        return n.checked_mul(1 << shift).ok_or(ValueError::Size);
    }
    let plain = digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let fraction: f64 = match digits.parse() {
        Ok(f) if plain && digits.contains('.') && shift > 0 && f < 1e6 => f,
        _ => return Err(ValueError::Size),
    };
    // Docker takes 1.5g; the loss below a byte is meant.
    Ok((fraction * f64::from(1u32 << (shift - 10)) * 1024.0) as i64)
}

/// `-m`: docker's least is 6 MiB, below which no runtime can set a container up.
pub fn memory(s: &str) -> Result<i64, ValueError> {
    match size(s)? {
        n if n < 6 << 20 => Err(ValueError::TooSmall("6m")),
        n => Ok(n),
    }
}

/// `--cpus`, in thousandths.
pub fn cpus(s: &str) -> Result<u64, ValueError> {
    let online = std::thread::available_parallelism().map_or(1, usize::from);
    let wrong = ValueError::Cpus(online);
    let n: f64 = match s.parse() {
        Ok(n) if s.bytes().all(|b| b.is_ascii_digit() || b == b'.') => n,
        _ => return Err(wrong),
    };
    // The kernel's least quota is 1 ms in a period of 100 ms.
    match n {
        n if n > online as f64 || n < 0.01 => Err(wrong),
        n => Ok((n * 1000.0).round() as u64),
    }
}

pub fn pids(s: &str) -> Result<i64, ValueError> {
    match s.parse::<i64>() {
        Ok(n) if n == -1 || n > 0 => Ok(n),
        _ => Err(ValueError::Pids),
    }
}

/// getrlimit(2)'s names, as `--ulimit` spells them.
const LIMITS: [&str; 16] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "rttime",
    "sigpending",
    "stack",
];

pub fn ulimit(s: &str) -> Result<Ulimit, ValueError> {
    let (name, values) = s.split_once('=').ok_or(ValueError::Ulimit)?;
    if !LIMITS.contains(&name) {
        return Err(ValueError::UlimitName(name.into()));
    }
    let number = |t: &str| match t {
        "-1" | "unlimited" => Ok(u64::MAX),
        t => t.parse::<u64>().map_err(|_| ValueError::Ulimit),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (number(soft)?, number(hard)?),
        None => (number(values)?, number(values)?),
    };
    if soft > hard {
        return Err(ValueError::UlimitOrder);
    }
    Ok(Ulimit {
        kind: format!("RLIMIT_{}", name.to_ascii_uppercase()),
        soft,
        hard,
    })
}

/// One `-p`; a range becomes several mappings.
pub fn publish(s: &str) -> Result<Vec<PortMapping>, ValueError> {
    let (body, protocol) = match s.rsplit_once('/') {
        Some((b, "tcp")) => (b, Protocol::Tcp),
        Some((b, "udp")) => (b, Protocol::Udp),
        Some((_, p)) => return Err(ValueError::Protocol(p.into())),
        None => (s, Protocol::Tcp),
    };
    let (front, container) = match body.rsplit_once(':') {
        Some((f, c)) => (Some(f), c),
        None => (None, body),
    };
    let (ip, host) = match front {
        None => (None, ""),
        // An IPv6 address is in brackets, so the last colon outside them parts it from the port.
        Some(f) => match f.rsplit_once(':') {
            Some((ip, host)) if !host.contains(']') => (Some(address(ip)?), host),
            _ if f.starts_with('[') || f.contains('.') => (Some(address(f)?), ""),
            _ => (None, f),
        },
    };
    let inside = range(container)?;
    let outside = match host {
        // As docker has it, and podman: any that is free.
        "" | "0" => None,
        h => Some(range(h)?),
    };
    if let Some(o) = &outside
        && o.len() != inside.len()
    {
        return Err(ValueError::PortRange);
    }
    let one = |(i, container_port): (usize, u16)| PortMapping {
        host_ip: ip,
        host_port: outside.as_ref().map_or(0, |o| o[i]),
        container_port,
        protocol,
    };
    Ok(inside.iter().copied().enumerate().map(one).collect())
}

fn address(s: &str) -> Result<IpAddr, ValueError> {
    let bare = s
        .strip_prefix('[')
        .and_then(|s| s.strip_suffix(']'))
        .unwrap_or(s);
    bare.parse().map_err(|_| ValueError::Address(s.into()))
}

fn range(s: &str) -> Result<Vec<u16>, ValueError> {
    let port = |t: &str| match t.parse::<u16>() {
        Ok(p) if p > 0 => Ok(p),
        _ => Err(ValueError::PortNumber(t.into())),
    };
    if s.is_empty() {
        return Err(ValueError::Port);
    }
    match s.split_once('-') {
        None => Ok(vec![port(s)?]),
        Some((first, last)) => match (port(first)?, port(last)?) {
            (a, b) if a <= b => Ok((a..=b).collect()),
            _ => Err(ValueError::PortRange),
        },
    }
}

/// Options that a bind or volume takes after its target.
const BIND_OPTIONS: [&str; 20] = [
    "ro",
    "rw",
    "bind",
    "rbind",
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "exec",
    "noexec",
    "suid",
    "nosuid",
    "dev",
    "nodev",
    "rro",
    "noatime",
    "relatime",
    "nosymfollow",
];

/// One `-v`. `anonymous` names the volume where the text does not.
pub fn volume(s: &str, cwd: &Path, anonymous: String) -> Result<MountRequest, ValueError> {
    let parts: Vec<&str> = s.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => (None, *target, ""),
        [source, target] => (Some(*source), *target, ""),
        [source, target, options] => (Some(*source), *target, *options),
        _ => return Err(ValueError::Volume),
    };
    let source = match source {
        None => MountSource::Volume(anonymous),
        Some("") => return Err(ValueError::Volume),
        Some(s) if s.starts_with('/') => MountSource::Bind(PathBuf::from(s)),
        Some(s) if s.starts_with('.') || s.contains('/') => MountSource::Bind(cwd.join(s)),
        Some(s) => match s.parse::<corten_spec::Name>() {
            Ok(name) => MountSource::Volume(name.as_str().into()),
            Err(_) => return Err(ValueError::Volume),
        },
    };
    let options: Vec<String> = words(options);
    if let Some(bad) = options.iter().find(|o| !BIND_OPTIONS.contains(&o.as_str())) {
        return Err(ValueError::MountOption(bad.clone()));
    }
    Ok(MountRequest {
        source,
        target: target_path(target)?,
        options,
    })
}

/// One `--tmpfs`: `TARGET[:OPTIONS]`.
pub fn tmpfs(s: &str) -> Result<MountRequest, ValueError> {
    let (target, options) = s.split_once(':').unwrap_or((s, ""));
    let options = words(options);
    for o in &options {
        let key = o.split('=').next().unwrap_or(o);
        let valued = matches!(
            key,
            "size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks"
        );
        if o.contains('=') != valued || !(valued || BIND_OPTIONS.contains(&o.as_str())) {
            return Err(ValueError::MountOption(o.clone()));
        }
        if key == "size" && !o.ends_with('%') {
            size(&o[5..])?;
        }
    }
    Ok(MountRequest {
        source: MountSource::Tmpfs,
        target: target_path(target)?,
        options,
    })
}

fn words(options: &str) -> Vec<String> {
    options
        .split(',')
        .filter(|o| !o.is_empty())
        .map(Into::into)
        .collect()
}

/// Normalises `/a//b/./c/`; `..` is refused, since it means something else inside the root.
fn target_path(s: &str) -> Result<String, ValueError> {
    let parts: Vec<&str> = s
        .split('/')
        .filter(|c| !c.is_empty() && *c != ".")
        .collect();
    if !s.starts_with('/') || parts.is_empty() || parts.contains(&"..") {
        return Err(ValueError::Target);
    }
    Ok(format!("/{}", parts.join("/")))
}

/// What a name of `--add-host` leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostAddress {
    Ip(IpAddr),
    /// The host, as the container reaches it.
    Gateway,
}

/// One `--add-host`.
pub fn add_host(s: &str) -> Result<(String, HostAddress), ValueError> {
    let (name, ip) = s
        .split_once(':')
        .or_else(|| s.split_once('='))
        .ok_or(ValueError::Host)?;
    // Compose's service names have underscores, which no host name has.
    hostname(&name.replace('_', "-"))?;
    let address = match ip {
        "host-gateway" => HostAddress::Gateway,
        ip => HostAddress::Ip(address(ip)?),
    };
    Ok((name.into(), address))
}

/// A name by which a container can be found: a host name, or one of compose's with underscores.
pub fn alias(s: &str) -> Result<String, ValueError> {
    hostname(&s.replace('_', "-")).map_err(|_| ValueError::Alias(s.into()))?;
    Ok(s.into())
}

/// One `--dns-search`: a domain, or a dot for none.
pub fn domain(s: &str) -> Result<String, ValueError> {
    match s {
        "." => Ok(s.into()),
        s => alias(s.trim_end_matches('.')),
    }
}

/// One word of a line of resolv.conf.
pub fn word(s: &str) -> Result<String, ValueError> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    match !s.is_empty() && s.len() <= 64 && s.bytes().all(plain) {
        true => Ok(s.into()),
        false => Err(ValueError::Word),
    }
}

pub fn mac(s: &str) -> Result<String, ValueError> {
    match corten_net::link::parse_mac(s) {
        Some(mac) => Ok(corten_net::link::mac_text(mac)),
        None => Err(ValueError::Mac(s.into())),
    }
}

pub fn interface(s: &str) -> Result<String, ValueError> {
    match corten_spec::cni::check_ifname(s) {
        Ok(()) => Ok(s.into()),
        Err(_) => Err(ValueError::Interface(s.into())),
    }
}

pub fn network_name(s: &str) -> Result<(), ValueError> {
    corten_spec::cni::check_network_name(s).map_err(|_| ValueError::NetworkName(s.into()))
}

pub fn hostname(s: &str) -> Result<String, ValueError> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let fine = s.len() <= 64
        && edge(s.chars().next())
        && edge(s.chars().next_back())
        && s.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if fine {
        Ok(s.into())
    } else {
        Err(ValueError::Hostname)
    }
}

/// One `-e` or a line of an env file: `KEY` takes the value of our own environment, and is
/// nothing where that has none.
pub fn variable(s: &str) -> Result<Option<String>, ValueError> {
    if s.starts_with('=') || s.is_empty() || s.contains('\0') {
        return Err(ValueError::Variable);
    }
    if s.contains('=') {
        return Ok(Some(s.into()));
    }
    Ok(std::env::var(s).ok().map(|v| format!("{s}={v}")))
}

pub fn label(s: &str) -> Result<(String, String), ValueError> {
    match s.split_once('=').unwrap_or((s, "")) {
        ("", _) => Err(ValueError::Label),
        (k, v) => Ok((k.into(), v.into())),
    }
}

/// One `--security-opt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecurityOption {
    SeccompUnconfined,
    SeccompFile(PathBuf),
    NoNewPrivileges(bool),
}

pub fn security_option(s: &str) -> Result<SecurityOption, ValueError> {
    match s {
        "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => {
            Ok(SecurityOption::NoNewPrivileges(true))
        }
        "no-new-privileges:false" | "no-new-privileges=false" => {
            Ok(SecurityOption::NoNewPrivileges(false))
        }
        "seccomp=unconfined" | "seccomp:unconfined" => Ok(SecurityOption::SeccompUnconfined),
        s => match s.strip_prefix("seccomp=").filter(|f| !f.is_empty()) {
            Some(file) => Ok(SecurityOption::SeccompFile(file.into())),
            None => Err(ValueError::SecurityOption),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("64m"), Ok(64 << 20));
        assert_eq!(size("64MB"), Ok(64 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("1.5g"), Ok(3 << 29));
        for bad in [
            "",
            "m",
            "-1",
            "1x",
            "1.5",
            "9999999999999g",
            "nan",
            "inf",
            "1e3k",
        ] {
            assert_eq!(size(bad), Err(ValueError::Size), "{bad}");
        }
        assert_eq!(memory("4m"), Err(ValueError::TooSmall("6m")));
    }

    #[test]
    fn processors_are_bounded_by_the_host() {
        assert_eq!(cpus("0.5"), Ok(500));
        for bad in ["0", "-1", "nan", "inf", "1e1", "100000", "0.001", ""] {
            assert!(cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        use std::time::Duration;
        for (text, time) in [
            ("1m30s", Some(Duration::from_secs(90))),
            ("500ms", Some(Duration::from_millis(500))),
            ("1.5h", Some(Duration::from_secs(5400))),
            ("0", Some(Duration::ZERO)),
            ("5us", Some(Duration::from_micros(5))),
            ("", None),
            ("5", None),
            ("s", None),
            ("-1s", None),
            ("1d", None),
            ("1.2.3s", None),
            ("99999999999h", None),
        ] {
            assert_eq!(duration(text).ok(), time, "{text}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(moment("1795445201"), Ok(1_795_445_201_000_000_000));
        assert_eq!(moment("1795445201.5"), Ok(1_795_445_201_500_000_000));
        assert_eq!(
            moment("2026-11-23T14:46:41Z"),
            Ok(1_795_445_201_000_000_000)
        );
        assert_eq!(
            moment("2026-11-23T16:46:41+02:00"),
            Ok(1_795_445_201_000_000_000)
        );
        for local in ["2026-11-23", "2026-11-23T14:46", "2026-11-23T14:46:41"] {
            assert!(moment(local).is_ok(), "{local}");
        }
        let minute_ago = moment("1m").unwrap();
        assert!(now() - minute_ago >= 60_000_000_000);
        for bad in [
            "",
            "yesterday",
            "1.0000000001",
            "-5",
            "2026-13-01",
            "99999999999999",
        ] {
            assert_eq!(moment(bad), Err(ValueError::Moment), "{bad}");
        }
    }

    #[test]
    fn ulimits() {
        let u = ulimit("nofile=1024:2048").unwrap();
        assert_eq!(
            (u.kind.as_str(), u.soft, u.hard),
            ("RLIMIT_NOFILE", 1024, 2048)
        );
        assert_eq!(ulimit("core=-1").unwrap().hard, u64::MAX);
        assert_eq!(ulimit("nofile=2:1"), Err(ValueError::UlimitOrder));
        assert!(matches!(ulimit("files=1"), Err(ValueError::UlimitName(_))));
        assert_eq!(ulimit("nofile"), Err(ValueError::Ulimit));
    }

    fn port(s: &str) -> (Option<String>, u16, u16, Protocol) {
        let p = publish(s).unwrap().remove(0);
        (
            p.host_ip.map(|i| i.to_string()),
            p.host_port,
            p.container_port,
            p.protocol,
        )
    }

    #[test]
    fn ports() {
        use Protocol::{Tcp, Udp};
        assert_eq!(port("80"), (None, 0, 80, Tcp));
        assert_eq!(port("8080:80"), (None, 8080, 80, Tcp));
        assert_eq!(port("8080:80/udp"), (None, 8080, 80, Udp));
        assert_eq!(
            port("127.0.0.1:8080:80"),
            (Some("127.0.0.1".into()), 8080, 80, Tcp)
        );
        assert_eq!(
            port("127.0.0.1::80"),
            (Some("127.0.0.1".into()), 0, 80, Tcp)
        );
        assert_eq!(port("[::1]:8080:80"), (Some("::1".into()), 8080, 80, Tcp));
        let many = publish("8000-8002:80-82").unwrap();
        assert_eq!(many.len(), 3);
        assert_eq!((many[2].host_port, many[2].container_port), (8002, 82));
        assert_eq!(publish("8000-8001:80"), Err(ValueError::PortRange));
        for bad in [
            "",
            ":",
            "0",
            "70000",
            "a:80",
            "80:80/sctp",
            "1.2.3:1:2",
            "8:80:",
            "9-8:80-81",
        ] {
            assert!(publish(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn volumes() {
        let v = |s: &str| volume(s, Path::new("/here"), "anon".into());
        assert_eq!(
            v("/a:/b:ro").unwrap().source,
            MountSource::Bind("/a".into())
        );
        assert_eq!(
            v("./a:/b").unwrap().source,
            MountSource::Bind("/here/./a".into())
        );
        assert_eq!(v("data:/b/").unwrap().target, "/b");
        assert_eq!(v("/b").unwrap().source, MountSource::Volume("anon".into()));
        assert_eq!(v("/a:/"), Err(ValueError::Target));
        assert_eq!(v("/a:b"), Err(ValueError::Target));
        assert_eq!(v("/a:/b/../c"), Err(ValueError::Target));
        assert!(matches!(v("/a:/b:zz"), Err(ValueError::MountOption(o)) if o == "zz"));
        assert_eq!(v(":/b"), Err(ValueError::Volume));
    }

    #[test]
    fn tmpfs_options() {
        assert_eq!(tmpfs("/run:size=64m,mode=755").unwrap().options.len(), 2);
        assert!(tmpfs("/run:size=x").is_err());
        assert!(tmpfs("/run:upperdir=/x").is_err());
        assert!(tmpfs("run").is_err());
    }

    #[test]
    fn names_of_hosts() {
        assert!(add_host("db:10.0.0.1").is_ok());
        assert!(add_host("db:fd00::1").is_ok());
        assert_eq!(add_host("h:host-gateway").unwrap().1, HostAddress::Gateway);
        assert!(add_host("my_db:fd00::1").is_ok());
        assert!(add_host("db").is_err());
        assert!(add_host("a b:10.0.0.1").is_err());
        assert!(hostname("-a").is_err());
    }
}
