//! House tools, called as `cargo xtask …`; the same on a developer's machine and in CI.
//!
//! Rejected: a makefile or shell scripts (counting tests, scanning sources and watching children are
//! programs), and tools to be installed first (nextest, just): a clean checkout with a Rust toolchain is
//! enough.
#![allow(clippy::disallowed_methods, reason = "a tool measures wall time and feeds threads; nothing here runs in the product")]

mod bench;
mod chaos;
mod ci;
mod generate;
mod openstack;
mod process;
mod services;
mod shell;
mod sim;
mod suite;
mod tally;
mod test;
mod tidy;
mod worlds;

use std::process::ExitCode;

use shell::{Failed, say};

const USAGE: &str = "\
cargo xtask COMMAND

  test [--fast] [--services] [--chaos]        all tests, or some stages; the count is on the last line
       [-p PACKAGE]… [-v]                     of some packages; with all that they print
  chaos [--requests N] [--kills N] [--seed N] the real processes under faults and kills (docs/chaos.md)
        [--minutes N] [--calm] [--keep] [--binary PATH]
  bench [--keep] [--systems NAME,…] [--concurrency N,…] [--seconds S] [--rounds N] [--count-flushes]
  bench --stored N [--keep]
                                              requests a second beside the bare floors (docs/performance.md)
  sim hunt [--minutes N | --seeds N] [--from SEED] [--threads N]
      replay|shrink SEED|FILE                 the deterministic simulator (docs/simulator.md)
      meta SEED | mutants [--seeds N]
  ci                                          fmt, clippy, tidy, generate --check
  tidy                                        sizes, crate directions, module docs, banned words, links
  generate [--check]                          docs/generated and docs/openapi.json; --check only compares
  explore [--faults N]                        every interleaving of one request in small worlds
  strategies [--check]                        the strategies side by side: docs/generated/strategies.md
  services up|down|env openstack|postgres     the real services that the tests use; up and env print KEY=VALUE
  openstack shows [NAME]                      fifty servers, fifty kills, every fault of the real one; some of them
  openstack record                            the answers that the tests' double gives, anew";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", options @ ..] => test::run(options),
        ["chaos", options @ ..] => chaos::run(options),
        ["bench", options @ ..] => bench::run(options),
        ["sim", options @ ..] => sim::run(options),
        ["ci"] => ci::run(),
        ["tidy"] => tidy::run(),
        ["generate"] => generate::run(generate::Mode::Write),
        ["generate", "--check"] => generate::run(generate::Mode::Check),
        ["explore", options @ ..] => worlds::run("explore", options),
        ["strategies", options @ ..] => worlds::run("strategies", options),
        ["services", command, name] => services::run(command, name),
        ["openstack", words @ ..] => openstack::run(words),
        [] | ["help" | "-h" | "--help"] => {
            say(USAGE);
            Ok(())
        }
        _ => Err(Failed::new(format!("unknown command\n{USAGE}"))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            failed.tell();
            ExitCode::FAILURE
        }
    }
}
