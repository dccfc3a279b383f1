//! What a pod's containers read of its name and its name servers: `/etc/hostname`, `/etc/hosts` and `/etc/resolv.conf`.
//! containerd makes them for pods with a pause container, and leaves them to a shim that holds the pod itself.

use std::path::Path;

use corten_spec::Kind;
use corten_spec::oci::runtime::{Mount, Spec};
use serde_json::json;

use crate::proto::sandbox::{DnsConfig, PodConfig};
use crate::ttrpc::status::Status;

/// In the pod's bundle.
const FOLDER: &str = "corten-etc";
const NAMES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];

/// Writes the files. What the pod does not say is as on the host.
pub fn write(config: &PodConfig, bundle: &Path) -> Result<(), Status> {
    let folder = bundle.join(FOLDER);
    let failed = |path: &Path, e: std::io::Error| {
        Status::of(
            Kind::Internal,
            format!("cannot write {}: {e}", path.display()),
        )
    };
    std::fs::create_dir_all(&folder).map_err(|e| failed(&folder, e))?;
    for name in NAMES {
        let text = match name {
            "hostname" => Some(hostname(config)),
            "resolv.conf" if config.dns_config.is_some() => {
                config.dns_config.as_ref().map(resolver).transpose()?
            }
            // A host without one has pods without one.
            _ => std::fs::read_to_string(Path::new("/etc").join(name)).ok(),
        };
        let path = folder.join(name);
        if let Some(text) = text {
            std::fs::write(&path, text).map_err(|e| failed(&path, e))?;
        }
    }
    Ok(())
}

fn hostname(config: &PodConfig) -> String {
    let name = match config.hostname.as_str() {
        "" => rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        name => name.into(),
    };
    format!("{name}\n")
}

fn resolver(config: &DnsConfig) -> Result<String, Status> {
    let words = config
        .servers
        .iter()
        .chain(&config.searches)
        .chain(&config.options);
    if let Some(word) = words.into_iter().find(|w| w.contains(char::is_whitespace)) {
        return Err(Status::of(
            Kind::Invalid,
            format!("dns_config: {word:?} is more than one word"),
        ));
    }
    let mut text = String::new();
    if !config.searches.is_empty() {
        text += &format!("search {}\n", config.searches.join(" "));
    }
    for server in &config.servers {
        text += &format!("nameserver {server}\n");
    }
    if !config.options.is_empty() {
        text += &format!("options {}\n", config.options.join(" "));
    }
    Ok(text)
}

/// Shows a container the files that are there, where it has not asked for others.
pub fn show(spec: &mut Spec, bundle: &Path) -> Result<(), Status> {
    let access = match spec.root().as_ref().and_then(|r| r.readonly()) {
        Some(true) => "ro",
        _ => "rw",
    };
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for name in NAMES {
        let (source, target) = (bundle.join(FOLDER).join(name), Path::new("/etc").join(name));
        if !source.exists() || mounts.iter().any(|m| *m.destination() == target) {
            continue;
        }
        let mount = json!({"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", access]});
        let mount: Mount = serde_json::from_value(mount)
            .map_err(|e| Status::of(Kind::Internal, format!("cannot mount /etc/{name}: {e}")))?;
        mounts.push(mount);
    }
    spec.set_mounts(Some(mounts));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dns(servers: &[&str]) -> DnsConfig {
        DnsConfig {
            servers: servers.iter().map(|s| s.to_string()).collect(),
            searches: vec!["a.test".into(), "b.test".into()],
            options: vec!["ndots:5".into()],
        }
    }

    #[test]
    fn a_resolvers_file_is_as_asked() {
        let text = resolver(&dns(&["10.0.0.1", "fd00::1"])).unwrap();
        assert_eq!(
            text,
            "search a.test b.test\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n"
        );
        let error = resolver(&dns(&["10.0.0.1\nnameserver 6.6.6.6"])).unwrap_err();
        assert!(error.message.contains("dns_config"), "{error:?}");
    }

    #[test]
    fn files_are_shown_where_no_others_are() {
        let dir = tempfile::tempdir().unwrap();
        let config = PodConfig {
            hostname: "web".into(),
            dns_config: Some(dns(&["10.0.0.1"])),
            ..PodConfig::default()
        };
        write(&config, dir.path()).unwrap();
        let own = json!({"destination": "/etc/hosts", "type": "bind", "source": "/own", "options": ["rbind"]});
        let spec = json!({"ociVersion": "1.1.0", "root": {"path": "rootfs", "readonly": true}, "mounts": [own]});
        let mut spec: Spec = serde_json::from_value(spec).unwrap();
        show(&mut spec, dir.path()).unwrap();
        let mounts = serde_json::to_value(spec.mounts()).unwrap();
        let list = mounts.as_array().unwrap();
        let targets: Vec<_> = list
            .iter()
            .map(|m| m["destination"].as_str().unwrap())
            .collect();
        assert_eq!(targets, ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"]);
        assert_eq!(list[0]["source"], "/own");
        assert_eq!(list[1]["options"], json!(["rbind", "rprivate", "ro"]));
        let name = std::fs::read_to_string(list[1]["source"].as_str().unwrap()).unwrap();
        assert_eq!(name, "web\n");
    }
}
