//! `corten registry`.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;

use corten_registry::server::{Server, ServerConfig};

use super::Global;
use crate::failure::Failure;

/// Serve images to others
#[derive(clap::Subcommand)]
pub enum Command {
    /// Serve a registry over HTTP until interrupted
    Serve {
        /// Where to listen
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
        addr: String,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("cannot serve on {0}")]
struct Listen(String, #[source] std::io::Error);

#[derive(Debug, thiserror::Error)]
#[error("the registry stopped")]
struct Stopped(#[from] corten_registry::server::ServerError);

/// `--root` is the registry's own folder here: by default `registry` below the engine's.
pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    global.always_log();
    let Command::Serve { addr } = command;
    let root =
        match global.root.as_path() == std::path::Path::new(corten_engine::paths::DEFAULT_ROOT) {
            true => global.root.join("registry"),
            false => global.root.clone(),
        };
    let refused = |e| {
        Failure::hinted(
            Listen(addr.clone(), e),
            "choose another --addr, such as 127.0.0.1:5001",
        )
    };
    let listener = listen(&addr).map_err(refused)?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let at = listener.local_addr()?;
    serve(&threads, listener, root, at)
}

fn listen(addr: &str) -> std::io::Result<TcpListener> {
    let all: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
    TcpListener::bind(all.as_slice())
}

fn serve(
    threads: &tokio::runtime::Runtime,
    listener: TcpListener,
    root: PathBuf,
    at: SocketAddr,
) -> Result<(), Failure> {
    threads.block_on(async {
        let hint = "check that its folder can be written to and that no other registry uses it";
        let server = Server::new(listener, ServerConfig::new(root))
            .map_err(|e| Failure::hinted(Stopped(e), hint))?;
        eprintln!("serving on http://{at}");
        server
            .run(ended())
            .await
            .map_err(|e| Failure::hinted(Stopped(e), hint))
    })
}

/// Until SIGINT or SIGTERM.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    match (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        // Without handlers the signals end the process, as they should.
        _ => std::future::pending().await,
    }
}
