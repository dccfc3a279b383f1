//! `corten image referrers`, `corten image attach`, `corten image artifact`: what refers to an image in its registry.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use corten_engine::Engine;
use corten_engine::image::Beside;
use corten_engine::image::remote::Attachment;
use corten_registry::client::ClientConfig;
use corten_spec::Reference;
use serde_json::{Value, json};

use crate::cli::{Global, value};
use crate::failure::Failure;
use crate::output::template::Format;
use crate::output::{self, table};

/// What of a file is looked at to tell what it is, in bytes.
const HEAD: u64 = 64 << 10;

/// List what refers to an image in its registry: signatures, bills of materials, attestations
///
/// The registry is asked, not the store. Where it does not keep such a list, the one is read that clients keep under a tag.
///
/// Fields of a format: .Digest .ArtifactType .MediaType .Size .Annotations
#[derive(clap::Args)]
pub struct ListArgs {
    /// Only those of this type, such as sbom, attestation, or a media type
    #[arg(long = "type", value_name = "TYPE")]
    sort: Option<String>,
    /// Shape: 'json', a template, or 'table TEMPLATE'
    #[arg(long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// The image: [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    image: String,
}

pub fn list(global: &Global, args: ListArgs) -> Result<(), Failure> {
    let format = Format::new(global.json, args.format.as_deref())?;
    let engine = global.engine()?;
    let image = reference(&args.image)?;
    let (_, mut found) = engine.remote_referrers(&image, None, client(&engine))?;
    if let Some(sort) = &args.sort {
        let types = types(sort);
        found.retain(|r| {
            r.artifact_type
                .as_ref()
                .is_some_and(|t| types.contains(&t.as_str()))
        });
    }
    let items: Vec<Value> = found
        .iter()
        .map(|r| {
            json!({
                "Digest": r.digest, "ArtifactType": r.artifact_type, "MediaType": r.media_type,
                "Size": r.size, "Annotations": r.annotations,
            })
        })
        .collect();
    if format.print(&items)? {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = found
        .into_iter()
        .map(|r| {
            vec![
                r.digest.to_string(),
                r.artifact_type.unwrap_or_default(),
                output::size(r.size),
            ]
        })
        .collect();
    Ok(table::print(&["DIGEST", "TYPE", "SIZE"], &rows)?)
}

/// Attach a file to an image in its registry: a bill of materials, an attestation, anything
///
/// The file becomes an artifact of its own in the image's repository, with the image as its subject: the image itself does not
/// change. Prints the artifact's digest.
///
/// Examples:
///   corten image attach --type sbom sbom.spdx.json registry.example.com/app:1
///   corten image attach --type application/vnd.example.report report.pdf registry.example.com/app:1
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct AttachArgs {
    /// What it is: sbom (SPDX or CycloneDX JSON, told by looking), attestation (in-toto), or a media type
    #[arg(long = "type", value_name = "TYPE")]
    sort: String,
    /// What is said of it
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = value::label)]
    annotations: Vec<(String, String)>,
    /// The file
    file: PathBuf,
    /// The image: [HOST[:PORT]/]PATH[:TAG][@DIGEST]
    image: String,
}

pub fn attach(global: &Global, args: AttachArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let image = reference(&args.image)?;
    let media_type = media_type(&args.sort, &args.file)?;
    let attachment = Attachment {
        artifact_type: media_type.clone(),
        media_type,
        annotations: args.annotations.into_iter().collect::<BTreeMap<_, _>>(),
    };
    let digest = engine.attach_artifact(&image, &args.file, &attachment, client(&engine))?;
    Ok(output::line(digest)?)
}

/// Show an artifact's manifest, or get what it holds
///
/// Examples:
///   corten image artifact registry.example.com/app@sha256:5d0c…
///   corten image artifact --output sbom.json registry.example.com/app@sha256:5d0c…
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ArtifactArgs {
    /// Write its content to this file (- is standard output), or all its contents into this folder
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The artifact: [HOST[:PORT]/]PATH@DIGEST or PATH:TAG
    artifact: String,
}

