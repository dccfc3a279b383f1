//! `fetch IMAGE [REQUESTS [PART [IN_FLIGHT]]]`: downloads an image's layers one after the other, by so many requests at
//! once, with parts and waiting bytes of so many KiB, and tells how long it took and how much memory. To measure with;
//! the bytes are verified and dropped.

use std::time::Instant;

use corten_registry::client::{Client, ClientConfig, Parallel};
use corten_spec::{Platform, Reference};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: fetch IMAGE [REQUESTS [PART [IN_FLIGHT]]]";
    let image: Reference = args.next().ok_or(usage)?.parse()?;
    let mut parallel = Parallel::default();
    if let Some(n) = args.next() {
        parallel.requests = n.parse()?;
    }
    for bytes in [&mut parallel.part, &mut parallel.in_flight] {
        if let Some(kib) = args.next() {
            *bytes = kib.parse::<u64>()? << 10;
        }
    }
    let config = ClientConfig {
        parallel,
        ..ClientConfig::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(fetch(Client::new(config), image))
}

async fn fetch(client: Client, image: Reference) -> Result<(), Box<dyn std::error::Error>> {
    let resolved = client.resolve(&image, &Platform::host()).await?;
    let (since, mut total) = (Instant::now(), 0);
    for layer in &resolved.manifest.layers {
        let (tx, mut rx) = tokio::sync::mpsc::channel(32);
        let drain = async { while rx.recv().await.is_some() {} };
        let (fetched, ()) = tokio::join!(client.blob(&image, layer, 0, tx), drain);
        fetched?;
        total += layer.size;
    }
    let seconds = since.elapsed().as_secs_f64();
    let rate = total as f64 / seconds / 1e6;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find(|l| l.starts_with("VmHWM:"));
    println!(
        "{total} bytes in {seconds:.2} s, {rate:.0} MB/s, {}",
        peak.unwrap_or_default()
    );
    Ok(())
}
