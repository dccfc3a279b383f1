//! A container as one JSON document, in the shape that `docker inspect` gives.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::options::{MountSource, NetworkMode, NetworkOptions, PortMapping};
use super::record::Container;
use super::spec;
use super::status::Status;
use crate::Engine;
use crate::error::Error;
use crate::network::inspect::{asked, endpoint};
use crate::network::names_on;

const NEVER: &str = "0001-01-01T00:00:00Z";

impl Engine {
    pub fn inspect(&self, container: &Container) -> Result<Value, Error> {
        let record = &container.record;
        let options = &record.options;
        let image = self.config_of(container)?;
        let args = spec::command_line(options, &image)?;
        let mut env = image.env.clone();
        for entry in &options.process.env {
            spec::set(&mut env, entry);
        }
        let p = &options.process;
        // As in the command line: a new entrypoint drops the image's command.
        let cmd = match p.command.is_empty() && p.entrypoint.is_none() {
            true => &image.cmd,
            false => &p.command,
        };
        let mut labels = image.labels.clone();
        labels.extend(options.labels.clone());
        Ok(json!({
            "Id": container.id,
            "Name": container.name,
            "Created": rfc3339(container.created_at),
            "Path": args.first(),
            "Args": args.get(1..),
            "State": self.inspect_state(container)?,
            "Image": record.image_config,
            "ImageName": container.image,
            "LogPath": self.paths.log(&container.id),
            "BundlePath": self.paths.bundle(&container.id),
            "Config": {
                "Hostname": options.process.hostname.as_deref().unwrap_or(container.id.short()),
                "User": options.process.user.as_ref().unwrap_or(&image.user),
                "Tty": options.process.tty,
                "OpenStdin": options.process.open_stdin,
                "Env": env,
                "Cmd": cmd,
                "Entrypoint": options.process.entrypoint.as_ref().unwrap_or(&image.entrypoint),
                "WorkingDir": spec::workdir(options, &image),
                "Labels": labels,
                "StopSignal": image.stop_signal,
            },
            "HostConfig": self.inspect_host(container),
            "Mounts": self.inspect_mounts(container),
            "NetworkSettings": self.inspect_attachments(container)?,
        }))
    }

    fn inspect_state(&self, container: &Container) -> Result<Value, Error> {
        let status = self.status(container)?;
        let run = container.record.run.as_ref();
        let started = run.map_or(NEVER.into(), |r| {
            rfc3339(r.started_at.0.saturating_mul(1_000_000_000) + i64::from(r.started_at.1))
        });
        let (pid, code, finished, oom) = match &status {
            Status::Running { pid } => (*pid, 0, NEVER.into(), false),
            Status::Exited(e) => (0, e.exit_status, e.exited_at.clone(), e.oom_killed),
            Status::Lost => (0, 137, NEVER.into(), false),
            Status::Created => (0, 0, NEVER.into(), false),
        };
        Ok(json!({
            "Status": status.as_str(),
            "Running": status.is_running(),
            "Paused": false,
            "Dead": matches!(status, Status::Lost),
            "Pid": pid,
            "ExitCode": code,
            "OOMKilled": oom,
            "StartedAt": started,
            "FinishedAt": finished,
        }))
    }

    fn inspect_host(&self, container: &Container) -> Value {
        let o = &container.record.options;
        json!({
            "AutoRemove": o.auto_remove,
            "Memory": o.limits.memory.unwrap_or(0),
            "NanoCpus": o.limits.cpu_millis.unwrap_or(0) * 1_000_000,
            "PidsLimit": o.limits.pids,
            "Ulimits": o.limits.ulimits.iter().map(|u| json!({
                "Name": u.kind.trim_start_matches("RLIMIT_").to_lowercase(), "Soft": u.soft, "Hard": u.hard,
            })).collect::<Vec<_>>(),
            "ReadonlyRootfs": o.read_only,
            "Privileged": o.security.privileged,
            "CapAdd": o.security.cap_add,
            "CapDrop": o.security.cap_drop,
            "Init": o.init,
            "Runtime": o.runtime.as_deref().unwrap_or(crate::runtime::OWN),
            "NetworkMode": network_mode(&o.network),
            "Dns": o.network.dns,
            "DnsSearch": o.network.dns_search,
            "DnsOptions": o.network.dns_options,
            "ExtraHosts": extra_hosts(&o.network),
            "PortBindings": ports(&o.network.ports),
            "CgroupPath": self.paths.cgroup(&container.id),
        })
    }

