//! What commands print: tables for people, JSON and YAML for programs, colours only on a terminal.
//!
//! Tables are aligned by a helper of our own: a dependency for padding is not worth its upgrades.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::Value;

use crate::fail::Fail;

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// The API's object.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Where a command prints, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    /// The form.
    pub(crate) format: Format,
    /// Only results, no remarks.
    pub(crate) quiet: bool,
    /// Colours on standard output.
    pub(crate) colour: bool,
}

/// A colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    /// Done.
    Green,
    /// Failed.
    Red,
    /// At work or waiting.
    Yellow,
    /// Less important.
    Dim,
    /// A heading.
    Bold,
}

impl Out {
    /// For this process.
    pub(crate) fn new(format: Format, quiet: bool) -> Self {
        Self {
            format,
            quiet,
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }

    /// Prints text as it is.
    #[allow(clippy::unused_self)] // The one place that prints, whoever asks.
    pub(crate) fn raw(self, text: &str) -> Result<(), Fail> {
        let mut stdout = std::io::stdout().lock();
        // Why any error: nothing can be told to a reader who has gone, and `| head` is no failure.
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|_| Fail::Closed)
    }

    /// Prints a line.
    pub(crate) fn line(self, text: &str) -> Result<(), Fail> {
        self.raw(&format!("{text}\n"))
    }

    /// A remark beside the result, on standard error; not with `-q`.
    pub(crate) fn remark(self, text: &str) {
        if !self.quiet {
            let mut stderr = std::io::stderr().lock();
            // Why ignored: a remark that nobody can read is no failure.
            let _ = writeln!(stderr, "{text}");
        }
    }

    /// Prints a value as JSON or YAML, or what `table` makes for people.
    pub(crate) fn value<T: Serialize>(self, value: &T, table: impl FnOnce() -> String) -> Result<(), Fail> {
        let unreadable = |e: serde_json::Error| Fail::Unreadable(format!("cannot be shown: {e}"));
        match self.format {
            Format::Table => self.raw(&table()),
            Format::Json => self.line(&serde_json::to_string_pretty(value).map_err(unreadable)?),
            Format::Yaml => self.raw(&yaml(value)?),
        }
    }

    /// Paints a text where colours are on.
    pub(crate) fn paint(self, colour: Colour, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match colour {
            Colour::Green => "32",
            Colour::Red => "31",
            Colour::Yellow => "33",
            Colour::Dim => "2",
            Colour::Bold => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }

    /// The colour of a state, a status or a result.
    pub(crate) fn state(self, text: &str) -> String {
        let colour = match text {
            "completed" | "succeeded" | "won" | "online" | "created" | "ok" | "ready" => Colour::Green,
            "failed" | "offline" | "missing" | "owed" | "rejected" => Colour::Red,
            "rolled_back" | "released" | "unchanged" | "pending" | "lost" | "cancelled" => Colour::Dim,
            "" => return String::new(),
            _ => Colour::Yellow,
        };
        self.paint(colour, text)
    }
}

/// As YAML, ending with a newline.
fn yaml<T: Serialize>(value: &T) -> Result<String, Fail> {
    let text = serde_saphyr::to_string(value).map_err(|e| Fail::Unreadable(format!("cannot be shown as YAML: {e}")))?;
    Ok(if text.ends_with('\n') { text } else { text + "\n" })
}

/// Appends formatted text.
pub(crate) fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    use std::fmt::Write as _;
    // Why ignored: a String takes everything.
    let _ = text.write_fmt(arguments);
}

/// Control characters of values that come from elsewhere must not reach a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// A value on one line: texts bare, lists separated by commas.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => clean(text),
        Value::Array(items) => items.iter().map(inline).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| format!("{k}={}", inline(v))).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// A table whose columns are as wide as their contents.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with headings.
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|h| h.to_uppercase()).collect()] }
    }

    /// A table without headings.
    pub(crate) fn bare() -> Self {
        Self::default()
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The aligned text; every row ends with a newline, none with spaces.
    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> =
            (0..columns).map(|i| self.rows.iter().filter_map(|r| r.get(i)).map(|c| width(c)).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, column) in row.iter().zip(&widths) {
                line += cell;
                line += &" ".repeat(column.saturating_sub(width(cell)) + 2);
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Characters that are seen: colour codes are not.
fn width(text: &str) -> usize {
    let mut count = 0;
    let mut hidden = false;
    for c in text.chars() {
        match (hidden, c) {
            (false, '\u{1b}') => hidden = true,
            (true, 'm') => hidden = false,
            (false, _) => count += 1,
            (true, _) => {}
        }
    }
    count
}

/// Seconds for people: `0.4 s`, `12.3 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn seconds(value: f64) -> String {
    let whole = value.max(0.0).round() as u64;
    match whole {
        0..=99 => format!("{:.1} s", value.max(0.0)),
        100..=7199 => format!("{} min {} s", whole / 60, whole % 60),
        7200..=172_799 => format!("{} h {} min", whole / 3600, whole / 60 % 60),
        _ => format!("{} d {} h", whole / 86_400, whole / 3600 % 24),
    }
}

/// The time of day of an RFC 3339 text, to the tenth of a second: `10:00:01.2`.
pub(crate) fn clock(time: &str) -> String {
    let day = time.split_once('T').map_or(time, |(_, t)| t).trim_end_matches('Z');
    match day.split_once('.') {
        Some((whole, fraction)) => format!("{whole}.{}", fraction.chars().next().unwrap_or('0')),
        None if day.is_empty() => String::new(),
        None => format!("{day}.0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_contents() {
        let mut table = Table::new(&["name", "state"]);
        table.row(vec!["a-long-name".to_owned(), "ok".to_owned()]);
        table.row(vec!["\u{1b}[32mb\u{1b}[0m".to_owned(), "failed".to_owned()]);
        assert_eq!(table.render(), "NAME         STATE\na-long-name  ok\n\u{1b}[32mb\u{1b}[0m            failed\n");
    }

    #[test]
    fn spans_are_readable() {
        let expected = [(0.44, "0.4 s"), (12.34, "12.3 s"), (185.0, "3 min 5 s"), (7800.0, "2 h 10 min"), (273_600.0, "3 d 4 h")];
        for (value, text) in expected {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn clocks_are_short() {
        assert_eq!(clock("2026-11-21T10:00:01.234567Z"), "10:00:01.2");
        assert_eq!(clock("2026-11-21T10:00:01Z"), "10:00:01.0");
    }

    #[test]
    fn control_characters_stay_out() {
        assert_eq!(inline(&serde_json::json!({"a": "x\u{1b}[2J", "b": [1, 2], "c": null})), "a=x\u{fffd}[2J b=1, 2");
    }
}
