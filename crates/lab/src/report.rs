//! Reports: JSON with raw samples for machines, aligned tables for people.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::measure::machine::Provenance;
use crate::measure::stats::Summary;

/// Grows when fields are renamed, retyped or removed.
const SCHEMA: u32 = 1;

#[derive(Serialize)]
struct Report<'a, T> {
    schema: u32,
    command: &'a str,
    /// Arguments of the run, to repeat it.
    arguments: Vec<String>,
    seed: u64,
    machine: &'a Provenance,
    results: &'a T,
}

/// Writes a report as JSON.
pub(crate) fn write<T: Serialize>(
    path: &Path,
    command: &str,
    seed: u64,
    machine: &Provenance,
    results: &T,
) -> Result<()> {
    let arguments = std::env::args().skip(1).collect();
    let report = Report { schema: SCHEMA, command, arguments, seed, machine, results };
    let text = serde_json::to_string_pretty(&report)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Rows of cells under a head; numbers to the right.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table as Markdown, aligned for reading as it is.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.rows.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0).max(3)
            })
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().enumerate() {
                let cell = cell(row, column);
                let pad = " ".repeat(width - cell.chars().count());
                text += &if column == 0 { format!("| {cell}{pad} ") } else { format!("| {pad}{cell} ") };
            }
            text += "|\n";
            if number == 0 {
                for (column, width) in widths.iter().enumerate() {
                    let line = "-".repeat(width + 1);
                    text += &if column == 0 { format!("|{line}-") } else { format!("|{line}:") };
                }
                text += "|\n";
            }
        }
        text
    }
}

/// A number with a sensible count of digits; a dash for what was not measured.
pub(crate) fn number(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// p50, p95, p99 and max as cells.
pub(crate) fn cells(summary: Option<Summary>) -> [String; 4] {
    [summary.map(|s| s.p50), summary.map(|s| s.p95), summary.map(|s| s.p99), summary.map(|s| s.max)]
        .map(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let mut table = Table::new(&["kind", "p50"]);
        table.row(vec!["sigstop".into(), "1234".into()]);
        table.row(vec!["one→way".into(), number(None)]);
        let text = table.render();
        let widths: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
        assert!(text.contains("| sigstop | 1234 |"), "{text}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([Some(0.1234), Some(12.34), Some(1234.5)].map(number), ["0.123", "12.3", "1234"]);
    }
}
