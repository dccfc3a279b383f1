//! How long a shim takes for an exec, asked by a client that stays connected: for the benchmark.
//!
//! ```text
//! exec-time SOCKET CONTAINER ROUNDS < process.json
//! ```
//!
//! Exec, Start, Wait and Delete of the process, one line of milliseconds for each round.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use corten_shim::client::{Client, Stdio};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, container, rounds] = args.as_slice() else {
        return Err("usage: exec-time SOCKET CONTAINER ROUNDS".into());
    };
    let process = serde_json::from_reader(std::io::stdin())?;
    let mut client = Client::of_version(UnixStream::connect(socket)?, container, 2);
    for round in 0..rounds.parse::<u32>()? {
        let id = format!("time-{}-{round}", std::process::id());
        let begun = Instant::now();
        client.exec(&id, Stdio::default(), &process)?;
        client.start(&id)?;
        let exit = client.wait(&id)?;
        client.delete(&id)?;
        let took = begun.elapsed();
        if exit.status != 0 {
            return Err(format!("the process ended with {}", exit.status).into());
        }
        println!("{:.3}", took.as_secs_f64() * 1000.0);
    }
    Ok(())
}
