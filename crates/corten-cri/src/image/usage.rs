//! `ImageFsInfo`: measured when somebody asks, and for a while believed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use corten_engine::Engine;
use corten_engine::image::{Gauge, Occupied};
use tokio::sync::Mutex;
use tonic::Status;

use crate::blocking;
use crate::proto::{FilesystemIdentifier, FilesystemUsage, ImageFsInfoResponse, UInt64Value};

/// How long a measurement is believed, at least.
const FRESH: Duration = Duration::from_secs(10);
/// A measurement that took long is believed so many times as long: looking must not become what the disk does.
const REST: u32 = 20;

#[derive(Default)]
pub(super) struct Usages {
    state: Mutex<State>,
    changed: AtomicBool,
}

#[derive(Default)]
struct State {
    gauge: Gauge,
    last: Option<Measured>,
}

#[derive(Clone, Copy)]
struct Measured {
    at: Instant,
    /// Nanoseconds since 1970.
    clock: i64,
    took: Duration,
    occupied: Occupied,
}

impl Measured {
    fn is_fresh(&self, changed: bool) -> bool {
        let age = self.at.elapsed();
        age < self.took * REST || (age < FRESH && !changed)
    }
}

impl Usages {
    /// An image has come or gone.
    pub fn changed(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// One measures; who asks meanwhile waits for it.
    pub async fn answer(&self, engine: &Arc<Engine>) -> Result<ImageFsInfoResponse, Status> {
        let mut state = self.state.lock().await;
        let changed = self.changed.load(Ordering::Relaxed);
        let measured = match state.last.filter(|m| m.is_fresh(changed)) {
            Some(measured) => measured,
            None => {
                // Before the look: what changes during it counts for the next.
                self.changed.store(false, Ordering::Relaxed);
                let mut gauge = std::mem::take(&mut state.gauge);
                let engine = engine.clone();
                let (gauge, measured) = blocking::run(move || {
                    let measured = measure(&mut gauge, &engine)?;
                    Ok((gauge, measured))
                })
                .await?;
                state.gauge = gauge;
                *state.last.insert(measured)
            }
        };
        drop(state);
        let root = engine.paths().root().to_string_lossy().into_owned();
        let usage = |used: corten_engine::image::Usage| {
            vec![FilesystemUsage {
                timestamp: measured.clock,
                fs_id: Some(FilesystemIdentifier {
                    mountpoint: root.clone(),
                }),
                used_bytes: Some(UInt64Value { value: used.bytes }),
                inodes_used: Some(UInt64Value { value: used.inodes }),
            }]
        };
        Ok(ImageFsInfoResponse {
            image_filesystems: usage(measured.occupied.images),
            container_filesystems: usage(measured.occupied.containers),
        })
    }
}

fn measure(gauge: &mut Gauge, engine: &Engine) -> Result<Measured, corten_engine::Error> {
    let at = Instant::now();
    let occupied = gauge.measure(engine)?;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH);
    Ok(Measured {
        at,
        clock: clock.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)),
        took: at.elapsed(),
        occupied,
    })
}
