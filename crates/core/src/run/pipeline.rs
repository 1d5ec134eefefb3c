//! The four steps of an attempt, and the one of an action: which operation may begin now.

use serde_json::json;

use super::attempt::Whose;
use super::{AttemptState, Directive, Moment, Operation, OperationStatus, Row, RowState, Run, StepStatus, Try};
use crate::deadline::{Key, Learned};
use crate::event::{Event, EventKind};
use crate::id::{AttemptId, ResourceId, Tag};
use crate::lifecycle::{State, Step};
use crate::spec::Kind;
use crate::time::Span;
use crate::workflow::call::{Call, CallKey, Deadline, Task, Work};
use crate::workflow::{Made, asks_the_service};

/// The operation that brings the access details of a managed service (SPEC 3.8).
const AWAIT_INPUT: &str = "await_input";

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In an attempt, by its index.
    Attempt(usize),
    /// In the running action.
    Action,
}

impl Run {
    pub(super) fn operations(&self, place: Place) -> &[Operation] {
        match place {
            Place::Attempt(i) => self.attempts.get(i).map_or(&[], |a| &a.operations),
            Place::Action => self.action.as_ref().map_or(&[], |a| &a.operations),
        }
    }

    pub(super) fn operation_mut(&mut self, place: Place, index: usize) -> Option<&mut Operation> {
        match place {
            Place::Attempt(i) => self.attempts.get_mut(i)?.operations.get_mut(index),
            Place::Action => self.action.as_mut()?.operations.get_mut(index),
        }
    }

    /// The attempt whose cluster and resources an operation works with.
    pub(super) fn base(&self, place: Place) -> Option<usize> {
        match place {
            Place::Attempt(i) => Some(i),
            Place::Action => self.winner.and_then(|w| self.attempt_index(w)),
        }
    }

    pub(super) fn whose(&self, place: Place) -> Option<Whose> {
        self.base(place).and_then(|i| self.attempts.get(i)).map(|a| Whose::of(a, &self.spec))
    }

    /// Moves an attempt as far as it can go now.
    pub(super) fn advance_attempt(&mut self, index: usize, m: &mut Moment<'_>, d: &mut Directive) {
        loop {
            let Some(attempt) = self.attempts.get(index).filter(|a| a.state == AttemptState::Running) else { return };
            let Some(step) = attempt.steps.iter().find(|s| s.status != StepStatus::Succeeded).map(|s| s.step) else {
                return self.win(index, m);
            };
            self.begin_step(index, step, m);
            self.advance_operations(Place::Attempt(index), step, m, d);
            let mut of_step = self.operations(Place::Attempt(index)).iter().filter(|o| o.planned.step == step);
            if !of_step.all(|o| o.status == OperationStatus::Succeeded) {
                return;
            }
            self.finish_step(index, step, m);
        }
    }

    /// Moves the running action as far as it can go now: its operations follow one another by `after`.
    pub(super) fn advance_action(&mut self, m: &mut Moment<'_>, d: &mut Directive) {
        for step in Step::ALL {
            self.advance_operations(Place::Action, step, m, d);
            let done = self
                .operations(Place::Action)
                .iter()
                .filter(|o| o.planned.step == step)
                .all(|o| o.status == OperationStatus::Succeeded);
            if !done {
                return;
            }
        }
    }

    fn begin_step(&mut self, index: usize, step: Step, m: &mut Moment<'_>) {
        let Some(attempt) = self.attempts.get_mut(index) else { return };
        let id = attempt.id;
        let Some(run) = attempt.steps.get_mut(step.number()).filter(|s| s.status == StepStatus::Pending) else { return };
        run.status = StepStatus::Running;
        run.started_at = Some(m.now);
        let mut event = Event { step: Some(step.name().to_owned()), attempt: Some(id), ..Event::new(EventKind::StepStarted) };
        if self.leading().is_some_and(|a| a.id == id) {
            self.enter(State::of_step(step), &mut event);
        }
        m.events.push(event);
    }

