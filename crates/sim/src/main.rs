//! `cargo xtask sim …`: hunting, replaying, shrinking and comparing runs of the simulator (docs/simulator.md).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a tool of the command line")]
#![allow(clippy::disallowed_methods, reason = "it measures wall time and feeds threads; nothing here runs in the product")]

mod hunt;
#[cfg(feature = "mutants")]
mod mutants;

use std::process::ExitCode;

use provisor_sim::plan::Plan;
use provisor_sim::world::{Report, run};
use provisor_sim::{Trace, draw, shrink};

const USAGE: &str = "\
provisor-sim COMMAND
  hunt [--minutes N | --seeds N] [--from SEED] [--threads N]   plays seed after seed; ends at what does not hold
  replay SEED|FILE [--quiet]                                   plays one, with its trace
  shrink SEED|FILE                                             makes a failing one smaller and prints its plan
  meta SEED                                                    plays one in two processes and compares the traces
  mutants [--seeds N]                                          finds every broken variant (feature `mutants`)
  plan SEED                                                    prints a plan";

/// Why a command did not do what it was told.
pub(crate) type Failed = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["hunt", options @ ..] => hunt::hunt(options),
        ["replay", what] => replay(what, true),
        ["replay", what, "--quiet"] => replay(what, false),
        ["shrink", what] => smaller(what),
        ["meta", seed] => meta(seed),
        #[cfg(feature = "mutants")]
        ["mutants", options @ ..] => mutants::find_all(options),
        ["plan", seed] => find(seed).map(|plan| print!("{}", plan.to_text())).map(|()| true),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// The plan of a seed, or one that was kept.
fn find(what: &str) -> Result<Plan, Failed> {
    match what.parse::<u64>() {
        Ok(seed) => Ok(draw::plan(seed)),
        Err(_) => Ok(Plan::parse(&std::fs::read_to_string(what).map_err(|e| format!("{what}: {e}"))?)?),
    }
}

fn replay(what: &str, loud: bool) -> Result<bool, Failed> {
    let plan = find(what)?;
    if loud {
        print!("{}", plan.to_text());
    }
    let report = run(&plan, if loud { Trace::on() } else { Trace::Off })?;
    for line in report.trace.lines() {
        println!("{line}");
    }
    tell(&report);
    Ok(report.breaches.is_empty())
}

pub(crate) fn tell(report: &Report) {
    for breach in &report.breaches {
        println!("{breach}");
    }
    println!(
        "{} requests, {} events, {} commits, {} s of virtual time, {} breaches",
        report.requests,
        report.events,
        report.commits,
        report.virtual_ms / 1000,
        report.breaches.len()
    );
}

fn smaller(what: &str) -> Result<bool, Failed> {
    let plan = find(what)?;
    let report = run(&plan, Trace::Off)?;
    let Some(breach) = report.breaches.first() else {
        println!("nothing fails: there is nothing to make smaller");
        return Ok(true);
    };
    eprintln!("{breach}");
    let (small, runs) = shrink::shrink(&plan, breach.property)?;
    println!("# {}", breach.property.sentence());
    println!("# found by seed {}, made smaller in {runs} runs", plan.seed);
    print!("{}", small.to_text());
    Ok(false)
}

/// Plays one seed in two processes. What differs between them (addresses, random states of maps) must not show.
fn meta(seed: &str) -> Result<bool, Failed> {
    let this = std::env::current_exe()?;
    let play = || std::process::Command::new(&this).args(["replay", seed]).output();
    let (first, second) = (play()?, play()?);
    let (first, second) = (String::from_utf8_lossy(&first.stdout), String::from_utf8_lossy(&second.stdout));
    let differing = first.lines().zip(second.lines()).enumerate().find(|(_, (a, b))| a != b);
    match differing {
        Some((line, (a, b))) => {
            println!("line {} differs:\n  {a}\n  {b}", line + 1);
            Ok(false)
        }
        None if first.len() != second.len() || first.is_empty() => {
            println!("the traces are of {} and {} bytes", first.len(), second.len());
            Ok(false)
        }
        None => {
            println!("the traces are the same: {} lines", first.lines().count());
            Ok(true)
        }
    }
}
