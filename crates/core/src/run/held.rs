//! Calls that a cluster's breaker, a pause or its limit of calls in flight holds back (H27, H28, H29): what was not sent is
//! no try and no retry; what the request waits for is said.

use super::pipeline::Place;
use super::{AttemptState, Directive, Moment, Operation, OperationStatus, Run};
use crate::breaker::Held;
use crate::failure::{Class, Failure};
use crate::lifecycle::State;
use crate::time::Timestamp;
use crate::workflow::asks_the_service;

/// What a request waits for when its calls are held back.
const REASONS: [&str; 2] = ["cluster_health", "capacity"];

impl Run {
    /// It stops what stands: it goes before what makes more.
    pub(super) fn is_urgent(&self, place: Place) -> bool {
        place == Place::Action && self.action.as_ref().is_some_and(|a| a.does() == "suspend")
    }

    /// What holds an operation back now. One that asks the service itself, or a person, asks no cluster.
    pub(super) fn held(&self, place: Place, operation: &Operation, m: &Moment<'_>) -> Option<Held> {
        let attempt = self.base(place).and_then(|i| self.attempts.get(i))?;
        if operation.planned.awaits_input || asks_the_service(&operation.planned.name) {
            return None;
        }
        m.known.holds(attempt.cluster, self.tenant, self.is_urgent(place), m.now)
    }

    /// True when an operation that may begin now is held back. A breaker holds it back only as long as its own deadline.
    pub(super) fn is_held_back(&mut self, place: Place, index: usize, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        let Some(operation) = self.operations(place).get(index) else { return false };
        let Some(held) = self.held(place, operation, m) else { return false };
        let Some(operation) = self.operation_mut(place, index) else { return false };
        let since = *operation.held_since.get_or_insert(m.now);
        let limit = if held.by_breaker { since.plus(operation.deadline) } else { Timestamp::NEVER };
        if m.now < limit {
            d.wake(held.until.min(limit));
        } else {
            let mut failure = Failure::new(Class::Transient, "cluster_unavailable", held.detail);
            failure.operation = Some(operation.planned.name.clone());
            failure.step = Some(operation.planned.step.name().to_owned());
            failure.at = Some(m.now);
            failure.attempt = self.base(place).and_then(|i| self.attempts.get(i)).map(|a| a.id);
            if let Some(operation) = self.operation_mut(place, index) {
                operation.refused = Some(Box::new(failure.clone()));
            }
            self.fail_operation(place, index, failure, m);
        }
        true
    }

    /// A call that was not sent: its try has not been.
    pub(super) fn take_back_try(
        &mut self,
        place: Place,
        index: usize,
        latest: bool,
        current: bool,
        until: Timestamp,
        m: &mut Moment<'_>,
    ) {
        let row = self.operations(place).get(index).and_then(|o| o.row).filter(|_| latest);
        self.free(row);
        let Some(operation) = self.operation_mut(place, index).filter(|_| current) else { return };
        // One that another process began goes on as it is.
        if operation.tries.last().is_some_and(|t| t.finished_at.is_none() && !t.taken_over) {
            operation.tries.pop();
        }
        operation.status = OperationStatus::Waiting;
        operation.next_at = Some(until);
        let since = *operation.held_since.get_or_insert(m.now);
        // What did not begin was no progress: who is held back for ever is stuck in the end (H29).
        self.progress.at = self.progress.at.min(since);
    }

    /// A call of it was made.
    pub(super) fn is_let_in(&mut self, place: Place, index: usize) {
        if let Some(operation) = self.operation_mut(place, index) {
            operation.held_since = None;
        }
    }

    /// Says what the request waits for while calls of it are held back, and that it waits no more.
    pub(super) fn say_what_holds(&mut self, m: &mut Moment<'_>) {
        if self.state == State::Queued || self.state == State::PendingApproval {
            return;
        }
        let ours = self.waiting.as_ref().is_some_and(|w| REASONS.contains(&w.reason.as_str()));
        match self.what_holds(m) {
            Some(held) if ours || self.waiting.is_none() => {
                self.wait_for(Some((held.reason, Some(held.detail))), m.now, m.events);
            }
            None if ours => self.wait_for(None, m.now, m.events),
            _ => {}
        }
    }

    fn what_holds(&self, m: &Moment<'_>) -> Option<Held> {
        let live = (0..self.attempts.len()).filter(|i| self.attempts.get(*i).is_some_and(|a| a.state == AttemptState::Running));
        let action = self.action.as_ref().filter(|a| a.is_at_work()).map(|_| Place::Action);
        let mut places = live.map(Place::Attempt).chain(action);
        let waits =
            |o: &&Operation| o.held_since.is_some() && matches!(o.status, OperationStatus::Pending | OperationStatus::Waiting);
        let of = |place: Place| self.operations(place).iter().filter(waits).find_map(|o| self.held(place, o, m));
        let held = places.find_map(of);
        let rows = self.ledger.iter().filter(|r| r.unwanted && !r.is_closed() && r.busy.is_none());
        held.or_else(|| {
            rows.filter(|_| self.state == State::RollingBack).find_map(|r| m.known.holds(r.cluster, self.tenant, true, m.now))
        })
    }
}
