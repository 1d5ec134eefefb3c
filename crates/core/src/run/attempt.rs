//! The beginning and the end of attempts.

use serde_json::{Value, json};

use super::{Attempt, AttemptState, Directive, Moment, Operation, OperationStatus, Role, Row, Run, StepRun, StepStatus, Wanted};
use crate::cluster::{ProviderType, Settings};
use crate::deadline::size_class;
use crate::event::{Event, EventKind};
use crate::failure::{Class, Failure};
use crate::id::{AttemptId, ClusterId};
use crate::lifecycle::{Outcome, State, Step};
use crate::spec::{Kind, Spec};
use crate::time::{Span, Timestamp};
use crate::workflow::plan::{Plan, Planned};

/// Where an attempt is to run: what placement chose and the provider planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    /// Why it is started.
    pub role: Role,
    /// Where.
    pub cluster: ClusterId,
    /// Its name.
    pub cluster_name: String,
    /// Its type.
    pub provider: ProviderType,
    /// Its region.
    pub region: String,
    /// Its backend's identity, where already known (H4).
    pub identity: Option<String>,
    /// Its settings.
    pub settings: Settings,
    /// Another cluster could take it as well.
    pub others: bool,
    /// What is going to be done.
    pub plan: Plan,
}

pub(super) fn operation(planned: Planned, settings: &Settings) -> Operation {
    let (deadline, source) = settings.deadline(&planned.name, planned.deadline);
    Operation {
        planned,
        status: OperationStatus::Pending,
        tries: Vec::new(),
        retries: 0,
        next_at: None,
        calls: 0,
        row: None,
        clears: None,
        deadline,
        deadline_source: source.to_owned(),
        learned: None,
        generation: 0,
        held_since: None,
        refused: None,
        throttled_until: None,
    }
}

impl Run {
    /// Starts an attempt: the first one, one beside another, or one after a failed one.
    pub fn launch(&mut self, launch: Launch, m: &mut Moment<'_>) {
        let id = AttemptId::new(m.now, m.chance);
        let number = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
        let role = launch.role;
        if matches!(role, Role::Race | Role::Hedge) {
            self.asked_beside();
        } else {
            self.wait_for(None, m.now, m.events);
            self.replace_former(id, m);
            self.error = None;
        }
        let step = |step| StepRun { step, status: StepStatus::Pending, started_at: None, finished_at: None };
        let operations = launch.plan.operations.into_iter().map(|p| operation(p, &launch.settings)).collect();
        let mut event = Event {
            attempt: Some(id),
            detail: json!({"number": number, "cluster": launch.cluster_name, "role": role}),
            ..Event::new(EventKind::AttemptStarted)
        };
        if self.living().next().is_none() {
            self.enter(State::Allocating, &mut event);
        }
        m.events.push(event);
        self.provisioning_started_at.get_or_insert(m.now);
        self.attempts.push(Attempt {
            id,
            number,
            role,
            cluster: launch.cluster,
            cluster_name: launch.cluster_name,
            provider: launch.provider,
            region: launch.region,
            identity: launch.identity,
            settings: launch.settings,
            others: launch.others,
            state: AttemptState::Running,
            steps: Step::ALL.into_iter().map(step).collect(),
            operations,
            facts: std::collections::BTreeMap::new(),
            endpoints: Vec::new(),
            error: None,
            replaced_by: None,
            failure_told: false,
            asked_beside: None,
            started_at: m.now,
            finished_at: None,
            released_at: None,
        });
        self.touch(m);
    }

    /// The attempt that a new one stands in for: the last to fail, which is told now unless it has been.
    fn replace_former(&mut self, by: AttemptId, m: &mut Moment<'_>) {
        let failed = self.attempts.iter_mut().filter(|a| a.state == AttemptState::Failed);
        let Some(former) = failed.max_by_key(|a| (!a.failure_told, a.finished_at)) else { return };
        former.replaced_by = Some(by);
        if !former.failure_told {
            former.failure_told = true;
            m.events.push(failed_event(former));
        }
    }

