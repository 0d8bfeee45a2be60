//! Aligned columns.

use std::fmt;

use crate::output::Paint;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A table with a dim header; without rows it shows nothing but the header.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<(String, Colour)>>,
    paint: Paint,
}

/// A cell's colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    None,
    Good,
    Warn,
    Bad,
}

impl Table {
    pub(crate) fn new(paint: Paint, columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new(), paint }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| (cell, Colour::None)).collect());
    }

    pub(crate) fn coloured_row(&mut self, cells: Vec<(String, Colour)>) {
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let width = |(index, (title, _)): (usize, &(&str, Align))| {
            let cells = self.rows.iter().filter_map(|row| row.get(index));
            cells.map(|(cell, _)| cell.chars().count()).chain([title.len()]).max().unwrap_or_default()
        };
        self.columns.iter().enumerate().map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let pad = |cell: &str, shown: String, index: usize| {
            let width = widths.get(index).copied().unwrap_or_default();
            let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
            match self.columns.get(index).map(|(_, align)| *align) {
                Some(Align::Right) => format!("{fill}{shown}"),
                _ if index + 1 == self.columns.len() => shown,
                _ => format!("{shown}{fill}"),
            }
        };
        let titles = self.columns.iter().enumerate();
        let titles: Vec<_> =
            titles.map(|(index, (title, _))| pad(title, self.paint.dim(title), index)).collect();
        write!(f, "{}", titles.join("  "))?;
        for row in &self.rows {
            let cells: Vec<_> = row
                .iter()
                .enumerate()
                .map(|(index, (cell, colour))| {
                    let shown = match colour {
                        Colour::None => cell.clone(),
                        Colour::Good => self.paint.good(cell),
                        Colour::Warn => self.paint.warn(cell),
                        Colour::Bad => self.paint.bad(cell),
                    };
                    pad(cell, shown, index)
                })
                .collect();
            write!(f, "\n{}", cells.join("  "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table =
            Table::new(Paint::NONE, &[("NAME", Align::Left), ("MS", Align::Right), ("NOTE", Align::Left)]);
        table.row(vec!["käthe".into(), "1.25".into(), "x".into()]);
        table.row(vec!["bo".into(), "100.00".into(), "long note".into()]);
        assert_eq!(table.to_string(), "NAME       MS  NOTE\nkäthe    1.25  x\nbo     100.00  long note");
    }
}
