//! Taking back: rows in reverse order of their making, independent ones in parallel, absence confirmed.

use serde_json::json;

use super::pipeline::Place;
use super::settle::timed_out;
use super::{Directive, Moment, OperationStatus, Row, RowState, Run, Try};
use crate::event::{Event, EventKind, ResourceRef};
use crate::failure::{Class, Failure};
use crate::id::ResourceId;
use crate::mutant::{self, Mutant};
use crate::time::{Span, Timestamp};
use crate::workflow::call::{Call, CallKey, Deadline, Held, Task};
use crate::workflow::retry::backoff;
use crate::workflow::{Found, Reply};

/// Default deadline of one release, its wait included.
pub const RELEASE_DEADLINE: Span = Span::seconds(300);
/// Tries of a release that a row remembers.
const RELEASES_KEPT: usize = 20;
/// Longest time of one call of a release or a look.
const CALL_LIMIT: Span = Span::seconds(30);
/// Between looks for a late arrival.
const LATE_LOOK_EVERY: Span = Span::seconds(10);

impl Row {
    /// Ends the present try of its release.
    fn end_release(&mut self, now: Timestamp, error: Option<Failure>) {
        if let Some(last) = self.releases.last_mut().filter(|t| t.finished_at.is_none()) {
            last.finished_at = Some(now);
            last.error = error;
        }
    }
}

impl Run {
    /// Asks for every row that is to go what can be asked now.
    pub(super) fn advance_rows(&mut self, m: &mut Moment<'_>, d: &mut Directive) {
        for index in 0..self.ledger.len() {
            let Some(row) = self.ledger.get(index).filter(|r| !r.is_closed() && r.unwanted && r.busy.is_none()) else { continue };
            if let Some(at) = row.next_at.filter(|at| *at > m.now) {
                d.wake(at);
                continue;
            }
            let held = m.known.holds(row.cluster, self.tenant, true, m.now);
            if row.provider_id.is_none() && !row.in_doubt {
                self.close(index, false, m);
            } else if let Some(held) = held {
                d.wake(held.until);
            } else if row.provider_id.is_none() {
                self.look(index, m, d);
            } else if mutant::on(Mutant::NoUndo) && ["security_group", "vm"].contains(&row.kind.as_str()) {
                self.close(index, false, m);
            } else if !self.is_blocked(row) {
                self.release(index, m, d);
            }
        }
    }

    /// A row that is to go is asked for at this very moment (H12).
    pub(super) fn undoes_now(&self, m: &Moment<'_>) -> bool {
        let due = |r: &&Row| !r.is_closed() && r.unwanted && r.busy.is_none() && r.next_at.is_none_or(|at| at <= m.now);
        let free = |r: &&Row| m.known.holds(r.cluster, self.tenant, true, m.now).is_none();
        self.ledger.iter().filter(due).filter(free).any(|r| r.provider_id.is_none() || !self.is_blocked(r))
    }

    /// Something that stands on it is still there. What is in doubt blocks nothing: everything else is
    /// released meanwhile (H6).
    fn is_blocked(&self, row: &Row) -> bool {
        let Some(attempt) = self.attempts.iter().find(|a| a.id == row.attempt) else { return false };
        let stands_on = |other: &Row| {
            let mut names = vec![other.operation.as_str()];
            let mut seen = 0;
            while let Some(name) = names.get(seen).copied() {
                seen += 1;
                for operation in attempt.operations.iter().filter(|o| o.planned.name == name) {
                    for before in operation.planned.after.iter().filter(|b| !names.contains(&b.as_str())).collect::<Vec<_>>() {
                        names.push(before);
                    }
                }
            }
            names.iter().skip(1).any(|n| *n == row.operation)
        };
        // Why only what is to go: what stays (after a recreation) would be in the way for ever.
        let to_go = |o: &&Row| o.unwanted && !o.is_closed();
        let mut others = self.ledger.iter().filter(|o| o.attempt == row.attempt && o.id != row.id).filter(to_go);
        let being_made = |o: &Row| o.busy.is_some() && !o.in_doubt;
        others.any(|o| (o.provider_id.is_some() || being_made(o)) && stands_on(o))
    }

