//! `config.toml`: what an administrator sets once. Absent is fine; a word that is not known is
//! an error, since a misspelt setting is a setting that is not applied.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use corten_spec::Cidr;
use corten_store::{LayerChoice, Limits, Options, Packing};
use serde::Deserialize;

use crate::error::Error;
use crate::paths::Paths;
use crate::runtime::Setting;

/// The settings, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub network: Network,
    pub store: StoreSettings,
    /// Runtimes of others, by the name that `--runtime` takes.
    pub runtimes: BTreeMap<String, Setting>,
}

/// How images are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreSettings {
    pub layers: LayerChoice,
    pub limits: Limits,
}

/// The default network, `bridge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The bridge's interface name.
    pub bridge: String,
    /// At most one per family; the first address of each is the bridge's own.
    pub subnets: Vec<Cidr>,
    /// The nftables table (family inet).
    pub table: String,
    /// Whether containers find each other by name there, as they do on every network that is made.
    pub dns: bool,
    /// Where networks that name no subnet get theirs from, in this order.
    pub pools: Vec<Pool>,
    /// Folders of CNI plugins that are not ours.
    pub plugins: Vec<PathBuf>,
    /// A folder of CNI configurations; each is a network.
    pub configurations: PathBuf,
}

/// Subnets of `size` out of `base`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub base: Cidr,
    /// The prefix length of each.
    pub size: u8,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    network: FileNetwork,
    store: FileStore,
    runtimes: BTreeMap<String, Setting>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct FileStore {
    layers: FileLayers,
    max_layer_bytes: Option<u64>,
    max_layer_entries: Option<u64>,
}