    /// H9: where the request itself fixes the endpoint, the next attempt begins after the former one is gone. True when
    /// it may begin now; until then the request waits, `allocating`, with its failed attempt told (H11).
    pub(super) fn follows_now(&mut self, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        if !self.spec.kind.fixes_endpoint() {
            return true;
        }
        self.advance_rows(m, d);
        if self.ledger.iter().all(Row::is_closed) {
            return true;
        }
        if self.waiting.as_ref().is_none_or(|w| w.reason != AFTER_FORMER) {
            if let Some(former) = self.attempts.last_mut() {
                former.failure_told = true;
                let mut failed = failed_event(former);
                self.enter(State::Allocating, &mut failed);
                m.events.push(failed);
            }
            let detail = "the next attempt begins when the former one is gone".to_owned();
            self.wait_for(Some((AFTER_FORMER, Some(detail))), m.now, m.events);
        }
        false
    }

    /// Nothing lives and nothing may follow: the request fails and rolls back at once. `rejected` says
    /// why no further attempt was placed.
    pub fn give_up(&mut self, failure: Failure, m: &mut Moment<'_>) {
        let outcome = if failure.code == "dependency_failed" { Outcome::DependencyFailed } else { Outcome::Failed };
        let step = failure.step.clone();
        let attempt = failure.attempt;
        self.error = Some(failure.clone());
        self.outcome = Some(outcome);
        self.wait_for(None, m.now, m.events);
        let mut failed = Event { error: Some(failure), outcome: Some(outcome), step, attempt, ..Event::new(EventKind::Failed) };
        self.enter(State::Failed, &mut failed);
        m.events.push(failed);
        self.begin_rollback(m);
    }

    /// Enters rolling_back; everything that was made is unwanted from now on.
    pub(super) fn begin_rollback(&mut self, m: &mut Moment<'_>) {
        let once_completed = self.ready_at.is_some();
        let kind = if once_completed { EventKind::DeprovisionStarted } else { EventKind::RollbackStarted };
        let mut event = Event { outcome: self.outcome, actor: m.actor.clone(), ..Event::new(kind) };
        if let Some(reason) = &self.reason {
            event.detail = json!({"reason": reason});
        }
        self.enter(State::RollingBack, &mut event);
        m.events.push(event);
        self.wait_for(None, m.now, m.events);
        self.termination_started_at = Some(m.now);
        self.wanted = Wanted::Gone;
        for index in 0..self.attempts.len() {
            self.end_attempt(index, AttemptState::Cancelled, None, m);
        }
        for row in self.ledger.iter_mut().filter(|r| !r.is_closed()) {
            row.unwanted = true;
        }
    }

    /// Ends a running attempt: its open step and operations end with it, what it made becomes unwanted.
    pub(super) fn end_attempt(&mut self, index: usize, state: AttemptState, error: Option<Failure>, m: &mut Moment<'_>) {
        let Some(attempt) = self.attempts.get_mut(index).filter(|a| a.state == AttemptState::Running) else { return };
        attempt.state = state;
        attempt.finished_at = Some(m.now);
        attempt.error.clone_from(&error);
        let (id, of) = (attempt.id, Whose::of(attempt, &self.spec));
        let failed = state == AttemptState::Failed;
        for step in attempt.steps.iter_mut().filter(|s| s.status != StepStatus::Succeeded) {
            let began = step.started_at.is_some();
            step.status = if failed && began { StepStatus::Failed } else { StepStatus::Cancelled };
            if began {
                step.finished_at = Some(m.now);
                let mut detail = json!({"status": step.status});
                of.note_step(&mut detail, step, m.now);
                let name = step.step.name().to_owned();
                m.events.push(Event { step: Some(name), attempt: Some(id), detail, ..Event::new(EventKind::StepFinished) });
            }
        }
        for operation in attempt.operations.iter_mut().filter(|o| is_open(o.status)) {
            let began = !operation.tries.is_empty();
            operation.status = OperationStatus::Cancelled;
            if let Some(last) = operation.tries.last_mut().filter(|t| t.finished_at.is_none()) {
                last.finished_at = Some(m.now);
            }
            if began {
                m.events.push(done_event(operation, Some(&of), "cancelled"));
            }
        }
        for row in self.ledger.iter_mut().filter(|r| r.attempt == id && !r.is_closed() && !r.unwanted) {
            row.unwanted = true;
            // Why: the looks so far were for the operation; a late arrival is looked for anew (H6).
            row.empty_looks = 0;
        }
        // While another is at work the request has not failed.
        if error.is_some() && self.living().next().is_none() {
            self.error = error;
        }
    }

