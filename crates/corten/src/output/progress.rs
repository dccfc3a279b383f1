//! A pull's progress: a bar a layer on a terminal, a line a layer in a pipe. On stderr, since it
//! is talk.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex};

use corten_engine::image::Progress;
use corten_spec::Digest;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Nothing is said.
pub struct Quiet;

impl Progress for Quiet {
    fn layers(&self, _: &[(Digest, u64)]) {}
    fn present(&self, _: &Digest) {}
    fn advanced(&self, _: &Digest, _: u64) {}
    fn done(&self, _: &Digest) {}
}

/// As much as is wanted.
pub fn of(quiet: bool) -> Arc<dyn Progress> {
    match quiet {
        true => Arc::new(Quiet),
        false => Arc::new(Bars::new()),
    }
}

/// Bars or lines, as stderr is.
pub struct Bars {
    terminal: bool,
    all: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
}

impl Bars {
    pub fn new() -> Self {
        let terminal = std::io::stderr().is_terminal();
        let all = MultiProgress::new();
        if !terminal {
            all.set_draw_target(ProgressDrawTarget::hidden());
        }
        Self {
            terminal,
            all,
            bars: Mutex::default(),
        }
    }

    fn with(&self, layer: &Digest, f: impl FnOnce(&ProgressBar)) {
        // A poisoned lock means that another layer's thread panicked; the bars are still good.
        let bars = self
            .bars
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = bars.get(layer) {
            f(bar);
        }
    }

    fn end(&self, layer: &Digest, word: &'static str) {
        self.with(layer, |bar| {
            bar.set_position(bar.length().unwrap_or_default());
            bar.finish_with_message(word);
        });
        if !self.terminal {
            eprintln!("{}: {word}", layer.short());
        }
    }
}

impl Progress for Bars {
    fn layers(&self, layers: &[(Digest, u64)]) {
        // The template is a constant, and right.
        let style = ProgressStyle::with_template(
            "{prefix}  {bar:30}  {bytes:>10}/{total_bytes:<10}  {msg}",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ");
        let mut bars = self
            .bars
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        for (digest, size) in layers {
            let bar = self.all.add(ProgressBar::new(*size));
            bar.set_style(style.clone());
            bar.set_prefix(digest.short().to_owned());
            bar.tick();
            bars.insert(digest.clone(), bar);
        }
    }

    fn present(&self, layer: &Digest) {
        self.end(layer, "already here");
    }

    fn advanced(&self, layer: &Digest, bytes: u64) {
        self.with(layer, |bar| bar.inc(bytes));
    }

    fn done(&self, layer: &Digest) {
        self.end(layer, "done");
    }
}
