//! `tuning`: settings of the container's link and of its network namespace. What the link had before is
//! written down first, and DEL gives it back: the link may outlive the container (`host-device`).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use corten_spec::cni::CniResult;
use serde::{Deserialize, Serialize};

use super::container::{asked_mac, need_link, same, wrong_key};
use super::record::{Records, Whose};
use super::{Request, Verb};
use crate::Error;
use crate::failpoint::failpoint;
use crate::link::{Change, Link, Links, Mac, mac_text, netns, parse_mac};
use crate::sysctl;

const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";
/// Of an allow list.
const MAX_LIST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default = "default_dir")]
    data_dir: PathBuf,
    #[serde(default)]
    runtime_config: RuntimeMac,
    #[serde(default)]
    args: Args,
}

fn default_dir() -> PathBuf {
    "/run/cni/tuning".into()
}

#[derive(Default, Deserialize)]
struct RuntimeMac {
    mac: Option<String>,
}

#[derive(Default, Deserialize)]
struct Args {
    #[serde(default)]
    cni: Settings,
}

/// What can be set: by the configuration, and by `args.cni`, which overrules it.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    #[serde(default)]
    sysctl: BTreeMap<String, String>,
    mac: Option<String>,
    promisc: Option<bool>,
    mtu: Option<u32>,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    txqlen: Option<u32>,
}

/// The settings, checked.
struct Plan {
    /// By their paths below `/proc/sys/net`.
    sysctl: Vec<(String, String)>,
    mac: Option<Mac>,
    promisc: bool,
    mtu: Option<u32>,
    allmulti: Option<bool>,
    txqlen: Option<u32>,
}

/// What the link had, in the reference plugin's words.
#[derive(Default, Deserialize, Serialize)]
struct Backup {
    #[serde(flatten)]
    whose: Whose,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(default, rename = "txQLen", skip_serializing_if = "Option::is_none")]
    txqlen: Option<u32>,
}

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let config: Config = request.read("tuning")?;
    let records = Records::new(&config.data_dir);
    let plan = || Plan::read(request, &config);
    match request.verb {
        Verb::Add => add(request, &plan()?, &records).map(Some),
        Verb::Del => restore(request, &records).map(|()| None),
        Verb::Check => check(request, &plan()?).map(|()| None),
        Verb::Gc => gc(request, &records).map(|()| None),
        Verb::Status => plan().map(|_| None),
    }
}

impl Plan {
    fn read(request: &Request<'_>, config: &Config) -> Result<Self, Error> {
        let own: Settings = request.read("tuning")?;
        let args = &config.args.cni;
        let mut sysctl = own.sysctl;
        sysctl.extend(args.sysctl.clone());
        if let Some(list) = read_allowlist(Path::new(ALLOWLIST))? {
            check_allowed(&list, sysctl.keys())?;
        }
        let given = |n: Option<u32>| n.filter(|n| *n != 0);
        Ok(Self {
            sysctl: sysctl
                .into_iter()
                .map(|(key, value)| Ok((setting(&key, request.ifname)?, value)))
                .collect::<Result<_, Error>>()?,
            mac: asked_mac(&[
                args.mac.as_deref(),
                config.runtime_config.mac.as_deref(),
                request.arg("MAC"),
                own.mac.as_deref(),
            ])?,
            promisc: args.promisc.or(own.promisc).unwrap_or(false),
            mtu: given(args.mtu).or(given(own.mtu)),
            allmulti: args.allmulti.or(own.allmulti),
            txqlen: args.txqlen.or(own.txqlen),
        })
    }

    fn changes_link(&self) -> bool {
        self.mac.is_some()
            || self.promisc
            || self.mtu.is_some()
            || self.allmulti.is_some()
            || self.txqlen.is_some()
    }

    fn change(&self) -> Change<'static> {
        Change {
            mac: self.mac,
            promisc: self.promisc.then_some(true),
            mtu: self.mtu,
            allmulti: self.allmulti,
            txqlen: self.txqlen,
            ..Default::default()
        }
    }

    fn backup(&self, whose: Whose, link: &Link) -> Backup {
        let mac = self.mac.and(link.mac).map(mac_text);
        Backup {
            whose,
            mac: mac.unwrap_or_default(),
            promisc: self.promisc.then_some(link.promisc),
            mtu: self.mtu.map(|_| link.mtu),
            allmulti: self.allmulti.map(|_| link.allmulti),
            txqlen: self.txqlen.map(|_| link.txqlen),
        }
    }
}

