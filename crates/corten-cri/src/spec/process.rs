//! The program: its command line, environment and folder; and further processes beside it.

use corten_engine::image::ImageConfig;
use serde_json::{Value, json};

use super::error::{Refused, invalid};
use crate::proto::ContainerConfig;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command drops the image's entrypoint and command, arguments alone drop the image's command.
pub(super) fn args(
    container: &ContainerConfig,
    image: &ImageConfig,
) -> Result<Vec<String>, Refused> {
    let mut command = container.command.clone();
    let mut args = container.args.clone();
    if command.is_empty() {
        if args.is_empty() {
            args = image.cmd.clone();
        }
        // An image that resets its base's entrypoint may hold one empty word.
        if image.entrypoint != [""] {
            command = image.entrypoint.clone();
        }
    }
    command.extend(args);
    match command.first().is_none_or(String::is_empty) {
        true => Err(invalid("command", "is empty, and the image names none")),
        false => text("command", command),
    }
}

/// The search path, the terminal's name, HOSTNAME; then the image's variables, then the request's.
pub(super) fn environment(
    container: &ContainerConfig,
    image: &ImageConfig,
    hostname: &str,
) -> Result<Vec<String>, Refused> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    if container.tty {
        env.push("TERM=xterm".into());
    }
    env.push(format!("HOSTNAME={hostname}"));
    for entry in &image.env {
        set(&mut env, entry);
    }
    for variable in &container.envs {
        let key = &variable.key;
        if key.is_empty() || key.contains('=') {
            return Err(invalid("envs", format!("holds the name {key:?}")));
        }
        let value = std::str::from_utf8(&variable.value).map_err(|_| {
            let problem = format!("gives {key} a value that is not UTF-8, as a specification is");
            invalid("envs", problem)
        })?;
        set(&mut env, &format!("{key}={value}"));
    }
    text("envs", env)
}

/// Sets one `KEY=VALUE`, in the place of an earlier one.
pub(super) fn set(env: &mut Vec<String>, entry: &str) {
    let key = |e: &str| e.split('=').next().unwrap_or_default().to_owned();
    match env.iter_mut().find(|e| key(e) == key(entry)) {
        Some(old) => entry.clone_into(old),
        None => env.push(entry.into()),
    }
}

pub(super) fn folder(container: &ContainerConfig, image: &ImageConfig) -> Result<String, Refused> {
    let (field, dir) = match container.working_dir.is_empty() {
        false => ("working_dir", &container.working_dir),
        true => ("the working folder of the image", &image.working_dir),
    };
    match dir.as_str() {
        "" => Ok("/".into()),
        dir if dir.starts_with('/') && !dir.contains('\0') => Ok(dir.into()),
        dir => Err(invalid(
            field,
            format!("is {dir:?}, which is no absolute path"),
        )),
    }
}

/// What execve(2) takes.
fn text(field: &str, words: Vec<String>) -> Result<Vec<String>, Refused> {
    match words.iter().find(|w| w.contains('\0')) {
        Some(word) => Err(invalid(field, format!("holds {word:?}, with a null byte"))),
        None => Ok(words),
    }
}

/// Another process in a container: `process` is that of its specification, with what it may and who it is.
pub fn exec(process: &Value, command: &[String], tty: bool) -> Result<Value, Refused> {
    if command.first().is_none_or(String::is_empty) {
        return Err(invalid("cmd", "is empty"));
    }
    let mut process = process.clone();
    process["args"] = json!(text("cmd", command.to_vec())?);
    process["terminal"] = json!(tty);
    if tty
        && let Some(env) = process["env"].as_array_mut()
        && !env
            .iter()
            .any(|e| e.as_str().is_some_and(|e| e.starts_with("TERM=")))
    {
        env.push(json!("TERM=xterm"));
    }
    Ok(process)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::KeyValue;

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["arg".into()],
            env: vec!["A=1".into(), "PATH=/bin".into()],
            ..ImageConfig::default()
        }
    }

    fn own(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn command_and_arguments_as_kubernetes_has_them() {
        let at = |command: &[&str], given: &[&str]| {
            let container = ContainerConfig {
                command: own(command),
                args: own(given),
                ..Default::default()
            };
            args(&container, &image()).unwrap()
        };
        assert_eq!(at(&[], &[]), ["/entry", "arg"]);
        assert_eq!(at(&[], &["x"]), ["/entry", "x"]);
        assert_eq!(at(&["/c"], &[]), ["/c"]);
        assert_eq!(at(&["/c"], &["x"]), ["/c", "x"]);
        let nothing = args(&ContainerConfig::default(), &ImageConfig::default());
        assert!(nothing.unwrap_err().to_string().starts_with("command"));
        let reset = ImageConfig {
            entrypoint: own(&[""]),
            ..image()
        };
        assert_eq!(args(&ContainerConfig::default(), &reset).unwrap(), ["arg"]);
    }

    #[test]
    fn the_request_wins_in_the_place_of_the_image() {
        let mut container = ContainerConfig {
            envs: vec![KeyValue {
                key: "A".into(),
                value: b"2=3".to_vec(),
            }],
            tty: true,
            ..Default::default()
        };
        let env = environment(&container, &image(), "pod").unwrap();
        assert_eq!(env, ["PATH=/bin", "TERM=xterm", "HOSTNAME=pod", "A=2=3"]);
        for (key, value) in [("", &b"x"[..]), ("A=B", b"x"), ("A", b"\xff"), ("A", b"\0")] {
            container.envs[0] = KeyValue {
                key: key.into(),
                value: value.to_vec(),
            };
            assert!(
                environment(&container, &image(), "pod").is_err(),
                "{key} {value:?}"
            );
        }
    }

    #[test]
    fn another_process_is_as_the_first_but_for_its_command() {
        let first = json!({
            "args": ["a"], "terminal": false, "env": ["X=1"], "user": { "uid": 7, "gid": 0 },
        });
        let second = exec(&first, &own(&["ls"]), true).unwrap();
        assert_eq!(
            second,
            json!({
                "args": ["ls"], "terminal": true, "env": ["X=1", "TERM=xterm"],
                "user": { "uid": 7, "gid": 0 },
            })
        );
        assert_eq!(exec(&second, &own(&["ls"]), true).unwrap(), second);
        assert!(exec(&first, &[], false).is_err());
        assert!(exec(&first, &own(&["a\0b"]), false).is_err());
    }

    #[test]
    fn a_folder_is_absolute() {
        let mut container = ContainerConfig::default();
        let mut image = ImageConfig::default();
        assert_eq!(folder(&container, &image).unwrap(), "/");
        image.working_dir = "/w".into();
        assert_eq!(folder(&container, &image).unwrap(), "/w");
        container.working_dir = "w".into();
        let error = folder(&container, &image).unwrap_err().to_string();
        assert!(error.starts_with("working_dir is \"w\""), "{error}");
    }
}
