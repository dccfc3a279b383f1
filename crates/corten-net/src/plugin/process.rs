//! A plugin as an executable: the protocol of section 2 of the specification.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use corten_spec::ContainerId;
use corten_spec::cni::{
    CniResult, ErrorObject, MAX_DOCUMENT, Version, VersionInfo, check_ifname, check_network_name,
    code,
};
use serde_json::{Map, Value};

use super::{Request, Session, Verb, run};
use crate::Error;

/// What is printed: a result, a version, nothing.
type Output = Option<Value>;

/// A variable of the environment; one that is not set is as one that is empty.
type Variable<'a> = &'a dyn Fn(&str) -> OsString;

pub fn main(name: &str) -> ExitCode {
    let variable = |name: &str| env::var_os(name).unwrap_or_default();
    let (document, exit) = match answer(name, &variable, &mut io::stdin()) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(document)) => (document, ExitCode::SUCCESS),
        Err(object) => (
            serde_json::to_value(object).unwrap_or(Value::Null),
            ExitCode::FAILURE,
        ),
    };
    // A caller that closed its end gets nothing; the exit code is all that is left to say it.
    match writeln!(io::stdout(), "{document:#}") {
        Ok(()) => exit,
        Err(_) => ExitCode::FAILURE,
    }
}

/// From the environment and stdin to what is printed.
pub(super) fn answer(
    name: &str,
    variable: Variable<'_>,
    stdin: &mut dyn Read,
) -> Result<Output, ErrorObject> {
    let fail = |version: &str, code, msg: String| ErrorObject {
        cni_version: version.into(),
        code,
        msg,
        details: String::new(),
    };
    let newest = Version::V1_1_0.as_str();
    let command = text(variable, "CNI_COMMAND");
    let config = match command.as_str() {
        "" => {
            return Err(fail(
                newest,
                code::INVALID_ENVIRONMENT,
                "CNI_COMMAND is missing".into(),
            ));
        }
        // Callers before 1.0 send no configuration with VERSION.
        "VERSION" => {
            return Ok(Some(
                serde_json::to_value(VersionInfo::ours()).unwrap_or(Value::Null),
            ));
        }
        _ => read_config(stdin).map_err(|msg| fail(newest, code::DECODING, msg))?,
    };
    let named = config
        .get("cniVersion")
        .and_then(Value::as_str)
        .unwrap_or("0.3.0");
    let version: Version = named.parse().map_err(|v| {
        fail(
            newest,
            code::INCOMPATIBLE_VERSION,
            format!("CNI version {v:?} is not spoken by {name}"),
        )
    })?;
    let environment = |msg| fail(version.as_str(), code::INVALID_ENVIRONMENT, msg);
    let (verb, known) = match command.as_str() {
        "ADD" => (Verb::Add, true),
        "DEL" => (Verb::Del, true),
        "CHECK" => (Verb::Check, version.has_check()),
        "GC" => (Verb::Gc, version.has_gc_and_status()),
        "STATUS" => (Verb::Status, version.has_gc_and_status()),
        other => {
            let other: String = other.chars().take(32).collect();
            return Err(environment(format!("CNI_COMMAND {other:?} is none of CNI")));
        }
    };
    if !known {
        let msg = format!("CNI {version} has no {command}");
        return Err(fail(version.as_str(), code::INCOMPATIBLE_VERSION, msg));
    }
    // It becomes part of paths, aliases and comments.
    let network = config.get("name").and_then(Value::as_str).unwrap_or("");
    check_network_name(network).map_err(|e| Error::from(e).to_object(version.as_str()))?;
    let call = Call::from_environment(verb, variable).map_err(environment)?;
    let session = Session::default();
    let request = call.request(verb, version, &config, &session);
    run(name, &request)
        .map(|result| result.map(|r: CniResult| r.to_document(version)))
        .map_err(|e: Error| e.to_object(version.as_str()))
}

fn text(variable: Variable<'_>, name: &str) -> String {
    variable(name).to_string_lossy().into_owned()
}

fn read_config(stdin: &mut dyn Read) -> Result<Map<String, Value>, String> {
    let mut bytes = Vec::new();
    stdin
        .take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| format!("cannot read the configuration: {e}"))?;
    if bytes.len() > MAX_DOCUMENT {
        return Err(format!(
            "the configuration has more than {MAX_DOCUMENT} bytes"
        ));
    }
    serde_json::from_slice(&bytes).map_err(|e| format!("the configuration is no JSON object: {e}"))
}

/// The `CNI_*` variables, checked.
struct Call {
    container_id: String,
    netns: PathBuf,
    ifname: String,
    args: Vec<(String, String)>,
    path: Vec<PathBuf>,
}

impl Call {
    fn from_environment(verb: Verb, variable: Variable<'_>) -> Result<Self, String> {
        let call = Self {
            container_id: text(variable, "CNI_CONTAINERID"),
            netns: variable("CNI_NETNS").into(),
            ifname: text(variable, "CNI_IFNAME"),
            args: parse_args(&text(variable, "CNI_ARGS"))?,
            path: env::split_paths(&variable("CNI_PATH"))
                .filter(|p| !p.as_os_str().is_empty())
                .collect(),
        };
        if matches!(verb, Verb::Gc | Verb::Status) {
            return Ok(call);
        }
        call.container_id
            .parse::<ContainerId>()
            .map_err(|e| format!("CNI_CONTAINERID is wrong: {e}"))?;
        check_ifname(&call.ifname).map_err(|e| format!("CNI_IFNAME is wrong: {e}"))?;
        // DEL of a container whose namespace has gone has none.
        if call.netns.as_os_str().is_empty() && verb != Verb::Del {
            return Err("CNI_NETNS is missing".into());
        }
        Ok(call)
    }

    fn request<'a>(
        &'a self,
        verb: Verb,
        version: Version,
        config: &'a Map<String, Value>,
        session: &'a Session,
    ) -> Request<'a> {
        Request {
            verb,
            container_id: &self.container_id,
            netns: &self.netns,
            ifname: &self.ifname,
            args: &self.args,
            path: &self.path,
            bundled: true,
            version,
            config,
            session,
        }
    }
}

/// `KEY=VALUE;KEY=VALUE`.
fn parse_args(text: &str) -> Result<Vec<(String, String)>, String> {
    text.split(';')
        .filter(|pair| !pair.is_empty())
        .map(|pair| match pair.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
            _ => Err(format!("CNI_ARGS holds {pair:?}, which is no KEY=VALUE")),
        })
        .collect()
}
