//! What can be asked of a run, and the two changes that all its parts share: entering a state, waiting.

use super::{
    Attempt, AttemptState, Operation, OperationStatus, Row, RowState, Run, ServiceHealth, StepRun, StepStatus, Wait, Waiting,
};
use crate::event::{Endpoint, Event, EventKind};
use crate::id::AttemptId;
use crate::lifecycle::{State, Step, is_allowed};
use crate::time::Timestamp;

/// Waits that a request remembers each for itself.
const WAITS_KEPT: usize = 64;

impl Run {
    /// The attempt whose step is the state: furthest along, the lower number on a tie (H11).
    pub fn leading(&self) -> Option<&Attempt> {
        let live = self.attempts.iter().filter(|a| a.state == AttemptState::Running);
        live.max_by_key(|a| (a.current_step(), std::cmp::Reverse(a.number)))
    }

    /// The attempt that a user should see: the winner, else the leader, else the last.
    pub fn shown(&self) -> Option<&Attempt> {
        let won = self.winner.and_then(|w| self.attempts.iter().find(|a| a.id == w));
        won.or_else(|| self.leading()).or_else(|| self.attempts.last())
    }

    /// Endpoints, only once there is a winner (SPEC 3.4), and not after release.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        let won = self.winner.and_then(|w| self.attempts.iter().find(|a| a.id == w));
        won.filter(|_| self.state != State::RolledBack).map_or(Vec::new(), |a| a.endpoints.clone())
    }

    /// What it waits for now: by name, or for the next try of all that its leading attempt has to do.
    pub fn waits_for(&self) -> Option<Waiting> {
        if self.waiting.is_some() || !self.state.is_working() {
            return self.waiting.clone();
        }
        let attempt = self.leading()?;
        let open = attempt.operations_of(attempt.current_step()).filter(|o| o.status != OperationStatus::Succeeded);
        let waiting: Vec<&Operation> = open.clone().filter(|o| o.status == OperationStatus::Waiting).collect();
        if waiting.is_empty() || open.clone().any(|o| o.status == OperationStatus::Running) {
            return None;
        }
        let last =
            waiting.iter().filter_map(|o| o.tries.last()).filter(|t| t.finished_at.is_some()).max_by_key(|t| t.finished_at)?;
        let detail = last.error.as_ref().map(|e| format!("{}: {}", e.operation.as_deref().unwrap_or_default(), e.message));
        Some(Waiting { reason: "retry".to_owned(), since: last.finished_at?, detail })
    }

    /// Whether it counts against its tenant's concurrency (H19).
    pub fn is_in_work(&self) -> bool {
        self.state.is_working() && self.waiting.as_ref().is_none_or(|w| w.reason != "manual_input")
    }

    /// Whether a person is asked for something (SPEC 3.8).
    pub(crate) fn awaits_person(&self) -> bool {
        self.waiting.as_ref().is_some_and(|w| w.reason == "manual_input")
    }

    /// Whether it holds quota: from admission to rolled_back (H18).
    pub fn holds_quota(&self) -> bool {
        !self.state.is_terminal()
    }

    /// The rows whose release is owed.
    pub fn owed(&self) -> impl Iterator<Item = &Row> {
        self.ledger.iter().filter(|r| r.state == RowState::Owed)
    }

    /// The attempts that still hold their cluster's capacity.
    pub fn holding(&self) -> impl Iterator<Item = &Attempt> {
        self.attempts.iter().filter(|a| a.released_at.is_none())
    }

    pub(crate) fn attempt_index(&self, id: AttemptId) -> Option<usize> {
        self.attempts.iter().position(|a| a.id == id)
    }

    /// What the sweeper found of a service that stands (H15): told once at each change, and nothing else is done. True
    /// when it is news.
    pub fn note_drift(&mut self, missing: bool, detail: Option<String>, now: Timestamp, events: &mut Vec<Event>) -> bool {
        let state = if missing { "missing" } else { "ok" };
        let known = self.health.as_ref().is_some_and(|h| h.state == state);
        // What was never found missing need not be found again.
        let same = known || (!missing && self.health.as_ref().is_none_or(|h| h.state != "missing"));
        if same || !self.state.is_standing() {
            return false;
        }
        let told = serde_json::json!({"health": state, "detail": detail});
        self.health = Some(ServiceHealth { state: state.to_owned(), detail, at: now });
        events.push(Event { detail: told, attempt: self.winner, ..Event::new(EventKind::Drifted) });
        true
    }

    /// Changes the state by the table; any other change is a fault of ours and changes nothing.
    pub(crate) fn enter(&mut self, to: State, event: &mut Event) -> bool {
        if self.state == to {
            return true;
        }
        let allowed = is_allowed(Some(self.state), to);
        // Why no more than that: a panic would stop the whole claim, and so everybody else, again and again.
        debug_assert!(allowed, "transition {} to {} is not in the table", self.state.name(), to.name());
        if !allowed {
            return false;
        }
        event.from_state = Some(self.state);
        event.to_state = Some(to);
        self.state = to;
        allowed
    }

    /// Ends the present wait and begins another, or none.
    pub(crate) fn wait_for(&mut self, reason: Option<(&str, Option<String>)>, now: Timestamp, events: &mut Vec<Event>) {
        let same = |w: &&mut Waiting| reason.as_ref().is_some_and(|(new, _)| w.reason == *new);
        if let (Some(waiting), Some((_, detail))) = (self.waiting.as_mut().filter(same), &reason) {
            waiting.detail.clone_from(detail);
            return;
        }
        if let Some(old) = self.waiting.take() {
            events.push(Event {
                detail: serde_json::json!({"reason": old.reason, "since": old.since}),
                ..Event::new(EventKind::WaitEnded)
            });
            self.waits.push(Wait { reason: old.reason, since: old.since, until: now });
            self.fold_waits();
        }
        if let Some((reason, detail)) = reason {
            events.push(Event { detail: serde_json::json!({"reason": reason}), ..Event::new(EventKind::WaitStarted) });
            self.waiting = Some(Waiting { reason: reason.to_owned(), since: now, detail });
        }
    }
}

