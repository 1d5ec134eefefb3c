//! What all processes of a run share: the one database, the clouds, the clock, the plan's troubles, and what is seen.
//!
//! Everything runs on one thread, in virtual time. The locks are there because the ports ask for `Sync`; none is held
//! across an await.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use provisor_core::chance::SplitMix;
use provisor_core::{Chance as _, Timestamp};
use provisor_simulation::Simulation;
use provisor_store::driver::Inline;
use provisor_store::{OpenError, Store};
use tokio::time::Instant;

use crate::chance::draw;
use crate::coverage::Coverage;
use crate::node::Life;
use crate::plan::{Moment, Plan, Trouble};
use crate::property::{Breach, Property};
use crate::trace::Trace;
use crate::watch::Watch;

/// Where virtual time begins.
pub(crate) const EPOCH: i64 = 1_795_000_000_000_000;
/// Breaches that one run gathers; one is enough to fail, a few help to understand.
const BREACHES_AT_MOST: usize = 8;

/// The stage of one run.
pub(crate) struct Stage {
    pub(crate) plan: Plan,
    pub(crate) base: Arc<Inline>,
    /// The database without any trouble, for who looks from outside.
    pub(crate) store: Store,
    pub(crate) cloud: Arc<Simulation>,
    pub(crate) began: Instant,
    ahead: Arc<AtomicI64>,
    calm: AtomicBool,
    inner: Mutex<Inner>,
}

pub(crate) struct Inner {
    pub(crate) watch: Watch,
    pub(crate) trace: Trace,
    pub(crate) coverage: Coverage,
    pub(crate) breaches: Vec<Breach>,
    pub(crate) lives: BTreeMap<usize, Arc<Life>>,
    /// Which troubles have happened.
    fired: Vec<bool>,
    /// Crossings by process and operation; calls by cluster and operation.
    counts: BTreeMap<(usize, String), u32>,
    calls: BTreeMap<(String, String), u32>,
    /// Orders that got an answer, and whether it was a yes.
    pub(crate) answered: BTreeMap<usize, bool>,
    /// Every event that the follower's sink took.
    pub(crate) sink: VecDeque<(i64, provisor_core::RequestId)>,
}

impl Stage {
    pub(crate) fn set(plan: &Plan, trace: Trace) -> Result<Arc<Self>, OpenError> {
        let began = Instant::now();
        let ahead = Arc::new(AtomicI64::new(0));
        let real: provisor_store::clock::Clock = Arc::new(move || Timestamp(EPOCH + micros(began.elapsed())));
        let jumping = {
            let (real, ahead) = (Arc::clone(&real), Arc::clone(&ahead));
            Arc::new(move || Timestamp(real().0.saturating_add(ahead.load(Ordering::Relaxed))))
        };
        let base = Arc::new(Inline::in_memory(jumping)?);
        let inner = Inner {
            watch: Watch::default(),
            trace,
            coverage: Coverage::default(),
            breaches: Vec::new(),
            lives: BTreeMap::new(),
            fired: vec![false; plan.troubles.len()],
            counts: BTreeMap::new(),
            calls: BTreeMap::new(),
            answered: BTreeMap::new(),
            sink: VecDeque::new(),
        };
        Ok(Arc::new(Self {
            plan: plan.clone(),
            store: Store::new(Arc::clone(&base) as _),
            base,
            cloud: Simulation::in_memory(real),
            began,
            ahead,
            calm: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual time since the start.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Waits until a time after the start.
    pub(crate) async fn until_ms(&self, at: u64) {
        tokio::time::sleep_until(self.began + Duration::from_millis(at)).await;
    }

    /// A line of the trace; what is in it is put together only where it is kept.
    pub(crate) fn note(&self, line: impl FnOnce() -> String) {
        let now = self.began.elapsed().as_micros();
        self.lock().trace.note(now, line);
    }

    /// Something that must hold does not.
    pub(crate) fn breach(&self, property: Property, what: String) {
        let at_ms = self.now_ms();
        self.note(|| format!("BREACH {} {what}", property.name()));
        let mut inner = self.lock();
        if inner.breaches.len() < BREACHES_AT_MOST {
            inner.breaches.push(Breach { property, what, at_ms });
        }
    }

    /// Nothing goes wrong any more.
    pub(crate) fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
        self.note(|| "calm".to_owned());
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub(crate) fn jump(&self, by_ms: i64) {
        self.ahead.fetch_add(by_ms.saturating_mul(1000), Ordering::Relaxed);
    }

    /// Chance for a purpose of this run.
    pub(crate) fn chance(&self, purpose: &str, number: u64) -> SplitMix {
        draw(self.plan.seed, purpose, number)
    }

    /// A process has come to an operation the so-manieth time.
    pub(crate) fn count(&self, node: usize, operation: &str) -> u32 {
        let mut inner = self.lock();
        let count = inner.counts.entry((node, operation.to_owned())).or_default();
        *count += 1;
        *count
    }

    /// A cluster is called for an operation the so-manieth time.
    pub(crate) fn count_call(&self, cluster: &str, operation: &str) -> u32 {
        let mut inner = self.lock();
        let count = inner.calls.entry((cluster.to_owned(), operation.to_owned())).or_default();
        *count += 1;
        *count
    }

    /// The first trouble that fits and has not happened yet; it happens now.
    pub(crate) fn strike(&self, fits: impl Fn(&Trouble) -> bool) -> Option<&Trouble> {
        if self.is_calm() {
            return None;
        }
        let mut inner = self.lock();
        let (index, trouble) =
            self.plan.troubles.iter().enumerate().find(|(i, t)| !inner.fired.get(*i).copied().unwrap_or(true) && fits(t))?;
        if let Some(fired) = inner.fired.get_mut(index) {
            *fired = true;
        }
        drop(inner);
        self.note(|| format!("trouble {}", serde_json::to_string(trouble).unwrap_or_default()));
        Some(trouble)
    }

    /// The pause of a crossing: mostly none or a moment, so that what is ready at once comes in any order.
    pub(crate) fn pause(&self, purpose: &str, number: u32) -> Duration {
        let mut chance = self.chance(purpose, u64::from(number));
        let micros = match chance.below(16) {
            0..=4 => 0,
            5..=12 => chance.below(2_000),
            13 | 14 => chance.below(20_000),
            _ => chance.below(120_000),
        };
        Duration::from_micros(micros)
    }
}

/// Whether a trouble is to strike a process at this crossing.
pub(crate) fn is_at(at: &Moment, before: bool, operation: &str, count: u32) -> bool {
    match at {
        Moment::Before(name, nth) => before && name == operation && *nth == count,
        Moment::After(name, nth) => !before && name == operation && *nth == count,
        Moment::At(_) => false,
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}
