//! An error with its causes, for where there is one line.

use std::error::Error;

/// Outermost first, without what a cause repeats.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(e) = next {
        let cause = e.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = e.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Told>>,
    }

    fn told(texts: &[&'static str]) -> Option<Box<Told>> {
        let (text, below) = texts.split_first()?;
        let source = told(below);
        Some(Box::new(Told { text, source }))
    }

    #[test]
    fn causes_are_told_once() {
        let all = told(&[
            "cannot start",
            "cannot open x",
            "cannot open x",
            "no such file",
        ]);
        assert_eq!(
            chain(&*all.unwrap()),
            "cannot start: cannot open x: no such file"
        );
    }
}
