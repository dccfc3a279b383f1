//! `corten registry`: a registry of our own, a cache of another one, and their garbage.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use corten_registry::client::ClientConfig;
use corten_registry::server::{
    CacheConfig, CollectOptions, Server, ServerConfig, ServerError, TlsFiles, collect,
};

use super::{Global, value};
use crate::failure::Failure;
use crate::output;

/// Serve images to others
#[derive(clap::Subcommand)]
pub enum Command {
    Serve(Box<Serve>),
    Gc(Gc),
}

/// Serve a registry until interrupted
///
/// It speaks OCI Distribution 1.1, and keeps what it has in the folder `registry` below --root. Without --htpasswd everybody who reaches it may push and delete.
///
/// With --proxy it is a cache of another registry instead: what it lacks it fetches there, with the credentials of
/// Docker's config.json, and what it has it serves also while the other one is away.
#[derive(clap::Args)]
pub struct Serve {
    /// Where to listen
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:5000")]
    addr: String,
    /// Certificate chain in PEM, taken up again when it changes
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_key",
        help_heading = "Access"
    )]
    tls_cert: Option<PathBuf>,
    /// The certificate's key in PEM
    #[arg(
        long,
        value_name = "FILE",
        requires = "tls_cert",
        help_heading = "Access"
    )]
    tls_key: Option<PathBuf>,
    /// Users and bcrypt hashes, as 'htpasswd -B' writes them; taken up again when it changes
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    htpasswd: Option<PathBuf>,
    /// Take passwords beyond loopback without TLS, for behind a proxy that has it
    #[arg(long, requires = "htpasswd", help_heading = "Access")]
    insecure_plain_http: bool,
    /// Refuse pushes and deletions
    #[arg(long, help_heading = "Access")]
    read_only: bool,
    /// Refuse deletions
    #[arg(long, help_heading = "Access")]
    no_delete: bool,
    /// Be a cache of this registry: [http://|https://]HOST[:PORT]
    #[arg(long, value_name = "URL", help_heading = "Cache")]
    proxy: Option<String>,
    /// How long a tag is believed before it is asked for again
    #[arg(long, value_name = "TIME", requires = "proxy", default_value = "1m", value_parser = time, help_heading = "Cache")]
    proxy_fresh: Duration,
    /// Evict what was used longest ago beyond this size
    #[arg(long, value_name = "SIZE", requires = "proxy", value_parser = value::size, help_heading = "Cache")]
    proxy_max_size: Option<i64>,
    /// Evict what was not used for so long
    #[arg(long, value_name = "TIME", requires = "proxy", value_parser = time, help_heading = "Cache")]
    proxy_max_idle: Option<Duration>,
    /// Collect garbage so often; else only 'registry gc' does
    #[arg(long, value_name = "TIME", value_parser = time, help_heading = "Garbage collection")]
    gc_interval: Option<Duration>,
    /// What the collection spares: all that was used so lately
    #[arg(long, value_name = "TIME", requires = "gc_interval", default_value = "24h", value_parser = time, help_heading = "Garbage collection")]
    gc_grace: Duration,
    /// Collect manifests too that no tag, index or subject leads to
    #[arg(long, requires = "gc_interval", help_heading = "Garbage collection")]
    gc_untagged: bool,
}

