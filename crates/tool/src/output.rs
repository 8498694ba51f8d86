//! Writes results to standard output and everything else to standard error. Secrets go only
//! to the place that the arguments name.

use std::io::{self, Write};

/// Writes a result to standard output, with a line end, and flushes it: a key that could not
/// be written is lost.
pub(crate) fn result(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Writes a line for people to standard error. Goes on if that fails.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a warning for people to standard error.
pub(crate) fn warning(text: &str) {
    note(&format!("WARNING: {text}"));
}

/// Formats pairs of label and value, with the values in one column.
pub(crate) fn table(rows: &[(&str, &str)]) -> String {
    let width = rows.iter().map(|(label, _)| label.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows
        .iter()
        .map(|(label, value)| format!("{label:width$}  {value}"))
        .collect();
    lines.join("\n")
}

/// Formats rows under their heads, in columns as wide as their texts.
pub(crate) fn grid(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    let all: Vec<&Vec<String>> = std::iter::once(&heads).chain(rows).collect();
    let width = |column: usize| {
        let cells = all.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    let lines: Vec<String> = all.into_iter().map(line).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "жжж".to_owned(), "x".to_owned()],
            vec!["abcd".to_owned(), String::new(), String::new()],
        ];
        assert_eq!(
            grid(&["ID", "N", "S"], &rows),
            "ID    N    S\na     жжж  x\nabcd"
        );
    }

    #[test]
    fn values_stand_one_below_the_other() {
        let rows = [("key id", "abc"), ("expires at", "never")];
        assert_eq!(table(&rows), "key id      abc\nexpires at  never");
    }
}
