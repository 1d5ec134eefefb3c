//! What every call to a cluster passes: its circuit breaker, its pause, its slots (SPEC 6.3; H27, H28, H29).
//!
//! The rules are core's; here calls are counted, wait for a slot, and are told to wait longer. A call that ends well
//! costs no write: what was counted goes to the store with the first failure. Between workers the breaker and the pause
//! are shared through the cluster's row, the slots by parts: each worker has its part of `max_in_flight`, anew whenever
//! one comes or goes, so that no call has to ask the store for one. Rejected: slots in a table, two writes a call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use provisor_core::breaker::{Calls, Gate, Verdict};
use provisor_core::bulkhead::{Entry, Limits, Slots, Ticket};
use provisor_core::cluster::Settings;
use provisor_core::workflow::{Call, Task, asks_the_service};
use provisor_core::{ClusterId, Failure, Span, Timestamp};
use provisor_store::OpError;
use provisor_store::Store;
use provisor_store::ops::gate::{AllGates, AtGate, Happened, Passed};
use provisor_store::ops::processes::{Beat, Place};
use provisor_store::ops::save::Context;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Engine;
use crate::registry::Bound;

/// How often what was counted is brought to the store, where something has failed.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// A call that has not been sent waits so long for a slot; then its request waits instead, which costs nothing here.
const IN_LINE: Duration = Duration::from_secs(2);
/// A full cluster is asked again after this, and longer the longer the line is.
const FULL_AGAIN: Span = Span::seconds(1);
const FULL_AGAIN_AT_MOST: Span = Span::seconds(20);
/// The one call of a half-open breaker has its answer within its limit and this.
const PROBE_MARGIN: Span = Span::seconds(5);
/// Refused credentials, in the words of every adapter.
pub(crate) const REFUSED: &str = "credentials_refused";

#[derive(Default)]
struct Local {
    counted: Calls,
    since: Option<Instant>,
    slots: Slots,
    waiters: BTreeMap<Ticket, oneshot::Sender<()>>,
}

/// What this process knows and counts of every cluster.
pub(crate) struct Guard {
    store: Store,
    context: Arc<Context>,
    clusters: Mutex<BTreeMap<ClusterId, Local>>,
    place: Mutex<Place>,
    /// Something has failed that the store is to be told of.
    failed: Notify,
}

/// A call that is being made; it gives its slot back when it ends, however it ends.
pub(crate) struct Pass<'a> {
    guard: &'a Guard,
    cluster: ClusterId,
    urgent: bool,
    max_in_flight: Option<u32>,
    /// Good calls of longer ago say nothing of now.
    remembered: Duration,
    /// It sees whether the breaker may close.
    probes: bool,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if let Some(max) = self.max_in_flight {
            let limits = self.guard.limits(max);
            self.guard.let_in(self.cluster, |slots| slots.leave(limits, self.urgent));
        }
    }
}

/// Somebody who waits for a slot.
struct Waiter<'a> {
    guard: &'a Guard,
    cluster: ClusterId,
    ticket: Option<Ticket>,
    urgent: bool,
    limits: Limits,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let waits = {
            let mut all = self.guard.lock();
            let local = all.entry(self.cluster).or_default();
            local.waiters.remove(&ticket);
            local.slots.give_up(ticket)
        };
        if !waits {
            // It was let in while it gave up: the slot is the next one's.
            self.guard.let_in(self.cluster, |slots| slots.leave(self.limits, self.urgent));
        }
    }
}

