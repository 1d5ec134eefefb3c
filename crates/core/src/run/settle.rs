//! Taking in an answer: the ledger first, whatever has become of the attempt; then the operation.

use serde_json::json;

use super::attempt::done_event;
use super::pipeline::Place;
use super::{Moment, Operation, OperationStatus, RowState, Run, Try};
use crate::event::{Event, EventKind, ResourceRef};
use crate::failure::{Class, Failure};
use crate::id::ResourceId;
use crate::mutant::{self, Mutant};
use crate::time::Span;
use crate::workflow::plan::OnRetry;
use crate::workflow::retry::backoff;
use crate::workflow::{Answer, CallKey, Found, Made, Reply};

/// So many looks for one object are made soon after one another, and so often the pause between further ones doubles.
const LOOKS_SOON: u32 = 3;
const LOOKS_DOUBLE: u32 = 4;
/// However it failed, each operation is tried again so often at least (SPEC 3.1).
const LEAST_RETRIES: u32 = 2;

impl Run {
    /// Takes in one answer. An answer to a call that is no longer the operation's latest changes only
    /// the ledger.
    pub fn settle(&mut self, answer: Answer, m: &mut Moment<'_>) {
        match answer.key {
            CallKey::Operation { attempt, operation, number } => {
                let Some(index) = self.attempt_index(attempt) else { return };
                self.settle_operation(Place::Attempt(index), operation, number, answer.reply, m);
            }
            CallKey::Action { operation, number } => {
                self.settle_operation(Place::Action, operation, number, answer.reply, m);
            }
            CallKey::Look { row, number } => self.settle_look(row, number, answer.reply, m),
            CallKey::Release { row, number } => self.settle_release(row, number, answer.reply, m),
        }
    }

    fn settle_operation(&mut self, place: Place, index: usize, number: u32, reply: Reply, m: &mut Moment<'_>) {
        let Some(operation) = self.operations(place).get(index) else { return };
        let row = operation.row;
        let current = operation.status == OperationStatus::Running && operation.calls == number;
        let latest = operation.calls == number;
        if latest && !matches!(reply, Reply::Held { .. } | Reply::Dropped) {
            self.is_let_in(place, index);
        }
        match reply {
            Reply::Progress(made) => self.record(place, row.filter(|_| latest), &made, m),
            Reply::Done(made) => {
                self.record(place, row.filter(|_| latest), &made, m);
                self.free(row.filter(|_| latest));
                if current {
                    self.succeed(place, index, made, m);
                }
            }
            Reply::Failed(failure) => self.fail_try(place, index, latest, current, failure, false, m),
            Reply::TimedOut { last_seen, diagnosis } => {
                let Some(operation) = self.operations(place).get(index) else { return };
                let (name, limit, source) = (&operation.planned.name, operation.deadline, &operation.deadline_source);
                let failure = timed_out(name, limit, source, last_seen.as_deref()).diagnosed(diagnosis);
                self.fail_try(place, index, latest, current, failure, true, m);
            }
            Reply::Dropped => self.drop_wait(place, index, latest, current, m),
            Reply::Held { until } => self.take_back_try(place, index, latest, current, until, m),
            Reply::Looked(_) | Reply::Gone { .. } => {}
        }
    }

    /// The wait for an operation was given up between two looks. What it was told to make may come without an id being
    /// known yet, so it is in doubt; what is wanted (again) by now is asked for again.
    fn drop_wait(&mut self, place: Place, index: usize, latest: bool, current: bool, m: &mut Moment<'_>) {
        let id = self.operations(place).get(index).and_then(|o| o.row).filter(|_| latest);
        self.free(id);
        let row = self.ledger.iter_mut().find(|r| Some(r.id) == id && r.provider_id.is_none() && !r.is_closed());
        let in_doubt = row.is_some();
        if let Some(row) = row {
            row.in_doubt = true;
            row.next_at = Some(m.now);
        }
        if let Some(operation) = self.operation_mut(place, index).filter(|_| current) {
            operation.status = if in_doubt { OperationStatus::Looking } else { OperationStatus::Waiting };
            operation.next_at = Some(m.now);
        }
    }

    /// Nothing is under way for a row any more.
    pub(super) fn free(&mut self, row: Option<ResourceId>) {
        if let Some(row) = self.ledger.iter_mut().find(|r| Some(r.id) == row) {
            row.busy = None;
        }
    }