    /// The backend that a row's object was made on, or would have been (H4).
    pub(super) fn backend_of(&self, index: usize) -> Option<String> {
        let row = self.ledger.get(index)?;
        let attempt = self.attempts.iter().find(|a| a.id == row.attempt);
        row.identity.clone().or_else(|| attempt?.identity.clone())
    }

    fn look(&mut self, index: usize, m: &mut Moment<'_>, d: &mut Directive) {
        let identity = self.backend_of(index);
        let Some(row) = self.ledger.get_mut(index) else { return };
        let attempt = self.attempts.iter().find(|a| a.id == row.attempt);
        let limit = attempt.map_or(CALL_LIMIT, |a| a.settings.deadline("find", CALL_LIMIT).0.min(CALL_LIMIT));
        row.busy = Some(m.generation);
        row.calls += 1;
        row.asked_at = Some(m.now);
        let key = CallKey::Look { row: row.id, number: row.calls };
        let task = Task::Find { kind: row.kind.clone(), tag: row.tag.clone(), name: row.name.clone() };
        d.calls.push(Call {
            key,
            request: self.id,
            tenant: self.tenant,
            cluster: row.cluster,
            urgent: row.unwanted,
            task,
            deadline: Deadline::after(m.now, limit),
            send_by: None,
            call_limit: limit,
            identity,
            first_after: Span::ZERO,
            look_every: None,
        });
    }

    /// Looks for the object of an operation whose create is in doubt.
    pub(super) fn look_for(&mut self, place: Place, index: usize, m: &mut Moment<'_>, d: &mut Directive) {
        let Some(operation) = self.operations(place).get(index) else { return };
        if let Some(at) = operation.next_at.filter(|at| *at > m.now) {
            return d.wake(at);
        }
        let found = self.ledger.iter().position(|r| Some(r.id) == operation.row && r.busy.is_none());
        let held = found.and_then(|i| self.ledger.get(i)).and_then(|r| m.known.holds(r.cluster, self.tenant, r.unwanted, m.now));
        if let Some(held) = held {
            return d.wake(held.until);
        }
        if let Some(row) = found {
            self.look(row, m, d);
        }
    }

    fn release(&mut self, index: usize, m: &mut Moment<'_>, d: &mut Directive) {
        let identity = self.backend_of(index);
        let Some(row) = self.ledger.get_mut(index) else { return };
        row.busy = Some(m.generation);
        row.calls += 1;
        row.asked_at = Some(m.now);
        if row.state != RowState::Owed {
            row.state = RowState::Releasing;
        }
        let attempt = self.attempts.iter().find(|a| a.id == row.attempt);
        let name = format!("delete_{}", row.kind);
        let limit = attempt.map_or(RELEASE_DEADLINE, |a| a.settings.deadline(&name, RELEASE_DEADLINE).0);
        row.release_deadline = limit;
        if row.releases.len() >= RELEASES_KEPT {
            row.releases.remove(RELEASES_KEPT / 2);
        }
        row.releases.push(Try::begin(m.now));
        let row = row.clone();
        let held = Held {
            kind: row.kind,
            tag: row.tag,
            provider_id: row.provider_id.unwrap_or_default(),
            uid: row.uid,
            identity: identity.clone(),
            resources: self.resources_of(row.attempt),
            facts: attempt.map_or_else(Default::default, |a| a.facts.clone()),
        };
        d.calls.push(Call {
            key: CallKey::Release { row: row.id, number: row.calls },
            request: self.id,
            tenant: self.tenant,
            cluster: row.cluster,
            urgent: true,
            task: Task::Release(Box::new(held)),
            deadline: Deadline::after(m.now, limit),
            send_by: None,
            call_limit: CALL_LIMIT,
            identity,
            first_after: Span::ZERO,
            look_every: None,
        });
    }

