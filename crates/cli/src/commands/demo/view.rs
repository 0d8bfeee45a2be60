//! What the demo shows: lines, and on a terminal a live map below them.

use std::io::{self, IsTerminal, Write};

use super::grid::{self, NEAR, NODES, SIDE};
use crate::output::{self, Paint};

/// What a node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Away,
    Joining,
    Up,
    Stopped,
}

/// Columns from one name to the next.
const CELL: usize = 12;

pub(super) struct View {
    shown: bool,
    live: bool,
    paint: Paint,
    states: [State; NODES],
    path: Vec<usize>,
    note: String,
    /// Lines of the map on the screen now.
    drawn: usize,
}

impl View {
    /// With `shown` false nothing is printed at all.
    pub(super) fn new(shown: bool) -> Self {
        let live = shown && io::stdout().is_terminal();
        let states = [State::Away; NODES];
        Self {
            shown,
            live,
            paint: output::stdout_paint(),
            states,
            path: Vec::new(),
            note: String::new(),
            drawn: 0,
        }
    }

    pub(super) fn state(&mut self, index: usize, state: State) {
        if let Some(slot) = self.states.get_mut(index) {
            *slot = state;
        }
    }

    /// The path that the map shows, as [`super::nodes::Mesh::path`] gives it.
    pub(super) fn path(&mut self, path: &[usize]) {
        self.path = [NEAR].into_iter().chain(path.iter().copied()).collect();
    }

    /// A line that stays.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        if !self.shown {
            return Ok(());
        }
        self.note.clear();
        let mut frame = self.erased();
        frame.push_str(text);
        frame.push('\n');
        self.draw(frame)
    }

    /// A line below the map that the next one replaces; without a terminal it stays.
    pub(super) fn note(&mut self, text: &str) -> io::Result<()> {
        if !self.live {
            return self.say(text);
        }
        self.note = text.to_owned();
        self.redraw()
    }

    pub(super) fn redraw(&mut self) -> io::Result<()> {
        let frame = self.erased();
        self.draw(frame)
    }

    /// Leaves the map as it is and the cursor below it.
    pub(super) fn finish(&mut self) {
        self.drawn = 0;
        self.live = false;
    }

    fn erased(&mut self) -> String {
        let lines = std::mem::take(&mut self.drawn);
        if lines == 0 { String::new() } else { format!("\x1b[{lines}A\x1b[J") }
    }

    fn draw(&mut self, mut frame: String) -> io::Result<()> {
        if self.live {
            let map = self.map();
            self.drawn = map.lines().count();
            frame.push_str(&map);
        }
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }

    fn map(&self) -> String {
        let mut map = String::from("\n");
        for row in 0..SIDE {
            map.push_str("  ");
            for column in 0..SIDE {
                let index = row * SIDE + column;
                map.push_str(&self.node(index));
                if column + 1 < SIDE {
                    let line = "─".repeat(CELL - grid::name(index).len() - 4);
                    map.push_str(&format!(" {} ", self.edge(index, index + 1, &line)));
                }
            }
            map.push('\n');
            if row + 1 < SIDE {
                for column in 0..SIDE {
                    let index = row * SIDE + column;
                    let indent = if column == 0 { 4 } else { CELL - 1 };
                    map.push_str(&" ".repeat(indent));
                    map.push_str(&self.edge(index, index + SIDE, "│"));
                }
                map.push('\n');
            }
        }
        map.push_str(&format!("  {}\n", self.paint.dim(&self.note)));
        map
    }

    fn node(&self, index: usize) -> String {
        let name = grid::name(index);
        match self.states.get(index) {
            Some(State::Stopped) => format!("{} ", self.paint.bad(&format!("{name}✗"))),
            Some(State::Up) if self.path.contains(&index) => self.paint.good(&format!("{name}● ")),
            Some(State::Up) => format!("{name}● "),
            Some(State::Joining) => self.paint.warn(&format!("{name}○ ")),
            _ => self.paint.dim(&format!("{name}  ")),
        }
    }

    fn edge(&self, a: usize, b: usize, line: &str) -> String {
        let on_path = self.path.windows(2).any(|pair| pair == [a, b] || pair == [b, a]);
        if on_path { self.paint.good(line) } else { self.paint.dim(line) }
    }
}
