//! The flags of `run` and `create` about what goes on without the user: restarts, health, logs.

use std::time::Duration;

use corten_engine::container::options::{HealthOptions, LogOptions, OnFailure, RestartPolicy};

use super::value;
use crate::failure::Failure;

#[derive(clap::Args, Clone, Debug)]
pub struct SupervisionFlags {
    /// When to start it again: no, on-failure[:TIMES], always, unless-stopped
    #[arg(long, value_name = "POLICY", value_parser = restart, allow_hyphen_values = true, help_heading = "Supervision")]
    restart: Option<RestartPolicy>,
    /// Check its health by this command, run by the container's shell, or by the words of a JSON list
    #[arg(long, value_name = "COMMAND", help_heading = "Supervision")]
    health_cmd: Option<String>,
    /// Between two checks, such as 30s; 0 or disable checks on 'corten healthcheck run' alone
    #[arg(long, value_name = "TIME", value_parser = interval, help_heading = "Supervision")]
    health_interval: Option<Duration>,
    /// A check that takes longer is killed, and has failed; 0 is no limit
    #[arg(long, value_name = "TIME", value_parser = value::duration, help_heading = "Supervision")]
    health_timeout: Option<Duration>,
    /// So many failures in a row are unhealthy
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..), help_heading = "Supervision")]
    health_retries: Option<u32>,
    /// For so long after the start, failures do not count
    #[arg(long, value_name = "TIME", value_parser = value::duration, help_heading = "Supervision")]
    health_start_period: Option<Duration>,
    /// Between two checks in that time, until the first success
    #[arg(long, value_name = "TIME", value_parser = value::duration, help_heading = "Supervision")]
    health_start_interval: Option<Duration>,
    /// What to do with an unhealthy container: none, kill, restart, stop
    #[arg(long, value_name = "ACTION", value_parser = on_failure, help_heading = "Supervision")]
    health_on_failure: Option<OnFailure>,
    /// Check nothing, even where the image has a health check
    #[arg(long, help_heading = "Supervision")]
    no_healthcheck: bool,
    /// Where its output is kept: k8s-file, or none
    #[arg(long, value_name = "DRIVER", value_parser = log_driver, help_heading = "Supervision")]
    log_driver: Option<LogDriver>,
    /// max-size=BYTES of one file, max-file=NUMBER of them
    #[arg(long, value_name = "KEY=VALUE", value_parser = log_option, help_heading = "Supervision")]
    log_opt: Vec<LogOption>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogDriver {
    File,
    None,
}

#[derive(Clone, Copy, Debug)]
enum LogOption {
    MaxSize(u64),
    MaxFile(u32),
}

pub fn restart(s: &str) -> Result<RestartPolicy, String> {
    RestartPolicy::parse(s)
        .ok_or_else(|| "it is no, on-failure, on-failure:TIMES, always or unless-stopped".into())
}

fn interval(s: &str) -> Result<Duration, value::ValueError> {
    match s {
        // podman's word.
        "disable" => Ok(Duration::ZERO),
        s => value::duration(s),
    }
}

fn on_failure(s: &str) -> Result<OnFailure, String> {
    Ok(match s {
        "none" => OnFailure::None,
        "kill" => OnFailure::Kill,
        "restart" => OnFailure::Restart,
        "stop" => OnFailure::Stop,
        _ => return Err("it is none, kill, restart or stop".into()),
    })
}

/// The file is in the format of Kubernetes' CRI, which podman calls k8s-file. docker's and podman's default name for a file of lines
/// is welcome for it: `logs` shows the same.
fn log_driver(s: &str) -> Result<LogDriver, String> {
    match s {
        "k8s-file" | "json-file" => Ok(LogDriver::File),
        "none" => Ok(LogDriver::None),
        _ => Err("the drivers here are k8s-file (also called json-file) and none".into()),
    }
}

