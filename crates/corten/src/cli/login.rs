//! `corten login`, `corten logout`: accounts in docker's `config.json`, which docker, podman and skopeo read as well.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_registry::auth::Credentials;
use corten_registry::auth::docker_config::{CONFIG_MAX, DockerConfig, Helper, is_hub};
use corten_registry::client::ClientConfig;
use corten_spec::reference::DEFAULT_REGISTRY;
use rustix::termios::{LocalModes, OptionalActions};
use serde_json::{Value, json};

use super::Global;
use crate::failure::Failure;
use crate::output;

/// What docker calls its Hub in that file.
const HUB: &str = "https://index.docker.io/v1/";

/// Log in to a registry
///
/// The registry is asked whether it takes the account; then it is written to docker's config.json, or handed to the credential
/// helper that is named there. Without flags, name and password are asked for.
#[derive(clap::Args)]
pub struct LoginArgs {
    /// The account's name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// The password; whoever lists processes can read it, so --password-stdin is better
    #[arg(short, long, value_name = "TEXT", conflicts_with = "password_stdin")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// Another file than docker's
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// HOST[:PORT]; without it, Docker Hub
    registry: Option<String>,
}

/// Log out from a registry
#[derive(clap::Args)]
pub struct LogoutArgs {
    /// Log out from all of them
    #[arg(short, long, conflicts_with = "registry")]
    all: bool,
    /// Another file than docker's
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// HOST[:PORT]; without it, Docker Hub
    registry: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be used: {why}")]
struct BadFile {
    path: String,
    why: String,
}

#[derive(Debug, thiserror::Error)]
#[error("credential helper {program} failed: {why}")]
struct BadHelper {
    program: String,
    why: String,
}

pub fn login(global: &Global, args: LoginArgs) -> Result<(), Failure> {
    let registry = host(args.registry.as_deref())?;
    let path = file(args.authfile)?;
    let mut document = read(&path)?;
    let user = match args.username {
        Some(user) => user,
        None => ask("Username: ", true)?,
    };
    let password = match (args.password, args.password_stdin) {
        (Some(password), _) => password,
        (None, true) => {
            let mut text = String::new();
            io::stdin()
                .lock()
                .take(64 << 10)
                .read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, false) => ask("Password: ", false)?,
    };
    if user.is_empty() || user.contains(':') || password.is_empty() {
        return Err(Failure::new(
            "a name without a colon and a password are needed",
            "use --username and --password-stdin",
        ));
    }
    let engine = global.engine()?;
    let mut client = ClientConfig::load(engine.paths().etc());
    client.docker_config = None;
    let credentials = Credentials::password(&*user, &*password);
    client.credentials.insert(registry.clone(), credentials);
    engine.check_login(&registry, client)?;
    match helper(&path, &document, &registry)? {
        Some(helper) => {
            let request =
                json!({ "ServerURL": helper.server, "Username": user, "Secret": password });
            call(&helper, "store", request.to_string().as_bytes())?;
        }
        None => {
            let pair = base64(format!("{user}:{password}").as_bytes());
            if !document["auths"].is_object() {
                document["auths"] = json!({});
            }
            document["auths"][key(&registry)] = json!({ "auth": pair });
            write(&path, &document)?;
        }
    }
    Ok(output::line("Login Succeeded")?)
}

pub fn logout(global: &Global, args: LogoutArgs) -> Result<(), Failure> {
    global.start_log();
    let path = file(args.authfile)?;
    let mut document = read(&path)?;
    let registries: Vec<String> = match args.all {
        true => {
            let auths = document["auths"].as_object();
            auths
                .into_iter()
                .flatten()
                .map(|(k, _)| k.clone())
                .collect()
        }
        false => vec![host(args.registry.as_deref())?],
    };
    for registry in registries {
        if let Some(helper) = helper(&path, &document, &registry)? {
            call(&helper, "erase", helper.server.as_bytes())?;
        }
        let auths = document["auths"].as_object_mut();
        let removed = auths.and_then(|a| a.remove(&registry).or_else(|| a.remove(key(&registry))));
        if removed.is_none() && !args.all {
            eprintln!("not logged in to {registry}");
            continue;
        }
        output::line(format!("Removing login credentials for {registry}"))?;
    }
    write(&path, &document)
}

fn host(registry: Option<&str>) -> Result<String, Failure> {
    let text = registry.unwrap_or(DEFAULT_REGISTRY);
    let bare = text
        .strip_prefix("https://")
        .or(text.strip_prefix("http://"))
        .unwrap_or(text);
    let bare = bare.split('/').next().unwrap_or(bare);
    // A host is what can stand before an image's name.
    let parsed = format!("{bare}/x").parse::<corten_spec::Reference>();
    match parsed {
        Ok(r) if r.registry() == bare || is_hub(bare) => Ok(r.registry().to_owned()),
        _ => Err(Failure::new(
            format!("{text:?} is no registry's host"),
            "a host is like registry.example.com or 127.0.0.1:5000",
        )),
    }
}

fn key(registry: &str) -> &str {
    match is_hub(registry) {
        true => HUB,
        false => registry,
    }
}

fn file(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let default = ClientConfig::load(Path::new("/etc/corten")).docker_config;
    named.or(default).ok_or_else(|| {
        Failure::new(
            "there is no home folder to keep accounts in",
            "set HOME, or name a file with --authfile",
        )
    })
}

fn bad(path: &Path, why: impl Into<String>) -> Failure {
    let path = path.display().to_string();
    let error = BadFile {
        path: path.clone(),
        why: why.into(),
    };
    Failure::hinted(
        error,
        format!("correct {path}, or name another with --authfile"),
    )
}

fn read(path: &Path) -> Result<Value, Failure> {
    let file = match fs::File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(json!({})),
        file => file.map_err(|e| bad(path, e.to_string()))?,
    };
    let mut bytes = Vec::new();
    file.take(CONFIG_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_MAX {
        return Err(bad(path, "it is too large"));
    }
    // Its errors do not quote the file, which holds passwords.
    DockerConfig::parse(&bytes).map_err(|e| bad(path, e.to_string()))?;
    let document: Value = serde_json::from_slice(&bytes).map_err(|_| bad(path, "it is no JSON"))?;
    match document.is_object() {
        true => Ok(document),
        false => Err(bad(path, "it is no JSON object")),
    }
}

fn helper(path: &Path, document: &Value, registry: &str) -> Result<Option<Helper>, Failure> {
    let config = DockerConfig::parse(document.to_string().as_bytes());
    let helper = config.and_then(|c| c.helper(registry));
    helper.map_err(|e| bad(path, e.to_string()))
}

/// Readable by its owner only, from its first byte on, and never half a file.
fn write(path: &Path, document: &Value) -> Result<(), Failure> {
    // Where it is a link to a file that somebody keeps elsewhere, it stays one.
    let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = real.as_path();
    let failed = |e: io::Error| bad(path, e.to_string());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial);
    let mut file = file.map_err(failed)?;
    let text = serde_json::to_string_pretty(document).map_err(|e| bad(path, e.to_string()))?;
    let done = file
        .write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| fs::rename(&partial, path));
    if done.is_err() {
        // The failure that led here is the one to tell.
        let _gone = fs::remove_file(&partial);
    }
    done.map_err(failed)
}