    /// Writes what is known of a resource into its row.
    fn record(&mut self, place: Place, row: Option<ResourceId>, made: &Made, m: &mut Moment<'_>) {
        let identity = self.base(place).and_then(|i| self.attempts.get(i)).and_then(|a| a.identity.clone());
        let Some(row) = self.ledger.iter_mut().find(|r| Some(r.id) == row && !r.is_closed()) else { return };
        let Some(provider_id) = &made.provider_id else { return };
        if row.provider_id.is_none() {
            row.provider_id = Some(provider_id.clone());
            row.identity = row.identity.clone().or(identity);
            row.in_doubt = false;
            row.state = RowState::Created;
            let resource = ResourceRef { kind: row.kind.clone(), id: row.id, provider_id: Some(provider_id.clone()) };
            m.events.push(Event {
                resource: Some(resource),
                attempt: Some(row.attempt),
                ..Event::new(EventKind::ResourceAllocated)
            });
        }
        if made.uid.is_some() {
            row.uid.clone_from(&made.uid);
        }
    }

    pub(super) fn succeed(&mut self, place: Place, index: usize, made: Made, m: &mut Moment<'_>) {
        let of = self.whose(place);
        let Some(operation) = self.operation_mut(place, index) else { return };
        operation.status = OperationStatus::Succeeded;
        if let Some(last) = operation.tries.last_mut() {
            last.finished_at = Some(m.now);
        }
        m.events.push(done_event(operation, of.as_ref(), "succeeded"));
        if let Some(base) = self.base(place).and_then(|i| self.attempts.get_mut(i)) {
            base.facts.extend(made.facts);
            for endpoint in made.endpoints {
                base.endpoints.retain(|e| e.name != endpoint.name);
                base.endpoints.push(endpoint);
            }
        }
        self.touch(m);
    }

    #[allow(clippy::too_many_arguments)] // one failed try is described by exactly these
    fn fail_try(
        &mut self,
        place: Place,
        index: usize,
        latest: bool,
        current: bool,
        failure: Failure,
        timed_out: bool,
        m: &mut Moment<'_>,
    ) {
        let row = self.operations(place).get(index).and_then(|o| o.row).filter(|_| latest);
        self.free(row);
        let uncertain = (timed_out || failure.class == Class::Ambiguous) && !mutant::on(Mutant::NoDoubt);
        let doubt = self.ledger.iter_mut().find(|r| Some(r.id) == row && r.provider_id.is_none() && !r.is_closed());
        let in_doubt = doubt.is_some_and(|row| {
            row.in_doubt |= uncertain;
            row.next_at = Some(m.now);
            row.in_doubt
        });
        if !current {
            return;
        }
        let failure = self.note_failure(place, index, failure, timed_out, m);
        if in_doubt {
            // The provider is asked by the tag before anything is made again (SPEC 3.6).
            if let Some(operation) = self.operation_mut(place, index) {
                operation.status = OperationStatus::Looking;
                operation.next_at = Some(m.now);
            }
            return;
        }
        if failure.class != Class::Throttled && self.ask_person_again(place, index, &failure, m) {
            return;
        }
        match failure.class {
            Class::Throttled => self.throttle(place, index, failure, m),
            Class::Transient | Class::Ambiguous => {
                let spoiled = failure.spoiled || timed_out;
                self.retry(place, index, failure, spoiled, m);
            }
            Class::Permanent | Class::Auth | Class::Capacity => self.fail_operation(place, index, failure, m),
        }
    }

    /// Ends the present try with its error.
    fn note_failure(&mut self, place: Place, index: usize, mut failure: Failure, timed_out: bool, m: &mut Moment<'_>) -> Failure {
        let attempt = self.base(place).and_then(|i| self.attempts.get(i)).map(|a| a.id);
        let Some(operation) = self.operation_mut(place, index) else { return failure };
        failure.operation = Some(operation.planned.name.clone());
        failure.step = Some(operation.planned.step.name().to_owned());
        failure.attempt = attempt;
        failure.at = Some(m.now);
        if let Some(last) = operation.tries.last_mut() {
            last.finished_at = Some(m.now);
            last.error = Some(failure.clone());
        }
        let kind = if timed_out { EventKind::OperationTimedOut } else { EventKind::OperationRetried };
        let detail = json!({"operation": operation.planned.name, "try": operation.tries.len(), "resource": operation.row});
        m.events.push(Event { step: failure.step.clone(), attempt, error: Some(failure.clone()), detail, ..Event::new(kind) });
        self.touch(m);
        failure
    }

