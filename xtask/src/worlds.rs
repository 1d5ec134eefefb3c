//! `cargo xtask explore` and `cargo xtask strategies`: worlds of core alone, in a release build, as they count millions.

use std::process::Command;

use crate::process::must;
use crate::shell::{Done, cargo, root};

/// Runs one of the tool's commands.
pub(crate) fn run(command: &str, options: &[&str]) -> Done {
    let mut tool = Command::new(cargo());
    tool.current_dir(root()).args(["run", "--quiet", "--release", "--package", "provisor-worlds", "--", command]).args(options);
    must(tool)
}
