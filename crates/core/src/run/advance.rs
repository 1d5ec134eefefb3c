//! What to do next: the one decision that every round of a worker asks for.
//!
//! Before: the shell has loaded the run under its lease and settled the answers it has. After: it writes
//! the run and the events in the same transaction, then makes the calls, and looks again at `wake_at`, at
//! an answer, or when somebody rings. Asked twice without anything new, it answers no new calls.

use serde_json::json;

use super::{ActionRun, AttemptState, OperationStatus, RowState, Run, ServiceHealth, Wanted};
use crate::chance::Chance;
use crate::event::{Actor, Event, EventKind};
use crate::failure::{Class, Failure};
use crate::lifecycle::{Outcome, State};
use crate::time::{Span, Timestamp};
use crate::workflow::call::{Call, CallKey};
use crate::workflow::plan::Planner;

/// What a decision needs from outside: time, chance, who decides, and where events go.
pub struct Moment<'a> {
    /// The store's clock (H40).
    pub now: Timestamp,
    /// The lease generation of the worker; answers under another one are not waited for.
    pub generation: i64,
    /// The installation, for tags.
    pub installation: &'a str,
    /// How long a create may wait before it must not be sent any more (H5): shorter than the lease.
    pub send_within: Span,
    /// How long no worker was alive, in all (H12).
    pub downtime: Span,
    /// Stuck limit (SPEC 3.7).
    pub stuck_after: Span,
    /// Plans attempts and actions.
    pub planner: &'a dyn Planner,
    /// Jitter and ids.
    pub chance: &'a mut dyn Chance,
    /// Who decides, where a person does.
    pub actor: Option<Actor>,
    /// What is decided, as facts.
    pub events: &'a mut Vec<Event>,
}

/// What to do now.
#[derive(Debug, Clone, PartialEq)]
pub struct Directive {
    /// Calls to make, all at once.
    pub calls: Vec<Call>,
    /// When to look again if nothing comes before.
    pub wake_at: Timestamp,
    /// A further attempt is wanted: place it in this transaction, or give up.
    pub launch: bool,
}

impl Directive {
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = self.wake_at.min(at);
    }
}

/// A suspend that failed is tried again after this (H14).
const SUSPEND_AGAIN: Span = Span::seconds(900);
/// The reason of a deprovision by the end of a time to live.
const TTL_IS_OVER: &str = "its time to live is over";
/// One decision ends at most so many actions and begins the next: a reactivate that failed, the suspend after it.
const ACTIONS_AT_ONCE: usize = 4;
/// A new holder has its first answer within this, or within the call's own limit where that is longer (H12).
const ASKED_WITHIN: Span = Span::seconds(30);
/// The stuck limit is never shorter than the longest deadline plus this (H12).
const STUCK_MARGIN: Span = Span::seconds(300);

impl ActionRun {
    /// Something of it, or of what it stands for, may have been done.
    fn has_begun(&self) -> bool {
        self.halfway || self.operations.iter().any(|o| !o.tries.is_empty())
    }
}

impl Run {
    /// Decides what to do next.
    pub fn advance(&mut self, m: &mut Moment<'_>) -> Directive {
        let mut d = Directive { calls: Vec::new(), wake_at: Timestamp::NEVER, launch: false };
        self.resume(m);
        if self.state.is_working() {
            self.check_stuck(m);
        }
        if self.state.is_working() {
            for index in 0..self.attempts.len() {
                self.advance_attempt(index, m, &mut d);
            }
            if self.state.is_working() && !self.attempts.iter().any(|a| a.state == AttemptState::Running) {
                if self.may_launch() {
                    d.launch = self.follows_now(m, &mut d);
                } else {
                    let failure = self.error.clone().unwrap_or_else(|| Failure::new(Class::Permanent, "failed", "it failed"));
                    self.give_up(failure, m);
                }
            }
        }
        if self.state.is_standing() {
            self.pursue(m, &mut d);
        }
        self.advance_rows(m, &mut d);
        self.conclude(m);
        if self.state.is_working() && !d.launch {
            d.wake(self.stuck_at(m));
        }
        d
    }

