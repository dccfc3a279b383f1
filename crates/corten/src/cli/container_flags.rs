//! The flags that `run` and `create` share: from words to [`Options`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use corten_engine::container::options::{
    Limits, Options, ProcessOptions, Seccomp, Security, Ulimit,
};
use corten_engine::image::PullPolicy;
use corten_spec::Name;

use super::network_flags::NetworkFlags;
use super::value::{self, SecurityOption};
use crate::failure::Failure;

#[derive(clap::Args, Clone, Debug)]
pub struct ContainerFlags {
    /// Keep stdin open
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Remove the container when it has exited
    #[arg(long)]
    pub rm: bool,
    /// Name of the container
    #[arg(long)]
    pub name: Option<Name>,
    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// When to ask the registry: always, missing or never
    #[arg(long, value_name = "WHEN", default_value = "missing", value_parser = pull_policy)]
    pub pull: PullPolicy,
    /// Set an environment variable; without a value, take it from here
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Process")]
    env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    env_file: Vec<PathBuf>,
    /// Working folder in the container
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    workdir: Option<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    user: Option<String>,
    /// Replace the image's entrypoint; an empty text removes it
    #[arg(long, value_name = "PROGRAM", help_heading = "Process")]
    entrypoint: Option<String>,
    /// Host name in the container
    #[arg(long, value_name = "NAME", value_parser = value::hostname, help_heading = "Process")]
    hostname: Option<String>,
    /// Put a small init before the command, which reaps and passes signals on
    #[arg(long, help_heading = "Process")]
    init: bool,
    /// Set a label
    #[arg(short, long, value_name = "KEY[=VALUE]", value_parser = value::label)]
    label: Vec<(String, String)>,
    /// Mount a folder or file of the host, or a volume
    #[arg(
        short,
        long,
        value_name = "[SOURCE:]TARGET[:OPTIONS]",
        help_heading = "Storage"
    )]
    volume: Vec<String>,
    /// Mount a tmpfs
    #[arg(long, value_name = "TARGET[:OPTIONS]", value_parser = value::tmpfs, help_heading = "Storage")]
    tmpfs: Vec<corten_engine::container::options::MountRequest>,
    /// Make the root filesystem read-only
    #[arg(long, help_heading = "Storage")]
    read_only: bool,
    /// Limit memory: bytes, or with a unit such as 64m
    #[arg(short, long, value_name = "BYTES", value_parser = value::memory, help_heading = "Limits")]
    memory: Option<i64>,
    /// Limit processor time: a number of processors such as 0.5
    #[arg(long, value_name = "NUMBER", value_parser = value::cpus, help_heading = "Limits")]
    cpus: Option<u64>,
    /// Limit the number of processes; -1 for none
    #[arg(long, value_name = "NUMBER", value_parser = value::pids, allow_negative_numbers = true, help_heading = "Limits")]
    pids_limit: Option<i64>,
    /// Set a resource limit of the process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", value_parser = value::ulimit, help_heading = "Limits")]
    ulimit: Vec<Ulimit>,
    /// Add a capability, or ALL
    #[arg(long, value_name = "CAP", help_heading = "Security")]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long, value_name = "CAP", help_heading = "Security")]
    cap_drop: Vec<String>,
    /// Give every capability and device, and mask nothing: no wall against the host
    #[arg(long, help_heading = "Security")]
    privileged: bool,
    /// seccomp=FILE, seccomp=unconfined, no-new-privileges
    #[arg(long, value_name = "OPTION", value_parser = value::security_option, help_heading = "Security")]
    security_opt: Vec<SecurityOption>,
    /// Who runs the container: corten, runc, crun, runsc, kata, a name in config.toml, io.containerd.NAME.VERSION or a path
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    #[command(flatten)]
    network: NetworkFlags,
    /// The image, and the command to run in it instead of its own
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    image_and_command: Vec<String>,
}

fn pull_policy(s: &str) -> Result<PullPolicy, String> {
    match s {
        "always" => Ok(PullPolicy::Always),
        "missing" => Ok(PullPolicy::Missing),
        "never" => Ok(PullPolicy::Never),
        _ => Err("it is always, missing or never".into()),
    }
}

impl ContainerFlags {
    pub fn image(&self) -> &str {
        // `required` makes clap refuse an empty list.
        self.image_and_command.first().map_or("", String::as_str)
    }

