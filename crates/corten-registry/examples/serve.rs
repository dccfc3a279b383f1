//! `serve ROOT [KEY=VALUE…]`: our registry on the folder ROOT, as a process of its own: to be killed, or to be run in other
//! namespaces. It prints where it listens: a free port of loopback, unless `addr=HOST:PORT` says another. `tls=DIR` has
//! cert.pem and key.pem, `htpasswd=FILE` the accounts, `proxy=URL` makes it a cache, `etc=DIR` is where that
//! finds certs.d. `collect=MILLISECONDS` collects garbage with that grace instead, again and again.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_registry::client::ClientConfig;
use corten_registry::server::{
    CacheConfig, CollectOptions, Server, ServerConfig, TlsFiles, collect,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let root = args.next().ok_or("usage: serve ROOT [KEY=VALUE...]")?;
    let mut config = ServerConfig::new(root);
    let mut address = "127.0.0.1:0".to_owned();
    let mut etc = PathBuf::from("/nonexistent");
    let mut upstream = None;
    for arg in args {
        match arg.split_once('=') {
            Some(("addr", at)) => address = at.to_owned(),
            Some(("tls", dir)) => {
                config.tls = Some(TlsFiles {
                    certificate: Path::new(dir).join("cert.pem"),
                    key: Path::new(dir).join("key.pem"),
                });
            }
            Some(("htpasswd", file)) => config.htpasswd = Some(file.into()),
            Some(("etc", dir)) => etc = dir.into(),
            Some(("collect", grace)) => {
                let options = CollectOptions {
                    grace: Duration::from_millis(grace.parse()?),
                    untagged: true,
                    dry_run: false,
                };
                println!("collecting");
                loop {
                    collect(&config.root, &options)?;
                }
            }
            Some(("proxy", url)) => upstream = Some(url.to_owned()),
            _ => return Err(format!("{arg:?} is not known").into()),
        }
    }
    config.cache = upstream.map(|u| CacheConfig::new(u, ClientConfig::load(&etc)));
    let server = Server::new(TcpListener::bind(address)?, config)?;
    println!("listening {}", server.address()?);
    std::io::stdout().flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(server.run(std::future::pending()))?;
    Ok(())
}