    /// Calls handed out under an earlier lease are asked for anew; a create among them is in doubt.
    fn resume(&mut self, m: &mut Moment<'_>) {
        let mut asked: Option<Span> = None;
        for row in &mut self.ledger {
            if row.busy.is_some_and(|g| g != m.generation) {
                row.busy = None;
                row.in_doubt |= row.provider_id.is_none() && row.state == RowState::Intended;
                asked = asked.max(Some(ASKED_WITHIN));
            }
        }
        let doubtful: Vec<_> = self.ledger.iter().filter(|r| r.in_doubt && r.provider_id.is_none()).map(|r| r.id).collect();
        let operations = self.attempts.iter_mut().flat_map(|a| &mut a.operations);
        for operation in operations.chain(self.action.iter_mut().flat_map(|a| &mut a.operations)) {
            if operation.status != OperationStatus::Running || operation.generation == m.generation {
                continue;
            }
            asked = asked.max(Some(ASKED_WITHIN.max(operation.planned.call_limit)));
            operation.status = if operation.row.is_some_and(|r| doubtful.contains(&r)) {
                OperationStatus::Looking
            } else {
                OperationStatus::Waiting
            };
            operation.next_at = Some(m.now);
        }
        if let Some(within) = asked {
            self.progress.not_before = self.progress.not_before.max(m.now.plus(within));
        }
    }

    /// When it counts as stuck if nothing moves until then (H12); never while a person is waited for.
    fn stuck_at(&self, m: &Moment<'_>) -> Timestamp {
        if self.awaits_person() {
            return Timestamp::NEVER;
        }
        let operations = || self.attempts.iter().filter(|a| a.state == AttemptState::Running).flat_map(|a| &a.operations);
        let longest = operations().map(|o| o.deadline).max().unwrap_or(Span::ZERO);
        let limit = m.stuck_after.max(longest.plus(STUCK_MARGIN));
        let downtime = Span((m.downtime.0 - self.progress.downtime.0).max(0));
        // A look or a release that is under way is waited for: its answer may be the end of a long silence.
        let asked = self.ledger.iter().filter(|r| r.busy.is_some()).filter_map(|r| r.asked_at).max();
        let asked = asked.map_or(self.progress.at, |at| at.plus(ASKED_WITHIN));
        self.progress.at.plus(limit).plus(downtime).max(self.progress.not_before).max(asked)
    }

    fn check_stuck(&mut self, m: &mut Moment<'_>) {
        // Why: nothing fires before the provider was asked once; what begins now is progress in itself.
        let asks = self.undoes_now(m) || (0..self.attempts.len()).any(|i| self.begins_now(i, m));
        if asks || m.now < self.stuck_at(m) {
            return;
        }
        let text = format!("no progress for {:.0} s", m.now.since(self.progress.at).as_seconds_f64());
        let mut failure = Failure::new(Class::Transient, "stuck", text);
        failure.at = Some(m.now);
        failure.step = self.leading().map(|a| a.current_step().name().to_owned());
        for index in 0..self.attempts.len() {
            self.end_attempt(index, AttemptState::Failed, Some(failure.clone()), m);
        }
        self.give_up(failure, m);
    }

    /// Brings a service that stands to what is wanted of it (H13).
    fn pursue(&mut self, m: &mut Moment<'_>, d: &mut Directive) {
        self.check_ttl(m, d);
        // Why again: the end of one action may call for the next at once, as a failed reactivate does (H14).
        for _ in 0..ACTIONS_AT_ONCE {
            if !self.pursue_once(m, d) {
                return;
            }
        }
    }

    /// True when an action ended.
    fn pursue_once(&mut self, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        let superseded = self.action.as_ref().is_some_and(|a| a.status == "running" && !self.action_wanted(&a.name));
        if superseded {
            if self.action_in_flight(m) {
                return false;
            }
            self.end_action(Some(Failure::new(Class::Transient, "superseded", "another action was asked for")), m);
        }
        match (self.wanted, self.state) {
            (Wanted::Gone, _) => {
                self.outcome = Some(Outcome::Deprovisioned);
                self.start_action("deprovision", m);
                self.begin_rollback(m);
                false
            }
            (Wanted::Suspended, State::Completed) => self.pursue_action("suspend", m, d),
            (Wanted::Running, State::Suspended) => self.pursue_action("reactivate", m, d),
            // A failed reactivate is stopped again (H14), and what a suspend may have stopped is started again (H13).
            (Wanted::Suspended, State::Suspended) if self.is_halfway("reactivate", "suspend") => {
                self.pursue_action("suspend", m, d)
            }
            (Wanted::Running, State::Completed) if self.is_halfway("suspend", "reactivate") => {
                self.pursue_action("reactivate", m, d)
            }
            _ => false,
        }
    }

