//! The dependency graph, as `cargo metadata` tells it for this platform.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::failure::{Context, Result, failure};

/// The only platform that Corten is built for today; the graph for another one
/// would list crates that no build of ours compiles.
const PLATFORM: &str = "x86_64-unknown-linux-gnu";

pub struct Graph {
    pub packages: BTreeMap<String, Package>,
}

pub struct Package {
    pub name: String,
    pub version: String,
    pub license: Option<String>,
    pub license_file: Option<String>,
    pub root: PathBuf,
    pub member: bool,
    pub targets: Vec<Target>,
    pub edges: Vec<Edge>,
}

pub struct Target {
    pub name: String,
    pub kind: String,
    pub path: PathBuf,
}

pub struct Edge {
    pub to: String,
    pub kind: EdgeKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum EdgeKind {
    Normal,
    Build,
    Dev,
}

impl Graph {
    pub fn load() -> Result<Graph> {
        let out = Command::new(env!("CARGO"))
            .args([
                "metadata",
                "--format-version=1",
                "--filter-platform",
                PLATFORM,
            ])
            .output()
            .context("cannot run cargo metadata")?;
        if !out.status.success() {
            let text = String::from_utf8_lossy(&out.stderr);
            return Err(failure(format!("cargo metadata failed: {}", text.trim())));
        }
        let value = serde_json::from_slice(&out.stdout).context("cargo metadata is not JSON")?;
        Graph::parse(&value)
    }

    fn parse(value: &Value) -> Result<Graph> {
        let members: BTreeSet<&str> = strings(&value["workspace_members"]).collect();
        let mut packages = BTreeMap::new();
        for package in array(&value["packages"]) {
            let id = text(package, "id")?;
            let member = members.contains(id.as_str());
            packages.insert(id, Package::parse(package, member)?);
        }
        for node in array(&value["resolve"]["nodes"]) {
            let id = text(node, "id")?;
            let package = packages.get_mut(&id).ok_or_else(|| {
                failure(format!(
                    "cargo metadata resolves {id}, and lists it nowhere"
                ))
            })?;
            package.edges = edges(node)?;
        }
        Ok(Graph { packages })
    }

    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| package.member)
    }

    /// Everything reachable from the members named, over edges of the kinds given.
    pub fn closure(&self, roots: &[&str], kinds: &[EdgeKind]) -> BTreeSet<&str> {
        let mut seen = BTreeSet::new();
        let mut queue: Vec<&str> = self
            .packages
            .iter()
            .filter(|(_, package)| package.member && roots.contains(&package.name.as_str()))
            .map(|(id, _)| id.as_str())
            .collect();
        while let Some(id) = queue.pop() {
            if !seen.insert(id) {
                continue;
            }
            let wanted = self.packages[id]
                .edges
                .iter()
                .filter(|edge| kinds.contains(&edge.kind));
            queue.extend(wanted.map(|edge| edge.to.as_str()));
        }
        seen
    }
}

impl Package {
    fn parse(value: &Value, member: bool) -> Result<Package> {
        let manifest = PathBuf::from(text(value, "manifest_path")?);
        Ok(Package {
            name: text(value, "name")?,
            version: text(value, "version")?,
            license: value["license"].as_str().map(str::to_owned),
            license_file: value["license_file"].as_str().map(str::to_owned),
            root: manifest.parent().map(PathBuf::from).unwrap_or_default(),
            member,
            targets: array(&value["targets"])
                .map(Target::parse)
                .collect::<Result<_>>()?,
            edges: Vec::new(),
        })
    }
}

impl Target {
    fn parse(value: &Value) -> Result<Target> {
        let kind = strings(&value["kind"])
            .next()
            .unwrap_or_default()
            .to_owned();
        Ok(Target {
            name: text(value, "name")?,
            kind,
            path: text(value, "src_path")?.into(),
        })
    }
}

fn edges(node: &Value) -> Result<Vec<Edge>> {
    let mut edges = Vec::new();
    for dep in array(&node["deps"]) {
        let to = text(dep, "pkg")?;
        for kind in array(&dep["dep_kinds"]) {
            let kind = match kind["kind"].as_str() {
                None => EdgeKind::Normal,
                Some("build") => EdgeKind::Build,
                Some("dev") => EdgeKind::Dev,
                Some(other) => {
                    return Err(failure(format!(
                        "cargo metadata has a new kind of edge: {other}"
                    )));
                }
            };
            edges.push(Edge {
                to: to.clone(),
                kind,
            });
        }
    }
    Ok(edges)
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    array(value).filter_map(Value::as_str)
}

fn text(value: &Value, key: &str) -> Result<String> {
    value[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| failure(format!("cargo metadata has no text under {key}")))
}