    fn finish_step(&mut self, index: usize, step: Step, m: &mut Moment<'_>) {
        let Some(attempt) = self.attempts.get_mut(index) else { return };
        let (of, retries) = (Whose::of(attempt, &self.spec), attempt.retries_of(step));
        let detail = json!({"status": "succeeded", "retries": retries});
        let mut timed = detail.clone();
        if let Some(run) = attempt.steps.get_mut(step.number()) {
            run.status = StepStatus::Succeeded;
            run.finished_at = Some(m.now);
            of.note_step(&mut timed, run, m.now);
        }
        // Why after it: who has just passed the leader leads, and who has done them all wins.
        let leads = step.next().is_none() || self.leading().is_some_and(|l| l.id == of.attempt);
        let event =
            |kind, detail| Event { step: Some(step.name().to_owned()), attempt: Some(of.attempt), detail, ..Event::new(kind) };
        m.events.push(event(EventKind::StepFinished, timed));
        if leads {
            m.events.push(event(EventKind::StepCompleted, detail));
        }
    }

    fn advance_operations(&mut self, place: Place, step: Step, m: &mut Moment<'_>, d: &mut Directive) {
        // Why again: what is over at once may be what an earlier one waited for.
        loop {
            let before = self.succeeded(place);
            self.advance_each(place, step, m, d);
            if self.succeeded(place) == before {
                return;
            }
        }
    }

    fn succeeded(&self, place: Place) -> usize {
        self.operations(place).iter().filter(|o| o.status == OperationStatus::Succeeded).count()
    }

    fn advance_each(&mut self, place: Place, step: Step, m: &mut Moment<'_>, d: &mut Directive) {
        for index in 0..self.operations(place).len() {
            let Some(operation) = self.operations(place).get(index).filter(|o| o.planned.step == step) else { continue };
            match operation.status {
                OperationStatus::Pending | OperationStatus::Waiting => {
                    if !self.is_ready(place, operation) || self.asks_person(place, operation) {
                        continue;
                    }
                    let takes_input = self.takes_input(operation);
                    match operation.next_at.filter(|at| *at > m.now) {
                        Some(at) => d.wake(at),
                        None if takes_input => self.await_input(place, index, m),
                        None if self.is_held_back(place, index, m, d) => {}
                        None => self.start_try(place, index, m, d),
                    }
                }
                OperationStatus::Looking => self.look_for(place, index, m, d),
                _ => {}
            }
        }
    }

    /// An operation of the attempt that begins at this very moment, which is progress (H12).
    pub(super) fn begins_now(&self, index: usize, m: &Moment<'_>) -> bool {
        let Some(attempt) = self.attempts.get(index).filter(|a| a.state == AttemptState::Running) else { return false };
        let (place, step) = (Place::Attempt(index), attempt.current_step());
        attempt.operations.iter().filter(|o| o.planned.step == step && o.next_at.is_none_or(|at| at <= m.now)).any(|o| {
            match o.status {
                OperationStatus::Pending | OperationStatus::Waiting => {
                    self.is_ready(place, o) && !self.asks_person(place, o) && self.held(place, o, m).is_none()
                }
                OperationStatus::Looking if m.known.holds(attempt.cluster, self.tenant, false, m.now).is_some() => false,
                OperationStatus::Looking => self.ledger.iter().any(|r| Some(r.id) == o.row && r.busy.is_none()),
                _ => false,
            }
        })
    }

    /// Its predecessors have succeeded, and what it must not find any more is gone.
    fn is_ready(&self, place: Place, operation: &Operation) -> bool {
        let all = self.operations(place);
        let cleared = operation.clears.is_none_or(|id| self.ledger.iter().any(|r| r.id == id && r.is_closed()));
        // The last of a name counts: a recreated operation stands after the one it repeats.
        let done = |name: &String| {
            let mut of_name = all.iter().filter(|o| o.planned.name == *name).peekable();
            of_name.peek().is_none() || of_name.all(|o| o.status == OperationStatus::Succeeded)
        };
        cleared && operation.planned.after.iter().all(done)
    }

    /// It is a person's, or a person has given by hand what the cluster would give: then that holds.
    fn takes_input(&self, operation: &Operation) -> bool {
        operation.planned.awaits_input || (operation.planned.name == AWAIT_INPUT && self.manual_input.is_some())
    }

