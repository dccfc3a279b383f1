//! `corten history`.

use serde_json::{Value, json};

use super::id;
use super::ls::{at, since};
use crate::cli::Global;
use crate::failure::Failure;
use crate::output::template::Format;
use crate::output::{self, table};

/// Show how an image came to be, the last step first
///
/// Fields of a format: .ID .CreatedSince .CreatedAt .CreatedBy .Size .Comment
#[derive(clap::Args)]
pub struct Args {
    /// Print whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Sizes and times for people; --human=false prints bytes and time stamps
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    human: bool,
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
    let now = output::now();
    let mut items = Vec::new();
    for (i, step) in engine.image_history(&image)?.into_iter().enumerate() {
        let command = match args.no_trunc {
            true => step.created_by.clone(),
            false => short(&step.created_by),
        };
        items.push(json!({
            "Id": if i == 0 { id(&image.config, args.no_trunc) } else { "<missing>".into() },
            "CreatedSince": since(step.created, now),
            "CreatedAt": at(step.created),
            "CreatedBy": command,
            "Size": if args.human { output::size(step.size) } else { step.size.to_string() },
            "Comment": step.comment,
        }));
    }
    if args.quiet {
        for item in &items {
            output::line(item["Id"].as_str().unwrap_or_default())?;
        }
        return Ok(());
    }
    if format.print(&items)? {
        return Ok(());
    }
    let created = if args.human {
        "CreatedSince"
    } else {
        "CreatedAt"
    };
    let keys = ["Id", created, "CreatedBy", "Size", "Comment"];
    let row = |item: &Value| {
        let cell = |key: &&str| item[*key].as_str().unwrap_or_default().to_owned();
        keys.iter().map(cell).collect()
    };
    let rows: Vec<Vec<String>> = items.iter().map(row).collect();
    let header = ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"];
    Ok(table::print(&header, &rows)?)
}

/// One line of 45 characters, as docker cuts it.
fn short(command: &str) -> String {
    let line = command.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count() > 45 {
        true => line.chars().take(44).chain(['…']).collect(),
        false => line,
    }
}
