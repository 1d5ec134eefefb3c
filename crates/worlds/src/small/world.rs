//! The state of a small world and everything that can happen next in it.
//!
//! Calls are answered before time goes on, in any order; what may come late, or never, is a fault, and of those there is a
//! given number. Time then jumps to the next moment at which something is due. A list shows only what is as old as it may
//! lag behind.

use std::sync::Arc;

use provisor_core::chance::{Chance, SplitMix};
use provisor_core::cluster::{Retry, Settings};
use provisor_core::event::{Actor, Event};
use provisor_core::run::{Admission, Command};
use provisor_core::workflow::{Answer, Call, Found, Made, Planner, Reply, Task};
use provisor_core::{Class, ClusterId, Failure, RequestId, Run, Span, Spec, State, TenantId, Timestamp, budget};

use crate::desk::{Desk, Place};
use crate::store::{Row, Taken};

/// When time begins.
pub(super) const START: Timestamp = Timestamp(1_800_000_000_000_000);
/// How long a create may wait before it is not sent any more.
const SEND_WITHIN: Span = Span::seconds(2);
/// Length of a lease.
pub(super) const LEASE: Span = Span::seconds(5);
/// Workers.
pub(super) const WORKERS: usize = 2;
/// Nothing counts as stuck here: time-outs are faults of their own.
const NEVER_STUCK: Span = Span::seconds(1_000_000);
/// The room of a cluster.
pub(super) const ROOM: u32 = 2;

/// Ids by count, jitter in the middle: what differs is what happens, not the dice.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Chance for Dice {
    fn next_u64(&mut self) -> u64 {
        self.0 += 1;
        SplitMix::new(self.0).next_u64()
    }
    fn fraction(&mut self) -> f64 {
        0.5
    }
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// A worker claims the request.
    Claim(usize),
    /// A call is done and its answer settled.
    Answer(usize),
    /// A worker looks because it was told to, or because it is time.
    Look(usize),
    /// A call passes its limit.
    TimeOut(usize),
    /// Something that was sent long ago is done now.
    Arrive(usize),
    /// Time goes on to the next moment at which something is due.
    Tick,
    /// A frozen worker wakes.
    Thaw(usize),
    /// Fault: a call is done, and its answer lost.
    Lose(usize),
    /// Fault: a call is done late, or not at all; no answer comes.
    Late(usize),
    /// Fault: a worker is frozen beyond its lease, before it has sent what it was about to.
    Freeze(usize),
    /// Fault: the same, with its calls sent; their answers find nobody.
    FreezeSent(usize),
    /// Fault: a worker dies; another takes its place.
    Crash(usize),
    /// Fault: the request is cancelled.
    Cancel,
}

impl Action {
    /// It takes one of the faults that are left.
    pub(super) fn is_fault(self) -> bool {
        matches!(self, Self::Lose(_) | Self::Late(_) | Self::Freeze(_) | Self::FreezeSent(_) | Self::Crash(_) | Self::Cancel)
    }
}

/// A worker's lease.
#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub(super) generation: i64,
    pub(super) wake_at: Timestamp,
    pub(super) frozen: bool,
}

/// A call that a worker waits for.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) worker: usize,
    pub(super) call: Call,
    pub(super) limit: Timestamp,
    /// No answer will come.
    pub(super) silent: bool,
}

/// What may still be done at the backend although nobody waits for it.
#[derive(Debug, Clone)]
pub(super) struct Coming {
    pub(super) call: Call,
    pub(super) until: Timestamp,
}

/// Something at the backend.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) tag: String,
    pub(super) kind: String,
    pub(super) cluster: ClusterId,
    pub(super) since: Timestamp,
}

/// Everything there is.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) now: Timestamp,
    pub(super) row: Row,
    pub(super) holds: [Option<Hold>; WORKERS],
    pub(super) flights: Vec<Flight>,
    pub(super) coming: Vec<Coming>,
    pub(super) objects: Vec<Object>,
    pub(super) places: Vec<Place>,
    pub(super) faults: u32,
    pub(super) dice: Dice,
}

/// Settings under which two tries of everything fit into a few moments.
pub(super) fn settings() -> Settings {
    let deadlines = [("*".to_owned(), Span::seconds(4))].into();
    let retry = Retry { initial: Span::seconds(1), factor: 1.0, cap: Span::seconds(1), max_retries: 1 };
    let (list_lag, late_create) = (Span::seconds(1), Span::seconds(6));
    Settings { retry, deadlines, list_lag, late_create, hedge_after: Span::seconds(2), ..Settings::default() }
}