fn log_option(s: &str) -> Result<LogOption, String> {
    let wrong = || "the options are max-size=BYTES, such as 10m, and max-file=NUMBER".to_string();
    let (key, value) = s.split_once('=').ok_or_else(wrong)?;
    match key {
        "max-size" if value == "-1" => Ok(LogOption::MaxSize(0)),
        "max-size" => match value::size(value) {
            Ok(n @ 1..) => Ok(LogOption::MaxSize(n.unsigned_abs())),
            Ok(_) => Err("a file has at least one byte; -1 is without limit".into()),
            Err(e) => Err(e.to_string()),
        },
        "max-file" => match value.parse() {
            Ok(n @ 1..=1000) => Ok(LogOption::MaxFile(n)),
            _ => Err("the number of files is between 1 and 1000".into()),
        },
        _ => Err(wrong()),
    }
}

impl SupervisionFlags {
    /// docker refuses a container that goes when it has ended and comes back all the same.
    pub fn policy(&self, auto_remove: bool) -> Result<RestartPolicy, Failure> {
        let policy = self.restart.unwrap_or_default();
        let again =
            policy != RestartPolicy::No || self.health_on_failure == Some(OnFailure::Restart);
        match auto_remove && again {
            true => Err(Failure::new(
                "a container cannot be removed when it ends (--rm) and started again",
                "leave --rm out, or the restart",
            )),
            false => Ok(policy),
        }
    }

    pub fn health(&self) -> Result<HealthOptions, Failure> {
        let asked = self.health_cmd.is_some()
            || self.health_interval.is_some()
            || self.health_timeout.is_some()
            || self.health_retries.is_some()
            || self.health_start_period.is_some()
            || self.health_start_interval.is_some()
            || self.health_on_failure.is_some();
        if self.no_healthcheck && asked {
            return Err(Failure::new(
                "--no-healthcheck contradicts the other --health flags",
                "leave one or the other out",
            ));
        }
        // podman's way to say that the image's is not wanted.
        let none = self.health_cmd.as_deref() == Some("none");
        Ok(HealthOptions {
            disabled: self.no_healthcheck || none,
            command: self.health_cmd.clone().filter(|c| !c.is_empty() && !none),
            interval: self.health_interval,
            timeout: self.health_timeout,
            start_period: self.health_start_period,
            start_interval: self.health_start_interval,
            retries: self.health_retries,
            on_failure: self.health_on_failure.unwrap_or_default(),
        })
    }

    /// `default`: the administrator's.
    pub fn log(&self, default: &LogOptions) -> Result<LogOptions, Failure> {
        let mut options = match self.log_driver {
            Some(LogDriver::None) if !self.log_opt.is_empty() => {
                return Err(Failure::new(
                    "--log-opt says how a log is kept, and --log-driver none that there is none",
                    "leave one or the other out",
                ));
            }
            Some(LogDriver::None) => LogOptions {
                none: true,
                ..LogOptions::default()
            },
            Some(LogDriver::File) => LogOptions {
                none: false,
                ..default.clone()
            },
            None => default.clone(),
        };
        for option in &self.log_opt {
            match option {
                LogOption::MaxSize(n) => options.max_size = *n,
                LogOption::MaxFile(n) => options.max_files = *n,
            }
        }
        if options.max_files > 1 && options.max_size == 0 && !self.log_opt.is_empty() {
            return Err(Failure::new(
                "max-file needs max-size: without that, a second file is never begun",
                "add --log-opt max-size=BYTES",
            ));
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_words() {
        assert_eq!(log_driver("json-file"), Ok(LogDriver::File));
        for bad in ["journald", "syslog", "passthrough", ""] {
            assert!(log_driver(bad).is_err(), "{bad}");
        }
        assert!(matches!(
            log_option("max-size=10m"),
            Ok(LogOption::MaxSize(0xa0_0000))
        ));
        assert!(matches!(
            log_option("max-size=-1"),
            Ok(LogOption::MaxSize(0))
        ));
        for bad in [
            "max-size=0",
            "max-size=1x",
            "max-file=0",
            "max-file=x",
            "tag=x",
            "max-size",
        ] {
            assert!(log_option(bad).is_err(), "{bad}");
        }
    }
}
