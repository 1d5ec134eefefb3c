//! What to do next: the one decision that every round of a worker asks for.
//!
//! Before: the shell has loaded the run under its lease and settled the answers it has. After: it writes
//! the run and the events in the same transaction, then makes the calls, and looks again at `wake_at`, at
//! an answer, or when somebody rings. Asked twice without anything new, it answers no new calls.

use std::sync::Arc;

use super::{AttemptState, OperationStatus, Role, RowState, Run};
use crate::chance::Chance;
use crate::event::{Actor, Event, EventKind};
use crate::failure::{Class, Failure};
use crate::known::Known;
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
    /// What is known of clusters by now: how long things take there.
    pub known: Arc<Known>,
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
    /// A further attempt is wanted: place it in this transaction, or go without it where it would stand beside another,
    /// or give up.
    pub launch: Option<Role>,
}

impl Directive {
    pub(super) fn wake(&mut self, at: Timestamp) {
        self.wake_at = self.wake_at.min(at);
    }
}

/// A new holder has its first answer within this, or within the call's own limit where that is longer (H12).
const ASKED_WITHIN: Span = Span::seconds(30);
/// The stuck limit is never shorter than the longest deadline plus this (H12).
const STUCK_MARGIN: Span = Span::seconds(300);

impl Run {
    /// Decides what to do next.
    pub fn advance(&mut self, m: &mut Moment<'_>) -> Directive {
        let mut d = Directive { calls: Vec::new(), wake_at: Timestamp::NEVER, launch: None };
        self.resume(m);
        if self.state.is_working() {
            self.check_stuck(m);
        }
        if self.state.is_working() {
            for index in 0..self.attempts.len() {
                self.advance_attempt(index, m, &mut d);
            }
            self.go_on(m, &mut d);
        }
        if self.state.is_standing() {
            self.pursue(m, &mut d);
        }
        self.advance_rows(m, &mut d);
        self.say_what_holds(m);
        self.conclude(m);
        if self.state.is_working() && d.launch.is_none() {
            d.wake(self.stuck_at(m));
        }
        d
    }

    /// Another attempt where one is wanted; the end where none lives and none may follow.
    fn go_on(&mut self, m: &mut Moment<'_>, d: &mut Directive) {
        if !self.state.is_working() {
            return;
        }
        let wanted = self.further(m, d);
        if wanted == Some(Role::Failover) {
            d.launch = self.follows_now(m, d).then_some(Role::Failover);
        } else if wanted.is_none() && self.living().next().is_none() {
            let failure = self.error.clone().unwrap_or_else(|| Failure::new(Class::Permanent, "failed", "it failed"));
            self.give_up(failure, m);
        } else {
            d.launch = wanted;
        }
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
            if let Some(last) = operation.tries.last_mut().filter(|t| t.finished_at.is_none()) {
                last.taken_over = true;
            }
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

    /// Rolled back once nothing is left and nothing may still come.
    pub(super) fn conclude(&mut self, m: &mut Moment<'_>) {
        if self.awaits_release(m) {
            return;
        }
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
                self.action_wanted(a.does()) && found.is_some_and(|o| o.status == OperationStatus::Running && o.calls == *number)
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
