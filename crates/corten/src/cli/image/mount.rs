//! `corten image mount`, `corten image unmount`.

use serde_json::{Value, json};

use crate::cli::Global;
use crate::failure::Failure;
use crate::output::{self, table};

/// Show an image as a folder on this host
///
/// Mounts its layers, merged and read-only, and prints where. It stays until `image unmount` or a reboot; an image that is mounted
/// already just has its folder printed. Without an image, lists those that are mounted.
#[derive(clap::Args)]
pub struct MountArgs {
    /// Images, by name or id
    images: Vec<String>,
}

/// Take the folder of a mounted image away
#[derive(clap::Args)]
pub struct UnmountArgs {
    /// All that are mounted
    #[arg(short, long, conflicts_with = "images")]
    all: bool,
    /// Images, by name or id
    #[arg(required_unless_present = "all")]
    images: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("image {0} is not mounted")]
struct NotMounted(String);

pub fn mount(global: &Global, args: MountArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    if args.images.is_empty() {
        return list(global);
    }
    let mut mounted = Vec::new();
    for name in &args.images {
        let image = engine.image(name)?;
        let path = engine.mount_image(&image)?;
        match global.json {
            true => mounted.push(json!({"Reference": image.reference, "Path": path})),
            false => output::line(path.display())?,
        }
    }
    match global.json {
        true => Ok(output::json(&mounted)?),
        false => Ok(()),
    }
}

fn list(global: &Global) -> Result<(), Failure> {
    let mounted = global.engine()?.mounted_images()?;
    if global.json {
        let all: Vec<Value> = mounted
            .iter()
            .map(|m| json!({"Reference": m.reference, "Path": m.path}))
            .collect();
        return Ok(output::json(&all)?);
    }
    let rows: Vec<Vec<String>> = mounted
        .iter()
        .map(|m| vec![m.reference.clone(), m.path.display().to_string()])
        .collect();
    Ok(table::print(&["IMAGE", "PATH"], &rows)?)
}

pub fn unmount(global: &Global, args: UnmountArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let images = match args.all {
        true => engine
            .mounted_images()?
            .into_iter()
            .map(|m| m.reference)
            .collect(),
        false => args.images,
    };
    for name in &images {
        match engine.unmount_image(name)? {
            Some(mounted) => output::line(&mounted.reference)?,
            None => {
                return Err(Failure::hinted(
                    NotMounted(name.clone()),
                    "'corten image mount' without a name lists those that are",
                ));
            }
        }
    }
    Ok(())
}
