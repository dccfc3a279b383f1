//! Health checks: what the user and the image ask for, and what is known of a container's health.
//!
//! The supervisor runs the check and writes the outcome (`corten-shim`'s `serve/health.rs`); here it is decided which
//! check that is, and the outcome is read.

use std::time::Duration;

use corten_shim::HealthReport;
use corten_shim::client::{CheckResponse, Health as Asked};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::options::Options;
use super::record::Container;
use super::start::text;
use super::status::Status;
use crate::Engine;
use crate::error::{Error, Is};
use crate::image::ImageConfig;

/// docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// What was asked for by flags; what is left out is the image's, or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthOptions {
    /// No check at all, even where the image has one.
    pub disabled: bool,
    /// For the container's shell, or a list of words as JSON.
    pub command: Option<String>,
    /// Zero: only when asked for.
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
    pub retries: Option<u32>,
    pub on_failure: OnFailure,
}

impl HealthOptions {
    /// Whether an unhealthy container is started again, whatever its policy.
    pub(crate) fn restarts(&self) -> bool {
        self.on_failure == OnFailure::Restart
    }
}

/// What is done with a container that has become unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    #[default]
    None,
    Kill,
    Restart,
    Stop,
}

impl OnFailure {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kill => "kill",
            Self::Restart => "restart",
            Self::Stop => "stop",
        }
    }
}

/// An image's HEALTHCHECK, as docker writes it into the config: nanoseconds, 0 being the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageCheck {
    /// `["NONE"]`, `["CMD", WORD…]`, `["CMD-SHELL", TEXT]`; empty: inherited, so none.
    pub test: Vec<String>,
    pub interval: u64,
    pub timeout: u64,
    pub start_period: u64,
    pub start_interval: u64,
    pub retries: u32,
}

impl ImageCheck {
    /// Out of an image's config; the OCI's types do not have it.
    pub(crate) fn parse(config: &[u8]) -> Result<Option<Self>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Document {
            config: Option<Inner>,
        }
        #[derive(Deserialize)]
        struct Inner {
            #[serde(rename = "Healthcheck")]
            healthcheck: Option<ImageCheck>,
        }
        const KEY: &[u8] = b"\"Healthcheck\"";
        if !config.windows(KEY.len()).any(|w| w == KEY) {
            return Ok(None);
        }
        let document: Document = serde_json::from_slice(config)?;
        Ok(document.config.and_then(|c| c.healthcheck))
    }
}

/// The check that a container has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// As in an image's config.
    pub test: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    pub start_period: Duration,
    pub start_interval: Duration,
    pub retries: u32,
}

impl Check {
    /// Flags over image over defaults.
    pub fn of(options: &HealthOptions, image: Option<&ImageCheck>) -> Option<Self> {
        let image = image.cloned().unwrap_or_default();
        let test = match &options.command {
            Some(command) => test_of(command),
            None => image.test,
        };
        let none = !matches!(test.first().map(String::as_str), Some("CMD" | "CMD-SHELL"));
        if options.disabled || none || test.len() < 2 {
            return None;
        }
        let time = |flag: Option<Duration>, image: u64, default| {
            let image = Some(image).filter(|n| *n > 0).map(Duration::from_nanos);
            flag.or(image).unwrap_or(default)
        };
        Some(Self {
            test,
            interval: time(options.interval, image.interval, INTERVAL),
            timeout: time(options.timeout, image.timeout, TIMEOUT),
            start_period: time(options.start_period, image.start_period, Duration::ZERO),
            start_interval: time(options.start_interval, image.start_interval, START_INTERVAL),
            retries: match options.retries.unwrap_or(image.retries) {
                0 => RETRIES,
                n => n,
            },
        })
    }

    /// What is executed.
    fn command(&self) -> Vec<String> {
        match self.test.split_first() {
            Some((kind, rest)) if kind == "CMD-SHELL" => {
                vec!["/bin/sh".into(), "-c".into(), rest.join(" ")]
            }
            Some((_, rest)) => rest.to_vec(),
            None => Vec::new(),
        }
    }