impl Backup {
    fn change(&self) -> Change<'static> {
        Change {
            mac: parse_mac(&self.mac),
            promisc: self.promisc,
            mtu: self.mtu,
            allmulti: self.allmulti,
            txqlen: self.txqlen,
            ..Default::default()
        }
    }
}

/// The path below `/proc/sys/net` of a setting, as sysctl(8) writes them: the first separator counts,
/// and the other one stands for a dot in a link's name. `IFNAME` is the container's link.
fn setting(key: &str, ifname: &str) -> Result<String, Error> {
    let slashes = key.find('/').unwrap_or(usize::MAX) < key.find('.').unwrap_or(usize::MAX);
    let path: String = match slashes {
        true => key.into(),
        false => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect(),
    };
    let path = path.replacen("IFNAME", ifname, 1);
    let plain = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    match path.strip_prefix("net/") {
        Some(below) if plain => Ok(below.into()),
        _ => Err(wrong_key("sysctl", key, "is no setting below net")),
    }
}

/// `None` if the host has no list: everything is allowed then.
fn read_allowlist(path: &Path) -> Result<Option<String>, Error> {
    let failed = |source| Error::File {
        action: "read",
        path: path.into(),
        source,
    };
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
        Ok(m) if m.len() > MAX_LIST => {
            let reason = format!("has more than {MAX_LIST} bytes");
            return Err(wrong_key("allow list", path.display(), reason));
        }
        Ok(_) => {}
    }
    fs::read_to_string(path).map(Some).map_err(failed)
}

/// Each line is a regular expression, found anywhere in the key as it is written.
fn check_allowed<'a>(list: &str, keys: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    let lines = list.lines().map(str::trim).filter(|l| !l.is_empty());
    let patterns = lines
        .map(|line| {
            regex_lite::Regex::new(line)
                .map_err(|e| wrong_key("allow list", line, format!("is no pattern: {e}")))
        })
        .collect::<Result<Vec<_>, Error>>()?;
    for key in keys {
        if !patterns.iter().any(|p| p.is_match(key)) {
            return Err(wrong_key(
                "sysctl",
                key,
                format!("is not allowed by {ALLOWLIST}"),
            ));
        }
    }
    Ok(())
}

fn add(request: &Request<'_>, plan: &Plan, records: &Records) -> Result<CniResult, Error> {
    let mut result = request.need_previous("tuning")?;
    let (id, ifname) = (request.container_id, request.ifname);
    let inside = netns::open(request.netns)?;
    let before = records.read::<Backup>(id, ifname)?;
    let before = before.filter(|b| b.whose.is_at(request.netns));
    let whose = Whose::of(request);
    let link = netns::inside(&inside, request.netns, || {
        let mut links = Links::open()?;
        let link = need_link(&mut links, ifname)?;
        if plan.changes_link() {
            // What a killed ADD wrote down is what the link had before it, not what it left.
            let backup = before.is_none().then(|| plan.backup(whose, &link));
            if let Some(backup) = backup {
                records.write(id, ifname, &backup)?;
            }
            failpoint!("tuning.add.recorded");
        }
        for (key, value) in &plan.sysctl {
            sysctl::set(key, value)?;
        }
        failpoint!("tuning.add.sysctl");
        if plan.changes_link() {
            links.change(&link, &plan.change())?;
        }
        failpoint!("tuning.add.changed");
        need_link(&mut links, ifname)
    })?;
    let told = result
        .interfaces
        .iter_mut()
        .filter(|i| i.name == ifname && !i.sandbox.is_empty());
    for interface in told {
        if plan.mac.is_some() {
            interface.mac = link.mac.map(mac_text).unwrap_or_default();
        }
        if plan.mtu.is_some() {
            interface.mtu = Some(link.mtu);
        }
    }
    Ok(result)
}

/// Gives the link what it had. A link that has gone needs nothing; one of a namespace that is
/// another meanwhile is not touched.
fn restore(request: &Request<'_>, records: &Records) -> Result<(), Error> {
    let (id, ifname) = (request.container_id, request.ifname);
    let Some(backup) = records.read::<Backup>(id, ifname)? else {
        return Ok(());
    };
    put_back(request.netns, ifname, &backup)?;
    records.remove(id, ifname)
}

