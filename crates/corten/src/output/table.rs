//! Columns, padded to the widest cell and two spaces apart.

use std::io::{self, Write};

pub fn print(header: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let rows: Vec<Vec<String>> = rows
        .iter()
        .map(|row| row.iter().map(|cell| harmless(cell)).collect())
        .collect();
    let mut widths: Vec<usize> = header.iter().map(|h| h.len()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = io::stdout().lock();
    let header: Vec<String> = header.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&header).chain(&rows) {
        let mut text = String::new();
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if i + 1 < row.len() {
                text.extend(std::iter::repeat_n(' ', width + 3 - cell.chars().count()));
            }
        }
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(())
}

/// What strangers wrote (a history, a label, a registry's words) goes to a terminal: it must not move the cursor there.
fn harmless(cell: &str) -> String {
    let visible = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    cell.chars().map(visible).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn cells_do_not_steer_a_terminal() {
        assert_eq!(super::harmless("a\x1b[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
    }
}