impl Guard {
    pub(crate) fn new(store: Store, context: Arc<Context>, alone: bool) -> Self {
        let place = if alone { Place::alone() } else { Place::none() };
        Self { store, context, clusters: Mutex::default(), place: Mutex::new(place), failed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ClusterId, Local>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limits(&self, max_in_flight: u32) -> Limits {
        let place = *self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if place.count == 0 { Limits { ordinary: 0, urgent: 0 } } else { Limits::share(max_in_flight, place.rank, place.count) }
    }

    fn let_in(&self, cluster: ClusterId, change: impl FnOnce(&mut Slots) -> Vec<Ticket>) {
        let mut all = self.lock();
        let local = all.entry(cluster).or_default();
        let mut admitted = change(&mut local.slots);
        while let Some(ticket) = admitted.pop() {
            // One that is gone gives its slot back itself.
            if let Some(waiter) = local.waiters.remove(&ticket) {
                let _ = waiter.send(());
            }
        }
    }

    /// Lets a call in, or says when to ask again. `sent`: it is a look after what has long begun, and waits here.
    pub(crate) async fn enter(
        &self,
        bound: &Bound,
        call: &Call,
        sent: bool,
        limit: Duration,
    ) -> Result<Option<Pass<'_>>, Timestamp> {
        if matches!(&call.task, Task::Perform(work) if asks_the_service(&work.operation)) {
            return Ok(None);
        }
        let now = self.store.now();
        if let Some(held) = self.context.known().holds(call.cluster, call.tenant, call.urgent, now) {
            return Err(held.until);
        }
        let settings = bound.common();
        if let Some(max) = settings.max_in_flight {
            self.slot(call, max, sent).await?;
        }
        let mut pass = self.pass(call, settings);
        let verdict = self.context.known().gates.get(&call.cluster).map_or(Verdict::Go, |g| g.breaker.verdict(self.store.now()));
        match verdict {
            Verdict::Go => {}
            Verdict::NotBefore(until) => return Err(until),
            Verdict::Probe => {
                let within = Span::from_seconds_f64(limit.as_secs_f64()).plus(PROBE_MARGIN);
                let passed = self.at_gate(call.cluster, Happened::Probe(within)).await;
                let Some(passed) = passed else { return Err(now.plus(FULL_AGAIN)) };
                match passed.gate.breaker.verdict(self.store.now()) {
                    // Another worker has closed it meanwhile.
                    Verdict::Go => {}
                    _ if passed.changed => pass.probes = true,
                    Verdict::NotBefore(until) => return Err(until.min(self.store.now().plus(FULL_AGAIN))),
                    Verdict::Probe => return Err(self.store.now().plus(FULL_AGAIN)),
                }
            }
        }
        Ok(Some(pass))
    }

    fn pass(&self, call: &Call, settings: &Settings) -> Pass<'_> {
        let remembered = settings.breaker.window.to_std() / 2;
        let (cluster, urgent, max_in_flight) = (call.cluster, call.urgent, settings.max_in_flight);
        Pass { guard: self, cluster, urgent, max_in_flight, remembered, probes: false }
    }

    /// Takes a slot, in turn.
    async fn slot(&self, call: &Call, max: u32, sent: bool) -> Result<(), Timestamp> {
        let limits = self.limits(max);
        let (sender, receiver) = oneshot::channel();
        let ticket = {
            let mut all = self.lock();
            let local = all.entry(call.cluster).or_default();
            match local.slots.enter(limits, call.tenant, call.urgent, sent) {
                Entry::In => return Ok(()),
                Entry::Full => None,
                Entry::Waits(ticket) => {
                    local.waiters.insert(ticket, sender);
                    Some(ticket)
                }
            }
        };
        let Some(ticket) = ticket else { return Err(self.full(call, limits)) };
        let mut waiter = Waiter { guard: self, cluster: call.cluster, ticket: Some(ticket), urgent: call.urgent, limits };
        let until_deadline = call.deadline.at().since(self.store.now()).to_std();
        let until_send = call.send_by.map_or(until_deadline, |by| by.since(self.store.now()).to_std());
        let patience = if sent { until_deadline } else { IN_LINE.min(until_deadline).min(until_send) };
        if tokio::time::timeout(patience, receiver).await.is_ok_and(|told| told.is_ok()) {
            waiter.ticket = None;
            return Ok(());
        }
        drop(waiter);
        Err(self.full(call, limits))
    }

    /// The line is long: whoever would only stand in it too waits elsewhere (H28).
    fn full(&self, call: &Call, limits: Limits) -> Timestamp {
        let waiting = self.lock().get(&call.cluster).map_or(0, |l| l.slots.waiting());
        let rounds = i64::from(waiting / limits.ordinary.max(1)).saturating_add(1);
        let until = self.store.now().plus(Span(FULL_AGAIN.0.saturating_mul(rounds)).min(FULL_AGAIN_AT_MOST));
        if !call.urgent {
            let now = self.store.now();
            self.context.learn(|known| {
                let full = &mut known.gates.entry(call.cluster).or_default().full;
                full.retain(|_, until| now < *until);
                full.insert(call.tenant, until);
            });
        }
        until
    }