/// The words for a [`LayerChoice`].
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileLayers {
    #[default]
    Auto,
    Erofs,
    ErofsPages,
    Overlay,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct FileNetwork {
    bridge: Option<String>,
    subnets: Option<Vec<Cidr>>,
    table: Option<String>,
    dns: Option<bool>,
    pools: Option<Vec<Pool>>,
    cni_plugins: Option<Vec<PathBuf>>,
    cni_configurations: Option<PathBuf>,
}

impl Config {
    /// Reads `ETC/config.toml`.
    pub fn load(paths: &Paths) -> Result<Self, Error> {
        let path = paths.etc().join("config.toml");
        let file = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|source| Error::Config {
                path,
                source: Box::new(source),
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => File::default(),
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        Ok(Self {
            network: file
                .network
                .over(Network::of(paths.instance(), paths.etc())),
            store: file.store.over(StoreSettings::default()),
            runtimes: file.runtimes,
        })
    }
}

impl StoreSettings {
    pub(crate) fn options(&self) -> Options {
        Options {
            limits: self.limits.clone(),
            layers: self.layers,
        }
    }
}

impl FileStore {
    fn over(self, default: StoreSettings) -> StoreSettings {
        let limits = default.limits;
        StoreSettings {
            layers: match self.layers {
                FileLayers::Auto => LayerChoice::Auto,
                FileLayers::Erofs => LayerChoice::Erofs(Packing::Tar),
                FileLayers::ErofsPages => LayerChoice::Erofs(Packing::Pages),
                FileLayers::Overlay => LayerChoice::Folders,
            },
            limits: Limits {
                unpacked: self.max_layer_bytes.unwrap_or(limits.unpacked),
                entries: self.max_layer_entries.unwrap_or(limits.entries),
                ..limits
            },
        }
    }
}

impl FileNetwork {
    fn over(self, default: Network) -> Network {
        Network {
            bridge: self.bridge.unwrap_or(default.bridge),
            subnets: self.subnets.unwrap_or(default.subnets),
            table: self.table.unwrap_or(default.table),
            dns: self.dns.unwrap_or(default.dns),
            pools: self.pools.unwrap_or(default.pools),
            plugins: self.cni_plugins.unwrap_or(default.plugins),
            configurations: self.cni_configurations.unwrap_or(default.configurations),
        }
    }
}

impl Network {
    /// The default engine's network, or one that an engine with another run folder will hardly
    /// share with its neighbours: a /22 out of 10.92.0.0 to 10.123.255.255, and a /64, by hash.
    fn of(instance: Option<&str>, etc: &Path) -> Self {
        let pools = |v4: &str, size, v6: &str| {
            let pool = |base: &str, size| {
                let base = base.parse().ok()?;
                Some(Pool { base, size })
            };
            [pool(v4, size), pool(v6, 64)]
                .into_iter()
                .flatten()
                .collect()
        };
        let mut network = Self {
            bridge: "corten0".into(),
            subnets: cidrs(["10.79.0.0/16", "fdc0:47e4:5e2f::/64"]),
            table: "corten".into(),
            dns: false,
            pools: pools("10.64.0.0/13", 24, "fdc0:47e4:5e30::/48"),
            plugins: PLUGINS.iter().map(Into::into).collect(),
            configurations: etc.join("net.d"),
        };
        if let Some(hex) = instance {
            // `Paths` made it of hexadecimal digits.
            let n = u32::from_str_radix(hex, 16).unwrap_or_default();
            let (second, third) = (92 + (n >> 8) % 32, (n & 0x3f) * 4);
            network.bridge = format!("ct{hex}");
            network.subnets = cidrs([
                &format!("10.{second}.{third}.0/22"),
                &format!("fdc0:47e5:{:x}:{:x}::/64", n >> 16, n & 0xffff),
            ]);
            network.table = format!("corten_{hex}");
            // One of 2048 pools out of 10.128.0.0/9.
            let (second, third) = (128 + (n >> 4) % 128, (n & 0xf) * 16);
            network.pools = pools(
                &format!("10.{second}.{third}.0/20"),
                26,
                &format!("fdc0:47e6:{:x}::/48", n >> 16),
            );
        }
        network
    }
}

/// Where distributions and Kubernetes put them.
const PLUGINS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// Of texts that are right by construction (a test reads them all).
fn cidrs(texts: [&str; 2]) -> Vec<Cidr> {
    texts.iter().filter_map(|t| t.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_apart_share_no_name() {
        let main = Network::of(None, Path::new("/etc/corten"));
        let other = Network::of(Some("0badcafe"), Path::new("/e"));
        assert_ne!(main.bridge, other.bridge);
        assert_ne!(main.table, other.table);
        assert!(
            other.bridge.len() <= 15,
            "an interface name is at most 15 characters"
        );
        let texts: Vec<String> = other.subnets.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["10.102.248.0/22", "fdc0:47e5:bad:cafe::/64"]);
        assert_eq!(main.subnets.len(), 2);
        for network in [&main, &other] {
            assert_eq!(network.pools.len(), 2);
            let own = &network.subnets;
            assert!(
                !network
                    .pools
                    .iter()
                    .any(|p| own.iter().any(|s| s.overlaps(&p.base)))
            );
        }
        assert!(!other.pools[0].base.overlaps(&main.pools[0].base));
    }

    #[test]
    fn a_misspelt_setting_is_an_error() {
        assert!(toml::from_str::<File>("[network]\nbrige = \"x\"").is_err());
        let file: File = toml::from_str("[network]\nbridge = \"x\"").unwrap();
        assert_eq!(
            file.network
                .over(Network::of(None, Path::new("/etc/corten")))
                .bridge,
            "x"
        );
        let text = "[store]\nlayers = \"overlay\"\nmax-layer-bytes = 5";
        let file: File = toml::from_str(text).unwrap();
        let store = file.store.over(StoreSettings::default());
        assert_eq!(store.layers, LayerChoice::Folders);
        assert_eq!(store.limits.unpacked, 5);
        for bad in ["layers = \"zfs\"", "max-layer-bytes = -1", "layer = 1"] {
            assert!(toml::from_str::<File>(&format!("[store]\n{bad}")).is_err());
        }
    }
}
