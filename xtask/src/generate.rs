//! `cargo xtask generate`: documents made from the code, so that each rule stands in one place.
//!
//! What is data in `core` is rendered here; what only the binary knows (configuration, command line, routes)
//! it prints itself by its hidden command `provisor docs`. The results are checked in, so that a change of
//! the contract shows in review, and CI fails when one is stale.

use std::fmt::Write as _;
use std::process::Command;

use provisor_core::error_code;
use provisor_core::event::EventKind;
use provisor_core::lifecycle::{EDGES, State, picture};

use crate::process::must;
use crate::shell::{Done, Failed, cargo, complain, root, say};

/// Whether to write or only to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Write what changed.
    Write,
    /// Fail where something is stale.
    Check,
}

/// Where a document's text comes from.
#[derive(Debug, Clone, Copy)]
enum Source {
    /// Data of `core`, rendered here.
    Core(fn() -> String),
    /// `provisor docs …`.
    Binary(&'static str),
}

const DOCUMENTS: &[(&str, Source)] = &[
    ("docs/generated/lifecycle.md", Source::Core(lifecycle)),
    ("docs/generated/events.md", Source::Core(events)),
    ("docs/generated/errors.md", Source::Core(errors)),
    ("docs/generated/config.md", Source::Binary("config")),
    ("docs/generated/cli.md", Source::Binary("cli")),
    ("docs/openapi.json", Source::Binary("openapi")),
];

/// Makes all documents; goes on after a failure so that one run tells all.
pub(crate) fn run(mode: Mode) -> Done {
    let mut build = Command::new(cargo());
    build.current_dir(root()).args(["build", "--quiet", "--package", "provisor"]);
    let built = must(build).is_ok();
    let mut failed = 0;
    for (path, source) in DOCUMENTS {
        let text = if built || matches!(source, Source::Core(_)) {
            source.text()
        } else {
            Err(Failed::new("the binary does not build"))
        };
        if let Err(why) = text.and_then(|text| keep(path, &text, mode)) {
            complain(&format!("{path}: {}", why.message()));
            failed += 1;
        }
    }
    if failed == 0 { Ok(()) } else { Err(Failed::new(format!("generate: {failed} of {} documents", DOCUMENTS.len()))) }
}

impl Source {
    fn text(self) -> Done<String> {
        match self {
            Self::Core(render) => Ok(render()),
            Self::Binary(what) => printed(what),
        }
    }
}

fn keep(path: &str, text: &str, mode: Mode) -> Done {
    let file = root().join(path);
    if std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if mode == Mode::Check {
        return Err(Failed::new("stale: run `cargo xtask generate` and commit what it changed"));
    }
    let folder = file.parent().unwrap_or(&file);
    std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&file, text)).map_err(|e| Failed::new(e.to_string()))?;
    say(&format!("written: {path}"));
    Ok(())
}

fn head(title: &str, from: &str) -> String {
    format!("# {title}\n\nMade by `cargo xtask generate` from {from}. Do not edit.\n\n")
}

/// What the binary prints of itself.
fn printed(what: &str) -> Done<String> {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["run", "--quiet", "--package", "provisor", "--", "docs", what]);
    let output = command.output().map_err(|e| Failed::new(format!("cargo run: {e}")))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(Failed::new(format!("`provisor docs {what}` failed: {}", told.trim())));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(format!("{}\n", text.trim_end()))
}

fn lifecycle() -> String {
    let mut text = head("Lifecycle of a request", "`crates/core/src/lifecycle.rs`");
    let _ = write!(text, "```mermaid\n{}```\n\n## Transitions\n\nNo other can be stored.\n\n", picture());
    text.push_str("| from | to | when |\n|---|---|---|\n");
    for edge in EDGES {
        let _ = writeln!(text, "| {} | {} | {} |", edge.from.map_or("(new)", State::name), edge.to.name(), edge.when);
    }
    text.push_str("\n## What may be asked in each state\n\n| state | actions |\n|---|---|\n");
    for (name, state) in State::ALL {
        let _ = writeln!(text, "| {name} | {} |", state.allowed_actions().join(", "));
    }
    text
}

fn events() -> String {
    let mut text = head("Events", "`crates/core/src/event.rs`");
    text.push_str("Published events go to followers and count in `sequence`; the others stand only in the timeline.\n");
    for (title, published) in [("Published", true), ("Only in the timeline", false)] {
        let _ = write!(text, "\n## {title}\n\n| type | tells |\n|---|---|\n");
        for kind in EventKind::ALL.iter().filter(|kind| kind.is_published() == published) {
            let _ = writeln!(text, "| `{}` | {} |", kind.name(), kind.meaning());
        }
    }
    text
}

fn errors() -> String {
    let mut text = head("Error codes", "`crates/core/src/error_code.rs`");
    text.push_str("Those with a status are answers of the API; the others stand in a request's `error.code`.\n\n");
    text.push_str("| code | status | may succeed later | what happened | what to do |\n|---|---|---|---|---|\n");
    for code in error_code::all() {
        let status = code.status.map_or(String::new(), |status| status.to_string());
        let retriable = if code.retriable { "yes" } else { "no" };
        let _ = writeln!(text, "| `{}` | {status} | {retriable} | {} | {} |", code.code, code.happened, code.remedy);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lifecycle_names_every_state_and_edge() {
        let text = lifecycle();
        assert!(State::ALL.iter().all(|(name, _)| text.contains(&format!("\n| {name} | "))));
        assert_eq!(text.matches(" --> ").count(), EDGES.len() + 1);
    }

    #[test]
    fn the_errors_are_rows_of_five_columns() {
        let text = errors();
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        assert!(rows.clone().count() == error_code::all().count() && rows.clone().all(|row| row.matches(" |").count() == 5));
    }

    #[test]
    fn the_events_are_all_there_once() {
        let text = events();
        assert!(EventKind::ALL.iter().all(|kind| text.matches(&format!("`{}`", kind.name())).count() == 1));
    }
}
