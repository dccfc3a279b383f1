//! `corten demo`: the main job, from nothing. It makes an image of this very executable, serves it
//! from Corten's own registry, pulls it, mounts it, runs it behind walls, talks to it, and leaves
//! nothing behind. No image, registry or package is needed.

mod image;
mod inside;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use corten_engine::container::options::{
    Limits, NetworkOptions, Options, PortMapping, ProcessOptions, Protocol, Security,
};
use corten_engine::container::{Container, ExecOptions};
use corten_engine::image::PullOptions;
use corten_engine::{Engine, Paths};
use corten_registry::client::{Client, ClientConfig};
use corten_registry::server::{Server, ServerConfig};
use corten_spec::{Platform, Reference, media};
use tokio::sync::oneshot;

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{self, progress::Quiet};

/// Show the main job, end to end, on an image made here
#[derive(clap::Args)]
pub struct Args {
    /// What runs in the demo's own container
    #[arg(long, hide = true, value_parser = ["serve", "report"])]
    inside: Option<String>,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    match args.inside.as_deref() {
        Some("serve") => return Ok(inside::serve()?),
        Some(_) => {
            print!("{}", inside::text(&inside::look()));
            return Ok(());
        }
        None => {}
    }
    global.start_log();
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new("the demo must run as root", "use sudo"));
    }
    let folder = Folder::new()?;
    let outcome = Demo::new(&folder)?.show();
    // Cleaned up whether it worked or not.
    let cleaned = clean(&folder);
    outcome?;
    cleaned
}

