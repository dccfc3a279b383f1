//! Running other people's plugins: an executable of that name, `CNI_*` in its environment, the
//! configuration on its stdin.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use corten_spec::cni::{CniResult, ErrorObject, MAX_DOCUMENT, VersionInfo};
use rustix::fs::{Access, access};
use serde_json::{Map, Value};

use crate::Error;
use crate::plugin::{Request, Verb};

/// Runs the plugin `kind` found in `request.path`.
pub fn exec(kind: &str, request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let executable = find(kind, request.path)?;
    let stdout = converse(&executable, request.verb.as_str(), request)?;
    if request.verb != Verb::Add {
        return Ok(None);
    }
    let unusable = |source| Error::Result {
        plugin: kind.into(),
        source,
    };
    let document: Value = serde_json::from_slice(&stdout)
        .map_err(|source| unusable(corten_spec::cni::ResultError::Shape { source }))?;
    CniResult::parse(&document, request.version)
        .map(Some)
        .map_err(unusable)
}

/// What the plugin `kind` says to VERSION.
pub fn version(kind: &str, request: &Request<'_>) -> Result<VersionInfo, Error> {
    let executable = find(kind, request.path)?;
    let stdout = converse(&executable, "VERSION", request)?;
    serde_json::from_slice(&stdout).map_err(|source| Error::Result {
        plugin: kind.into(),
        source: corten_spec::cni::ResultError::Shape { source },
    })
}

fn find(kind: &str, path: &[PathBuf]) -> Result<PathBuf, Error> {
    // A name, not a path: what is run is in one of the folders. (`ipam.type` of a plugin's configuration comes here as it is.)
    let plain = !kind.contains(['/', '\0']) && !matches!(kind, "" | "." | "..");
    path.iter()
        .filter(|_| plain)
        .map(|folder| folder.join(kind))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
        .ok_or_else(|| Error::PluginMissing {
            plugin: kind.into(),
            searched: match path.len() {
                0 => "an empty plugin path".into(),
                _ => std::env::join_paths(path)
                    .map(|p| p.to_string_lossy().into_owned())
                    .unwrap_or_default(),
            },
        })
}

fn command(executable: &Path, verb: &str, request: &Request<'_>) -> Command {
    let args: Vec<String> = request
        .args
        .iter()
        .map(|(k, v)| format!("{k}={v}"))
        .collect();
    let mut command = Command::new(executable);
    command
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", request.container_id)
        .env("CNI_NETNS", request.netns)
        .env("CNI_IFNAME", request.ifname)
        .env("CNI_ARGS", args.join(";"))
        .env(
            "CNI_PATH",
            std::env::join_paths(request.path).unwrap_or_default(),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Starts the plugin, hands it its configuration, and returns what it prints on success.
fn converse(executable: &Path, verb: &str, request: &Request<'_>) -> Result<Vec<u8>, Error> {
    let failed = |action| {
        move |source| Error::File {
            action,
            path: executable.into(),
            source,
        }
    };
    let mut child = command(executable, verb, request)
        .spawn()
        .map_err(failed("run"))?;
    let config = Value::Object(request.config.clone()).to_string();
    let (stdout, stderr) = exchange(&mut child, config.as_bytes()).map_err(failed("talk to"))?;
    let status = child.wait().map_err(failed("wait for"))?;
    if status.success() {
        return Ok(stdout);
    }
    match serde_json::from_slice::<ErrorObject>(&stdout) {
        Ok(object) => Err(Error::Reported { object }),
        Err(_) => Err(Error::Silent {
            status: status.to_string(),
            output: excerpt(if stderr.is_empty() { &stdout } else { &stderr }),
        }),
    }
}

/// All three pipes at once, as a plugin may fill one while we wait on another. Each is bounded.
fn exchange(child: &mut Child, config: &[u8]) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            // A plugin may fail before it has read everything: its error says more than EPIPE.
            if let Some(mut pipe) = stdin {
                drop(pipe.write_all(config));
            }
        });
        let errors = scope.spawn(move || read(stderr));
        let out = read(stdout);
        let errors = errors.join().unwrap_or_else(|_| Ok(Vec::new()));
        // Nothing in the closure can panic.
        drop(writer.join());
        Ok((out?, errors?))
    })
}

fn read(pipe: Option<impl Read>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let Some(mut pipe) = pipe else {
        return Ok(bytes);
    };
    pipe.by_ref()
        .take(MAX_DOCUMENT as u64)
        .read_to_end(&mut bytes)?;
    // The rest is read and dropped, so that the plugin can end.
    std::io::copy(&mut pipe, &mut std::io::sink())?;
    Ok(bytes)
}

fn excerpt(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes)
        .trim()
        .chars()
        .take(400)
        .collect();
    text
}

/// Inserts what the specification has a caller add to a plugin's configuration.
pub fn insert(config: &mut Map<String, Value>, name: &str, version: corten_spec::cni::Version) {
    config.remove("capabilities");
    config.insert("cniVersion".into(), version.as_str().into());
    config.insert("name".into(), name.into());
}
