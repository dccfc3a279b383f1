//! `corten image diff`.

use corten_engine::image::changes::LayerChanges;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::failure::Failure;
use crate::output;
use crate::output::template::Format;

/// Show what an image's layers add, change and delete
///
/// Without --layer, the topmost one. A: added, C: changed or named again, D: deleted. A deleted folder stands for all in it.
///
/// Fields of a format: .Kind .Path .Size .Layer
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Which layer: its number from the bottom (1 is the first), the beginning of its digest, or 'all'
    #[arg(long, value_name = "LAYER")]
    layer: Option<String>,
    /// Shape: 'json', a template, or 'table TEMPLATE'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// The image, by name or id
    image: String,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let format = Format::new(global.json, args.format.as_deref())?;
    let engine = global.engine()?;
    let image = engine.image(&args.image)?;
    let layers = engine.image_changes(&image)?;
    let chosen = choose(&layers, args.layer.as_deref())?;
    let mut items = Vec::new();
    for layer in &chosen {
        for (change, path, size) in &layer.changes {
            items.push(json!({
                "Kind": change.letter().to_string(),
                "Path": String::from_utf8_lossy(path),
                "Size": size,
                "Layer": layer.digest,
            }));
        }
    }
    if format.print(&items)? {
        return Ok(());
    }
    let mut before = Value::Null;
    for item in &items {
        if chosen.len() > 1 && item["Layer"] != before {
            before = item["Layer"].clone();
            output::line(format!("{}:", before.as_str().unwrap_or_default()))?;
        }
        let text = |key: &str| item[key].as_str().unwrap_or_default().to_owned();
        output::line(format!("{} {}", text("Kind"), text("Path").escape_debug()))?;
    }
    Ok(())
}

fn choose<'a>(
    layers: &'a [LayerChanges],
    wanted: Option<&str>,
) -> Result<Vec<&'a LayerChanges>, Failure> {
    let Some(wanted) = wanted else {
        return Ok(layers.last().into_iter().collect());
    };
    if wanted == "all" {
        return Ok(layers.iter().collect());
    }
    let number = wanted.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    let hex = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let by_digest =
        |l: &&LayerChanges| l.digest.hex().starts_with(hex) || l.diff_id.hex().starts_with(hex);
    let found = number.and_then(|n| layers.get(n)).or_else(|| {
        let long = hex.len() >= 4;
        layers.iter().find(by_digest).filter(|_| long)
    });
    match found {
        Some(layer) => Ok(vec![layer]),
        None => Err(Failure::new(
            format!("the image has no layer {wanted:?}"),
            format!(
                "it has {} layers: a number from 1, the beginning of a digest, or 'all'",
                layers.len()
            ),
        )),
    }
}
