//! Writing to the terminal: JSON lines, colour, progress. A closed pipe is an error value, never a panic.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Writes one JSON object as one line.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Writes one line of text.
pub(crate) fn line(text: impl Display) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Colours, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Paint(bool);

impl Paint {
    #[cfg(test)]
    pub(crate) const NONE: Self = Self(false);

    pub(crate) fn is_coloured(self) -> bool {
        self.0
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.style("32", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.style("33", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.style("1;31", text)
    }

    pub(crate) fn note(self, text: &str) -> String {
        self.style("36", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.style("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.style("2", text)
    }

    fn style(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Colours for stdout: on a terminal, unless `NO_COLOR` (no-color.org) or a dumb terminal says no.
pub(crate) fn stdout_paint() -> Paint {
    Paint(io::stdout().is_terminal() && colour_wanted())
}

/// The same for stderr.
pub(crate) fn stderr_paint() -> Paint {
    Paint(io::stderr().is_terminal() && colour_wanted())
}

fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// A line on stderr that is rewritten as work goes on; nothing at all when stderr is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    shown: bool,
    live: bool,
}

impl Progress {
    /// `wanted` is false with `--json`.
    pub(crate) fn new(wanted: bool) -> Self {
        Self { shown: false, live: wanted && io::stderr().is_terminal() }
    }

    pub(crate) fn show(&mut self, text: &str) {
        if self.live {
            self.shown = true;
            // Progress is a courtesy: failing to show it fails nothing.
            drop(write!(io::stderr(), "\r\x1b[K{text}"));
        }
    }

    /// Takes the line away.
    pub(crate) fn clear(&mut self) {
        if self.shown {
            self.shown = false;
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
