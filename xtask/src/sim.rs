//! `cargo xtask sim …`: the deterministic simulator (docs/simulator.md), built to be fast and told what to do.

use std::process::Command;

use crate::process::must;
use crate::shell::{Done, cargo, root};

/// `cargo xtask sim COMMAND …`: what follows is the simulator's own.
pub(crate) fn run(options: &[&str]) -> Done {
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["run", "--quiet", "--release", "-p", "provisor-sim"]);
    // The broken variants are compiled in only where they are asked for.
    if options.first() == Some(&"mutants") {
        command.args(["--features", "mutants"]);
    }
    command.arg("--").args(options);
    must(command)
}
