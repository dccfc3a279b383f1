//! `check` and `test`: the lists of steps that CI runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::failure::{Context, Result, failure};
use crate::{deny, guest, layers, metadata, packages};

pub fn check() -> Result<()> {
    cargo("fmt", &["fmt", "--all", "--check"])?;
    let graph = metadata::Graph::load()?;
    layers::check(&graph)?;
    deny::check(&graph)?;
    cargo(
        "clippy",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    )
}

pub fn test(args: &[String]) -> Result<()> {
    packages::install(packages::FOR_TESTS)?;
    nextest()?;
    // Test images take about as long as the compiler and use the other core.
    let fixtures = start_fixtures()?;
    let build = cargo(
        "build",
        &["nextest", "run", "--workspace", "--locked", "--no-run"],
    );
    finish_fixtures(fixtures)?;
    build?;
    let mut run = vec!["nextest", "run", "--workspace", "--locked"];
    run.extend(args.iter().map(String::as_str));
    let skipped = skipped()?;
    let here = cargo_with("nextest", &run, Some(&skipped));
    print_skipped(&skipped)?;
    // A guest is for whole runs; it runs after a failure here when all results are wanted.
    let all_results = args.iter().any(|arg| arg == "--no-fail-fast");
    if args.iter().any(|arg| arg != "--no-fail-fast") || (here.is_err() && !all_results) {
        return here;
    }
    let there = guest::test(&guest::Request::of_ci(), guest::Scope::Workspace);
    here.and(there)
}

/// The file to which tests add why they are not done here (`corten_testkit::need`), empty.
fn skipped() -> Result<PathBuf> {
    let file = guest::folder("host")?.join("skipped");
    std::fs::write(&file, "").context(file.display())?;
    Ok(file)
}

fn print_skipped(file: &Path) -> Result<()> {
    let text = std::fs::read_to_string(file).context(file.display())?;
    for line in text.lines() {
        println!("skipped {line}");
    }
    Ok(())
}

pub fn fixtures() -> Result<()> {
    packages::install(packages::FOR_TESTS)?;
    finish_fixtures(start_fixtures()?)
}

/// The OCI layout of one test image, built now if it is not there.
pub fn fixtures_of(image: &str) -> Result<std::path::PathBuf> {
    packages::install(packages::FOR_TESTS)?;
    let out = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--locked",
            "-p",
            "corten-testkit",
            "--bin",
            "corten-fixtures",
            "--",
            image,
        ])
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start corten-fixtures")?;
    let text = String::from_utf8_lossy(&out.stdout);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("fixture {image}: ")));
    let path = line
        .and_then(|line| line.rsplit_once(" ("))
        .map(|(path, _)| path.into());
    path.ok_or_else(|| failure(format!("the test image {image} could not be built")))
}

fn nextest() -> Result<()> {
    let probe = Command::new("cargo-nextest")
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if probe.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    cargo(
        "install cargo-nextest",
        &["install", "cargo-nextest", "--locked"],
    )
}

struct Fixtures {
    child: std::process::Child,
    since: Instant,
}

fn start_fixtures() -> Result<Fixtures> {
    cargo(
        "build fixtures",
        &[
            "build",
            "--quiet",
            "--locked",
            "-p",
            "corten-testkit",
            "--bin",
            "corten-fixtures",
        ],
    )?;
    let child = Command::new(env!("CARGO"))
        .args([
            "run",
            "--quiet",
            "--locked",
            "-p",
            "corten-testkit",
            "--bin",
            "corten-fixtures",
        ])
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start corten-fixtures")?;
    Ok(Fixtures {
        child,
        since: Instant::now(),
    })
}

fn finish_fixtures(mut fixtures: Fixtures) -> Result<()> {
    let status = fixtures
        .child
        .wait()
        .context("cannot wait for corten-fixtures")?;
    if !status.success() {
        return Err(failure("test images could not be built"));
    }
    println!(
        "step fixtures: {:.1} s",
        fixtures.since.elapsed().as_secs_f64()
    );
    Ok(())
}

fn cargo(step: &str, args: &[&str]) -> Result<()> {
    cargo_with(step, args, None)
}

fn cargo_with(step: &str, args: &[&str], skipped: Option<&Path>) -> Result<()> {
    let since = Instant::now();
    println!("step {step}: cargo {}", args.join(" "));
    let status = Command::new(env!("CARGO"))
        .args(args)
        .envs(skipped.map(|file| ("CORTEN_SKIPPED", file)))
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        return Err(failure(format!("step {step} failed")));
    }
    println!("step {step}: {:.1} s", since.elapsed().as_secs_f64());
    Ok(())
}
