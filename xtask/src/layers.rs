//! The shape of the workspace, held: crates use strictly lower layers, `unsafe`
//! lives in corten-sys alone, and the dependency graphs stay small.

use std::collections::BTreeMap;
use std::fs;

use crate::failure::{Context, Result, failure};
use crate::metadata::{EdgeKind, Graph, Package};
use crate::source;

/// The table of ARCHITECTURE.md. A crate that is not here fails the check, so
/// that a new one is placed on purpose.
const LAYERS: &[(&str, u8)] = &[
    ("corten-spec", 0),
    ("corten-sys", 0),
    ("corten-cgroup", 1),
    ("corten-net", 1),
    ("corten-store", 1),
    ("corten-runtime", 2),
    ("corten-registry", 2),
    ("corten-shim", 3),
    ("corten-vm", 4),
    ("corten-engine", 5),
    ("corten-build", 6),
    ("corten-cri", 7),
    ("corten-http", 7),
    ("corten-csi", 7),
    ("corten-functions", 7),
    ("corten-mesh", 7),
    ("corten", 8),
];

/// Crates that never ship: others may use them in tests only.
const DEV: &[&str] = &["corten-testkit", "xtask"];

const UNSAFE_CRATE: &str = "corten-sys";

/// Foreign packages in what a container's init and supervisor are made of.
const SMALL_GRAPH: (&[&str], usize) = (&["corten-runtime", "corten-shim"], 60);
const WORKSPACE_LIMIT: usize = 400;

pub fn check(graph: &Graph) -> Result<()> {
    let mut findings = Vec::new();
    for package in graph.members() {
        direction(graph, package, &mut findings);
        unsafety(package, &mut findings)?;
        walls(package, &mut findings);
    }
    let counts = budgets(graph, &mut findings);
    if findings.is_empty() {
        println!(
            "layers: {} crates in order; {counts}",
            graph.members().count()
        );
        return Ok(());
    }
    Err(failure(format!("layers:\n  {}", findings.join("\n  "))))
}

/// What the hostile suite takes walls down with must be in no build that is not asked for it.
fn walls(package: &Package, findings: &mut Vec<String>) {
    if package.features.iter().any(|feature| feature == "weaken") {
        let name = &package.name;
        findings.push(format!(
            "{name} is built with its feature weaken by default"
        ));
    }
}

fn layer(name: &str) -> Option<u8> {
    let table: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    table.get(name).copied()
}

fn direction(graph: &Graph, package: &Package, findings: &mut Vec<String>) {
    let name = package.name.as_str();
    let dev = DEV.contains(&name);
    let own = layer(name);
    if own.is_none() && !dev {
        findings.push(format!(
            "{name} has no layer: place it in the table of xtask/src/layers.rs"
        ));
        return;
    }
    for edge in package
        .edges
        .iter()
        .filter(|edge| edge.kind != EdgeKind::Dev)
    {
        let to = &graph.packages[&edge.to];
        if !to.member {
            continue;
        }
        if DEV.contains(&to.name.as_str()) && !dev {
            findings.push(format!("{name} uses {} outside its tests", to.name));
        }
        if let (Some(own), Some(theirs)) = (own, layer(&to.name))
            && theirs >= own
        {
            findings.push(format!(
                "{name} (layer {own}) uses {} (layer {theirs})",
                to.name
            ));
        }
    }
}

fn unsafety(package: &Package, findings: &mut Vec<String>) -> Result<()> {
    if package.name == UNSAFE_CRATE {
        return Ok(());
    }
    for target in package
        .targets
        .iter()
        .filter(|target| matches!(target.kind.as_str(), "lib" | "bin"))
    {
        let text = fs::read_to_string(&target.path).context(target.path.display())?;
        if !source::code(&text).contains("#![forbid(unsafe_code)]") {
            findings.push(format!(
                "{} lacks #![forbid(unsafe_code)]",
                target.path.display()
            ));
        }
    }
    // Test binaries are crates of their own, which that attribute does not reach.
    for path in source::rust_files(&package.root)? {
        let text = fs::read_to_string(&path).context(path.display())?;
        if let Some(line) = source::first_line_with_word(&text, "unsafe") {
            findings.push(format!(
                "{}:{line} has unsafe outside {UNSAFE_CRATE}",
                path.display()
            ));
        }
    }
    Ok(())
}

fn budgets(graph: &Graph, findings: &mut Vec<String>) -> String {
    let (roots, limit) = SMALL_GRAPH;
    let foreign = |ids: std::collections::BTreeSet<&str>| {
        ids.iter().filter(|id| !graph.packages[**id].member).count()
    };
    let small = foreign(graph.closure(roots, &[EdgeKind::Normal]));
    if small >= limit {
        findings.push(format!(
            "{} pull in {small} packages; the limit is below {limit}",
            roots.join(" and ")
        ));
    }
    let all = graph.packages.len();
    if all >= WORKSPACE_LIMIT {
        findings.push(format!(
            "the workspace pulls in {all} packages; the limit is below {WORKSPACE_LIMIT}"
        ));
    }
    format!(
        "{} foreign packages under runtime and shim (< {limit}), {all} in all (< {WORKSPACE_LIMIT})",
        small
    )
}
