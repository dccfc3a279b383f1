//! Rust source as far as a word search needs it: code without comments, strings
//! and character literals.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Context, Result};

/// Every `.rs` file below `root`, without what a build wrote.
pub fn rust_files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut queue = vec![root.to_owned()];
    while let Some(folder) = queue.pop() {
        for entry in fs::read_dir(&folder).context(folder.display())? {
            let entry = entry.context(folder.display())?;
            let path = entry.path();
            let kind = entry.file_type().context(path.display())?;
            if kind.is_dir() && entry.file_name() != "target" {
                queue.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The 1-based line on which `word` stands as a whole word of code.
pub fn first_line_with_word(text: &str, word: &str) -> Option<usize> {
    let code = code(text);
    code.lines()
        .position(|line| {
            line.split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .any(|w| w == word)
        })
        .map(|n| n + 1)
}

/// `text` with comments, strings and character literals replaced by blanks;
/// line breaks stay, so that line numbers hold.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(
                bytes[at..end]
                    .iter()
                    .map(|&b| if b == b'\n' { b'\n' } else { b' ' }),
            );
            at = end;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the comment or literal that starts at `at`, or `at` if none does.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        return at + rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
    }
    if rest.starts_with(b"/*") {
        return at + block_comment(rest);
    }
    if rest[0] == b'"' {
        return at + quoted(rest, b'"');
    }
    if rest[0] == b'r'
        && !at
            .checked_sub(1)
            .is_some_and(|before| word_byte(bytes[before]) && bytes[before] != b'b')
    {
        return at + raw_string(rest);
    }
    if rest[0] == b'\'' {
        return at + character(rest);
    }
    at
}

fn word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn raw_string(rest: &[u8]) -> usize {
    let hashes = rest[1..].iter().take_while(|&&b| b == b'#').count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return 0;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = 2 + hashes;
    let end = rest[body..].windows(close.len()).position(|w| w == close);
    end.map_or(rest.len(), |end| body + end + close.len())
}

/// A character literal; a lifetime is none.
fn character(rest: &[u8]) -> usize {
    match rest.get(1) {
        Some(b'\\') => quoted(rest, b'\''),
        Some(_) => {
            let text = String::from_utf8_lossy(&rest[1..rest.len().min(6)]);
            let width = text.chars().next().map_or(1, char::len_utf8);
            if rest.get(1 + width) == Some(&b'\'') {
                width + 2
            } else {
                0
            }
        }
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_comments_and_literals_are_no_code() {
        let text = "// unsafe\n/* unsafe /* unsafe */ unsafe */\nlet a = \"unsafe \\\" unsafe\";\nlet b = r#\"unsafe \" \"#;\nlet c = 'u';\n";
        assert_eq!(first_line_with_word(text, "unsafe"), None);
    }

    #[test]
    fn a_word_in_code_is_found_on_its_line() {
        let text = "fn a<'a>(x: &'a str) {}\n// unsafe\nlet c = '\"';\nunsafe { b() }\n";
        assert_eq!(first_line_with_word(text, "unsafe"), Some(4));
        assert_eq!(
            first_line_with_word("#![forbid(unsafe_code)]\n", "unsafe"),
            None
        );
        assert_eq!(
            first_line_with_word("#[unsafe(no_mangle)]\n", "unsafe"),
            Some(1)
        );
    }
}