    /// As `docker inspect` has it.
    pub(crate) fn document(&self) -> Value {
        json!({
            "Test": self.test,
            "Interval": nanoseconds(self.interval),
            "Timeout": nanoseconds(self.timeout),
            "StartPeriod": nanoseconds(self.start_period),
            "StartInterval": nanoseconds(self.start_interval),
            "Retries": self.retries,
        })
    }
}

/// `1m30s`, `500ms`, `0`: as docker's flags and a Dockerfile take it.
pub fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0f64);
    while !rest.is_empty() {
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        let (number, tail) = rest.split_at(rest.find(|c| !digits(c))?);
        let (unit, tail) = tail.split_at(tail.find(digits).unwrap_or(tail.len()));
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * seconds;
        rest = tail;
    }
    // What 64 bits hold of nanoseconds.
    let fits = !text.is_empty() && (0.0..9e9).contains(&total);
    fits.then(|| Duration::from_secs_f64(total))
}

/// HEALTHCHECK of a Dockerfile, as it stands in an image's config. `None`: it is none.
pub(crate) fn instruction(text: &str) -> Option<Value> {
    if text.eq_ignore_ascii_case("NONE") {
        return Some(json!({ "Test": ["NONE"] }));
    }
    let mut config = serde_json::Map::new();
    let mut rest = text;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, tail) = flag.split_once(char::is_whitespace)?;
        let (name, value) = flag.split_once('=')?;
        let value = match name {
            "retries" => u64::from(value.parse::<u32>().ok().filter(|n| *n > 0)?),
            _ => nanoseconds(duration(value)?),
        };
        let key = match name {
            "retries" => "Retries",
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            _ => return None,
        };
        config.insert(key.into(), value.into());
        rest = tail.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace)?;
    let command = command.trim();
    if !word.eq_ignore_ascii_case("CMD") || command.is_empty() {
        return None;
    }
    let test = match serde_json::from_str::<Vec<String>>(command) {
        Ok(words) => [vec!["CMD".into()], words].concat(),
        Err(_) => vec!["CMD-SHELL".into(), command.into()],
    };
    config.insert("Test".into(), json!(test));
    Some(Value::Object(config))
}

