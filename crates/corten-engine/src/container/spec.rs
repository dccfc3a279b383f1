//! The plan: from the image's config, the user's options and a few facts, the OCI
//! runtime spec. Pure: what it returns depends on its arguments alone, so that the
//! tests read it as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::capability;
use super::options::{MountRequest, MountSource, Options, Seccomp};
use super::seccomp;
use super::user::User;
use crate::error::Error;
use crate::image::ImageConfig;

/// The search path where neither image nor user sets one.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// 0022
pub const UMASK: u32 = 0o022;
/// Where `--init` puts its init; docker's place, which tools look for.
pub const INIT_TARGET: &str = "/sbin/docker-init";

/// What the plan has to know of the host and of this container's own files.
#[derive(Clone, Debug)]
pub struct Facts {
    pub hostname: String,
    pub cgroup: String,
    pub user: User,
    /// `target → source` of files that the engine makes: hosts, resolv.conf, hostname.
    pub files: Vec<(&'static str, PathBuf)>,
    /// Volume name → its folder.
    pub volumes: BTreeMap<String, PathBuf>,
    /// Our own executable, for `--init`.
    pub executable: PathBuf,
    /// Does this kernel account swap per cgroup?
    pub swap_accounting: bool,
    /// The host's device nodes, for `--privileged`.
    pub host_devices: Vec<Value>,
    /// Docker's default seccomp policy for the capabilities given.
    pub default_seccomp: fn(&[String]) -> Result<Value, Error>,
    /// The running kernel's major and minor version, which conditions in seccomp profiles ask for.
    pub kernel: (u32, u32),
    /// The network namespace that it joins.
    pub network: Option<PathBuf>,
    /// What the runtime is told that it reads.
    pub oci_version: &'static str,
}

/// The OCI runtime spec (config.json) of one run.
pub fn plan(options: &Options, image: &ImageConfig, facts: &Facts) -> Result<Value, Error> {
    let capabilities = capability::effective(&options.security)?;
    let spec = json!({
        "ociVersion": facts.oci_version,
        "root": { "path": "rootfs", "readonly": options.read_only },
        "hostname": facts.hostname,
        "process": process(options, image, facts, &capabilities)?,
        "mounts": mounts(options, facts)?,
        "linux": linux(options, facts, &capabilities)?,
    });
    // Labels are no annotations: those may steer a runtime, and an image's labels are its builder's.
    Ok(spec)
}

fn process(
    options: &Options,
    image: &ImageConfig,
    facts: &Facts,
    capabilities: &[String],
) -> Result<Value, Error> {
    let p = &options.process;
    let mut args = command_line(options, image)?;
    if options.init {
        args.splice(0..0, [INIT_TARGET.to_owned(), "--".to_owned()]);
    }
    let rlimits: Vec<Value> = (options.limits.ulimits.iter())
        .map(|u| json!({ "type": u.kind, "soft": u.soft, "hard": u.hard }))
        .collect();
    let mut process = json!({
        "terminal": p.tty,
        "user": {
            "uid": facts.user.uid,
            "gid": facts.user.gid,
            "additionalGids": facts.user.additional_gids,
            // Docker's: what a container makes must not hang on who started it.
            "umask": UMASK,
        },
        "args": args,
        "env": environment(options, image, facts),
        "cwd": workdir(options, image),
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
        "noNewPrivileges": options.security.no_new_privileges,
    });
    if !rlimits.is_empty() {
        process["rlimits"] = json!(rlimits);
    }
    Ok(process)
}

/// Entrypoint and command as docker combines them: a new entrypoint drops the image's command.
pub fn command_line(options: &Options, image: &ImageConfig) -> Result<Vec<String>, Error> {
    let p = &options.process;
    let (entrypoint, image_command) = match &p.entrypoint {
        Some(e) => (e.clone(), &[][..]),
        None => (image.entrypoint.clone(), &image.cmd[..]),
    };
    let command = match p.command.is_empty() {
        true => image_command.to_vec(),
        false => p.command.clone(),
    };
    let args: Vec<String> = entrypoint.into_iter().chain(command).collect();
    match args.first().is_none_or(String::is_empty) {
        true => Err(Error::NoCommand {
            image: options.image.clone(),
        }),
        false => Ok(args),
    }
}

/// The working folder: the option's, the image's, or the root.
pub fn workdir(options: &Options, image: &ImageConfig) -> String {
    let asked = options.process.workdir.as_ref();
    match asked.unwrap_or(&image.working_dir).as_str() {
        "" => "/".into(),
        w => w.into(),
    }
}

fn environment(options: &Options, image: &ImageConfig, facts: &Facts) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.into(), format!("HOSTNAME={}", facts.hostname)];
    if options.process.tty {
        env.push("TERM=xterm".into());
    }
    for entry in image.env.iter().chain(&options.process.env) {
        set(&mut env, entry);
    }
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", facts.user.home));
    }
    env
}