    /// Begins a try: a ledger row before a create, then the call.
    fn start_try(&mut self, place: Place, index: usize, m: &mut Moment<'_>, d: &mut Directive) {
        let Some(base) = self.base(place) else { return };
        let Some(operation) = self.operations(place).get(index) else { return };
        if let Some(made) = self.known_answer(operation, base, m) {
            return self.end_at_once(place, index, made, m);
        }
        let row = operation.planned.makes.clone().map(|kind| self.intend(place, index, base, &kind, m));
        let made_already = self.ledger.iter().any(|r| Some(r.id) == row && r.provider_id.is_some());
        self.fix_deadline(place, index, base, m);
        let Some(operation) = self.operation_mut(place, index) else { return };
        operation.row = row.or(operation.row);
        operation.clears = None;
        operation.next_at = None;
        operation.status = OperationStatus::Running;
        operation.generation = m.generation;
        operation.calls += 1;
        // Why: a call that a former holder began goes on as the same try.
        let goes_on = operation.tries.last().is_some_and(|t| t.finished_at.is_none());
        if !goes_on {
            let learned = operation.learned.as_ref().map(|l| l.deadline);
            operation.tries.push(Try { learned, goes_on: made_already, ..Try::begin(m.now) });
        }
        let started = operation.tries.last().map_or(m.now, |t| t.started_at);
        let mut deadline = Deadline::after(started, operation.deadline);
        if goes_on {
            // H12: no deadline fires under a new lease before its holder has asked the provider once.
            deadline = deadline.max(Deadline::after(m.now, operation.planned.call_limit.min(operation.deadline)));
        }
        let name = operation.planned.name.clone();
        let step = operation.planned.step.name().to_owned();
        let detail = json!({"operation": name, "try": operation.tries.len(), "resource": operation.row});
        if let Some(call) = self.perform_call(place, index, base, deadline) {
            d.calls.push(call);
        }
        if !goes_on {
            let attempt = self.attempts.get(base).map(|a| a.id);
            m.events.push(Event { step: Some(step), attempt, detail, ..Event::new(EventKind::OperationStarted) });
            self.touch(m);
        }
    }

    /// The deadline of the try that is about to begin: at first a learned one where there is one, after one that a
    /// learned deadline has ended twice that, at most the configured one (H30). Where another cluster would take over the
    /// third is no longer than the second.
    fn fix_deadline(&mut self, place: Place, index: usize, base: usize, m: &mut Moment<'_>) {
        let Some(attempt) = self.attempts.get(base).filter(|_| self.spec.kind != Kind::Managed) else { return };
        let (cluster, provider) = (attempt.cluster, attempt.provider);
        let policy = attempt.settings.learned;
        let Some(operation) = self.operations(place).get(index) else { return };
        let (configured, source) = attempt.settings.deadline(&operation.planned.name, operation.planned.deadline);
        let learned = match operation.tries.last() {
            None => {
                let key = Key::of(provider, cluster, &operation.planned.name, &self.spec);
                m.known.deadlines.first(&key, configured, policy, m.now, m.chance).map(Box::new)
            }
            Some(last) if last.finished_at.is_some() && last.was_cut_short() => {
                let times = if operation.tries.len() > 1 && self.may_go_elsewhere(place) { 1 } else { 2 };
                let next = Span(operation.deadline.0.saturating_mul(times));
                operation.learned.clone().filter(|_| next < configured).map(|l| Box::new(Learned { deadline: next, ..*l }))
            }
            Some(_) => return,
        };
        let Some(operation) = self.operation_mut(place, index) else { return };
        operation.deadline = learned.as_ref().map_or(configured, |l| l.deadline);
        if learned.is_some() { "learned" } else { source }.clone_into(&mut operation.deadline_source);
        operation.learned = learned;
    }

    /// What an operation brings that asks nobody and makes nothing.
    fn known_answer(&self, operation: &Operation, base: usize, m: &Moment<'_>) -> Option<Made> {
        let cluster = self.attempts.get(base)?.cluster;
        let makes_nothing = operation.planned.makes.is_none() && operation.row.is_none();
        makes_nothing.then(|| m.planner.answer(cluster, &operation.planned.name, &self.spec)).flatten()
    }

    /// It begins and ends in one decision, so the log tells it once, at its end.
    fn end_at_once(&mut self, place: Place, index: usize, made: Made, m: &mut Moment<'_>) {
        let Some(operation) = self.operation_mut(place, index) else { return };
        operation.clears = None;
        operation.next_at = None;
        operation.calls += 1;
        if operation.tries.last().is_none_or(|t| t.finished_at.is_some()) {
            operation.tries.push(Try::begin(m.now));
        }
        self.succeed(place, index, made, m);
    }

