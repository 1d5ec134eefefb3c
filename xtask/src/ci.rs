//! `cargo xtask ci`: what must hold before any test is run. `.ci/run` calls it, then the tests.

use std::process::Command;

use crate::process::must;
use crate::shell::{Done, Failed, cargo, root, timed};
use crate::{generate, tidy};

/// Runs every check, also after one has failed, so that one run tells all.
pub(crate) fn run() -> Done {
    let checks = [
        timed("tidy", tidy::run),
        timed("fmt", || must(command(&["fmt", "--all", "--", "--check", "-l"]))),
        timed("clippy", || must(command(&["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))),
        timed("generate --check", || generate::run(generate::Mode::Check)),
    ];
    let failed: Vec<Failed> = checks.into_iter().filter_map(Result::err).collect();
    failed.iter().for_each(Failed::tell);
    if failed.is_empty() { Ok(()) } else { Err(Failed::new(format!("{} of 4 checks failed", failed.len()))) }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(words);
    command
}