/// Sets one `KEY=VALUE`, in the place of an earlier one.
pub fn set(env: &mut Vec<String>, entry: &str) {
    let key = entry.split('=').next().unwrap_or(entry);
    let same = |e: &&mut String| e.split('=').next() == Some(key);
    match env.iter_mut().find(same) {
        Some(old) => entry.clone_into(old),
        None => env.push(entry.into()),
    }
}

fn mounts(options: &Options, facts: &Facts) -> Result<Vec<Value>, Error> {
    let privileged = options.security.privileged;
    let access = if privileged { "rw" } else { "ro" };
    let mut out = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount(
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            &["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
    ];
    let asked = |target: &str| options.mounts.iter().any(|m| m.target == target);
    for (target, source) in &facts.files {
        if !asked(target) {
            out.push(bind(target, source, &["rbind", "rprivate"]));
        }
    }
    if options.init {
        out.push(bind(
            INIT_TARGET,
            &facts.executable,
            &["bind", "ro", "nosuid", "nodev", "rprivate"],
        ));
    }
    for request in &options.mounts {
        out.retain(|m| m["destination"] != json!(request.target));
        out.push(user_mount(request, facts)?);
    }
    // A mount below another must come after it.
    out.sort_by_key(|m| {
        let target = m["destination"].as_str().unwrap_or_default();
        target.split('/').filter(|c| !c.is_empty()).count()
    });
    Ok(out)
}

fn mount(target: &str, fstype: &str, source: &str, options: &[&str]) -> Value {
    json!({ "destination": target, "type": fstype, "source": source, "options": options })
}

fn bind(target: &str, source: &Path, options: &[&str]) -> Value {
    json!({ "destination": target, "type": "bind", "source": source, "options": options })
}

fn user_mount(request: &MountRequest, facts: &Facts) -> Result<Value, Error> {
    let mut options: Vec<String> = request.options.clone();
    let has = |options: &[String], set: &[&str]| options.iter().any(|o| set.contains(&o.as_str()));
    const PROPAGATION: [&str; 6] = [
        "private", "rprivate", "shared", "rshared", "slave", "rslave",
    ];
    let source = match &request.source {
        MountSource::Tmpfs => {
            let mut all: Vec<String> = ["nosuid", "nodev", "noexec"].map(Into::into).into();
            all.retain(|o| !has(&options, &[o.trim_start_matches("no")]));
            all.extend(options);
            return Ok(json!({
                "destination": request.target, "type": "tmpfs", "source": "tmpfs", "options": all,
            }));
        }
        MountSource::Bind(path) => path.clone(),
        MountSource::Volume(name) => match facts.volumes.get(name) {
            Some(path) => path.clone(),
            None => return Err(Error::VolumeMissing { name: name.clone() }),
        },
    };
    if !has(&options, &["bind", "rbind"]) {
        options.insert(0, "rbind".into());
    }
    if !has(&options, &PROPAGATION) {
        options.push("rprivate".into());
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    Ok(bind(&request.target, &source, &options))
}

fn linux(options: &Options, facts: &Facts, capabilities: &[String]) -> Result<Value, Error> {
    let security = &options.security;
    let own = ["mount", "uts", "ipc", "pid", "cgroup"];
    let mut namespaces: Vec<Value> = own.iter().map(|n| json!({ "type": n })).collect();
    match &facts.network {
        Some(path) => namespaces.push(json!({ "type": "network", "path": path })),
        None if options.network.mode.is_own() => namespaces.push(json!({ "type": "network" })),
        None => {}
    }
    let mut linux = json!({
        "namespaces": namespaces,
        "cgroupsPath": facts.cgroup,
        "resources": resources(options, facts),
    });
    if options.network.mode.is_own() {
        // As docker: a container's own network has no privileged ports, and its users may ping.
        linux["sysctl"] = json!({
            "net.ipv4.ip_unprivileged_port_start": "0",
            "net.ipv4.ping_group_range": "0 2147483647",
        });
    }
    if security.privileged {
        linux["devices"] = json!(facts.host_devices);
    } else {
        linux["maskedPaths"] = json!(MASKED);
        linux["readonlyPaths"] = json!(READ_ONLY);
    }
    match &security.seccomp {
        Seccomp::Default if !security.privileged => {
            linux["seccomp"] = (facts.default_seccomp)(capabilities)?;
        }
        Seccomp::Profile(profile) => {
            let facts = seccomp::Facts {
                capabilities,
                kernel: facts.kernel,
                machine: std::env::consts::ARCH,
            };
            linux["seccomp"] = seccomp::resolve(profile, &facts)?;
        }
        Seccomp::Default | Seccomp::Unconfined => {}
    }
    Ok(linux)
}

fn resources(options: &Options, facts: &Facts) -> Value {
    let limits = &options.limits;
    let mut resources = json!({ "devices": device_rules(options.security.privileged) });
    if let Some(bytes) = limits.memory {
        let mut memory = json!({ "limit": bytes });
        if facts.swap_accounting {
            // Docker's default: as much swap again as memory.
            memory["swap"] = json!(bytes.saturating_mul(2));
        }
        resources["memory"] = memory;
    }
    if let Some(millis) = limits.cpu_millis {
        resources["cpu"] = json!({ "period": 100_000, "quota": millis * 100 });
    }
    if let Some(pids) = limits.pids {
        resources["pids"] = json!({ "limit": pids });
    }
    resources
}

/// Nothing but the standard nodes may be opened; any may be made, since making opens nothing.
fn device_rules(privileged: bool) -> Value {
    if privileged {
        return json!([{ "allow": true, "access": "rwm" }]);
    }
    let node = |major: i64, minor: Option<i64>| {
        let mut rule = json!({ "allow": true, "type": "c", "major": major, "access": "rwm" });
        if let Some(minor) = minor {
            rule["minor"] = json!(minor);
        }
        rule
    };
    json!([
        { "allow": false, "access": "rwm" },
        { "allow": true, "type": "c", "access": "m" },
        { "allow": true, "type": "b", "access": "m" },
        node(1, Some(3)), node(1, Some(5)), node(1, Some(7)), node(1, Some(8)), node(1, Some(9)),
        node(5, Some(0)), node(5, Some(1)), node(5, Some(2)), node(136, None),
    ])
}

/// Files of the kernel that tell of, or reach, the host.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::options::NetworkMode;

    fn facts() -> Facts {
        Facts {
            hostname: "abc".into(),
            cgroup: "/corten/abc".into(),
            user: User::root(),
            files: vec![("/etc/hosts", "/x/hosts".into())],
            volumes: BTreeMap::from([("data".to_owned(), "/v/data".into())]),
            executable: "/usr/bin/corten".into(),
            swap_accounting: true,
            host_devices: vec![],
            default_seccomp: |caps| Ok(json!({ "for": caps.len() })),
            kernel: (6, 1),
            network: None,
            oci_version: "1.2.0",
        }
    }

    fn image() -> ImageConfig {
        ImageConfig {
            env: vec!["PATH=/bin".into(), "A=1".into()],
            entrypoint: vec!["/entry".into()],
            cmd: vec!["arg".into()],
            ..ImageConfig::default()
        }
    }

    fn planned(options: &Options) -> Value {
        let spec = plan(options, &image(), &facts()).unwrap();
        // What we write must be what the runtime's types can read.
        serde_json::from_value::<corten_spec::oci::runtime::Spec>({
            let mut s = spec.clone();
            s["linux"]["seccomp"] = Value::Null;
            s
        })
        .unwrap();
        spec
    }

    #[test]
    fn an_entrypoint_drops_the_image_command() {
        let mut o = Options::default();
        assert_eq!(planned(&o)["process"]["args"], json!(["/entry", "arg"]));
        o.process.command = vec!["x".into()];
        assert_eq!(planned(&o)["process"]["args"], json!(["/entry", "x"]));
        o.process.entrypoint = Some(vec!["/sh".into()]);
        assert_eq!(planned(&o)["process"]["args"], json!(["/sh", "x"]));
        o.process.command.clear();
        assert_eq!(planned(&o)["process"]["args"], json!(["/sh"]));
        o.process.entrypoint = Some(vec![]);
        let err = plan(&o, &image(), &facts()).unwrap_err();
        assert!(matches!(err, Error::NoCommand { .. }));
    }

    #[test]
    fn later_environment_wins_in_place() {
        let mut o = Options::default();
        o.process.env = vec!["A=2".into(), "B=".into()];
        assert_eq!(
            planned(&o)["process"]["env"],
            json!(["PATH=/bin", "HOSTNAME=abc", "A=2", "B=", "HOME=/root"])
        );
    }

    #[test]
    fn a_user_mount_replaces_a_default_and_follows_its_parent() {
        let mut o = Options::default();
        let m = |source, target: &str, options: &[&str]| MountRequest {
            source,
            target: target.into(),
            options: options.iter().map(|s| (*s).to_owned()).collect(),
        };
        o.mounts = vec![
            m(MountSource::Tmpfs, "/dev/shm", &["size=1m", "exec"]),
            m(MountSource::Volume("data".into()), "/a/b", &["ro"]),
            m(MountSource::Bind("/srv".into()), "/a", &[]),
            m(MountSource::Bind("/h".into()), "/etc/hosts", &[]),
        ];
        let spec = planned(&o);
        let mounts = spec["mounts"].as_array().unwrap();
        let at = |t: &str| {
            let found: Vec<_> = mounts
                .iter()
                .enumerate()
                .filter(|(_, m)| m["destination"] == json!(t))
                .collect();
            assert_eq!(found.len(), 1, "{t}");
            found[0]
        };
        assert_eq!(
            at("/dev/shm").1["options"],
            json!(["nosuid", "nodev", "size=1m", "exec"])
        );
        assert_eq!(at("/a/b").1["options"], json!(["rbind", "ro", "rprivate"]));
        assert_eq!(at("/a/b").1["source"], json!("/v/data"));
        assert_eq!(at("/etc/hosts").1["source"], json!("/h"));
        assert!(at("/a").0 < at("/a/b").0);
    }

    #[test]
    fn privileged_drops_the_walls_and_only_then() {
        let mut o = Options::default();
        let plain = planned(&o);
        assert!(plain["linux"]["maskedPaths"].is_array());
        assert!(plain["linux"]["seccomp"].is_object());
        assert_eq!(
            plain["linux"]["resources"]["devices"][0]["allow"],
            json!(false)
        );
        o.security.privileged = true;
        let open = planned(&o);
        assert!(open["linux"]["maskedPaths"].is_null());
        assert!(open["linux"].get("seccomp").is_none());
        assert_eq!(
            open["linux"]["resources"]["devices"][0]["allow"],
            json!(true)
        );
    }

    #[test]
    fn limits_become_cgroup_resources() {
        let mut o = Options::default();
        o.limits.memory = Some(64 << 20);
        o.limits.cpu_millis = Some(500);
        o.limits.pids = Some(100);
        let r = &planned(&o)["linux"]["resources"];
        assert_eq!(r["memory"], json!({ "limit": 64 << 20, "swap": 128 << 20 }));
        assert_eq!(r["cpu"], json!({ "period": 100_000, "quota": 50_000 }));
        assert_eq!(r["pids"], json!({ "limit": 100 }));
    }

    #[test]
    fn the_host_network_is_no_namespace_and_gets_no_sysctl() {
        let mut o = Options::default();
        o.network.mode = NetworkMode::Host;
        let linux = &planned(&o)["linux"];
        let names = linux["namespaces"].to_string();
        assert!(!names.contains("network"));
        assert!(linux.get("sysctl").is_none());
    }

    #[test]
    fn a_network_that_is_joined_is_left_as_it_is() {
        let mut o = Options::default();
        o.network.mode = NetworkMode::Container("abc".into());
        let facts = Facts {
            network: Some("/proc/7/fd/3".into()),
            ..facts()
        };
        let linux = &plan(&o, &image(), &facts).unwrap()["linux"];
        let namespaces = linux["namespaces"].as_array().unwrap();
        assert!(namespaces.contains(&json!({ "type": "network", "path": "/proc/7/fd/3" })));
        assert!(linux.get("sysctl").is_none());
    }
}