    /// The end of a row: its object is confirmed gone, or was never made.
    fn close(&mut self, index: usize, replaced: bool, m: &mut Moment<'_>) {
        let Some(row) = self.ledger.get_mut(index) else { return };
        row.state = RowState::Released;
        row.released_at = Some(m.now);
        row.end_release(m.now, None);
        row.in_doubt = false;
        row.busy = None;
        row.next_at = None;
        row.owed_since = None;
        let (attempt, made) = (row.attempt, row.provider_id.is_some());
        let resource = Some(ResourceRef { kind: row.kind.clone(), id: row.id, provider_id: row.provider_id.clone() });
        if replaced {
            m.events.push(Event { resource: resource.clone(), attempt: Some(attempt), ..Event::new(EventKind::Replaced) });
        }
        if made {
            m.events.push(Event { resource, attempt: Some(attempt), ..Event::new(EventKind::ResourceReleased) });
        }
        self.touch(m);
    }

    pub(super) fn settle_release(&mut self, id: ResourceId, number: u32, reply: Reply, m: &mut Moment<'_>) {
        let Some(index) = self.ledger.iter().position(|r| r.id == id && r.calls == number && !r.is_closed()) else { return };
        match reply {
            Reply::Gone { replaced } => self.close(index, replaced, m),
            Reply::Failed(failure) => self.release_failed(index, failure, m),
            Reply::Held { until } => {
                if let Some(row) = self.ledger.get_mut(index) {
                    row.busy = None;
                    row.next_at = Some(until);
                    // It was not sent, so it was no try.
                    row.releases.pop();
                }
            }
            Reply::TimedOut { last_seen, .. } => {
                let failure = self.undo_timed_out(index, None, last_seen.as_deref());
                self.release_failed(index, failure, m);
            }
            _ => {
                if let Some(row) = self.ledger.get_mut(index) {
                    row.busy = None;
                }
            }
        }
    }

    /// Retried without limit, with back-off; owed once the usual retries are used up (SPEC 2).
    fn release_failed(&mut self, index: usize, mut failure: Failure, m: &mut Moment<'_>) {
        let policy = self.retry_policy(index);
        let Some(row) = self.ledger.get_mut(index) else { return };
        row.busy = None;
        row.failures += 1;
        failure.operation = Some(format!("delete_{}", row.kind));
        failure.attempt = Some(row.attempt);
        failure.at = Some(m.now);
        row.next_at = Some(m.now.plus(backoff(&policy, row.failures, m.chance).max(failure.retry_after.unwrap_or(Span::ZERO))));
        row.last_error = Some(failure.clone());
        owe(row, &policy, failure, m);
        self.give_up_waiting_for(index, m);
    }

    /// An operation that makes anew waits until what it made before is gone. Once that is owed nobody knows how long it
    /// takes, and no wait is without an end (SPEC 3.1): the attempt is over, and tells why it came to making anew.
    fn give_up_waiting_for(&mut self, index: usize, m: &mut Moment<'_>) {
        let Some(row) = self.ledger.get(index).filter(|r| r.state == RowState::Owed).cloned() else { return };
        let waits = |o: &super::Operation| o.clears == Some(row.id) && o.status == OperationStatus::Waiting;
        let mut attempts = self.attempts.iter().enumerate();
        let Some((attempt, operation)) = attempts.find_map(|(a, of)| Some((a, of.operations.iter().position(waits)?))) else {
            return;
        };
        let tries = self.attempts.get(attempt).into_iter().flat_map(|a| a.operations.iter().flat_map(|o| &o.tries));
        let cause = tries.filter_map(|t| Some((t.finished_at?, t.error.as_ref()?))).max_by_key(|(at, _)| *at);
        let Some(owed) = row.last_error else { return };
        let mut failure = cause.map_or_else(|| owed.clone(), |(_, error)| error.clone());
        let id = row.provider_id.as_deref().unwrap_or("without an id");
        failure.message = format!("{}; not made anew, as {} {id} is not gone: {}", failure.message, row.kind, owed.message);
        self.fail_operation(Place::Attempt(attempt), operation, failure, m);
    }

