//! `ingest STORE PACKED TAR`: brings the gzip layer in the file PACKED into a store, as slowly as a network would,
//! and prints how many bytes it had to fetch. A process of its own, to be killed and to meet others of its kind.

use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use corten_spec::{Digest, media};
use corten_store::{Begin, LayerDesc, Store};

/// Gives small pieces with pauses between, and counts them.
struct Slow<'a> {
    rest: &'a [u8],
    given: usize,
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        std::thread::sleep(Duration::from_millis(1));
        let n = buffer.len().min(16 << 10);
        let n = self.rest.read(&mut buffer[..n])?;
        self.given += n;
        Ok(n)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [root, packed, tar] = &arguments[..] else {
        return Err("usage: ingest STORE PACKED TAR".into());
    };
    let (packed, tar) = (std::fs::read(packed)?, std::fs::read(tar)?);
    let layer = LayerDesc {
        digest: Digest::of(&packed),
        size: packed.len() as u64,
        media_type: media::OCI_LAYER_GZIP.into(),
        diff_id: Digest::of(&tar),
    };
    let store = Store::open(Path::new(root))?;
    let lease = store.lease("child")?;
    let fetched = match store.begin_layer(&lease, &layer)? {
        Begin::Present(_) => 0,
        Begin::Ingest(ingest) => {
            let rest = &packed[usize::try_from(ingest.offset())?..];
            let mut slow = Slow { rest, given: 0 };
            ingest.run(&mut slow)?;
            slow.given
        }
    };
    println!("fetched {fetched}");
    Ok(())
}
