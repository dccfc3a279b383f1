//! The result of ADD: one type that holds what any version says, read from and
//! written to the shape of each version.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Version;
use crate::cidr::Cidr;

/// Why a document is no result.
#[derive(Debug, thiserror::Error)]
pub enum ResultError {
    #[error("the result is of CNI version {version:?}, which is none of 0.3.0 to 1.1.0")]
    Version { version: String },
    #[error("the result does not have the shape of one")]
    Shape {
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "the result's address {address} names interface {index}, but there are only {interfaces}"
    )]
    Interface {
        address: Cidr,
        index: usize,
        interfaces: usize,
    },
}

/// What an ADD made: the abstract result, free of versions. `cni_version` is that of the
/// document it came from, or is to become.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CniResult {
    #[serde(default)]
    pub cni_version: String,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub interfaces: Vec<Interface>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub ips: Vec<IpConfig>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub routes: Vec<Route>,
    #[serde(default, deserialize_with = "null_is_empty")]
    pub dns: Dns,
}

/// A link that was made, or found and used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Bytes; since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The path of the namespace it is in; empty for the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
    /// Since 1.1.0.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub socket_path: String,
    /// Since 1.1.0.
    #[serde(default, rename = "pciID", skip_serializing_if = "String::is_empty")]
    pub pci_id: String,
}

/// An address on one of the interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpConfig {
    /// Index into `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    pub address: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// A route in the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    pub dst: Cidr,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// This and what follows since 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advmss: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
}

impl Route {
    pub fn to(dst: Cidr, gw: Option<IpAddr>) -> Self {
        Self {
            dst,
            gw,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }
}

/// What a resolver should ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub domain: String,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub search: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub options: Vec<String>,
}

impl Dns {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Go writes `null` for an empty slice.
pub(super) fn null_is_empty<'de, D, T>(d: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl CniResult {
    /// Reads a result of any version we speak. A document without `cniVersion` is taken
    /// to be of `assumed`, as plugins before 0.4.0 may leave it out.
    pub fn parse(document: &Value, assumed: Version) -> Result<Self, ResultError> {
        let mut result =
            Self::deserialize(document).map_err(|source| ResultError::Shape { source })?;
        if result.cni_version.is_empty() {
            result.cni_version = assumed.as_str().into();
        }
        if let Err(version) = result.cni_version.parse::<Version>() {
            return Err(ResultError::Version { version });
        }
        let interfaces = result.interfaces.len();
        for ip in &result.ips {
            if let Some(index) = ip.interface.filter(|&i| i >= interfaces) {
                return Err(ResultError::Interface {
                    address: ip.address,
                    index,
                    interfaces,
                });
            }
        }
        Ok(result)
    }

    /// The document as `version` has it: what that version does not know is left out, and
    /// what it wants besides (the family of each address, before 1.0.0) is added.
    pub fn to_document(&self, version: Version) -> Value {
        let mut copy = self.clone();
        copy.cni_version = version.as_str().into();
        if version < Version::V1_1_0 {
            for i in &mut copy.interfaces {
                i.mtu = None;
                i.socket_path.clear();
                i.pci_id.clear();
            }
            for r in &mut copy.routes {
                *r = Route::to(r.dst, r.gw);
            }
        }
        // Serializing plain data with string keys into a Value cannot fail.
        let mut document = serde_json::to_value(&copy).unwrap_or(Value::Null);
        if version < Version::V1_0_0
            && let Some(ips) = document.get_mut("ips").and_then(Value::as_array_mut)
        {
            for (ip, config) in ips.iter_mut().zip(&copy.ips) {
                ip["version"] = json!(if config.address.is_ipv4() { "4" } else { "6" });
            }
        }
        document
    }

    /// The addresses of the container: those on an interface in a sandbox, or on none named.
    pub fn container_ips(&self) -> impl Iterator<Item = &IpConfig> {
        self.ips.iter().filter(|ip| {
            ip.interface
                .and_then(|i| self.interfaces.get(i))
                .is_none_or(|i| !i.sandbox.is_empty())
        })
    }

    /// The link inside the container that carries its addresses.
    pub fn container_interface(&self) -> Option<&Interface> {
        self.interfaces.iter().find(|i| !i.sandbox.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CniResult {
        CniResult {
            cni_version: "1.1.0".into(),
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: "02:00:00:00:00:01".into(),
                mtu: Some(1500),
                sandbox: "/proc/1/ns/net".into(),
                ..Default::default()
            }],
            ips: vec![IpConfig {
                interface: Some(0),
                address: "10.88.0.2/16".parse().unwrap(),
                gateway: Some("10.88.0.1".parse().unwrap()),
            }],
            routes: vec![Route {
                mtu: Some(1400),
                ..Route::to("0.0.0.0/0".parse().unwrap(), None)
            }],
            dns: Dns::default(),
        }
    }

    #[test]
    fn an_older_version_gets_only_what_it_knows() {
        let old = sample().to_document(Version::V0_3_1);
        assert_eq!(old["ips"][0]["version"], "4");
        assert!(old["interfaces"][0].get("mtu").is_none());
        assert!(old["routes"][0].get("mtu").is_none());
        let middle = sample().to_document(Version::V1_0_0);
        assert!(middle["ips"][0].get("version").is_none());
        let new = sample().to_document(Version::V1_1_0);
        assert_eq!(new["interfaces"][0]["mtu"], 1500);
        assert_eq!(CniResult::parse(&new, Version::V1_1_0).unwrap(), sample());
    }

    #[test]
    fn null_lists_of_the_reference_plugins_are_empty() {
        let document =
            json!({"cniVersion":"0.4.0","interfaces":null,"ips":null,"routes":null,"dns":{}});
        let r = CniResult::parse(&document, Version::V0_4_0).unwrap();
        assert!(r.ips.is_empty() && r.interfaces.is_empty());
    }

    #[test]
    fn refuses_an_address_on_an_interface_that_is_not_there() {
        let document = json!({"cniVersion":"1.0.0","ips":[{"interface":3,"address":"10.0.0.1/8"}]});
        assert!(matches!(
            CniResult::parse(&document, Version::V1_0_0),
            Err(ResultError::Interface { index: 3, .. })
        ));
        let document = json!({"cniVersion":"0.2.0"});
        assert!(matches!(
            CniResult::parse(&document, Version::V1_0_0),
            Err(ResultError::Version { .. })
        ));
    }
}
