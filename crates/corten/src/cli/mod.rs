//! The command line: one file a command, docker's verbs and flags. A flag that is not honoured
//! is not here.

mod attach;
mod container_flags;
mod exec;
mod export;
mod healthcheck;
mod image;
mod inspect;
mod install;
mod kill;
mod login;
mod logs;
mod manifest;
mod network;
mod network_flags;
mod port;
mod ps;
mod pull;
mod registry;
mod restart;
mod rm;
mod run;
mod serve;
mod start;
mod stop;
mod supervision_flags;
mod sync;
mod system;
mod update;
pub mod value;
mod wait;

use std::error::Error as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use corten_engine::{Engine, Paths, paths};

use crate::failure::{Failure, OURS};
use crate::{demo, output};

/// The container engine of one Linux host: pull an image, mount it, run it.
///
/// Corten needs no daemon: a command does its work and leaves; each running container has a small
/// supervisor of its own.
#[derive(Parser)]
#[command(
    name = "corten",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// State folder: images, containers, volumes. Survives a reboot
    #[arg(long, global = true, value_name = "DIR", default_value = paths::DEFAULT_ROOT, env = "CORTEN_ROOT", hide_env = true)]
    pub root: PathBuf,
    /// Run folder: sockets, state of running containers. Empty after a reboot
    #[arg(long, global = true, value_name = "DIR", default_value = paths::DEFAULT_RUN, env = "CORTEN_RUN", hide_env = true)]
    pub run: PathBuf,
    /// Folder of config.toml, policy.toml and certs.d
    #[arg(long, global = true, value_name = "DIR", default_value = paths::DEFAULT_ETC, env = "CORTEN_ETC", hide_env = true)]
    pub etc: PathBuf,
    /// Least importance of what is logged on stderr
    #[arg(long, global = true, value_name = "LEVEL", default_value = "warn", value_parser = ["error", "warn", "info", "debug", "trace"])]
    pub log_level: String,
    /// Print JSON where a command lists or inspects
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Subcommand)]
enum Command {
    Pull(pull::Args),
    Images(image::ls::Args),
    Rmi(image::rm::Args),
    Push(image::push::Args),
    Tag(image::tag::Args),
    History(image::history::Args),
    Save(image::save::Args),
    Load(image::load::Args),
    Import(image::import::Args),
    Export(export::ExportArgs),
    Commit(export::CommitArgs),
    Copy(image::copy::Args),
    Sync(sync::Args),
    Search(image::search::Args),
    Login(login::LoginArgs),
    Logout(login::LogoutArgs),
    #[command(subcommand)]
    Manifest(manifest::Command),
    #[command(subcommand)]
    Image(image::Command),
    Run(run::RunArgs),
    Create(run::CreateArgs),
    Start(start::Args),
    Ps(ps::Args),
    Port(port::Args),
    Inspect(inspect::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Attach(attach::Args),
    Stop(stop::Args),
    Restart(restart::Args),
    Kill(kill::Args),
    Wait(wait::Args),
    Update(update::Args),
    #[command(subcommand)]
    Healthcheck(healthcheck::Command),
    Rm(rm::Args),
    #[command(subcommand)]
    Network(network::Command),
    #[command(subcommand)]
    Registry(registry::Command),
    Serve(Box<serve::Args>),
    #[command(subcommand)]
    System(system::Command),
    Demo(demo::Args),
    /// Print the version
    Version,
}

/// Parses our arguments and does what they say.
pub fn main() -> ExitCode {
    let parsed = Cli::command()
        .try_get_matches()
        .and_then(|m| Cli::from_arg_matches(&m));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    match cli.run() {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

/// Help goes to stdout as it is; an error becomes our three lines.
fn usage(e: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    if matches!(
        e.kind(),
        DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let shown = e.print();
        let fine = shown.is_ok() && e.kind() != DisplayHelpOnMissingArgumentOrSubcommand;
        return ExitCode::from(if fine { 0 } else { OURS });
    }
    let text = e.render().to_string();
    let first = text.lines().next().unwrap_or_default();
    let mut message = first.strip_prefix("error: ").unwrap_or(first).to_owned();
    // Clap names what is missing on the lines below.
    if message.ends_with(':') {
        let names: Vec<&str> = text
            .lines()
            .skip(1)
            .map(str::trim)
            .take_while(|l| !l.is_empty())
            .collect();
        message = format!("{message} {}", names.join(" "));
    }
    let cause = e.source().map(ToString::to_string);
    if let Some(cause) = &cause {
        message = message
            .strip_suffix(cause.as_str())
            .unwrap_or(&message)
            .trim_end_matches(": ")
            .to_owned();
    }
    let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: "));
    let help = "'--help' after the command shows what it takes";
    let mut lines = format!("error: {message}\n");
    if let Some(cause) = cause {
        lines.push_str(&format!("caused by: {cause}\n"));
    }
    lines.push_str(&format!("hint: {}\n", tip.unwrap_or(help)));
    eprint!("{lines}");
    ExitCode::from(OURS)
}

impl Cli {
    fn run(self) -> Result<ExitCode, Failure> {
        let global = self.global;
        let done = |()| ExitCode::SUCCESS;
        match self.command {
            Command::Pull(args) => pull::run(&global, args).map(done),
            Command::Images(args) => image::ls::run(&global, args).map(done),
            Command::Rmi(args) => image::rm::run(&global, args).map(done),
            Command::Push(args) => image::push::run(&global, args).map(done),
            Command::Save(args) => image::save::run(&global, args).map(done),
            Command::Load(args) => image::load::run(&global, args).map(done),
            Command::Copy(args) => image::copy::run(&global, args).map(done),
            Command::Import(args) => image::import::run(&global, args).map(done),
            Command::Export(args) => export::export(&global, args).map(done),
            Command::Commit(args) => export::commit(&global, args).map(done),
            Command::Sync(args) => sync::run(&global, args).map(done),
            Command::Search(args) => image::search::run(&global, args).map(done),
            Command::Login(args) => login::login(&global, args).map(done),
            Command::Logout(args) => login::logout(&global, args).map(done),
            Command::Manifest(command) => manifest::run(&global, command).map(done),
            Command::Tag(args) => image::tag::run(&global, args).map(done),
            Command::History(args) => image::history::run(&global, args).map(done),
            Command::Image(command) => image::run(&global, command).map(done),
            Command::Run(args) => run::run(&global, args),
            Command::Create(args) => run::create(&global, args).map(done),
            Command::Start(args) => start::run(&global, args),
            Command::Ps(args) => ps::run(&global, args).map(done),
            Command::Port(args) => port::run(&global, args).map(done),
            Command::Inspect(args) => inspect::run(&global, args).map(done),
            Command::Logs(args) => logs::run(&global, args).map(done),
            Command::Exec(args) => exec::run(&global, args),
            Command::Attach(args) => attach::run(&global, args),
            Command::Stop(args) => stop::run(&global, args).map(done),
            Command::Restart(args) => restart::run(&global, args).map(done),
            Command::Update(args) => update::run(&global, args).map(done),
            Command::Healthcheck(command) => healthcheck::run(&global, command),
            Command::Kill(args) => kill::run(&global, args).map(done),
            Command::Wait(args) => wait::run(&global, args).map(done),
            Command::Rm(args) => rm::run(&global, args).map(done),
            Command::Network(command) => network::run(&global, command),
            Command::Registry(command) => registry::run(&global, command).map(done),
            Command::Serve(args) => serve::run(&global, *args).map(done),
            Command::System(command) => system::run(&global, command),
            Command::Demo(args) => demo::run(&global, args).map(done),
            Command::Version => {
                match global.json {
                    true => output::json(&serde_json::json!({
                        "Version": env!("CARGO_PKG_VERSION"),
                        "OciVersion": corten_runtime::OCI_VERSION,
                    }))?,
                    false => output::line(format!("corten {}", env!("CARGO_PKG_VERSION")))?,
                }
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

impl Global {
    pub fn paths(&self) -> Result<Paths, Failure> {
        let absolute = |p: &PathBuf| std::path::absolute(p);
        Ok(Paths::new(
            absolute(&self.root)?,
            absolute(&self.run)?,
            absolute(&self.etc)?,
        ))
    }

    /// Opens the engine; root is asked for here, since everything below needs it.
    pub fn engine(&self) -> Result<Engine, Failure> {
        self.start_log();
        // What containers read (their hosts file, a volume's folder) is made under it, whoever calls.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        if !rustix::process::geteuid().is_root() {
            return Err(Failure::new(
                "corten must run as root",
                "use sudo; rootless containers come later",
            ));
        }
        Ok(Engine::open(self.paths()?)?)
    }

    /// For commands whose parts say nothing at the default level: those need not pay for a log's start.
    pub fn start_log(&self) {
        if self.log_level != "warn" || std::env::var_os("CORTEN_LOG").is_some() {
            self.always_log();
        }
    }

    /// For servers, which warn.
    pub fn always_log(&self) {
        self.serve_log(false);
    }

    /// A line a record: as people read them, or JSON objects for who collects them.
    pub fn serve_log(&self, json: bool) {
        let filter =
            std::env::var("CORTEN_LOG").unwrap_or_else(|_| match self.log_level.as_str() {
                // A record for each frame of HTTP/2 is for who looks into that, with trace or with CORTEN_LOG.
                "debug" => "debug,h2=info,hyper=info,hyper_util=info".into(),
                level => level.to_owned(),
            });
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            // Where nobody reads stderr any more, saying so there would end a server.
            .log_internal_errors(false);
        // A second call in one process keeps the first one's settings.
        let _already = match json {
            false => tracing::subscriber::set_global_default(subscriber.finish()),
            true => tracing::subscriber::set_global_default(
                // The call that a record is of is one flat object: method, pod, container.
                subscriber
                    .json()
                    .flatten_event(true)
                    .with_span_list(false)
                    .finish(),
            ),
        };
    }
}

/// Runs `action` for each name, prints the name for each that worked, and fails with the last error after
/// having tried all, as docker does.
pub fn each(
    names: &[String],
    mut action: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut failed = None;
    for name in names {
        match action(name) {
            Ok(()) => output::line(name)?,
            Err(e) => {
                if let Some(earlier) = failed.replace(e) {
                    earlier.report();
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Asks for a yes on the terminal, or on whatever stdin is; anything else is a no.
pub fn confirm(warning: &str) -> Result<bool, Failure> {
    eprint!("WARNING! {warning}\nAre you sure you want to continue? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
