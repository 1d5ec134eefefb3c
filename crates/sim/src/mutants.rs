//! Proof that the simulator can find anything: each broken variant must be found, on the same seeds.

use provisor_core::mutant::{Mutant, set};
use provisor_sim::world::run;
use provisor_sim::{Trace, draw};

use crate::Failed;

/// Seeds within which each must be found.
const SEEDS: u64 = 1_000;

/// `mutants`: true when every one is found.
pub(crate) fn find_all(words: &[&str]) -> Result<bool, Failed> {
    let seeds = match words {
        [] => SEEDS,
        ["--seeds", n] => n.parse()?,
        _ => return Err("mutants [--seeds N]".into()),
    };
    let mut all = true;
    for mutant in Mutant::ALL {
        set(Some(*mutant));
        let found = find(seeds);
        set(None);
        match found? {
            Some((seed, what)) => println!("{:<16} found by seed {seed}: {what}", mutant.name()),
            None => {
                all = false;
                println!("{:<16} NOT FOUND in {seeds} seeds: {}", mutant.name(), mutant.sentence());
            }
        }
    }
    Ok(all)
}

fn find(seeds: u64) -> Result<Option<(u64, String)>, Failed> {
    for seed in 1..=seeds {
        let report = run(&draw::plan(seed), Trace::Off)?;
        if let Some(breach) = report.breaches.first() {
            return Ok(Some((seed, format!("{} ({})", breach.property.name(), breach.property.sentence()))));
        }
    }
    Ok(None)
}