    /// Addresses and ports are given back when a run ends.
    fn inspect_attachments(&self, container: &Container) -> Result<Value, Error> {
        let running = self.status(container)?.is_running();
        let run = container.record.run.clone().filter(|_| running);
        let run = run.unwrap_or_default();
        let options = &container.record.options.network;
        let mut networks = serde_json::Map::new();
        for e in options.endpoints() {
            let attached = run.networks.iter().find(|n| n.network == e.network);
            // A configuration may have been taken out of its folder since.
            let network = self.network_named(&e.network)?;
            let id = network.as_ref().map_or("", |n| n.id.as_str());
            let mut document = endpoint(attached, id);
            document["Aliases"] = json!(e.aliases);
            document["IPAMConfig"] = asked(&e);
            let names = network.as_ref().map(|n| names_on(n, container, &e));
            document["DNSNames"] = json!(names.unwrap_or_default());
            networks.insert(e.network.clone(), document);
        }
        if let NetworkMode::Host | NetworkMode::None = options.mode {
            networks.insert(options.mode.text(), json!({}));
        }
        let mut settings = endpoint(run.networks.first(), "");
        settings["Ports"] = ports(&run.ports);
        settings["Networks"] = Value::Object(networks);
        Ok(settings)
    }

    fn inspect_mounts(&self, container: &Container) -> Vec<Value> {
        let of = |m: &super::options::MountRequest| {
            let writable = !m.options.iter().any(|o| o == "ro" || o == "rro");
            let (kind, name, source) = match &m.source {
                MountSource::Bind(path) => ("bind", None, path.display().to_string()),
                MountSource::Volume(name) => (
                    "volume",
                    Some(name),
                    self.paths.volume(name).display().to_string(),
                ),
                MountSource::Tmpfs => ("tmpfs", None, String::new()),
            };
            json!({
                "Type": kind, "Name": name, "Source": source, "Destination": m.target,
                "Mode": m.options.join(","), "RW": writable,
            })
        };
        container.record.options.mounts.iter().map(of).collect()
    }
}

/// As docker has it: the name of its first network, or where its namespace is from.
fn network_mode(options: &NetworkOptions) -> String {
    match options.endpoints().first() {
        Some(first) => first.network.clone(),
        None => options.mode.text(),
    }
}

fn extra_hosts(options: &NetworkOptions) -> Vec<String> {
    let fixed = options.add_host.iter().map(|(n, a)| format!("{n}:{a}"));
    let gateway = options.gateway_hosts.iter();
    fixed
        .chain(gateway.map(|n| format!("{n}:host-gateway")))
        .collect()
}

/// `{"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}`
fn ports(mappings: &[PortMapping]) -> Value {
    let mut all = serde_json::Map::new();
    for m in mappings {
        let key = format!("{}/{}", m.container_port, m.protocol.as_str());
        let ip = m.host_ip.map_or(String::new(), |i| i.to_string());
        let one = json!({ "HostIp": ip, "HostPort": m.host_port.to_string() });
        if let Value::Array(list) = all.entry(key).or_insert_with(|| json!([])) {
            list.push(one);
        }
    }
    Value::Object(all)
}

/// A time of our clock as RFC 3339.
pub fn rfc3339(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .map_or_else(|_| NEVER.into(), |t| t.to_string())
}