    fn action_in_flight(&self, m: &Moment<'_>) -> bool {
        let in_flight = |o: &super::Operation| o.status == OperationStatus::Running && o.generation == m.generation;
        self.action.as_ref().is_some_and(|a| a.operations.iter().any(in_flight))
    }

    fn check_ttl(&mut self, m: &mut Moment<'_>, d: &mut Directive) {
        let (Some(ttl), Some(ready)) = (self.spec.ttl_seconds, self.ready_at) else { return };
        let end = ready.plus(Span::from_seconds_f64(ttl));
        if m.now < end {
            d.wake(end);
            return;
        }
        if self.wanted != Wanted::Gone {
            self.wanted = Wanted::Gone;
            self.reason = Some(TTL_IS_OVER.to_owned());
        }
        // Also when a call had to end first: the reason says who ended it.
        if self.reason.as_deref() == Some(TTL_IS_OVER) {
            m.actor = Some(Actor::system("ttl"));
        }
    }

    fn action_wanted(&self, name: &str) -> bool {
        matches!(
            (name, self.wanted),
            ("suspend", Wanted::Suspended) | ("reactivate", Wanted::Running) | ("deprovision", Wanted::Gone)
        )
    }

    /// `action` was given up after it had begun, or what undoes it has not succeeded yet.
    fn is_halfway(&self, action: &str, undoes: &str) -> bool {
        self.action.as_ref().is_some_and(|a| {
            (a.name == action && a.status == "failed" && a.has_begun()) || (a.name == undoes && a.status != "succeeded")
        })
    }

    pub(super) fn start_action(&mut self, name: &str, m: &Moment<'_>) {
        let already = self.action.as_ref().is_some_and(|a| a.name == name && a.status == "running");
        if already {
            return;
        }
        let halfway = self.action.as_ref().is_some_and(|a| a.status != "succeeded" && a.has_begun());
        self.action = Some(ActionRun {
            name: name.to_owned(),
            status: "running".to_owned(),
            reason: self.reason.clone(),
            started_at: m.now,
            finished_at: None,
            error: None,
            operations: Vec::new(),
            next_at: None,
            halfway,
        });
    }

    /// True when the action ended.
    fn pursue_action(&mut self, name: &str, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        let failed = self.action.as_ref().filter(|a| a.name == name && a.status == "failed").and_then(|a| a.next_at);
        if let Some(next) = failed.filter(|n| *n > m.now) {
            d.wake(next);
            return false;
        }
        self.start_action(name, m);
        if let Err(failure) = self.plan_action(name, m) {
            self.end_action(Some(failure), m);
            return true;
        }
        let failed = |a: &ActionRun| a.operations.iter().find(|o| o.status == OperationStatus::Failed).cloned();
        if let Some(failed) = self.action.as_ref().and_then(failed) {
            // No other action may begin before what is still under way for this one has ended (H13).
            if self.action_in_flight(m) {
                return false;
            }
            let error = failed.tries.last().and_then(|t| t.error.clone());
            self.end_action(error.or_else(|| Some(Failure::new(Class::Transient, "action_failed", "it failed"))), m);
            return true;
        }
        self.advance_action(m, d);
        let done = |a: &ActionRun| a.operations.iter().all(|o| o.status == OperationStatus::Succeeded);
        let done = self.action.as_ref().is_some_and(done);
        if done {
            self.end_action(None, m);
        }
        done
    }

    fn plan_action(&mut self, name: &str, m: &Moment<'_>) -> Result<(), Failure> {
        let Some(winner) = self.winner.and_then(|w| self.attempts.iter().find(|a| a.id == w)) else { return Ok(()) };
        let Some(action) = self.action.as_mut().filter(|a| a.operations.is_empty()) else { return Ok(()) };
        let plan = m.planner.plan_action(winner.cluster, name, &self.spec)?;
        action.operations = plan.operations.into_iter().map(|p| super::attempt::operation(p, &winner.settings)).collect();
        Ok(())
    }

