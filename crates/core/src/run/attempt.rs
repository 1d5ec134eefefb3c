//! The beginning and the end of attempts.

use serde_json::json;

use super::{Attempt, AttemptState, Directive, Moment, Operation, OperationStatus, Role, Row, Run, StepRun, StepStatus, Wanted};
use crate::cluster::{ProviderType, Settings};
use crate::event::{Event, EventKind};
use crate::failure::{Class, Failure};
use crate::id::{AttemptId, ClusterId};
use crate::lifecycle::{Outcome, State, Step};
use crate::spec::{Kind, StrategyKind};
use crate::workflow::plan::{Plan, Planned};

/// Where an attempt is to run: what placement chose and the provider planned.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
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
        generation: 0,
        throttled_until: None,
    }
}

impl Run {
    /// Whether a further attempt may follow now that none lives, and which clusters it must avoid.
    pub fn may_launch(&self) -> bool {
        let none_lives = !self.attempts.iter().any(|a| a.state == AttemptState::Running);
        let used = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX);
        self.state.is_working()
            && none_lives
            && self.spec.strategy.kind == StrategyKind::Failover
            && used < self.spec.strategy.max_attempts
            && self.error.as_ref().is_none_or(|e| e.code != "stuck")
    }

    /// Clusters that already failed it.
    pub fn failed_clusters(&self) -> Vec<ClusterId> {
        self.attempts.iter().map(|a| a.cluster).collect()
    }

    /// Starts an attempt: the first one, or the one after a failed one.
    pub fn launch(&mut self, launch: Launch, m: &mut Moment<'_>) {
        let id = AttemptId::new(m.now, m.chance);
        let number = u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1);
        let role = if number == 1 { Role::First } else { Role::Failover };
        let told = self.waiting.as_ref().is_some_and(|w| w.reason == AFTER_FORMER);
        self.wait_for(None, m.now, m.events);
        if let Some(former) = self.attempts.last_mut() {
            former.replaced_by = Some(id);
            if !told {
                m.events.push(failed_event(former));
            }
        }
        let step = |step| StepRun { step, status: StepStatus::Pending, started_at: None, finished_at: None };
        let operations = launch.plan.operations.into_iter().map(|p| operation(p, &launch.settings)).collect();
        let mut event = Event {
            attempt: Some(id),
            detail: json!({"number": number, "cluster": launch.cluster_name, "role": role}),
            ..Event::new(EventKind::AttemptStarted)
        };
        self.enter(State::Allocating, &mut event);
        m.events.push(event);
        self.provisioning_started_at.get_or_insert(m.now);
        self.error = None;
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
            state: AttemptState::Running,
            steps: Step::ALL.into_iter().map(step).collect(),
            operations,
            facts: std::collections::BTreeMap::new(),
            endpoints: Vec::new(),
            error: None,
            replaced_by: None,
            started_at: m.now,
            finished_at: None,
            released_at: None,
        });
        self.touch(m);
    }

    /// H9: where the request itself fixes the endpoint, the next attempt begins after the former one is gone. True when
    /// it may begin now; until then the request waits, `allocating`, with its failed attempt told (H11).
    pub(super) fn follows_now(&mut self, m: &mut Moment<'_>, d: &mut Directive) -> bool {
        if self.spec.kind == Kind::Vps {
            return true;
        }
        self.advance_rows(m, d);
        if self.ledger.iter().all(Row::is_closed) {
            return true;
        }
        if self.waiting.is_none() {
            if let Some(former) = self.attempts.last() {
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
        let id = attempt.id;
        let failed = state == AttemptState::Failed;
        for step in attempt.steps.iter_mut().filter(|s| s.status != StepStatus::Succeeded) {
            let began = step.started_at.is_some();
            step.status = if failed && began { StepStatus::Failed } else { StepStatus::Cancelled };
            if began {
                step.finished_at = Some(m.now);
                let detail = json!({"status": step.status});
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
                m.events.push(done_event(operation, Some(id), "cancelled"));
            }
        }
        for row in self.ledger.iter_mut().filter(|r| r.attempt == id && !r.is_closed() && !r.unwanted) {
            row.unwanted = true;
            // Why: the looks so far were for the operation; a late arrival is looked for anew (H6).
            row.empty_looks = 0;
        }
        if error.is_some() {
            self.error = error;
        }
    }

    /// The attempt has verified: one conditional change (H7), and the first events with endpoints (H33).
    pub(super) fn win(&mut self, index: usize, m: &mut Moment<'_>) {
        let Some(attempt) = self.attempts.get_mut(index) else { return };
        attempt.state = AttemptState::Won;
        attempt.finished_at = Some(m.now);
        let (id, endpoints) = (attempt.id, attempt.endpoints.clone());
        self.winner = Some(id);
        self.outcome = Some(Outcome::Completed);
        self.error = None;
        self.wait_for(None, m.now, m.events);
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
        detail: json!({"number": former.number, "cluster": former.cluster_name, "replaced_by": former.replaced_by}),
        ..Event::new(EventKind::AttemptFailed)
    }
}

pub(super) fn is_open(status: OperationStatus) -> bool {
    use OperationStatus::{Looking, Pending, Running, Waiting};
    matches!(status, Pending | Running | Waiting | Looking)
}

/// The fact that an operation ended, with all its tries.
pub(super) fn done_event(operation: &Operation, attempt: Option<AttemptId>, status: &str) -> Event {
    let mut detail = json!({
        "operation": operation.planned.name, "status": status, "tries": operation.tries, "retries": operation.retries,
        "deadline_seconds": operation.deadline, "deadline_source": operation.deadline_source,
    });
    if let Some(map) = detail.as_object_mut() {
        map.extend(operation.planned.item.as_ref().map(|item| ("item".to_owned(), json!(item))));
        map.extend(operation.row.map(|row| ("resource".to_owned(), json!(row))));
    }
    let step = Some(operation.planned.step.name().to_owned());
    Event { step, attempt, detail, ..Event::new(EventKind::OperationDone) }
}

/// The failure of a request for which no cluster has room any more.
pub fn no_room(rejected: &[(String, String)]) -> Failure {
    let reasons: Vec<String> = rejected.iter().map(|(c, r)| format!("{c}: {r}")).collect();
    Failure::new(Class::Capacity, "no_cluster", format!("no cluster can take it ({})", reasons.join("; ")))
}
