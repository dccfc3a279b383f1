//! `--change`: the instructions of a Dockerfile that only touch an image's config.

use std::str::FromStr;

use serde_json::{Value, json};

use super::ImageError;
use super::build::{set_label, set_variable};
use crate::container::health;

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    Cmd(Vec<String>),
    Entrypoint(Vec<String>),
    Env(Vec<String>),
    Expose(Vec<String>),
    /// As it stands in a config.
    HealthCheck(Value),
    Label(Vec<(String, String)>),
    OnBuild(String),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    WorkDir(String),
}

impl FromStr for Instruction {
    type Err = ImageError;

    fn from_str(text: &str) -> Result<Self, ImageError> {
        let wrong = |why: &'static str| ImageError::Change {
            text: text.into(),
            why,
        };
        let (name, rest) = text
            .trim()
            .split_once(char::is_whitespace)
            .unwrap_or((text.trim(), ""));
        let rest = rest.trim();
        if rest.is_empty() {
            return Err(wrong("nothing follows the instruction"));
        }
        let pairs = || pairs(rest).ok_or_else(|| wrong("it needs NAME=VALUE, quotes closed"));
        Ok(match name.to_ascii_uppercase().as_str() {
            "CMD" => Self::Cmd(command(rest)),
            "ENTRYPOINT" => Self::Entrypoint(command(rest)),
            "ENV" => Self::Env(
                pairs()?
                    .into_iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect(),
            ),
            "LABEL" => Self::Label(pairs()?),
            "EXPOSE" => {
                let ports = rest.split_whitespace().map(port).collect::<Option<_>>();
                Self::Expose(ports.ok_or_else(|| wrong("a port is a number, with /tcp or /udp"))?)
            }
            "HEALTHCHECK" => Self::HealthCheck(health::instruction(rest).ok_or_else(|| {
                wrong("it is NONE, or CMD and a command, with --interval, --timeout, --start-period, --start-interval, --retries before it")
            })?),
            "VOLUME" => Self::Volume(match list(rest) {
                Some(paths) => paths,
                None => rest.split_whitespace().map(str::to_owned).collect(),
            }),
            "USER" => Self::User(rest.into()),
            "WORKDIR" if !rest.starts_with('/') => {
                return Err(wrong("the folder must be absolute"));
            }
            "WORKDIR" => Self::WorkDir(rest.into()),
            "STOPSIGNAL" => Self::StopSignal(rest.into()),
            "ONBUILD" => Self::OnBuild(rest.into()),
            _ => {
                return Err(wrong(
                    "the instructions are CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR",
                ));
            }
        })
    }
}

impl Instruction {
    pub(super) fn apply(&self, config: &mut Value) {
        if !config.is_object() {
            *config = json!({});
        }
        let set = |config: &mut Value, key: &str, names: &[String]| {
            if !config[key].is_object() {
                config[key] = json!({});
            }
            for name in names {
                config[key][name] = json!({});
            }
        };
        match self {
            Self::Cmd(words) => config["Cmd"] = json!(words),
            Self::Entrypoint(words) => config["Entrypoint"] = json!(words),
            Self::Env(variables) => variables.iter().for_each(|v| set_variable(config, v)),
            Self::Label(labels) => labels.iter().for_each(|(k, v)| set_label(config, k, v)),
            Self::Expose(ports) => set(config, "ExposedPorts", ports),
            Self::HealthCheck(check) => config["Healthcheck"] = check.clone(),
            Self::Volume(paths) => set(config, "Volumes", paths),
            Self::User(user) => config["User"] = json!(user),
            Self::WorkDir(folder) => config["WorkingDir"] = json!(folder),
            Self::StopSignal(signal) => config["StopSignal"] = json!(signal),
            Self::OnBuild(step) => match config["OnBuild"].as_array_mut() {
                Some(steps) => steps.push(json!(step)),
                None => config["OnBuild"] = json!([step]),
            },
        }
    }
}

/// A JSON list of words, or a line for the shell.
fn command(text: &str) -> Vec<String> {
    list(text).unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into(), text.into()])
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn port(text: &str) -> Option<String> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let fine =
        number.parse::<u16>().is_ok_and(|n| n > 0) && matches!(protocol, "tcp" | "udp" | "sctp");
    fine.then(|| format!("{number}/{protocol}"))
}

/// `A=1 B="two words" C='x'`, or the old form `A the rest`.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let words = words(text)?;
    let first = words.first()?;
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace)?;
        return Some(vec![(key.into(), value.trim().into())]);
    }
    let pair = |w: &String| {
        let (key, value) = w.split_once('=')?;
        (!key.is_empty()).then(|| (key.to_owned(), value.to_owned()))
    };
    words.iter().map(pair).collect()
}

fn words(text: &str) -> Option<Vec<String>> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => word.get_or_insert_default().push(chars.next()?),
            (None, c) if c.is_whitespace() => out.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    quote.is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_the_config() {
        let mut config = json!({ "Env": ["A=0", "B=0"], "Cmd": ["x"] });
        for text in [
            "CMD [\"sh\", \"-c\", \"true\"]",
            "entrypoint echo hi",
            "ENV A=1 C=\"two words\"",
            "ENV D a whole line",
            "LABEL org.x=y z='1 2'",
            "EXPOSE 80 53/udp",
            "VOLUME [\"/data\"]",
            "VOLUME /a /b",
            "USER web:web",
            "WORKDIR /srv",
            "STOPSIGNAL SIGTERM",
            "ONBUILD RUN x",
            "HEALTHCHECK --retries=2 CMD true",
        ] {
            text.parse::<Instruction>().unwrap().apply(&mut config);
        }
        let expected = json!({
            "Cmd": ["sh", "-c", "true"], "Entrypoint": ["/bin/sh", "-c", "echo hi"],
            "Env": ["B=0", "A=1", "C=two words", "D=a whole line"],
            "Labels": { "org.x": "y", "z": "1 2" }, "ExposedPorts": { "80/tcp": {}, "53/udp": {} },
            "Volumes": { "/data": {}, "/a": {}, "/b": {} }, "User": "web:web", "WorkingDir": "/srv",
            "StopSignal": "SIGTERM", "OnBuild": ["RUN x"],
            "Healthcheck": { "Test": ["CMD-SHELL", "true"], "Retries": 2 },
        });
        assert_eq!(config, expected);
    }

    #[test]
    fn what_is_none_is_named() {
        for bad in [
            "RUN x",
            "CMD",
            "ENV =1",
            "ENV A=\"open",
            "EXPOSE http",
            "EXPOSE 0",
            "WORKDIR x",
            "LABEL k",
            "HEALTHCHECK x",
        ] {
            let e = bad.parse::<Instruction>().unwrap_err();
            assert!(e.to_string().contains("cannot be used"), "{bad}: {e}");
        }
    }
}