    fn end_action(&mut self, error: Option<Failure>, m: &mut Moment<'_>) {
        let Some(action) = &mut self.action else { return };
        action.finished_at = Some(m.now);
        if error.is_none() { "succeeded" } else { "failed" }.clone_into(&mut action.status);
        action.error.clone_from(&error);
        let suspend = action.name == "suspend";
        let detail = json!({"action": action.name, "reason": action.reason});
        let superseded = error.as_ref().is_some_and(|e| e.code == "superseded");
        if suspend && error.is_some() && !superseded {
            action.next_at = Some(m.now.plus(SUSPEND_AGAIN));
        }
        if superseded {
            return;
        }
        let kind = match (suspend, error.is_none()) {
            (true, true) => EventKind::Suspended,
            (true, false) => EventKind::SuspendFailed,
            (false, true) => EventKind::Reactivated,
            (false, false) => EventKind::ReactivateFailed,
        };
        let mut event = Event { error: error.clone(), detail, ..Event::new(kind) };
        match error {
            None => {
                self.enter(if suspend { State::Suspended } else { State::Completed }, &mut event);
                self.health = None;
            }
            Some(e) => {
                self.health = Some(ServiceHealth { state: "degraded".to_owned(), detail: Some(e.message), at: m.now });
                if !suspend {
                    self.wanted = Wanted::Suspended;
                }
            }
        }
        m.events.push(event);
    }

    /// Rolled back once nothing is left and nothing may still come.
    pub(super) fn conclude(&mut self, m: &mut Moment<'_>) {
        for attempt in self.attempts.iter_mut().filter(|a| a.released_at.is_none()) {
            let over = !matches!(attempt.state, AttemptState::Running | AttemptState::Won) || self.state == State::RollingBack;
            let open = self.ledger.iter().any(|r| r.attempt == attempt.id && (!r.is_closed() || r.busy.is_some()));
            if over && !open {
                attempt.released_at = Some(m.now);
            }
        }
        if self.state != State::RollingBack || self.attempts.iter().any(|a| a.released_at.is_none()) {
            return;
        }
        let once_completed = self.ready_at.is_some();
        let kind = if once_completed { EventKind::Deprovisioned } else { EventKind::RolledBack };
        // H32: only what never completed is refunded; a cancelled one only where there was an order.
        let refund = !once_completed
            && match self.outcome {
                Some(Outcome::Failed | Outcome::DependencyFailed | Outcome::Rejected | Outcome::ApprovalExpired) => true,
                Some(Outcome::Cancelled) => self.spec.order_id.is_some(),
                _ => false,
            };
        let mut event = Event { outcome: self.outcome, refund, error: self.error.clone(), ..Event::new(kind) };
        self.enter(State::RolledBack, &mut event);
        m.events.push(event);
        self.terminated_at = Some(m.now);
        if let Some(action) = self.action.as_mut().filter(|a| a.name == "deprovision") {
            "succeeded".clone_into(&mut action.status);
            action.finished_at = Some(m.now);
        }
    }

    /// Whether anybody still waits for the answer of a call. The engine drops a wait that nobody wants,
    /// but never a create that may already be sent.
    pub fn wants(&self, key: &CallKey) -> bool {
        match key {
            CallKey::Operation { attempt, operation, number } => {
                let found = self.attempts.iter().find(|a| a.id == *attempt).and_then(|a| a.operations.get(*operation));
                found.is_some_and(|o| o.status == OperationStatus::Running && o.calls == *number)
            }
            CallKey::Action { operation, number } => self.action.as_ref().is_some_and(|a| {
                let found = a.operations.get(*operation);
                self.action_wanted(&a.name) && found.is_some_and(|o| o.status == OperationStatus::Running && o.calls == *number)
            }),
            CallKey::Look { row, number } | CallKey::Release { row, number } => {
                self.ledger.iter().any(|r| r.id == *row && r.calls == *number && !r.is_closed())
            }
        }
    }

    /// Notes what a queued request waits for; answers for how long it has by now.
    pub fn await_turn(&mut self, reason: &str, detail: Option<String>, m: &mut Moment<'_>) -> Span {
        self.wait_for(Some((reason, detail)), m.now, m.events);
        self.waiting.as_ref().map_or(Span::ZERO, |w| m.now.since(w.since))
    }

    /// When the request is next due for a queue time-out, where it has one (H16).
    pub fn queue_deadline(&self) -> Timestamp {
        let limit = self.spec.queue_timeout_seconds.map(Span::from_seconds_f64);
        limit.map_or(Timestamp::NEVER, |l| self.created_at.plus(l))
    }
}