    /// A release or a look that was not done in time: `at_most` is what limits a look besides its settings.
    fn undo_timed_out(&self, index: usize, at_most: Option<Span>, last_seen: Option<&str>) -> Failure {
        let row = self.ledger.get(index);
        let settings = row.and_then(|r| self.attempts.iter().find(|a| a.id == r.attempt)).map(|a| &a.settings);
        let (name, default) = match at_most {
            Some(limit) => ("find".to_owned(), limit),
            None => (format!("delete_{}", row.map_or("", |r| &r.kind)), RELEASE_DEADLINE),
        };
        let (limit, source) = settings.map_or((default, "default"), |s| s.deadline(&name, default));
        let (limit, source) = if at_most.is_some_and(|most| most < limit) { (default, "default") } else { (limit, source) };
        timed_out(&name, limit, source, last_seen)
    }

    fn retry_policy(&self, index: usize) -> crate::cluster::Retry {
        let attempt = self.ledger.get(index).and_then(|r| self.attempts.iter().find(|a| a.id == r.attempt));
        attempt.map_or_else(|| crate::cluster::Settings::default().retry, |a| a.settings.retry)
    }

    pub(super) fn settle_look(&mut self, id: ResourceId, number: u32, reply: Reply, m: &mut Moment<'_>) {
        let Some(index) = self.ledger.iter().position(|r| r.id == id && r.calls == number && !r.is_closed()) else { return };
        let owner = self.looking_for(id);
        let policy = self.retry_policy(index);
        let Some(row) = self.ledger.get_mut(index) else { return };
        row.busy = None;
        let found = match reply {
            Reply::Looked(found) => found,
            Reply::Dropped => return,
            Reply::Held { until } => {
                row.next_at = Some(until);
                if let Some(operation) = owner.and_then(|(place, index)| self.operation_mut(place, index)) {
                    operation.next_at = Some(until);
                }
                return;
            }
            Reply::Failed(failure) => return self.look_failed(index, owner, failure, m),
            _ => {
                let failure = self.undo_timed_out(index, Some(CALL_LIMIT), None);
                return self.look_failed(index, owner, failure, m);
            }
        };
        let Some(row) = self.ledger.get_mut(index) else { return };
        row.failures = 0;
        row.last_error = None;
        if row.state == RowState::Owed && row.provider_id.is_none() {
            row.state = RowState::Intended;
            row.owed_since = None;
        }
        self.add_surplus(index, &found, m);
        if let Some((place, operation)) = owner {
            return self.settle_own_look(place, operation, &found, m);
        }
        if let Some(kept) = Found::kept(&found) {
            self.adopt(id, kept, m);
            return;
        }
        let (late, lag) = self.late(index);
        let Some(row) = self.ledger.get_mut(index) else { return };
        let threshold = row.send_by.plus(late);
        if row.asked_at.unwrap_or(m.now) < threshold {
            row.empty_looks = 0;
            row.next_at = Some(m.now.plus(LATE_LOOK_EVERY).min(threshold));
            return;
        }
        row.empty_looks += 1;
        if row.empty_looks >= 2 {
            self.close(index, false, m);
        } else {
            row.next_at = Some(m.now.plus(lag.min(policy.cap).max(Span::millis(50))));
        }
    }

    /// Which operation waits for what is being looked for.
    fn looking_for(&self, row: ResourceId) -> Option<(Place, usize)> {
        self.attempts.iter().enumerate().find_map(|(a, attempt)| {
            let looks = |o: &super::Operation| o.row == Some(row) && o.status == OperationStatus::Looking;
            attempt.operations.iter().position(looks).map(|o| (Place::Attempt(a), o))
        })
    }

    fn late(&self, index: usize) -> (Span, Span) {
        let attempt = self.ledger.get(index).and_then(|r| self.attempts.iter().find(|a| a.id == r.attempt));
        attempt.map_or((Span::seconds(120), Span::seconds(5)), |a| (a.settings.late_create, a.settings.list_lag))
    }