/// A folder that goes with the demo.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("corten-demo-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    fn paths(&self) -> Paths {
        Paths::new(self.0.join("root"), self.0.join("run"), self.0.join("etc"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to be told to: what stays is in the system's folder for such things.
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Stage by stage.
struct Demo<'a> {
    folder: &'a Path,
    engine: Engine,
    stage: usize,
    since: Instant,
    begun: Instant,
}

const STAGES: usize = 10;

impl<'a> Demo<'a> {
    fn new(folder: &'a Folder) -> Result<Self, Failure> {
        Ok(Self {
            folder: &folder.0,
            engine: Engine::open(folder.paths())?,
            stage: 0,
            since: Instant::now(),
            begun: Instant::now(),
        })
    }

    /// Prints a stage that is done, with the time since the last.
    fn done(&mut self, what: &str, detail: &str) -> Result<(), Failure> {
        self.stage += 1;
        let took = self.since.elapsed();
        output::line(format!(
            "[{:>2}/{STAGES}] {what:<9} {:>8.1} ms  {detail}",
            self.stage,
            took.as_secs_f64() * 1e3
        ))?;
        self.since = Instant::now();
        Ok(())
    }

    fn show(mut self) -> Result<(), Failure> {
        let image = image::make()?;
        self.done(
            "image",
            &format!(
                "made of this executable: one layer of {}",
                output::size(image.layer_descriptor.size)
            ),
        )?;
        let (registry, reference) = Registry::start(&self.folder.join("registry"))?;
        self.done(
            "serve",
            &format!("http://{}, our own registry", registry.address),
        )?;
        registry.push(&reference, image)?;
        self.done("push", &reference.to_string())?;
        self.pull(&reference)?;
        drop(registry);

        let container = self.engine.create(options(&reference))?;
        self.done(
            "create",
            &format!("container {} ({})", container.name, container.id.short()),
        )?;
        self.engine.prepare(&container)?.start()?;
        let container = self.engine.container(container.id.as_str())?;
        let run = container.record.run.clone().unwrap_or_default();
        let addresses: Vec<String> = run.addresses.iter().map(ToString::to_string).collect();
        self.done(
            "run",
            &format!(
                "pid {} on the host, address {}",
                run.pid,
                addresses.join(" and ")
            ),
        )?;

        let port = run.ports.first().map_or(0, |p| p.host_port);
        let page = get(port)?;
        self.done(
            "ask",
            &format!("http://127.0.0.1:{port}/ answered {} bytes:", page.len()),
        )?;
        for line in page.lines() {
            output::line(format!("                          | {line}"))?;
        }
        self.exec(&container)?;
        self.engine.stop(&container, Duration::from_secs(0))?;
        let exit = self.engine.wait(&container)?;
        self.done("stop", &format!("exit status {}", exit.exit_status))?;
        self.remove(&container, &reference)
    }

    fn pull(&mut self, reference: &Reference) -> Result<(), Failure> {
        let pulled = self.engine.pull(
            PullOptions {
                reference: reference.clone(),
                platform: Platform::host(),
                client: ClientConfig::default(),
            },
            Arc::new(Quiet),
        )?;
        self.done(
            "pull",
            &format!(
                "{} over HTTP, digest checked, unpacked on the way",
                output::size(pulled.size)
            ),
        )
    }

    fn exec(&mut self, container: &Container) -> Result<(), Failure> {
        let mut exec = self.engine.exec(
            container,
            &ExecOptions {
                command: vec![
                    image::PROGRAM.into(),
                    "demo".into(),
                    "--inside".into(),
                    "report".into(),
                ],
                user: Some("nobody".into()),
                ..ExecOptions::default()
            },
        )?;
        let streams = exec.take_streams();
        exec.start()?;
        let mut text = String::new();
        if let Some(mut streams) = streams {
            while let Some(frame) = streams.read_frame()? {
                text.push_str(&String::from_utf8_lossy(&frame.payload));
            }
        }
        let code = exec.finish()?;
        let seen = |name: &str| {
            let line = text
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .unwrap_or(": ?");
            line.trim_start_matches(':').trim().to_owned()
        };
        let detail = format!(
            "as nobody: pid {}, uid and gid {}, capabilities {}, exit code {code}",
            seen("pid"),
            seen("uid, gid"),
            seen("capabilities"),
        );
        self.done("exec", &detail)
    }

    fn remove(mut self, container: &Container, reference: &Reference) -> Result<(), Failure> {
        self.engine.remove(container, false, true)?;
        self.engine.remove_image(&reference.to_string(), false)?;
        self.engine.prune()?;
        let left = self.engine.check(false)?;
        let bridge = Path::new("/sys/class/net").join(&self.engine.config().network.bridge);
        if !left.is_empty() || bridge.exists() {
            return Err(Failure::new(
                format!("the demo left something behind: {left:?}"),
                "'corten system check --repair' removes it; please report this",
            ));
        }
        self.done(
            "clean",
            "no container, image, link, address, rule, control group or mount is left",
        )?;
        Ok(output::line(format!(
            "all of it in {:.0} ms",
            self.begun.elapsed().as_secs_f64() * 1e3
        ))?)
    }
}

fn options(reference: &Reference) -> Options {
    Options {
        image: reference.to_string(),
        process: ProcessOptions {
            hostname: Some("demo".into()),
            ..ProcessOptions::default()
        },
        limits: Limits {
            memory: Some(64 << 20),
            cpu_millis: Some(500),
            pids: Some(32),
            ulimits: vec![],
        },
        security: Security {
            no_new_privileges: true,
            ..Security::default()
        },
        network: NetworkOptions {
            ports: vec![PortMapping {
                host_ip: Some(Ipv4Addr::LOCALHOST.into()),
                host_port: 0,
                container_port: 80,
                protocol: Protocol::Tcp,
            }],
            ..NetworkOptions::default()
        },
        ..Options::default()
    }
}

/// A page by plain HTTP; tried again for a moment, since the server may not listen yet.
fn get(port: u16) -> Result<String, Failure> {
    let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let mut last = None;
    for _ in 0..200 {
        match ask(at) {
            Ok(page) => return Ok(page),
            Err(e) => last = Some(e),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(last.map_or_else(
        || Failure::new("the container's port gave no answer", "try again"),
        Failure::from,
    ))
}

fn ask(at: SocketAddr) -> std::io::Result<String> {
    let mut connection = TcpStream::connect_timeout(&at, Duration::from_secs(2))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        connection,
        "GET / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    match answer.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(std::io::ErrorKind::InvalidData.into()),
    }
}

/// Our registry on a port of loopback, in a thread of its own.
struct Registry {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the demo's registry failed")]
struct RegistryFailed(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Registry {
    fn start(root: &Path) -> Result<(Self, Reference), Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let server = Server::new(listener, ServerConfig::new(root)).map_err(|e| {
            Failure::hinted(
                RegistryFailed(Box::new(e)),
                "check that the temporary folder can be written to",
            )
        })?;
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::spawn(move || {
            // Its failure shows as a pull that fails.
            let _ended = runtime.block_on(server.run(async {
                let _told_or_dropped = stopped.await;
            }));
        });
        let reference = format!("{address}/demo/corten:latest")
            .parse()
            .map_err(corten_engine::Error::from)?;
        Ok((
            Self {
                address,
                stop: Some(stop),
                thread: Some(thread),
            },
            reference,
        ))
    }

    fn push(&self, reference: &Reference, image: image::Image) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let client = Client::new(ClientConfig::default());
        let pushed = runtime.block_on(async {
            let (layer, config) = (
                std::io::Cursor::new(image.layer),
                std::io::Cursor::new(image.config),
            );
            client
                .push_blob(reference, &image.layer_descriptor, layer)
                .await?;
            client
                .push_blob(reference, &image.config_descriptor, config)
                .await?;
            client
                .push_manifest(reference, media::OCI_MANIFEST, image.manifest.into())
                .await
        });
        pushed.map_err(|e| Failure::hinted(RegistryFailed(Box::new(e)), "please report this"))?;
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed by then.
            let _joined = thread.join();
        }
    }
}

/// After a failure in the middle: everything that the engine made goes.
fn clean(folder: &Folder) -> Result<(), Failure> {
    let engine = Engine::open(folder.paths())?;
    for container in engine.containers()? {
        engine.remove(&container, true, true)?;
    }
    engine.check(true)?;
    engine.prune()?;
    Ok(())
}