/// A text for the shell, or words as JSON: podman's form, with or without the kind in front.
fn test_of(command: &str) -> Vec<String> {
    let kinds = ["CMD", "CMD-SHELL", "NONE"];
    match serde_json::from_str::<Vec<String>>(command) {
        Ok(words) if words.first().is_some_and(|w| kinds.contains(&w.as_str())) => words,
        Ok(words) => [vec!["CMD".into()], words].concat(),
        Err(_) => vec!["CMD-SHELL".into(), command.into()],
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Refuses words about a check that there is not.
pub(crate) fn check(options: &Options, image: &ImageConfig) -> Result<(), Error> {
    let asked = &options.health;
    let said = *asked != HealthOptions::default() && !asked.disabled;
    match said && Check::of(asked, image.healthcheck.as_ref()).is_none() {
        true => Err(Error::NoHealthCheck {
            image: options.image.clone(),
        }),
        false => Ok(()),
    }
}

impl Engine {
    /// What the supervisor has to know of it.
    pub(crate) fn health_request(
        &self,
        container: &Container,
        image: &ImageConfig,
    ) -> Result<Option<Asked>, Error> {
        let options = &container.record.options.health;
        let Some(check) = Check::of(options, image.healthcheck.as_ref()) else {
            return Ok(None);
        };
        Ok(Some(Asked {
            command: check.command(),
            interval: nanoseconds(check.interval),
            timeout: nanoseconds(check.timeout),
            start_period: nanoseconds(check.start_period),
            start_interval: nanoseconds(check.start_interval),
            retries: check.retries,
            on_failure: options.on_failure.as_str().into(),
            record: text(&self.paths.health(&container.id)),
            stop_signal: super::stop::stop_signal_of(image).unsigned_abs(),
        }))
    }

    /// How the container does, by its last checks. `None`: it has none, or has not started.
    pub fn health(&self, container: &Container) -> Result<Option<HealthReport>, Error> {
        let path = self.paths.health(&container.id);
        HealthReport::read(&path).map_err(Error::io("read", path))
    }

    /// The check of a container, as asked for and as its image has it.
    pub fn health_check(&self, container: &Container) -> Result<Option<Check>, Error> {
        let image = self.config_of(container)?;
        let options = &container.record.options.health;
        Ok(Check::of(options, image.healthcheck.as_ref()))
    }

    /// Runs the container's check now.
    pub fn check_health(&self, container: &Container) -> Result<CheckResponse, Error> {
        let refused = |source| Error::ContainerState {
            name: container.name.to_string(),
            action: "checked",
            source,
        };
        if self.health_check(container)?.is_none() {
            return Err(refused(Is("without a health check")));
        }
        let status = self.status(container)?;
        if !status.is_running() {
            return Err(refused(Is(status.as_str())));
        }
        match self.supervisor(&container.id)? {
            Some(mut shim) => Ok(shim.check()?),
            None => Err(refused(Is(Status::Lost.as_str()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageCheck {
        let text = br#"{"architecture": "amd64", "config": {"Healthcheck": {
            "Test": ["CMD", "/check", "it"], "Interval": 5000000000, "Retries": 7}}}"#;
        ImageCheck::parse(text).unwrap().unwrap()
    }

    #[test]
    fn flags_are_over_the_image_and_the_image_over_the_defaults() {
        let check = Check::of(&HealthOptions::default(), Some(&image())).unwrap();
        assert_eq!(check.command(), ["/check", "it"]);
        assert_eq!((check.interval, check.retries), (Duration::from_secs(5), 7));
        assert_eq!(check.timeout, TIMEOUT);
        let options = HealthOptions {
            command: Some("exit 1".into()),
            interval: Some(Duration::ZERO),
            ..HealthOptions::default()
        };
        let check = Check::of(&options, Some(&image())).unwrap();
        assert_eq!(check.command(), ["/bin/sh", "-c", "exit 1"]);
        assert_eq!((check.interval, check.retries), (Duration::ZERO, 7));
    }

    #[test]
    fn commands_for_the_shell_and_as_words() {
        for (text, test) in [
            ("exit 1", &["CMD-SHELL", "exit 1"][..]),
            ("[ -e /x ]", &["CMD-SHELL", "[ -e /x ]"]),
            (r#"["/check", "a b"]"#, &["CMD", "/check", "a b"]),
            (r#"["CMD-SHELL", "exit 1"]"#, &["CMD-SHELL", "exit 1"]),
        ] {
            assert_eq!(test_of(text), test, "{text}");
        }
    }

    #[test]
    fn a_dockerfile_writes_it() {
        for (text, config) in [
            ("NONE", json!({ "Test": ["NONE"] })),
            (
                "CMD test -e /x",
                json!({ "Test": ["CMD-SHELL", "test -e /x"] }),
            ),
            (
                "--interval=5s --retries=2  CMD [\"/check\", \"a\"]",
                json!({ "Test": ["CMD", "/check", "a"], "Interval": 5_000_000_000u64, "Retries": 2 }),
            ),
        ] {
            assert_eq!(instruction(text), Some(config), "{text}");
        }
        for bad in [
            "CMD",
            "x",
            "--interval=5 CMD x",
            "--retries=0 CMD x",
            "--interval=5s",
            "--x=1s CMD y",
        ] {
            assert_eq!(instruction(bad), None, "{bad}");
        }
    }

    #[test]
    fn containers_without_a_check() {
        let options = HealthOptions::default();
        assert_eq!(Check::of(&options, None), None);
        for test in [
            &["NONE"][..],
            &[],
            &["CMD"],
            &["CMD-SHELL"],
            &["OTHER", "x"],
        ] {
            let image = ImageCheck {
                test: test.iter().map(ToString::to_string).collect(),
                ..ImageCheck::default()
            };
            assert_eq!(Check::of(&options, Some(&image)), None, "{test:?}");
        }
        let disabled = HealthOptions {
            disabled: true,
            ..HealthOptions::default()
        };
        assert_eq!(Check::of(&disabled, Some(&image())), None);
        assert_eq!(
            ImageCheck::parse(br#"{"config": {"Env": []}}"#).unwrap(),
            None
        );
        assert!(ImageCheck::parse(br#"{"config": {"Healthcheck": 1}}"#).is_err());
    }
}
