//! The streaming server on a backend without containers, to try clients with: prints a URL for each line it reads.
//!
//! ```text
//!   exec [tty] [stdin] [stdout] [stderr] -- COMMAND...     attach ...     forward
//! ```

#[path = "../tests/it/stream/backend.rs"]
#[allow(dead_code)]
mod backend;

use std::io::BufRead as _;
use std::sync::Arc;

use corten_cri::stream::{AttachAsk, ExecAsk, ForwardAsk, Server, Settings, TlsFiles};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut files = std::env::args().skip(1).map(Into::into);
    let tls = files.next().zip(files.next());
    let settings = Settings {
        tls: tls.map(|(certificate, key)| TlsFiles {
            certificate,
            key,
            client_ca: None,
        }),
        ..Settings::default()
    };
    let server = Server::bind(settings, Arc::new(backend::Fake::default())).await?;
    tokio::spawn(server.clone().run(std::future::pending()));
    tokio::task::spawn_blocking(move || {
        for line in std::io::stdin().lock().lines() {
            let line = line.unwrap_or_default();
            let (flags, command) = line.split_once(" -- ").unwrap_or((&line, ""));
            let has = |flag| flags.split(' ').any(|f| f == flag);
            let url = match flags.split(' ').next() {
                Some("exec") => server.exec(ExecAsk {
                    container: "example".into(),
                    command: command.split(' ').map(Into::into).collect(),
                    tty: has("tty"),
                    stdin: has("stdin"),
                    stdout: has("stdout"),
                    stderr: has("stderr"),
                }),
                Some("attach") => server.attach(AttachAsk {
                    container: "example".into(),
                    tty: has("tty"),
                    stdin: has("stdin"),
                    stdout: has("stdout"),
                    stderr: has("stderr"),
                }),
                _ => server.port_forward(ForwardAsk {
                    pod: "example".into(),
                    ports: Vec::new(),
                }),
            };
            match url {
                Ok(url) => println!("{url}"),
                Err(error) => println!("error: {error}"),
            }
        }
    })
    .await?;
    Ok(())
}
