//! How the command line fails: three lines on stderr and an exit code.

use std::error::Error as StdError;
use std::process::ExitCode;

use crate::hint;

/// docker's code for a failure of its own, as opposed to the container's.
pub const OURS: u8 = 125;
/// The program is there and cannot be executed.
pub const NOT_EXECUTABLE: u8 = 126;
/// There is no such program.
pub const NO_PROGRAM: u8 = 127;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    error: Box<dyn StdError>,
    hint: Option<String>,
}

impl Failure {
    /// A failure that is no library's: a wrong combination of flags, say.
    pub fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code: OURS,
            error: Box::new(Message(message.into())),
            hint: Some(hint.into()),
        }
    }

    pub fn hinted(error: impl StdError + 'static, hint: impl Into<String>) -> Self {
        Self {
            code: OURS,
            error: Box::new(error),
            hint: Some(hint.into()),
        }
    }

    /// A peer did not answer, so that what is here may do.
    pub fn is_unavailable(&self) -> bool {
        let ours = self.error.downcast_ref::<corten_engine::Error>();
        ours.is_some_and(|e| e.kind() == corten_spec::Kind::Unavailable)
    }

    /// `error:`, `caused by:` for each cause that adds something, `hint:`.
    pub fn report(&self) -> ExitCode {
        // Who read our output has seen enough (`corten inspect x | head`): nothing failed.
        let io = self.error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        let mut text = format!("error: {}\n", one_line(&self.error.to_string()));
        let causes = causes(self.error.as_ref());
        if !causes.is_empty() {
            text.push_str(&format!("caused by: {}\n", causes.join(": ")));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("hint: {hint}\n"));
        }
        eprint!("{text}");
        ExitCode::from(self.code)
    }
}

/// The chain below an error, without what its parent says already.
fn causes(error: &dyn StdError) -> Vec<String> {
    let mut said = one_line(&error.to_string());
    let mut out = Vec::new();
    let mut next = error.source();
    while let Some(e) = next {
        let text = one_line(&e.to_string());
        if !said.contains(&text) {
            out.push(text.clone());
            said = text;
        }
        next = e.source();
    }
    out
}

/// A peer's text must not add lines, or escape sequences, to ours.
fn one_line(text: &str) -> String {
    text.split(|c: char| c.is_control())
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

impl From<corten_engine::Error> for Failure {
    fn from(error: corten_engine::Error) -> Self {
        Self {
            code: hint::exit_code(&error),
            hint: hint::of(&error),
            error: Box::new(error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self {
            code: OURS,
            error: Box::new(error),
            hint: None,
        }
    }
}

#[derive(Debug)]
struct Message(String);

impl std::fmt::Display for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Message {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peers_text_stays_on_its_line() {
        assert_eq!(one_line("a\nb\x1b[31mc\r"), "a b [31mc");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn causes_do_not_repeat_their_parent() {
        let e = Layer(
            "open a: denied",
            Some(Box::new(Layer(
                "denied",
                Some(Box::new(Layer("deep", None))),
            ))),
        );
        assert_eq!(causes(&e), ["deep"]);
    }
}