/// Remove what no image of a registry needs, beside its server or without
///
/// These are blobs that no manifest names, uploads that nobody goes on with, and, if asked for, manifests without a
/// tag. What a push in progress has uploaded or found there stays, as long as the push takes less than --grace.
#[derive(clap::Args)]
pub struct Gc {
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
    /// Spare what was used so lately
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    grace: Duration,
    /// Manifests too that no tag, index or subject leads to
    #[arg(long)]
    untagged: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot serve on {0}")]
struct Listen(String, #[source] std::io::Error);

#[derive(Debug, thiserror::Error)]
#[error("cannot serve a registry")]
struct Stopped(#[source] ServerError);

#[derive(Debug, thiserror::Error)]
#[error("cannot collect the garbage of {}", .0.display())]
struct Collect(PathBuf, #[source] ServerError);

/// A text that is no time.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a time is a number and one of the units s, m, h, d, such as 90s")]
struct NoTime;

/// `90s`, `5m`, `24h`, `7d`.
fn time(text: &str) -> Result<Duration, NoTime> {
    let seconds = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(NoTime),
    };
    let digits = &text[..text.len() - 1];
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| plain).ok_or(NoTime)?;
    // Some thousand years: beyond that arithmetic with clocks fails.
    let total = count.checked_mul(seconds).filter(|t| *t < 1 << 37);
    total.map(Duration::from_secs).ok_or(NoTime)
}

/// Below the engine's state, and never in it: what the engine has is nobody's in a registry's eyes.
fn folder(global: &Global) -> PathBuf {
    global.root.join("registry")
}

pub fn run(global: &Global, command: Command) -> Result<(), Failure> {
    global.always_log();
    match command {
        Command::Serve(args) => serve(global, *args),
        Command::Gc(args) => gc(global, &args),
    }
}

fn serve(global: &Global, args: Serve) -> Result<(), Failure> {
    let listener = listen(&args.addr).map_err(|e| {
        let hint = "choose another --addr, such as 127.0.0.1:5001";
        Failure::hinted(Listen(args.addr.clone(), e), hint)
    })?;
    let at = listener.local_addr()?;
    let threads = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let config = args.config(global);
    let scheme = if config.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let open = config.htpasswd.is_none() && !config.read_only && config.cache.is_none();
    threads.block_on(async {
        let server = Server::new(listener, config).map_err(stopped)?;
        if open && !at.ip().is_loopback() {
            eprintln!(
                "warning: whoever reaches {at} may push and delete; --htpasswd asks who they are"
            );
        }
        eprintln!("serving on {scheme}://{at}");
        server.run(ended()).await.map_err(stopped)
    })
}

impl Serve {
    fn config(self, global: &Global) -> ServerConfig {
        let etc = &global.etc;
        let max_bytes = self.proxy_max_size.and_then(|n| n.try_into().ok());
        let cache = self.proxy.map(|upstream| CacheConfig {
            fresh: self.proxy_fresh,
            max_bytes,
            max_idle: self.proxy_max_idle,
            ..CacheConfig::new(upstream, ClientConfig::load(etc))
        });
        let options = CollectOptions {
            grace: self.gc_grace,
            untagged: self.gc_untagged,
            dry_run: false,
        };
        let files = self.tls_cert.zip(self.tls_key);
        ServerConfig {
            delete: !self.no_delete,
            read_only: self.read_only,
            tls: files.map(|(certificate, key)| TlsFiles { certificate, key }),
            htpasswd: self.htpasswd,
            insecure_plain_http: self.insecure_plain_http,
            cache,
            collect: self.gc_interval.map(|every| (every, options)),
            ..ServerConfig::new(folder(global))
        }
    }
}

fn stopped(error: ServerError) -> Failure {
    let hint = match &error {
        ServerError::Exposed { .. } => {
            "give --tls-cert and --tls-key, or --insecure-plain-http where a proxy before it does TLS"
        }
        ServerError::File { .. } => {
            "correct the file; 'htpasswd -B' writes accounts that can be read"
        }
        ServerError::Upstream { .. } => "name it as https://HOST[:PORT]",
        _ => "check that its folder can be written to and that no other registry uses it",
    };
    Failure::hinted(Stopped(error), hint)
}

fn listen(addr: &str) -> std::io::Result<TcpListener> {
    let all: Vec<SocketAddr> = addr.to_socket_addrs()?.collect();
    TcpListener::bind(all.as_slice())
}

fn gc(global: &Global, args: &Gc) -> Result<(), Failure> {
    let root = folder(global);
    let options = CollectOptions {
        grace: args.grace,
        untagged: args.untagged,
        dry_run: args.dry_run,
    };
    let done = collect(&root, &options).map_err(|e| {
        let hint = "the registry is the folder 'registry' below --root";
        Failure::hinted(Collect(root.clone(), e), hint)
    })?;
    if global.json {
        return Ok(output::json(&serde_json::json!({
            "Manifests": done.manifests,
            "Blobs": done.blobs,
            "Uploads": done.uploads,
            "Bytes": done.bytes,
            "DryRun": args.dry_run,
        }))?);
    }
    let verb = if args.dry_run {
        "would remove"
    } else {
        "removed"
    };
    Ok(output::line(format!(
        "{verb} {} manifests, {} blobs, {} uploads: {} bytes",
        done.manifests, done.blobs, done.uploads, done.bytes
    ))?)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(time("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in [
            "",
            "s",
            "5",
            "-5s",
            "+5s",
            "1.5h",
            "5é",
            "99999999999999999999d",
            "9999999999999d",
        ] {
            assert_eq!(time(bad), Err(NoTime), "{bad}");
        }
    }
}