    /// The row for what an operation makes: the one it has where that is certain, else a new one (H10).
    fn intend(&mut self, place: Place, index: usize, base: usize, kind: &str, m: &mut Moment<'_>) -> ResourceId {
        let send_by = m.now.plus(m.send_within);
        let kept = self.operations(place).get(index).and_then(|o| o.row);
        if let Some(row) = self.ledger.iter_mut().find(|r| Some(r.id) == kept && !r.is_closed() && !r.unwanted) {
            if row.provider_id.is_none() {
                row.send_by = send_by;
            }
            row.busy = Some(m.generation);
            return row.id;
        }
        let id = ResourceId::new(m.now, m.chance);
        let (operation, call_limit) = self
            .operations(place)
            .get(index)
            .map_or_else(|| (String::new(), Span::ZERO), |o| (o.planned.name.clone(), o.planned.call_limit.min(o.deadline)));
        let attempt = self.attempts.get(base);
        let row = Row {
            id,
            attempt: attempt.map_or_else(|| AttemptId::new(m.now, m.chance), |a| a.id),
            cluster: attempt.map_or_else(|| crate::id::ClusterId::new(m.now, m.chance), |a| a.cluster),
            kind: kind.to_owned(),
            operation,
            name: resource_name(&self.spec.name, id),
            tag: Tag::new(m.installation, id),
            provider_id: None,
            uid: None,
            identity: attempt.and_then(|a| a.identity.clone()),
            state: RowState::Intended,
            created_at: m.now,
            released_at: None,
            send_by,
            call_limit,
            in_doubt: false,
            empty_looks: 0,
            asked_at: None,
            unwanted: false,
            busy: Some(m.generation),
            calls: 0,
            next_at: None,
            releases: Vec::new(),
            release_deadline: Span::ZERO,
            failures: 0,
            owed_since: None,
            last_error: None,
            written_off: false,
        };
        self.ledger.push(row);
        id
    }

    fn perform_call(&self, place: Place, index: usize, base: usize, deadline: Deadline) -> Option<Call> {
        let attempt = self.attempts.get(base)?;
        let operation = self.operations(place).get(index)?;
        let row = operation.row.and_then(|id| self.ledger.iter().find(|r| r.id == id));
        let number = operation.calls;
        let key = match place {
            Place::Attempt(_) => CallKey::Operation { attempt: attempt.id, operation: index, number },
            Place::Action => CallKey::Action { operation: index, number },
        };
        let creating = row.filter(|r| r.provider_id.is_none());
        let probe = attempt.settings.probe_every;
        let is_probe = asks_the_service(&operation.planned.name);
        let work = Work {
            operation: operation.planned.name.clone(),
            item: operation.planned.item.clone(),
            spec: self.spec.clone(),
            request: self.id,
            attempt: Some(attempt.id),
            tag: row.map(|r| r.tag.clone()),
            name: row.map_or_else(|| self.spec.name.clone(), |r| r.name.clone()),
            provider_id: row.and_then(|r| r.provider_id.clone()),
            resources: self.resources_of(attempt.id),
            facts: attempt.facts.clone(),
            endpoints: attempt.endpoints.clone(),
            try_number: u32::try_from(operation.tries.len()).unwrap_or(u32::MAX),
        };
        Some(Call {
            key,
            request: self.id,
            tenant: self.tenant,
            cluster: attempt.cluster,
            urgent: self.is_urgent(place),
            task: Task::Perform(Box::new(work)),
            deadline,
            send_by: creating.map(|r| r.send_by),
            call_limit: operation.planned.call_limit,
            identity: row.and_then(|r| r.identity.clone()).or_else(|| attempt.identity.clone()),
            first_after: if is_probe { attempt.settings.probe_first_after } else { Span::ZERO },
            look_every: is_probe.then_some(probe),
        })
    }

    /// The backend's ids of what an attempt has, by kind; the newest of a kind counts.
    pub(super) fn resources_of(&self, attempt: AttemptId) -> std::collections::BTreeMap<String, String> {
        let rows = self.ledger.iter().filter(|r| r.attempt == attempt && !r.unwanted && !r.is_closed());
        rows.filter_map(|r| Some((r.kind.clone(), r.provider_id.clone()?))).collect()
    }
}

/// The name of a resource: the request's and the end of the row's id, so that attempts share none (H9).
fn resource_name(request: &str, row: ResourceId) -> String {
    let letters = row.letters();
    let tail: String = letters.chars().skip(letters.len().saturating_sub(8)).collect();
    let head: String = request.chars().take(50).collect();
    format!("{}-{tail}", head.trim_end_matches('-'))
}