    /// A look that failed is made again; an operation does not wait for it for ever.
    fn look_failed(&mut self, index: usize, owner: Option<(Place, usize)>, failure: Failure, m: &mut Moment<'_>) {
        let policy = self.retry_policy(index);
        let Some(row) = self.ledger.get_mut(index) else { return };
        row.failures += 1;
        let failures = row.failures;
        let next = m.now.plus(backoff(&policy, failures, m.chance).max(failure.retry_after.unwrap_or(Span::ZERO)));
        row.next_at = Some(next);
        row.last_error = Some(failure.clone());
        let Some((place, operation)) = owner else { return owe(row, &policy, failure, m) };
        // Why three times: the object may well be there, and giving up costs the attempt.
        if failures > policy.max_retries.saturating_mul(3) || failure.class == Class::Auth {
            return self.fail_operation(place, operation, failure, m);
        }
        if let Some(operation) = self.operation_mut(place, operation) {
            operation.next_at = Some(next);
        }
    }

    /// Further objects under one tag are surplus: each gets a row of its own, to be released (H6).
    fn add_surplus(&mut self, index: usize, found: &[Found], m: &mut Moment<'_>) {
        let Some(row) = self.ledger.get(index).cloned() else { return };
        let kept = Found::kept(found).map(|f| f.provider_id.clone());
        for extra in found.iter().filter(|f| Some(&f.provider_id) != kept.as_ref()) {
            if self.ledger.iter().any(|r| r.provider_id.as_ref() == Some(&extra.provider_id) && r.cluster == row.cluster) {
                continue;
            }
            let surplus = Row {
                id: ResourceId::new(m.now, m.chance),
                provider_id: Some(extra.provider_id.clone()),
                uid: extra.uid.clone(),
                state: RowState::Created,
                created_at: m.now,
                in_doubt: false,
                unwanted: true,
                busy: None,
                next_at: None,
                releases: Vec::new(),
                failures: 0,
                calls: 0,
                ..row.clone()
            };
            self.ledger.push(surplus);
        }
    }

    /// Closes rows without proof (H8): what they held is freed, their tags stay watched. Answers which.
    pub(super) fn write_off(&mut self, rows: &[ResourceId], reason: &str, m: &mut Moment<'_>) -> Vec<ResourceId> {
        let mut done = Vec::new();
        for id in rows {
            let Some(row) = self.ledger.iter_mut().find(|r| r.id == *id && !r.is_closed() && r.unwanted) else { continue };
            row.state = RowState::Released;
            row.released_at = Some(m.now);
            row.written_off = true;
            let why = row.last_error.clone();
            row.end_release(m.now, why);
            row.busy = None;
            row.in_doubt = false;
            let resource = Some(ResourceRef { kind: row.kind.clone(), id: row.id, provider_id: row.provider_id.clone() });
            let (attempt, error) = (Some(row.attempt), row.last_error.clone());
            let detail = json!({"reason": reason});
            let event = Event { resource, attempt, error, detail, actor: m.actor.clone(), ..Event::new(EventKind::WrittenOff) };
            m.events.push(event);
            done.push(*id);
        }
        done
    }

    /// The earliest time at which a row that is to go can be asked for.
    pub fn next_undo(&self) -> Option<Timestamp> {
        self.ledger.iter().filter(|r| !r.is_closed() && r.unwanted).filter_map(|r| r.next_at).min()
    }
}

/// Clean-up is owed once the usual tries have failed: from then on it is shown as such, and still tried (SPEC 2).
fn owe(row: &mut Row, policy: &crate::cluster::Retry, failure: Failure, m: &mut Moment<'_>) {
    if row.failures <= policy.max_retries || row.state == RowState::Owed {
        return;
    }
    row.state = RowState::Owed;
    row.owed_since = Some(m.now);
    let resource = Some(ResourceRef { kind: row.kind.clone(), id: row.id, provider_id: row.provider_id.clone() });
    let detail = json!({"tries": row.failures});
    let attempt = Some(row.attempt);
    m.events.push(Event { resource, attempt, error: Some(failure), detail, ..Event::new(EventKind::CleanupOwed) });
}
