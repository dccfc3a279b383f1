//! `corten image tree`.

use serde_json::json;

use crate::cli::Global;
use crate::failure::Failure;
use crate::output;

/// Show an image's layers, and which other images end at each
#[derive(clap::Args)]
pub struct Args {
    /// Print whole digests
    #[arg(long)]
    no_trunc: bool,
    /// The image, by name or id
    image: String,
}

pub fn run(global: &Global, args: Args) -> Result<(), Failure> {
    let engine = global.engine()?;
    let image = engine.image(&args.image)?;
    let sizes = engine.layer_sizes(&image)?;
    let all = engine.images()?;
    let mut layers = Vec::new();
    for (i, (layer, size)) in image.layers.iter().zip(&sizes).enumerate() {
        let below: Vec<_> = image.layers[..=i].iter().map(|l| &l.diff_id).collect();
        let mut top_of: Vec<String> = all
            .iter()
            .filter(|o| {
                o.layers
                    .iter()
                    .map(|l| &l.diff_id)
                    .eq(below.iter().copied())
            })
            .map(|o| o.reference.clone())
            .collect();
        top_of.sort();
        layers.push(json!({
            "Id": super::id(&layer.diff_id, args.no_trunc),
            "Digest": layer.digest,
            "Size": size,
            "DownloadSize": layer.size,
            "TopLayerOf": top_of,
        }));
    }
    let names = engine.names_of(&image)?;
    if global.json {
        return Ok(output::json(&json!({
            "Id": image.config, "Tags": names.tags, "Size": sizes.iter().sum::<u64>(), "Layers": layers,
        }))?);
    }
    output::line(format!(
        "Image ID: {}",
        super::id(&image.config, args.no_trunc)
    ))?;
    output::line(format!("Tags:     [{}]", names.tags.join(" ")))?;
    output::line(format!("Size:     {}", output::size(sizes.iter().sum())))?;
    output::line("Image Layers")?;
    for (i, (layer, size)) in layers.iter().zip(&sizes).enumerate() {
        let edge = if i + 1 == layers.len() {
            "└──"
        } else {
            "├──"
        };
        let tops = layer["TopLayerOf"].as_array().into_iter().flatten();
        let tops: Vec<&str> = tops.filter_map(|t| t.as_str()).collect();
        let tops = match tops.is_empty() {
            true => String::new(),
            false => format!(" Top Layer of: [{}]", tops.join(" ")),
        };
        let id = layer["Id"].as_str().unwrap_or_default();
        output::line(format!(
            "{edge} ID: {id} Size: {:>7}{tops}",
            output::size(*size)
        ))?;
    }
    Ok(())
}