    /// An attempt failed. While another is at work the request goes on with that one, and is told so at once: the edge
    /// back to its step stands here and nowhere else (H11).
    pub(super) fn fail_attempt(&mut self, index: usize, failure: Failure, m: &mut Moment<'_>) {
        self.end_attempt(index, AttemptState::Failed, Some(failure), m);
        let Some(state) = self.leading().map(|a| State::of_step(a.current_step())) else { return };
        let Some(failed) = self.attempts.get_mut(index).filter(|a| a.state == AttemptState::Failed) else { return };
        if !failed.failure_told {
            failed.failure_told = true;
            let mut event = failed_event(failed);
            self.enter(state, &mut event);
            m.events.push(event);
        }
    }

    /// The attempt has verified: one conditional change (H7), and the first events with endpoints (H33). Those beside
    /// it have lost, and are released at once.
    pub(super) fn win(&mut self, index: usize, m: &mut Moment<'_>) {
        if self.winner.is_some() || !self.state.is_working() {
            return;
        }
        let Some(attempt) = self.attempts.get_mut(index) else { return };
        attempt.state = AttemptState::Won;
        attempt.finished_at = Some(m.now);
        let (id, endpoints) = (attempt.id, attempt.endpoints.clone());
        self.winner = Some(id);
        self.outcome = Some(Outcome::Completed);
        self.error = None;
        self.wait_for(None, m.now, m.events);
        self.lose_others(id, m);
        let activated = Event { attempt: Some(id), endpoints: endpoints.clone(), ..Event::new(EventKind::ServiceActivated) };
        m.events.push(activated);
        let started = self.provisioning_started_at.unwrap_or(self.created_at);
        let mut completed = Event {
            attempt: Some(id),
            endpoints,
            outcome: self.outcome,
            detail: json!({"provisioning_duration_seconds": m.now.since(started)}),
            ..Event::new(EventKind::Completed)
        };
        self.enter(State::Completed, &mut completed);
        m.events.push(completed);
        self.ready_at.get_or_insert(m.now);
        self.touch(m);
    }

    fn lose_others(&mut self, winner: AttemptId, m: &mut Moment<'_>) {
        for index in 0..self.attempts.len() {
            if self.attempts.get(index).is_none_or(|a| a.state != AttemptState::Running) {
                continue;
            }
            self.end_attempt(index, AttemptState::Lost, None, m);
            let Some(lost) = self.attempts.get_mut(index) else { continue };
            lost.replaced_by = Some(winner);
            let detail = ended_detail(lost);
            m.events.push(Event { attempt: Some(lost.id), detail, ..Event::new(EventKind::AttemptLost) });
        }
    }

    /// Something moved (H12).
    pub(super) fn touch(&mut self, m: &Moment<'_>) {
        self.progress.at = m.now;
        self.progress.downtime = m.downtime;
    }
}

impl Attempt {
    /// Which operations are done again when what `name` made is made anew for `waiting`: that one, and all that was done on
    /// top of it since. The newest of a name and item counts.
    pub(super) fn done_on(&self, name: &str, waiting: usize) -> Vec<usize> {
        let mut names = vec![name];
        let mut seen = 0;
        while let Some(known) = names.get(seen).copied() {
            seen += 1;
            let on_it = self.operations.iter().filter(|o| o.planned.after.iter().any(|a| a == known));
            let new: Vec<&str> = on_it.map(|o| o.planned.name.as_str()).filter(|n| !names.contains(n)).collect();
            names.extend(new);
        }
        let same = |a: &Operation, b: &Operation| a.planned.name == b.planned.name && a.planned.item == b.planned.item;
        let newest = |i: usize, o: &Operation| !self.operations.iter().skip(i + 1).any(|later| same(o, later));
        let all = self.operations.iter().enumerate();
        let done = all.filter(|(i, o)| *i != waiting && o.status == OperationStatus::Succeeded && newest(*i, o));
        done.filter(|(_, o)| names.contains(&o.planned.name.as_str())).map(|(i, _)| i).collect()
    }
}

