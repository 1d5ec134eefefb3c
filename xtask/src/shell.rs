//! What all commands share: where the checkout is, talking to the person, and the one error type.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Why a command did not succeed, in words for the person who called it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failed(String);

impl Failed {
    /// With this message; an empty one says that everything has been said already.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Writes it to standard error.
    pub(crate) fn tell(&self) {
        if !self.0.is_empty() {
            complain(&format!("xtask: {}", self.0));
        }
    }

    /// The message.
    pub(crate) fn message(&self) -> &str {
        &self.0
    }
}

/// What a command answers.
pub(crate) type Done<T = ()> = Result<T, Failed>;

/// A line for the person. A closed pipe is no reason to stop the work.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A line on standard error.
pub(crate) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// `cargo`, the one that started us.
pub(crate) fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

/// Whether CI runs us: then nothing may be skipped.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

/// Does a part of the work and tells how long it took.
pub(crate) fn timed<T>(name: &str, work: impl FnOnce() -> Done<T>) -> Done<T> {
    say(&format!("== {name}"));
    let start = Instant::now();
    let done = work();
    let word = if done.is_ok() { "done" } else { "FAILED" };
    say(&format!("== {name}: {word} in {:.1} s", start.elapsed().as_secs_f64()));
    done
}

/// Reads a file of the checkout.
pub(crate) fn read(path: &Path) -> Done<String> {
    std::fs::read_to_string(path).map_err(|e| Failed::new(format!("{}: {e}", path.display())))
}
