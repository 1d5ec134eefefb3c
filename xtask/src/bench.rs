//! `cargo xtask bench`: what one request takes, beside what the machine allows (docs/performance.md).
//!
//! Builds the server and the load generator as they ship and runs the one against the other. The JSON is kept in
//! the repository where it is asked for; a look between two commits needs none.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::process::must;
use crate::shell::{Done, Failed, cargo, root};

/// `cargo xtask bench [--keep] [OPTION…]`; other options are the load generator's. With `--stored N` another question:
/// whether so many stored requests slow down what is done with one of them.
pub(crate) fn run(options: &[&str]) -> Done {
    if let Some(at) = options.iter().position(|o| *o == "--stored") {
        let count = options.get(at + 1).ok_or_else(|| Failed::new("--stored needs a number"))?;
        return stored(count, options.contains(&"--keep"));
    }
    let mut build = Command::new(cargo());
    build.current_dir(root()).args(["build", "--profile", "dist", "-p", "provisor", "-p", "provisor-bench"]);
    must(build)?;
    let built = target()?.join("dist");
    let mut bench = Command::new(built.join("provisor-bench"));
    bench.current_dir(root()).arg("run").arg("--provisor").arg(built.join("provisor"));
    if options.contains(&"--keep") {
        bench.arg("--out").arg(root().join("docs/bench/kept.json"));
    }
    bench.args(options.iter().filter(|o| **o != "--keep"));
    must(bench)
}

/// `crates/store/tests/it/stored.rs`, as it ships.
fn stored(count: &str, keep: bool) -> Done {
    let mut test = Command::new(cargo());
    test.current_dir(root()).args(["test", "--release", "-p", "provisor-store", "--test", "it"]);
    test.args(["a_million_stored_requests_are_as_fast_as_ten_thousand", "--", "--ignored", "--nocapture"]);
    test.env("PROVISOR_BENCH_STORED", count);
    // As a server of this size is set up; the default holds a hundredth of it in memory.
    test.env("PGTB_OPTIONS", "-c shared_buffers=512MB -c max_wal_size=8GB");
    if keep {
        test.env("PROVISOR_BENCH_OUT", root().join("docs/bench/stored.json"));
    }
    must(test)
}

/// Where cargo builds to.
fn target() -> Done<PathBuf> {
    let failed = |e: &dyn std::fmt::Display| Failed::new(format!("cargo metadata: {e}"));
    let mut command = Command::new(cargo());
    command.current_dir(root()).args(["metadata", "--format-version", "1", "--no-deps"]);
    let output = command.output().map_err(|e| failed(&e))?;
    let metadata: Value = serde_json::from_slice(&output.stdout).map_err(|e| failed(&e))?;
    let folder = metadata.get("target_directory").and_then(Value::as_str).map(PathBuf::from);
    folder.ok_or_else(|| failed(&"no target_directory"))
}
