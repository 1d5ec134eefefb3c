//! `provisor-worlds explore [--faults N]` walks the small worlds; `provisor-worlds strategies [--check]` compares the
//! strategies. Both are called by `cargo xtask`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a tool that tells what it found")]

use std::path::Path;
use std::process::ExitCode;

use provisor_worlds::small::{Property, explore, report, scopes};
use provisor_worlds::strategies::{Model, compare, table, ways};

/// Where the table stands, from this crate.
const TABLE: &str = "../../docs/generated/strategies.md";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["explore"] => small(2),
        ["explore", "--faults", n] => n.parse().map_err(|_| format!("{n} is no number")).and_then(small),
        ["strategies"] => strategies(false),
        ["strategies", "--check"] => strategies(true),
        _ => Err("usage: provisor-worlds explore [--faults N] | strategies [--check]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn small(faults: u32) -> Result<(), String> {
    println!("Properties:");
    for property in Property::ALL {
        println!("  {}", property.sentence());
    }
    let (mut states, mut bad) = (0_u64, 0);
    for scope in scopes(faults) {
        let found = explore(&scope);
        states += u64::from(found.states);
        bad += u32::from(found.violation.is_some() || found.cut);
        print!("{}", report(&scope, &found));
    }
    println!(
        "{states} states in all; {} properties; {bad} worlds with a violation or not walked to the end",
        Property::ALL.len()
    );
    if bad == 0 { Ok(()) } else { Err("a property does not hold, or not all was seen".to_owned()) }
}

fn strategies(check: bool) -> Result<(), String> {
    let model = Model::read().map_err(|e| format!("the model: {e}"))?;
    let mut all: Vec<_> = ways().iter().map(|way| compare(&model, way)).collect();
    let text = table(&model, &mut all);
    println!("{text}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    if check {
        let kept = std::fs::read_to_string(&path).unwrap_or_default();
        return if kept == text { Ok(()) } else { Err(format!("{} is stale: cargo xtask strategies", path.display())) };
    }
    std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}