    /// A wait that the backend asked for: no retry, but not for ever (H10).
    fn throttle(&mut self, place: Place, index: usize, failure: Failure, m: &mut Moment<'_>) {
        let Some(base) = self.base(place).and_then(|i| self.attempts.get(i)) else { return };
        let pause = failure.retry_after.unwrap_or(Span::ZERO).max(backoff(&base.settings.retry, 1, m.chance));
        let Some(operation) = self.operation_mut(place, index) else { return };
        let limit = *operation.throttled_until.get_or_insert(m.now.plus(operation.deadline));
        if m.now < limit {
            operation.status = OperationStatus::Waiting;
            operation.next_at = Some(m.now.plus(pause));
        } else if !self.ask_person_again(place, index, &failure, m) {
            self.fail_operation(place, index, failure, m);
        }
    }

    /// Another try after a pause, or the end of the operation. `spoiled`: what it made, or what it waits
    /// for, must not be used again.
    fn retry(&mut self, place: Place, index: usize, failure: Failure, spoiled: bool, m: &mut Moment<'_>) {
        let Some(base) = self.base(place) else { return };
        let Some(policy) = self.attempts.get(base).map(|a| a.settings.retry) else { return };
        let elsewhere = self.may_go_elsewhere(place);
        let Some(operation) = self.operation_mut(place, index) else { return };
        let cut_short = operation.tries.last().is_some_and(Try::was_cut_short);
        // Twice is what every operation has (SPEC 3.1); longer tries than learned ones only where there is no other place.
        let retries = if elsewhere && cut_short { LEAST_RETRIES.min(policy.max_retries) } else { policy.max_retries };
        if operation.retries >= retries {
            return self.fail_operation(place, index, failure, m);
        }
        operation.retries += 1;
        operation.throttled_until = None;
        let pause = backoff(&policy, operation.retries, m.chance).max(failure.retry_after.unwrap_or(Span::ZERO));
        operation.status = OperationStatus::Waiting;
        operation.next_at = Some(m.now.plus(pause));
        let (row, recreate) = (operation.row, operation.planned.on_retry.clone());
        if spoiled && operation.planned.makes.is_some() {
            let made = self.ledger.iter_mut().find(|r| Some(r.id) == row && r.provider_id.is_some() && !r.is_closed());
            if let Some(made) = made {
                made.unwanted = true;
                if let Some(operation) = self.operation_mut(place, index) {
                    operation.clears = row;
                    operation.row = None;
                }
            }
        } else if let (true, OnRetry::Recreate(name), Place::Attempt(attempt)) = (spoiled, recreate, place) {
            self.recreate(attempt, index, &name);
        }
    }

    /// Releases what `name` made and plans it again before the waiting operation, with everything that was done on top
    /// of it (H10).
    fn recreate(&mut self, attempt: usize, waiting: usize, name: &str) {
        let Some(found) = self.attempts.get_mut(attempt) else { return };
        let Some(step) = found.operations.get(waiting).map(|o| o.planned.step) else { return };
        let repeated = found.done_on(name, waiting);
        let mut old = Vec::new();
        for index in repeated {
            let Some(made) = found.operations.get(index).cloned() else { continue };
            old.extend(made.row);
            let mut again = Operation {
                status: OperationStatus::Waiting,
                tries: Vec::new(),
                retries: 0,
                next_at: None,
                calls: 0,
                row: None,
                held_since: None,
                refused: None,
                learned: None,
                clears: made.row,
                ..made
            };
            again.planned.step = step;
            // Why: the next try must not begin before what it waits for is there again.
            let unnamed = |o: &&mut Operation| !o.planned.after.contains(&again.planned.name);
            if let Some(operation) = found.operations.get_mut(waiting).filter(unnamed) {
                operation.planned.after.push(again.planned.name.clone());
            }
            found.operations.push(again);
        }
        for row in self.ledger.iter_mut().filter(|r| old.contains(&r.id) && !r.is_closed()) {
            row.unwanted = true;
        }
    }

    /// The operation is over, and its attempt with it.
    pub(super) fn fail_operation(&mut self, place: Place, index: usize, failure: Failure, m: &mut Moment<'_>) {
        let of = self.whose(place);
        let Some(operation) = self.operation_mut(place, index) else { return };
        operation.status = OperationStatus::Failed;
        m.events.push(done_event(operation, of.as_ref(), "failed"));
        if let Place::Attempt(attempt) = place {
            self.fail_attempt(attempt, failure, m);
        }
    }

