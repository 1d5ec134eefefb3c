//! A fixed budget of seeds: 60, on as many threads as there are processors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use provisor_sim::world::run;
use provisor_sim::{Trace, draw};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=60;

#[test]
fn a_budget_of_seeds_holds() {
    let next = AtomicU64::new(*SEEDS.start());
    let wrong = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|s| SEEDS.contains(s)) {
                    let report = run(&draw::plan(seed), Trace::Off).unwrap();
                    wrong.lock().unwrap().extend(report.breaches.first().map(|b| format!("seed {seed}: {b}")));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