impl World {
    pub(super) fn new(spec: Spec, clusters: usize, faults: u32) -> Self {
        let mut dice = Dice(0);
        let place = |n: usize| Place {
            id: ClusterId::new(START, &mut dice),
            name: format!("c{n}"),
            settings: settings(),
            room: ROOM,
            budget: budget::FULL,
        };
        let places = (1..=clusters).map(place).collect();
        let admission = Admission {
            id: RequestId::new(START, &mut dice),
            tenant: TenantId::new(START, &mut dice),
            spec,
            regions: vec!["eu".to_owned()],
            policy: None,
            depends_on: Vec::new(),
            must_wait: false,
            retry_of: None,
            actor: Actor::system("world"),
        };
        let row = Row::new(Run::admit(admission, START).0, START);
        let (holds, flights) = ([None, None], Vec::new());
        Self { now: START, row, holds, flights, coming: Vec::new(), objects: Vec::new(), places, faults, dice }
    }

    /// Everything that can happen next.
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut found = self.prompt();
        if found.is_empty() && self.next_moment() < Timestamp::NEVER {
            found.push(Action::Tick);
        }
        found.extend((0..self.coming.len()).map(Action::Arrive));
        found.extend((0..WORKERS).filter(|w| self.holds_frozen(*w)).map(Action::Thaw));
        if self.faults > 0 {
            self.faults_now(&mut found);
        }
        found
    }

    /// What happens before time goes on.
    fn prompt(&self) -> Vec<Action> {
        let mut found = Vec::new();
        if self.row.due <= self.now {
            found.extend((0..WORKERS).filter(|w| self.holds.get(*w).is_some_and(Option::is_none)).map(Action::Claim));
        }
        for worker in 0..WORKERS {
            let Some(hold) = self.hold(worker).filter(|h| !h.frozen) else { continue };
            let called = self.row.attention && self.row.generation == hold.generation;
            if hold.wake_at <= self.now || called {
                found.push(Action::Look(worker));
            }
            for (index, flight) in self.flights.iter().enumerate().filter(|(_, f)| f.worker == worker) {
                if !flight.silent || self.is_dropped(flight) {
                    found.push(Action::Answer(index));
                } else if flight.limit <= self.now {
                    found.push(Action::TimeOut(index));
                }
            }
        }
        found
    }

    fn faults_now(&self, found: &mut Vec<Action>) {
        // What came too late to be sent is not lost on its way (H5).
        let sent = |f: &Flight| !f.silent && f.call.send_by.is_none_or(|by| by >= self.now);
        for (index, flight) in self.flights.iter().enumerate().filter(|(_, f)| sent(f) && !self.holds_frozen(f.worker)) {
            if !self.is_dropped(flight) {
                found.push(Action::Lose(index));
                if has_effect(&flight.call) {
                    found.push(Action::Late(index));
                }
            }
        }
        for worker in (0..WORKERS).filter(|w| self.hold(*w).is_some()) {
            found.push(Action::Crash(worker));
            if !self.holds_frozen(worker) {
                found.push(Action::Freeze(worker));
                if self.flights.iter().any(|f| f.worker == worker && !f.silent && has_effect(&f.call)) {
                    found.push(Action::FreezeSent(worker));
                }
            }
        }
        if !matches!(self.row.run.state, State::RollingBack | State::RolledBack | State::Completed) {
            found.push(Action::Cancel);
        }
    }

    pub(super) fn hold(&self, worker: usize) -> Option<&Hold> {
        self.holds.get(worker).and_then(Option::as_ref)
    }

    fn holds_frozen(&self, worker: usize) -> bool {
        self.hold(worker).is_some_and(|h| h.frozen)
    }

    /// The engine waits no longer for what nobody wants, except for a create that may be sent.
    fn is_dropped(&self, flight: &Flight) -> bool {
        matches!(flight.call.task, Task::Perform(_)) && !creates(&flight.call) && !self.row.run.wants(&flight.call.key)
    }

    fn next_moment(&self) -> Timestamp {
        let healthy =
            self.row.worker.is_some_and(|w| self.hold(w).is_some_and(|h| !h.frozen && h.generation == self.row.generation));
        let due = if healthy { Timestamp::NEVER } else { self.row.due };
        let awake = |w: &usize| !self.holds_frozen(*w);
        let wakes = (0..WORKERS).filter(awake).filter_map(|w| self.hold(w)).map(|h| h.wake_at);
        let limits = self.flights.iter().filter(|f| f.silent && !self.holds_frozen(f.worker)).map(|f| f.limit);
        let windows = self.coming.iter().map(|c| c.until);
        wakes.chain(limits).chain(windows).chain([due]).filter(|at| *at > self.now).min().unwrap_or(Timestamp::NEVER)
    }

    /// Lets something happen. Answers the facts and the calls that came of it.
    pub(super) fn act(&mut self, action: Action, planner: &dyn Planner) -> (Vec<Event>, Vec<Call>) {
        self.faults -= u32::from(action.is_fault());
        match action {
            Action::Claim(worker) => self.claim(worker, planner),
            Action::Look(worker) => self.settle(worker, Vec::new(), planner),
            Action::Answer(index) => {
                let flight = self.flights.remove(index);
                let reply = match flight.call.send_by {
                    _ if self.is_dropped(&flight) => Reply::Dropped,
                    // H5: too late to send.
                    Some(by) if self.now > by => {
                        Reply::Failed(Failure::new(Class::Transient, "not_sent_in_time", "it could not be sent within its lease"))
                    }
                    _ => self.perform(&flight.call),
                };
                self.settle(flight.worker, vec![Answer { key: flight.call.key, reply }], planner)
            }
            Action::TimeOut(index) => {
                let flight = self.flights.remove(index);
                let reply = Reply::TimedOut { last_seen: None, diagnosis: Vec::new() };
                self.settle(flight.worker, vec![Answer { key: flight.call.key, reply }], planner)
            }
            Action::Cancel => self.ask(planner),
            other => {
                self.pass(other);
                (Vec::new(), Vec::new())
            }
        }
    }

    /// What decides nothing.
    fn pass(&mut self, action: Action) {
        match action {
            Action::Arrive(index) => {
                let coming = self.coming.remove(index);
                self.perform(&coming.call);
            }
            Action::Tick => self.tick(),
            Action::Lose(index) => {
                if let Some(call) = self.flights.get(index).map(|f| f.call.clone()) {
                    self.perform(&call);
                }
                self.silence(index);
            }
            Action::Late(index) => {
                if let Some(call) = self.flights.get(index).map(|f| f.call.clone()) {
                    let late = call.send_by.map_or(call.deadline.at(), |by| by.plus(settings().late_create));
                    self.coming.push(Coming { call, until: late });
                }
                self.silence(index);
            }
            Action::Freeze(worker) | Action::FreezeSent(worker) | Action::Thaw(worker) => {
                if let Some(hold) = self.holds.get_mut(worker).and_then(Option::as_mut) {
                    hold.frozen = action != Action::Thaw(worker);
                }
                if action == Action::FreezeSent(worker) {
                    self.send(worker);
                }
            }
            Action::Crash(worker) => self.let_go(worker),
            _ => {}
        }
    }

    fn silence(&mut self, index: usize) {
        if let Some(flight) = self.flights.get_mut(index) {
            flight.silent = true;
        }
    }

    /// What a worker has under way is on the wire, and it does not hear what comes of it. What it was frozen before, and is
    /// too late for by now, it has not sent (H5).
    fn send(&mut self, worker: usize) {
        let now = self.now;
        let in_time = |call: &Call| call.send_by.is_none_or(|by| by >= now);
        for flight in
            self.flights.iter_mut().filter(|f| f.worker == worker && !f.silent && has_effect(&f.call) && in_time(&f.call))
        {
            flight.silent = true;
            let until = flight.call.send_by.map_or(flight.limit, |by| by.plus(flight.call.call_limit));
            self.coming.push(Coming { call: flight.call.clone(), until });
        }
    }

    fn tick(&mut self) {
        self.now = self.next_moment();
        let now = self.now;
        self.coming.retain(|c| c.until >= now);
        for worker in 0..WORKERS {
            let Some(hold) = self.holds.get(worker).and_then(Option::as_ref).filter(|h| !h.frozen) else { continue };
            self.row.extend(worker, hold.generation, now.plus(LEASE));
        }
    }

    /// A worker is gone, or knows that its lease is. What it has sent may still be done.
    fn let_go(&mut self, worker: usize) {
        if let Some(hold) = self.holds.get_mut(worker) {
            *hold = None;
        }
        self.send(worker);
        self.flights.retain(|f| f.worker != worker);
    }

    fn desk<'a>(&'a mut self, planner: &'a dyn Planner, generation: i64) -> (&'a mut Row, Desk<'a>) {
        let desk = Desk {
            places: &mut self.places,
            planner,
            chance: &mut self.dice,
            now: self.now,
            generation,
            send_within: SEND_WITHIN,
            downtime: Span::ZERO,
            stuck_after: NEVER_STUCK,
            known: Arc::default(),
            events: Vec::new(),
        };
        (&mut self.row, desk)
    }

    fn claim(&mut self, worker: usize, planner: &dyn Planner) -> (Vec<Event>, Vec<Call>) {
        let (row, mut desk) = self.desk(planner, 0);
        let taken = row.claim(worker, LEASE, &mut desk);
        let (events, generation) = (desk.events, row.generation);
        let Some(taken) = taken else { return (events, Vec::new()) };
        let calls = self.begin(worker, generation, taken);
        (events, calls)
    }

    fn settle(&mut self, worker: usize, answers: Vec<Answer>, planner: &dyn Planner) -> (Vec<Event>, Vec<Call>) {
        let Some(generation) = self.hold(worker).map(|h| h.generation) else { return (Vec::new(), Vec::new()) };
        let in_flight = self.flights.iter().any(|f| f.worker == worker);
        let (row, mut desk) = self.desk(planner, generation);
        let taken = row.settle(worker, answers, in_flight, LEASE, &mut desk);
        let events = desk.events;
        let Some(taken) = taken else {
            self.let_go(worker);
            return (events, Vec::new());
        };
        let calls = self.begin(worker, generation, taken);
        (events, calls)
    }

    fn begin(&mut self, worker: usize, generation: i64, taken: Taken) -> Vec<Call> {
        if let Some(hold) = self.holds.get_mut(worker) {
            *hold = taken.held.then_some(Hold { generation, wake_at: taken.directive.wake_at, frozen: false });
        }
        for call in &taken.directive.calls {
            let cut = creates(call) || matches!(call.task, Task::Find { .. });
            let limit = if cut { call.deadline.at().min(self.now.plus(call.call_limit)) } else { call.deadline.at() };
            self.flights.push(Flight { worker, call: call.clone(), limit, silent: false });
        }
        taken.directive.calls
    }

    fn ask(&mut self, planner: &dyn Planner) -> (Vec<Event>, Vec<Call>) {
        let (row, mut desk) = self.desk(planner, 0);
        row.ask(Command::Cancel { reason: None }, &mut desk);
        (desk.events, Vec::new())
    }

    /// Does a call at the backend.
    fn perform(&mut self, call: &Call) -> Reply {
        match &call.task {
            Task::Perform(work) if creates(call) => {
                let tag = work.tag.as_ref().map(ToString::to_string).unwrap_or_default();
                let row = self.row.run.ledger.iter().find(|r| r.tag.as_str() == tag);
                let kind = row.map(|r| r.kind.clone()).unwrap_or_default();
                self.objects.push(Object { tag: tag.clone(), kind, cluster: call.cluster, since: self.now });
                Reply::Done(Made { provider_id: Some(tag), ..Made::default() })
            }
            Task::Perform(work) => Reply::Done(Made { provider_id: work.provider_id.clone(), ..Made::default() }),
            Task::Find { tag, .. } => {
                let old = Timestamp(self.now.0 - settings().list_lag.0);
                let seen = self.objects.iter().filter(|o| o.tag == tag.as_str() && o.cluster == call.cluster && o.since <= old);
                Reply::Looked(seen.map(found).collect())
            }
            Task::Release(held) => {
                self.objects.retain(|o| o.tag != held.provider_id || o.cluster != call.cluster);
                Reply::Gone { replaced: false }
            }
        }
    }
}

fn found(object: &Object) -> Found {
    let (kind, provider_id, tag) = (object.kind.clone(), object.tag.clone(), object.tag.clone());
    Found { kind, provider_id, uid: None, tag, age_seconds: None, spoiled: false }
}

/// It makes something that is not there yet.
pub(super) fn creates(call: &Call) -> bool {
    matches!(&call.task, Task::Perform(work) if work.tag.is_some() && work.provider_id.is_none())
}

/// It changes something at the backend.
fn has_effect(call: &Call) -> bool {
    creates(call) || matches!(call.task, Task::Release(_))
}
