//! What Provisor takes for one request, beside what the machine allows (docs/performance.md).
//!
//! Run by `cargo xtask bench`, which builds both binaries first. `run` starts each system in a process of
//! its own on a fresh folder, drives it over HTTP with so many requests in the air at a time, and writes a
//! table and JSON; `floor` is one of those systems: the bare minimum of HTTP and durable rows.
//!
//! Rejected: a general load tool (it cannot see a request's completion, and takes as much CPU as what is
//! measured), an average over several machines (only ratios of one run on one machine are trusted).
#![allow(clippy::disallowed_methods, reason = "it measures wall time; nothing here runs in the product")]

mod client;
mod floor;
mod load;
mod machine;
mod options;
mod report;
mod system;
mod world;

use std::process::ExitCode;

use options::{Floor, Options};

/// Why the measurement did not come about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BenchError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}: {1}")]
    Io(String, std::io::Error),
    #[error("{0}")]
    Wrong(String),
}

pub(crate) type Done<T = ()> = Result<T, BenchError>;

/// Names what an input or output error was about.
pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BenchError {
    let what = what.into();
    move |error| BenchError::Io(what, error)
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["floor", rest @ ..] => Floor::parse(rest).and_then(|floor| floor::run(&floor)),
        ["run", rest @ ..] => Options::parse(rest).and_then(|options| run(&options)),
        _ => Err(BenchError::Usage(options::USAGE.to_owned())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("bench: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Done {
    // Why one thread: the generator must not take a second core from what it measures.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))?;
    let mut report = report::Report::begin()?;
    let mut systems = Vec::new();
    for name in &options.systems {
        systems.push(system::System::start(*name, options)?);
    }
    // Why in turns: other work on the machine comes and goes, and only what was measured side by side compares.
    for concurrency in &options.concurrency {
        let mut sums: Vec<load::Measured> = systems.iter().map(|_| load::Measured::default()).collect();
        for _ in 0..options.rounds {
            for (system, sum) in systems.iter_mut().zip(&mut sums) {
                sum.add(runtime.block_on(load::measure(system, *concurrency, options))?);
            }
        }
        for (system, sum) in systems.iter().zip(&sums) {
            report.add(system.name, *concurrency, sum);
        }
    }
    for system in systems {
        system.stop()?;
    }
    report.finish(options)
}