fn put_back(path: &Path, ifname: &str, backup: &Backup) -> Result<(), Error> {
    // The reference plugin's backups do not say of which namespace they are.
    if backup.whose.inode != 0 && !backup.whose.is_at(path) {
        return Ok(());
    }
    let Some(inside) = netns::open_if_there(path)? else {
        return Ok(());
    };
    netns::inside(&inside, path, || {
        let mut links = Links::open()?;
        match links.by_name(ifname)? {
            Some(link) => links.change(&link, &backup.change()),
            None => Ok(()),
        }
    })
}

fn gc(request: &Request<'_>, records: &Records) -> Result<(), Error> {
    let valid = request.valid_attachments()?;
    for (whose, backup) in records.of_network::<Backup>(request.network())? {
        let kept = valid
            .iter()
            .any(|v| v.container_id == whose.container_id && v.ifname == whose.ifname);
        if !kept {
            put_back(&whose.netns, &whose.ifname, &backup)?;
            records.remove(&whose.container_id, &whose.ifname)?;
        }
    }
    Ok(())
}

fn check(request: &Request<'_>, plan: &Plan) -> Result<(), Error> {
    request.need_previous("tuning")?;
    let inside = netns::open(request.netns)?;
    let ifname = request.ifname;
    netns::inside(&inside, request.netns, || {
        let link = need_link(&mut Links::open()?, ifname)?;
        for (key, wanted) in &plan.sysctl {
            let found = sysctl::read(key)?.unwrap_or_else(|| "missing".into());
            // The kernel has tabs between numbers.
            if !found.split_whitespace().eq(wanted.split_whitespace()) {
                return Err(Error::Mismatch {
                    what: format!("setting net/{key}"),
                    found,
                    wanted: wanted.clone(),
                });
            }
        }
        if let Some(mac) = plan.mac {
            let found = link.mac.map(mac_text).unwrap_or_default();
            same(&link, "address", &found, &mac_text(mac))?;
        }
        if plan.promisc {
            same(&link, "promiscuity", &link.promisc, &true)?;
        }
        if let Some(mtu) = plan.mtu {
            same(&link, "mtu", &link.mtu, &mtu)?;
        }
        if let Some(allmulti) = plan.allmulti {
            same(&link, "allmulti", &link.allmulti, &allmulti)?;
        }
        match plan.txqlen {
            Some(length) => same(&link, "queue length", &link.txqlen, &length),
            None => Ok(()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_below_net_whatever_its_key_pretends() {
        for (key, wanted) in [
            (
                "net.ipv4.conf.IFNAME.arp_filter",
                "ipv4/conf/eth0.5/arp_filter",
            ),
            (
                "net/ipv4/conf/eth0.7/arp_filter",
                "ipv4/conf/eth0.7/arp_filter",
            ),
            (
                "net.ipv4.conf.eth0/7.arp_filter",
                "ipv4/conf/eth0.7/arp_filter",
            ),
            ("net.core.somaxconn", "core/somaxconn"),
        ] {
            assert_eq!(setting(key, "eth0.5").unwrap(), wanted);
        }
        for bad in [
            "",
            "net",
            "net.",
            "kernel.hostname",
            "net/../kernel/hostname",
            "/net/core/somaxconn",
            "net..core",
            "net./../x",
        ] {
            let error = setting(bad, "eth0").unwrap_err().to_string();
            assert!(error.contains("is no setting below net"), "{bad}: {error}");
        }
    }

    #[test]
    fn an_allow_list_has_a_pattern_a_line() {
        let keys = |k: &str| [k.to_owned()];
        let list = "\n ^net\\.core\\.somaxconn$ \nnet\\.ipv4\\.conf\\.IFNAME\\.[a-z_]*\n";
        for good in ["net.core.somaxconn", "net.ipv4.conf.IFNAME.arp_filter"] {
            check_allowed(list, keys(good).iter()).unwrap();
        }
        let bad = check_allowed(list, keys("net.core.somaxconn2").iter()).unwrap_err();
        assert!(bad.to_string().contains("is not allowed by"), "{bad}");
        check_allowed("", keys("net.core.x").iter()).unwrap_err();
        check_allowed("", [].iter()).unwrap();
        let bad = check_allowed("(", [].iter()).unwrap_err();
        assert!(bad.to_string().contains("is no pattern"), "{bad}");
    }
}
