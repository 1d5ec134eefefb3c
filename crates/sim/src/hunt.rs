//! Plays seed after seed on several threads until something does not hold or the time is over.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use provisor_sim::world::{Report, run};
use provisor_sim::{Coverage, Trace, draw};

use crate::Failed;

/// A word about the progress this often.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// Failing seeds after which a hunt is over.
const FAILING_AT_MOST: usize = 10;

struct Options {
    minutes: f64,
    seeds: u64,
    from: u64,
    threads: usize,
}

fn options(words: &[&str]) -> Result<Options, Failed> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { minutes: f64::INFINITY, seeds: u64::MAX, from: 1, threads };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match *word {
            "--minutes" => options.minutes = value.parse()?,
            "--seeds" => options.seeds = value.parse()?,
            "--from" => options.from = value.parse()?,
            "--threads" => options.threads = value.parse()?,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    if options.minutes.is_infinite() && options.seeds == u64::MAX {
        options.minutes = 1.0;
    }
    Ok(options)
}

#[derive(Default)]
struct Bag {
    coverage: Coverage,
    played: u64,
    requests: u64,
    troubles: u64,
    virtual_ms: u64,
    failing: Vec<u64>,
    told: Option<Instant>,
}

/// `hunt`: true when everything held.
pub(crate) fn hunt(words: &[&str]) -> Result<bool, Failed> {
    let options = options(words)?;
    let began = Instant::now();
    let next = AtomicU64::new(options.from);
    let bag = Mutex::new(Bag::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = began.elapsed().as_secs_f64() > options.minutes * 60.0;
                    if over || seed - options.from >= options.seeds {
                        return;
                    }
                    let plan = draw::plan(seed);
                    let report = run(&plan, Trace::Off);
                    let mut bag = bag.lock().unwrap_or_else(PoisonError::into_inner);
                    bag.take(seed, plan.troubles.len(), report, began);
                    if bag.failing.len() >= FAILING_AT_MOST {
                        return;
                    }
                }
            });
        }
    });
    let bag = bag.into_inner().unwrap_or_else(PoisonError::into_inner);
    print!("{}", bag.coverage.table());
    let tried = bag.coverage.rows();
    let missing: Vec<String> =
        draw::possible().iter().filter(|row| !tried.contains(row)).map(|(f, o)| format!("{f} at {o}")).collect();
    println!("never tried, of {} that can be: {}", draw::possible().len(), missing.len());
    for row in &missing {
        println!("  {row}");
    }
    println!("{}", bag.line(began));
    if !bag.failing.is_empty() {
        println!("failing seeds: {:?}; look at one with `cargo xtask sim shrink SEED`", bag.failing);
    }
    Ok(bag.failing.is_empty())
}

impl Bag {
    fn take(&mut self, seed: u64, troubles: usize, report: Result<Report, provisor_sim::world::SimError>, began: Instant) {
        self.played += 1;
        self.troubles += troubles as u64;
        match report {
            Ok(report) => {
                self.coverage.add(&report.coverage);
                self.requests += report.requests as u64;
                self.virtual_ms += report.virtual_ms;
                if let Some(breach) = report.breaches.first() {
                    println!("seed {seed}: {breach}");
                    self.failing.push(seed);
                }
            }
            Err(error) => {
                println!("seed {seed}: {error}");
                self.failing.push(seed);
            }
        }
        if self.told.is_none_or(|at| at.elapsed() > TELL_EVERY) {
            self.told = Some(Instant::now());
            println!("{}", self.line(began));
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "for people")]
    fn line(&self, began: Instant) -> String {
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        format!(
            "{} seeds in {minutes:.1} min ({:.0} a minute), {} requests, {} troubles, {} h of virtual time, {} failing",
            self.played,
            self.played as f64 / minutes.max(1e-9),
            self.requests,
            self.troubles,
            self.virtual_ms / 3_600_000,
            self.failing.len()
        )
    }
}