    /// A call has ended; `bad`: in a way that says that the backend is sick.
    pub(crate) async fn ended(&self, pass: Option<Pass<'_>>, bad: bool) {
        let Some(pass) = pass else { return };
        if pass.probes {
            let known = self.at_gate(pass.cluster, Happened::Probed { good: !bad }).await;
            if known.is_some_and(|p| p.changed) {
                info!(cluster = %pass.cluster, good = !bad, "the circuit breaker was half open");
            }
            return;
        }
        let mut all = self.lock();
        let local = all.entry(pass.cluster).or_default();
        let since = *local.since.get_or_insert_with(Instant::now);
        if local.counted.bad == 0 && since.elapsed() > pass.remembered {
            local.counted = Calls::default();
            local.since = Some(Instant::now());
        }
        let count = if bad { &mut local.counted.bad } else { &mut local.counted.good };
        *count = count.saturating_add(1);
        drop(all);
        if bad {
            self.failed.notify_one();
        }
    }

    /// Its credentials were refused twice: nothing is called there until there are others (H29).
    pub(crate) async fn refused(&self, bound: &Bound, call: &Call, failure: &Failure) -> Timestamp {
        let happened = Happened::Refused { version: bound.version(), error: failure.message.clone() };
        if self.at_gate(call.cluster, happened).await.is_some_and(|p| p.changed) {
            warn!(cluster = %bound.spec.name, error = %failure.message, "ALARM: its credentials are refused; the cluster is paused");
        }
        let now = self.store.now();
        self.context.known().holds(call.cluster, call.tenant, call.urgent, now).map_or(now.plus(FULL_AGAIN), |held| held.until)
    }

    /// Tells the store what happened; what it answers is known from now on.
    pub(crate) async fn at_gate(&self, id: ClusterId, happened: Happened) -> Option<Passed> {
        match self.store.run(AtGate { id, happened }).await {
            Ok(passed) => {
                self.know([(id, passed.gate.clone())]);
                Some(passed)
            }
            Err(error) => {
                store_failed!(error, cluster = %id, "what happened at its gate could not be noted");
                None
            }
        }
    }

    /// Gates are so by now; how full they are only this process knows.
    fn know(&self, gates: impl IntoIterator<Item = (ClusterId, Gate)>) {
        self.context.learn(|known| {
            for (id, gate) in gates {
                let entry = known.gates.entry(id).or_default();
                let full = std::mem::take(&mut entry.full);
                *entry = Gate { full, ..gate };
            }
        });
    }

    /// Reads all gates, as other workers have left them.
    pub(crate) async fn follow(&self) -> Result<(), OpError> {
        let all: BTreeMap<_, _> = self.store.run(AllGates).await?.into_iter().collect();
        let known = self.context.known();
        let same = |(id, gate): (&ClusterId, &Gate)| {
            known.gates.get(id).is_some_and(|k| k.breaker == gate.breaker && k.paused == gate.paused)
        };
        if !all.iter().all(same) {
            self.know(all);
        }
        Ok(())
    }

    /// Brings what was counted to the store, where something has failed.
    async fn tell(&self) {
        let mut due = Vec::new();
        for (id, local) in self.lock().iter_mut().filter(|(_, local)| local.counted.bad > 0) {
            due.push((*id, std::mem::take(&mut local.counted)));
            local.since = None;
        }
        for (id, calls) in due {
            if self.at_gate(id, Happened::Calls(calls)).await.is_some_and(|p| p.changed) {
                warn!(cluster = %id, "its circuit breaker opens: too many calls have failed");
            }
        }
    }

    /// Takes this process's part of every cluster's slots.
    async fn take_place(&self, engine: &Engine, until: &mut Instant) {
        let asked = Instant::now();
        let beat = Beat { name: engine.config.worker.clone(), lease: engine.config.lease };
        match self.store.run(beat).await {
            Ok(place) => {
                *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
                *until = asked + engine.config.lease.to_std();
            }
            Err(error) => store_failed!(error, "this process's part of the slots could not be asked for"),
        }
        // H40: a part that may be another's by now is nobody's.
        if Instant::now() >= *until {
            *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Place::none();
        }
        let ids: Vec<ClusterId> = self.lock().keys().copied().collect();
        for id in ids {
            if let Some(max) = engine.registry.get(id).ok().and_then(|b| b.common().max_in_flight) {
                let limits = self.limits(max);
                self.let_in(id, |slots| slots.let_in(limits));
            }
        }
    }
}

pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let every = Span(engine.config.lease.0 / 3).to_std();
    let mut until = Instant::now();
    let mut next = until;
    loop {
        let shares = !engine.config.alone && engine.registry.limits_calls();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = engine.guard.failed.notified() => {
                tokio::time::sleep(TELL_EVERY).await;
                engine.guard.tell().await;
            }
            () = tokio::time::sleep_until(next), if !engine.config.alone => {
                if shares {
                    engine.guard.take_place(&engine, &mut until).await;
                }
                next = Instant::now() + every;
            }
        }
    }
}