impl Run {
    /// Of very many waits the oldest two of one reason stand as one, as long as both: a request that waits for months
    /// while clusters come and go does not grow for ever, and the account of its time stays right.
    fn fold_waits(&mut self) {
        if self.waits.len() <= WAITS_KEPT {
            return;
        }
        let next_of = |i: usize, w: &Wait| self.waits.iter().skip(i + 1).position(|o| o.reason == w.reason).map(|n| i + 1 + n);
        let pair = self.waits.iter().enumerate().find_map(|(i, w)| Some((i, next_of(i, w)?)));
        let Some((first, again)) = pair else { return };
        let other = self.waits.remove(again);
        if let Some(first) = self.waits.get_mut(first) {
            first.until = first.until.plus(other.until.since(other.since));
        }
    }
}

impl Attempt {
    /// The step that it is in; the last once all are done.
    pub fn current_step(&self) -> Step {
        let open = self.steps.iter().find(|s| s.status != StepStatus::Succeeded);
        open.map_or(Step::Verify, |s| s.step)
    }

    /// The operations of a step.
    pub fn operations_of(&self, step: Step) -> impl Iterator<Item = &Operation> + Clone {
        self.operations.iter().filter(move |o| o.planned.step == step)
    }

    /// How a step stands: a running one in which everything open waits is waiting.
    pub fn status_of(&self, step: &StepRun) -> StepStatus {
        let mut open = self.operations_of(step.step).filter(|o| o.status != OperationStatus::Succeeded).peekable();
        let idle = |o: &Operation| matches!(o.status, OperationStatus::Waiting | OperationStatus::Pending);
        if step.status == StepStatus::Running && open.peek().is_some() && open.all(idle) {
            return StepStatus::Waiting;
        }
        step.status
    }

    /// Retries of all operations of a step (H10).
    pub fn retries_of(&self, step: Step) -> u32 {
        self.operations.iter().filter(|o| o.planned.step == step).map(|o| o.retries).sum()
    }
}