/// What a request waits for between two attempts (H9).
const AFTER_FORMER: &str = "retry";

/// The fact that an attempt failed and the request goes on.
fn failed_event(former: &Attempt) -> Event {
    Event {
        attempt: Some(former.id),
        error: former.error.clone(),
        step: former.error.as_ref().and_then(|e| e.step.clone()),
        detail: ended_detail(former),
        ..Event::new(EventKind::AttemptFailed)
    }
}

fn ended_detail(attempt: &Attempt) -> serde_json::Value {
    json!({"number": attempt.number, "cluster": attempt.cluster_name, "replaced_by": attempt.replaced_by})
}

pub(super) fn is_open(status: OperationStatus) -> bool {
    use OperationStatus::{Looking, Pending, Running, Waiting};
    matches!(status, Pending | Running | Waiting | Looking)
}

/// Whose an operation is: its attempt, and what it is learned as (SPEC 3.3).
#[derive(Debug, Clone)]
pub(super) struct Whose {
    pub(super) attempt: AttemptId,
    class: Value,
}

impl Whose {
    pub(super) fn of(attempt: &Attempt, spec: &Spec) -> Self {
        let class = match spec.kind {
            // What a vendor does takes as long as it takes.
            Kind::Managed => Value::Null,
            _ => json!({"provider": attempt.provider, "cluster": attempt.cluster, "size": size_class(spec)}),
        };
        Self { attempt: attempt.id, class }
    }

    /// How long a step took, where that tells anything.
    pub(super) fn note_step(&self, detail: &mut Value, step: &StepRun, now: Timestamp) {
        let took = step.started_at.map_or(Span::ZERO, |at| now.since(at));
        if took > Span::ZERO && !self.class.is_null() {
            detail["seconds"] = json!(took);
            detail["class"] = self.class.clone();
        }
    }
}

/// The fact that an operation ended, with all its tries.
pub(super) fn done_event(operation: &Operation, of: Option<&Whose>, status: &str) -> Event {
    let mut detail = json!({
        "operation": operation.planned.name, "status": status, "tries": operation.tries, "retries": operation.retries,
        "deadline_seconds": operation.deadline, "deadline_source": operation.deadline_source,
    });
    // What asked nobody took no time, and nothing is learned of it.
    let timed = operation.tries.iter().any(|t| t.finished_at.is_some_and(|at| at > t.started_at));
    let class = of.map(|of| &of.class).filter(|class| timed && !class.is_null() && !operation.planned.awaits_input);
    if let Some(map) = detail.as_object_mut() {
        map.extend(operation.planned.item.as_ref().map(|item| ("item".to_owned(), json!(item))));
        map.extend(operation.row.map(|row| ("resource".to_owned(), json!(row))));
        map.extend(operation.learned.as_ref().map(|learned| ("learned".to_owned(), json!(learned))));
        map.extend(class.map(|class| ("class".to_owned(), class.clone())));
    }
    let (step, attempt) = (Some(operation.planned.step.name().to_owned()), of.map(|of| of.attempt));
    Event { step, attempt, detail, ..Event::new(EventKind::OperationDone) }
}

/// The failure of a request for which no cluster has room any more.
pub fn no_room(rejected: &[(String, String)]) -> Failure {
    let reasons: Vec<String> = rejected.iter().map(|(c, r)| format!("{c}: {r}")).collect();
    Failure::new(Class::Capacity, "no_cluster", format!("no cluster can take it ({})", reasons.join("; ")))
}
