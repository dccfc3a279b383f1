//! `serve ROOT`: our registry on the folder ROOT and a free port of loopback, which it prints. A process of its own, to
//! be killed.

use std::io::Write as _;
use std::net::TcpListener;

use corten_registry::server::{Server, ServerConfig};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args_os().nth(1).ok_or("usage: serve ROOT")?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let server = Server::new(listener, ServerConfig::new(root))?;
    println!("listening {}", server.address()?);
    std::io::stdout().flush()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(server.run(std::future::pending()))?;
    Ok(())
}