/// docker-credential-helpers' protocol: the request on stdin, complaints on stdout.
fn call(helper: &Helper, action: &str, request: &[u8]) -> Result<(), Failure> {
    let failed = |why: String| {
        let program = helper.program.clone();
        Failure::hinted(
            BadHelper { program, why },
            "check credsStore and credHelpers in docker's config.json",
        )
    };
    let child = Command::new(&helper.program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn();
    let mut child = child.map_err(|e| failed(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin
            .write_all(request)
            .map_err(|e| failed(e.to_string()))?;
    }
    let done = child
        .wait_with_output()
        .map_err(|e| failed(e.to_string()))?;
    match done.status.success() {
        true => Ok(()),
        false => Err(failed(
            String::from_utf8_lossy(&done.stdout).trim().to_owned(),
        )),
    }
}

fn ask(what: &str, shown: bool) -> Result<String, Failure> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::new(
            "there is no terminal to ask for an account on",
            "use --username and --password-stdin",
        ));
    }
    eprint!("{what}");
    let before = rustix::termios::tcgetattr(&stdin).map_err(io::Error::from)?;
    if !shown {
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        rustix::termios::tcsetattr(&stdin, OptionalActions::Flush, &silent)
            .map_err(io::Error::from)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if !shown {
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &before)
            .map_err(io::Error::from)?;
        eprintln!();
    }
    read?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