pub fn artifact(global: &Global, args: ArtifactArgs) -> Result<(), Failure> {
    let engine = global.engine()?;
    let name = reference(&args.artifact)?;
    let artifact = engine.artifact(&name, client(&engine))?;
    let Some(output) = args.output else {
        return Ok(output::json(&artifact.manifest)?);
    };
    // Whatever a tag means by now, this is what was looked at.
    let name = name.with_digest(artifact.digest.clone());
    let folder = output.is_dir();
    if !folder && artifact.files.len() != 1 {
        return Err(Failure::new(
            format!("the artifact holds {} contents", artifact.files.len()),
            "name a folder that is there with --output",
        ));
    }
    for (number, (content, title)) in artifact.files.iter().enumerate() {
        if output.as_os_str() == "-" {
            engine.artifact_content(&name, content, io::stdout(), client(&engine))?;
            continue;
        }
        let path = match folder {
            true => output.join(file_name(title.as_deref(), number)),
            false => output.clone(),
        };
        let new = Beside::create(&path)?;
        engine.artifact_content(&name, content, &new.file, client(&engine))?;
        new.publish()?;
        output::line(path.display())?;
    }
    Ok(())
}

/// A title is a stranger's word: the last part of it, if that is a name, and never a path.
fn file_name(title: Option<&str>, number: usize) -> String {
    let last = title.and_then(|t| t.rsplit('/').next());
    let fine = |n: &&str| {
        !n.is_empty() && !n.starts_with('.') && n.len() <= 200 && !n.contains(char::is_control)
    };
    last.filter(fine)
        .map_or_else(|| format!("content-{number}"), str::to_owned)
}

fn reference(text: &str) -> Result<Reference, Failure> {
    Ok(text
        .parse::<Reference>()
        .map_err(corten_engine::Error::from)?)
}

fn client(engine: &Engine) -> ClientConfig {
    ClientConfig::load(engine.paths().etc())
}

const SPDX: &str = "application/spdx+json";
const CYCLONEDX: &str = "application/vnd.cyclonedx+json";
const IN_TOTO: &str = "application/vnd.in-toto+json";

fn types(sort: &str) -> Vec<&str> {
    match sort {
        "sbom" => vec![SPDX, CYCLONEDX],
        "attestation" => vec![IN_TOTO],
        "signature" => vec![
            "application/vnd.dev.cosign.artifact.sig.v1+json",
            "application/vnd.dev.sigstore.bundle.v0.3+json",
        ],
        media_type => vec![media_type],
    }
}

fn media_type(sort: &str, file: &Path) -> Result<String, Failure> {
    match sort {
        "attestation" => Ok(IN_TOTO.into()),
        "sbom" => {
            let mut head = Vec::new();
            let opened = File::open(file).map_err(corten_engine::Error::io("open", file))?;
            opened.take(HEAD).read_to_end(&mut head)?;
            let head = String::from_utf8_lossy(&head);
            match (
                head.contains("\"spdxVersion\""),
                head.contains("\"bomFormat\""),
            ) {
                (true, _) => Ok(SPDX.into()),
                (_, true) => Ok(CYCLONEDX.into()),
                _ => Err(Failure::new(
                    format!("{} is neither SPDX nor CycloneDX in JSON", file.display()),
                    "name its media type with --type",
                )),
            }
        }
        other
            if other.contains('/') && other.is_ascii() && !other.contains(char::is_whitespace) =>
        {
            Ok(other.into())
        }
        other => Err(Failure::new(
            format!("{other:?} is no type of attachment"),
            "types are sbom, attestation, and media types such as application/json",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_do_not_lead_out() {
        assert_eq!(file_name(Some("sbom.json"), 0), "sbom.json");
        assert_eq!(file_name(Some("a/b/../../etc/passwd"), 0), "passwd");
        for bad in [
            None,
            Some(""),
            Some(".."),
            Some("a/.."),
            Some(".bashrc"),
            Some("x\n"),
        ] {
            assert_eq!(file_name(bad, 3), "content-3");
        }
    }
}