    /// What a look for an operation's own row found: adopt it, make it anew, or look again (H5).
    pub(super) fn settle_own_look(&mut self, place: Place, index: usize, found: &[Found], m: &mut Moment<'_>) {
        let Some(id) = self.operations(place).get(index).and_then(|o| o.row) else { return };
        let error = self.operations(place).get(index).and_then(|o| o.tries.last()).and_then(|t| t.error.clone());
        let error = error.unwrap_or_else(|| Failure::new(Class::Transient, "answer_lost", "the answer of the create was lost"));
        let lag = self.base(place).and_then(|i| self.attempts.get(i)).map_or(Span::ZERO, |a| a.settings.list_lag);
        if let Some(kept) = Found::kept(found).filter(|_| !mutant::on(Mutant::NoAdoption)) {
            self.adopt(id, kept, m);
            self.touch(m);
            if kept.spoiled {
                let error = self.end_try(place, index, error, m);
                return self.retry(place, index, error, true, m);
            }
            if let Some(operation) = self.operation_mut(place, index) {
                operation.status = OperationStatus::Waiting;
                operation.next_at = Some(m.now);
            }
            return;
        }
        let Some(row) = self.ledger.iter_mut().find(|r| r.id == id) else { return };
        row.empty_looks += 1;
        let threshold = row.send_by.plus(row.call_limit).plus(lag);
        let asked_at = row.asked_at.unwrap_or(m.now);
        if row.empty_looks < 2 || asked_at < threshold {
            // Early looks find an early arrival early, and then ever fewer: a backend that loses answers is often one with
            // too much to do, and its lists are dear. The last one is asked at the threshold.
            let pause = lag.max(Span::millis(200));
            let longer = Span(pause.0.saturating_mul(1 << row.empty_looks.saturating_sub(LOOKS_SOON).min(LOOKS_DOUBLE)));
            let next = if asked_at < threshold { m.now.plus(longer).min(threshold) } else { m.now.plus(pause) };
            if let Some(operation) = self.operation_mut(place, index) {
                operation.next_at = Some(next);
            }
            return;
        }
        // Absent: a new row and tag for the next try; the old one is watched for a late arrival (H6).
        row.unwanted = true;
        row.empty_looks = 0;
        row.next_at = None;
        if let Some(operation) = self.operation_mut(place, index) {
            operation.row = None;
        }
        let error = self.end_try(place, index, error, m);
        self.retry(place, index, error, false, m);
    }

    /// Ends a try whose answer is known to be lost for good, so that the next one has its own full deadline (H10).
    fn end_try(&mut self, place: Place, index: usize, error: Failure, m: &mut Moment<'_>) -> Failure {
        let open = self.operations(place).get(index).and_then(|o| o.tries.last()).is_some_and(|t| t.finished_at.is_none());
        if open { self.note_failure(place, index, error, false, m) } else { error }
    }

    /// An object found by a row's tag becomes the row's.
    pub(super) fn adopt(&mut self, row: ResourceId, found: &Found, m: &mut Moment<'_>) {
        let Some(index) = self.ledger.iter().position(|r| r.id == row) else { return };
        let identity = self.backend_of(index);
        let Some(row) = self.ledger.get_mut(index) else { return };
        row.identity = identity;
        row.provider_id = Some(found.provider_id.clone());
        row.uid.clone_from(&found.uid);
        row.in_doubt = false;
        row.state = RowState::Created;
        row.next_at = None;
        row.owed_since = None;
        let resource = ResourceRef { kind: row.kind.clone(), id: row.id, provider_id: row.provider_id.clone() };
        let detail = json!({"adopted": true});
        m.events.push(Event {
            resource: Some(resource),
            attempt: Some(row.attempt),
            detail,
            ..Event::new(EventKind::ResourceAllocated)
        });
    }
}

/// A time-out: what it was, the limit, where the limit comes from, and what was seen last (SPEC 3.1).
pub(super) fn timed_out(operation: &str, limit: Span, source: &str, last_seen: Option<&str>) -> Failure {
    let seen = last_seen.map_or(String::new(), |s| format!("; last seen: {s}"));
    let text = format!("{operation} did not end within {} s (limit from: {source}){seen}", limit.as_seconds_f64());
    Failure::new(Class::Transient, "operation_timed_out", text)
}