    /// The options, with files read and the flags checked against each other.
    pub fn options(&self) -> Result<Options, Failure> {
        let cwd = std::env::current_dir()?;
        let mut mounts = Vec::new();
        for v in &self.volume {
            let anonymous = corten_engine::container::anonymous_volume()?;
            let mount =
                value::volume(v, &cwd, anonymous).map_err(|e| self.refused(e, "--volume", v))?;
            mounts.push(mount);
        }
        mounts.extend(self.tmpfs.clone());
        if let Some(twice) = mounts
            .iter()
            .enumerate()
            .find(|(i, m)| mounts[..*i].iter().any(|o| o.target == m.target))
        {
            return Err(Failure::new(
                format!("two mounts on {}", twice.1.target),
                "mount each target once",
            ));
        }
        Ok(Options {
            image: self.image().to_owned(),
            name: self.name.clone(),
            process: self.process()?,
            limits: Limits {
                memory: self.memory,
                cpu_millis: self.cpus,
                pids: self.pids_limit,
                ulimits: self.ulimit.clone(),
            },
            security: self.security()?,
            network: self.network.options()?,
            mounts,
            labels: self.label.iter().cloned().collect::<BTreeMap<_, _>>(),
            auto_remove: self.rm,
            read_only: self.read_only,
            init: self.init,
            runtime: self.runtime.clone(),
        })
    }

    fn process(&self) -> Result<ProcessOptions, Failure> {
        let mut env = Vec::new();
        for file in &self.env_file {
            env.extend(read_env_file(file)?);
        }
        for e in &self.env {
            env.extend(value::variable(e).map_err(|err| self.refused(err, "--env", e))?);
        }
        Ok(ProcessOptions {
            entrypoint: self.entrypoint.as_ref().map(|e| match e.is_empty() {
                true => vec![],
                false => vec![e.clone()],
            }),
            command: self.image_and_command.iter().skip(1).cloned().collect(),
            env,
            workdir: match &self.workdir {
                Some(w) if !w.starts_with('/') => {
                    return Err(Failure::new(
                        format!("working folder {w:?} is not absolute"),
                        "start it with /",
                    ));
                }
                w => w.clone(),
            },
            user: self.user.clone(),
            hostname: self.hostname.clone(),
            tty: self.tty,
            open_stdin: self.interactive,
            stdin_once: self.interactive,
        })
    }

    fn security(&self) -> Result<Security, Failure> {
        let mut security = Security {
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            privileged: self.privileged,
            ..Security::default()
        };
        for option in &self.security_opt {
            match option {
                SecurityOption::NoNewPrivileges(on) => security.no_new_privileges = *on,
                SecurityOption::SeccompUnconfined => security.seccomp = Seccomp::Unconfined,
                SecurityOption::SeccompFile(path) => {
                    let hint = "it is a seccomp profile in JSON, as docker and the OCI runtime specification have it";
                    let text = std::fs::read(path).map_err(|e| {
                        Failure::hinted(Unreadable(path.clone(), Box::new(e)), hint)
                    })?;
                    let profile = serde_json::from_slice(&text).map_err(|e| {
                        Failure::hinted(Unreadable(path.clone(), Box::new(e)), hint)
                    })?;
                    security.seccomp = Seccomp::Profile(profile);
                }
            }
        }
        Ok(security)
    }

    fn refused(&self, e: value::ValueError, flag: &str, text: &str) -> Failure {
        #[derive(Debug, thiserror::Error)]
        #[error("invalid value '{text}' for '{flag}'")]
        struct Refused {
            text: String,
            flag: String,
            #[source]
            source: value::ValueError,
        }
        Failure::hinted(
            Refused {
                text: text.into(),
                flag: flag.into(),
                source: e,
            },
            "'--help' after the command shows what it takes",
        )
    }
}

#[derive(Debug, thiserror::Error)]
#[error("cannot use file {}", .0.display())]
struct Unreadable(PathBuf, #[source] Box<dyn std::error::Error>);

#[derive(Debug, thiserror::Error)]
#[error("line {0} is no variable")]
struct BadLine(usize, #[source] value::ValueError);

/// docker's format: one `NAME=VALUE` or `NAME` a line, `#` starts a comment, nothing is quoted.
fn read_env_file(path: &PathBuf) -> Result<Vec<String>, Failure> {
    let hint = "each line is NAME=VALUE or NAME; # starts a comment";
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::hinted(Unreadable(path.clone(), Box::new(e)), hint))?;
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let variable = value::variable(line).map_err(|e| {
            Failure::hinted(Unreadable(path.clone(), Box::new(BadLine(i + 1, e))), hint)
        })?;
        out.extend(variable);
    }
    Ok(out)
}
