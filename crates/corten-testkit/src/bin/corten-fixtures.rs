//! `corten-fixtures [IMAGE…]`: builds the test images (all but `large`, by default) that are
//! not there yet, and prints where they are. `cargo xtask test` runs it
//! beside the compiler, so that no test's time limit pays for an image.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::Instant;

use corten_testkit::Image;

fn main() -> ExitCode {
    let named: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |image: &Image| match named.is_empty() {
        true => Image::ALL.contains(image),
        false => named.iter().any(|name| name == image.name()),
    };
    let all = Image::ALL.into_iter().chain([Image::Large]);
    for image in all.filter(wanted) {
        let since = Instant::now();
        match image.layout() {
            Ok(layout) => {
                println!(
                    "fixture {}: {} ({:.1} s)",
                    image.name(),
                    layout.folder.display(),
                    since.elapsed().as_secs_f64()
                );
            }
            Err(error) => {
                eprintln!("fixture {}: {}", image.name(), chain(&error));
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
