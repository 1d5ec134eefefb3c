//! A driver that misbehaves like a real one: it fails before, loses the answer after the commit, or is slow.
//!
//! By script, for a test that wants one fault at one operation, or by seed, for a simulator that wants
//! many. Reads lose nothing: there the lost answer is a failure before.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use provisor_core::chance::SplitMix;
use provisor_core::{Chance, Span, Timestamp};

use super::{Driver, Job};
use crate::op::{Mode, OpError};
use crate::tx::Answer;

/// What goes wrong with one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not run; the caller gets `Database`.
    Before,
    /// It is done and committed; the caller gets `Unknown`.
    LostAnswer,
    /// It is done after a pause.
    Delay(Span),
}

/// How often what goes wrong, out of a thousand operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rates {
    /// [`Fault::Before`].
    pub before: u64,
    /// [`Fault::LostAnswer`].
    pub lost: u64,
    /// [`Fault::Delay`], each up to `longest`.
    pub delayed: u64,
    /// The longest pause.
    pub longest: Span,
}

struct Plan {
    script: VecDeque<(Option<&'static str>, Fault)>,
    rates: Rates,
    chance: SplitMix,
}

/// Another driver with faults.
pub struct Faulty {
    inner: Arc<dyn Driver>,
    plan: Mutex<Plan>,
}

impl Faulty {
    /// Without faults, until [`Faulty::next`] or [`Faulty::set_rates`] asks for some.
    pub fn new(inner: Arc<dyn Driver>, seed: u64) -> Self {
        let plan = Plan { script: VecDeque::new(), rates: Rates::default(), chance: SplitMix::new(seed) };
        Self { inner, plan: Mutex::new(plan) }
    }

    /// From now on faults by chance.
    pub fn set_rates(&self, rates: Rates) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).rates = rates;
    }

    /// The next operation (of that name, where one is given) has this fault. Several wait in order.
    pub fn next(&self, name: Option<&'static str>, fault: Fault) {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner).script.push_back((name, fault));
    }

    fn fault(&self, name: &str) -> Option<Fault> {
        let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
        let scripted = plan.script.iter().position(|(wanted, _)| wanted.is_none_or(|w| w == name));
        if let Some(index) = scripted {
            return plan.script.remove(index).map(|(_, fault)| fault);
        }
        let (rates, drawn) = (plan.rates, plan.chance.below(1000));
        if drawn < rates.before {
            return Some(Fault::Before);
        }
        if drawn < rates.before + rates.lost {
            return Some(Fault::LostAnswer);
        }
        if drawn < rates.before + rates.lost + rates.delayed {
            let longest = u64::try_from(rates.longest.0).unwrap_or(0);
            return Some(Fault::Delay(Span(i64::try_from(plan.chance.below(longest)).unwrap_or(0))));
        }
        None
    }
}

impl Driver for Faulty {
    fn run(&self, job: Arc<dyn Job>) -> Answer<'_, ()> {
        Box::pin(async move {
            let (name, mode) = (job.name(), job.mode());
            match self.fault(name) {
                Some(Fault::Before) => Err(OpError::Database(format!("{name}: made to fail"))),
                Some(Fault::LostAnswer) if mode != Mode::Write => Err(OpError::Database(format!("{name}: made to fail"))),
                Some(Fault::LostAnswer) => {
                    self.inner.run(job).await?;
                    Err(OpError::Unknown(format!("{name}: made to lose its answer")))
                }
                Some(Fault::Delay(pause)) => {
                    tokio::time::sleep(pause.to_std()).await;
                    self.inner.run(job).await
                }
                None => self.inner.run(job).await,
            }
        })
    }

    fn now(&self) -> Timestamp {
        self.inner.now()
    }
}
