//! A request with all that was done for it: the aggregate that one transaction loads, changes and keeps.
//!
//! One document instead of a table for each part: every decision needs all of it, and one row is written
//! instead of ten. The store projects what must be asked across requests (ledger rows, due times,
//! holdings) into tables in the same transaction. Rejected: folding the log at each load, which makes a
//! long life expensive; the log stays the record, the document is its fold.
//!
//! [`advance`] decides what to do next, [`settle`] takes in answers, [`command`] what people ask for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::{ProviderType, Settings};
use crate::event::{Endpoint, Event, EventKind};
use crate::failure::Failure;
use crate::id::{AttemptId, ClusterId, RequestId, ResourceId, Tag, TenantId};
use crate::lifecycle::{Outcome, State, Step, is_allowed};
use crate::spec::Spec;
use crate::time::{Span, Timestamp};
use crate::workflow::plan::Planned;

pub mod admit;
pub mod advance;
pub mod attempt;
pub mod command;
pub mod pipeline;
pub mod settle;
pub mod undo;

pub use advance::{Directive, Moment};
pub use admit::Admission;
pub use attempt::Launch;
pub use command::{Command, Refusal};

/// The version of this document; a worker claims only versions that it knows (H43).
pub const RUN_VERSION: u16 = 1;

/// What the tenant wants of a service that stands (H13).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// Up.
    Running,
    /// Stopped.
    Suspended,
    /// Released; final.
    Gone,
}

/// A request and its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// See [`RUN_VERSION`].
    pub version: u16,
    /// Its id.
    pub id: RequestId,
    /// Whose it is.
    pub tenant: TenantId,
    /// What was asked for.
    pub spec: Spec,
    /// Regions that placement may use, best first; fixed at admission (H22).
    pub regions: Vec<String>,
    /// Where it stands.
    pub state: State,
    /// Why it left, once it did.
    pub outcome: Option<Outcome>,
    /// What is wanted of the service.
    pub wanted: Wanted,
    /// The last suspend, reactivate or deprovision.
    pub action: Option<ActionRun>,
    /// What the sweeper or a failed action found (H14, H15).
    pub health: Option<ServiceHealth>,
    /// In order of their numbers.
    pub attempts: Vec<Attempt>,
    /// The attempt that won.
    pub winner: Option<AttemptId>,
    /// Everything that was made or may have been.
    pub ledger: Vec<Row>,
    /// What it waits for now.
    pub waiting: Option<Waiting>,
    /// Waits that ended, for the account of time.
    pub waits: Vec<Wait>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// Prerequisites.
    pub depends_on: Vec<RequestId>,
    /// The request that this one retries.
    pub retry_of: Option<RequestId>,
    /// The request that retries this one.
    pub retried_as: Option<RequestId>,
    /// When it was admitted.
    pub created_at: Timestamp,
    /// When its first attempt began.
    pub provisioning_started_at: Option<Timestamp>,
    /// When it first completed.
    pub ready_at: Option<Timestamp>,
    /// When it entered rolling_back.
    pub termination_started_at: Option<Timestamp>,
    /// When it was rolled back.
    pub terminated_at: Option<Timestamp>,
    /// The last progress, for stuck detection (H12).
    pub progress: Progress,
    /// Input given by hand for a managed service (SPEC 3.8).
    #[serde(default)]
    pub manual_input: Option<ManualInput>,
    /// Who asked for the present termination, for its events.
    #[serde(default)]
    pub reason: Option<String>,
}

/// When something last moved (H12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// When.
    pub at: Timestamp,
    /// How long no worker had been alive by then, in all: that time does not count.
    pub downtime: Span,
    /// Nothing times out before this: a new holder first asks the provider once.
    pub not_before: Timestamp,
}

/// What an administrator gave for a managed service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManualInput {
    /// Where it answers.
    pub endpoints: Vec<Endpoint>,
    /// The access details, encrypted.
    pub credentials: Option<crate::spec::Sealed>,
}

/// How an attempt stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptState {
    /// At work.
    Running,
    /// Verified; its endpoints are the request's.
    Won,
    /// Failed.
    Failed,
    /// Another won.
    Lost,
    /// Taken back with its request.
    Cancelled,
}

/// Why an attempt was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The first.
    First,
    /// After another failed.
    Failover,
    /// Beside another from the start.
    Race,
    /// Beside a slow one.
    Hedge,
}

/// One try at the request on one cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Its id.
    pub id: AttemptId,
    /// From 1.
    pub number: u32,
    /// Why it was started.
    pub role: Role,
    /// Where.
    pub cluster: ClusterId,
    /// The cluster's name at that time.
    pub cluster_name: String,
    /// The cluster's type.
    pub provider: ProviderType,
    /// The cluster's region.
    pub region: String,
    /// The backend's identity, once asked (H4).
    pub identity: Option<String>,
    /// The settings that hold for it.
    pub settings: Settings,
    /// How it stands.
    pub state: AttemptState,
    /// The four steps.
    pub steps: Vec<StepRun>,
    /// Its operations in plan order; a recreation adds further ones.
    pub operations: Vec<Operation>,
    /// Facts that its operations learned.
    pub facts: BTreeMap<String, String>,
    /// Where it answers; shown only once it has won.
    pub endpoints: Vec<Endpoint>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// The attempt that took over.
    pub replaced_by: Option<AttemptId>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When all that it made was confirmed gone and its cluster's capacity given back.
    pub released_at: Option<Timestamp>,
}

/// How a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not yet.
    Pending,
    /// Now.
    Running,
    /// Waits for a person or a retry.
    Waiting,
    /// Done.
    Succeeded,
    /// Failed.
    Failed,
    /// Ended with its attempt.
    Cancelled,
}

/// One of the four steps of an attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRun {
    /// Which.
    pub step: Step,
    /// How it stands.
    pub status: StepStatus,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// How an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationStatus {
    /// Not begun.
    Pending,
    /// A call is under way.
    Running,
    /// Waits for its next try.
    Waiting,
    /// Its create is in doubt: looking for the object by its tag.
    Looking,
    /// Done.
    Succeeded,
    /// Failed for good.
    Failed,
    /// Ended with its attempt.
    Cancelled,
}

/// One operation and its tries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// As planned.
    pub planned: Planned,
    /// How it stands.
    pub status: OperationStatus,
    /// Every try.
    pub tries: Vec<Try>,
    /// Tries after the first, by which `max_retries` is counted (H10).
    pub retries: u32,
    /// When the next try or look is due.
    pub next_at: Option<Timestamp>,
    /// Calls begun for it, to tell answers apart.
    pub calls: u32,
    /// The ledger row of what it makes.
    pub row: Option<ResourceId>,
    /// A spoiled object that must be gone before the next try.
    #[serde(default)]
    pub clears: Option<ResourceId>,
    /// Deadline of a try and where it comes from.
    pub deadline: Span,
    /// `default`, `cluster` or `learned`.
    pub deadline_source: String,
    /// The lease generation under which its call was handed out; another holder asks anew.
    #[serde(default)]
    pub generation: i64,
    /// When the operation gives up waiting for throttling, whatever its retries (H10).
    #[serde(default)]
    pub throttled_until: Option<Timestamp>,
}

/// One try of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it failed.
    pub error: Option<Failure>,
}

/// How a row of the ledger stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RowState {
    /// About to be made, or in doubt.
    Intended,
    /// It is there.
    Created,
    /// Being released.
    Releasing,
    /// Could not be released yet: clean-up owed.
    Owed,
    /// Confirmed gone, or known never to have been made.
    Released,
}

impl RowState {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Created => "created",
            Self::Releasing => "releasing",
            Self::Owed => "owed",
            Self::Released => "released",
        }
    }
}

/// One resource of one attempt: there before the call that makes it, until its absence is confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Its id; its letters are in the tag.
    pub id: ResourceId,
    /// Whose it is.
    pub attempt: AttemptId,
    /// Where it is.
    pub cluster: ClusterId,
    /// `server`, `volume` …
    pub kind: String,
    /// The operation that makes it.
    pub operation: String,
    /// What must be released before it: rows whose operations came after its own.
    pub name: String,
    /// Its tag (H1).
    pub tag: Tag,
    /// The backend's id, once known.
    pub provider_id: Option<String>,
    /// Immutable uid, where there is one.
    pub uid: Option<String>,
    /// The backend's identity when it was made (H4).
    pub identity: Option<String>,
    /// How it stands.
    pub state: RowState,
    /// When the intent was written.
    pub created_at: Timestamp,
    /// When it was confirmed gone.
    pub released_at: Option<Timestamp>,
    /// After this moment its create is not sent any more (H5).
    pub send_by: Timestamp,
    /// Longest time its create call may be under way.
    pub call_limit: Span,
    /// Whether a create may have been done of which we do not know.
    pub in_doubt: bool,
    /// Looks that found nothing at or after the time that the look was for.
    pub empty_looks: u32,
    /// When it was last looked for: a look counts by when it was asked, not by when it was answered.
    #[serde(default)]
    pub looked_at: Option<Timestamp>,
    /// It is to go: by rollback, by a lost attempt, or because it was spoiled.
    pub unwanted: bool,
    /// A call for it is under way (a look or a release), handed out under this generation.
    #[serde(default)]
    pub busy: Option<i64>,
    /// Calls begun for its release or look.
    #[serde(default)]
    pub calls: u32,
    /// When to try next.
    #[serde(default)]
    pub next_at: Option<Timestamp>,
    /// Tries of its release, of very many only the first and the last ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<Try>,
    /// Deadline of one of them.
    #[serde(default)]
    pub release_deadline: Span,
    /// Failed tries of its release.
    #[serde(default)]
    pub failures: u32,
    /// Since when clean-up is owed.
    #[serde(default)]
    pub owed_since: Option<Timestamp>,
    /// Why it could not be released.
    #[serde(default)]
    pub last_error: Option<Failure>,
    /// An administrator closed it without proof (H8).
    #[serde(default)]
    pub written_off: bool,
}

impl Row {
    /// Nothing more is to be done for it.
    pub fn is_closed(&self) -> bool {
        self.state == RowState::Released
    }
}

/// What a request waits for, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// `approval`, `prerequisites`, `tenant_limit`, `capacity`, `cluster_health`, `manual_input`, `retry`, `queue`.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// More, for people.
    pub detail: Option<String>,
}

/// A wait that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// Why.
    pub reason: String,
    /// From.
    pub since: Timestamp,
    /// To.
    pub until: Timestamp,
}

/// What was found of a service that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceHealth {
    /// `ok`, `degraded`, `missing`.
    pub state: String,
    /// What was seen.
    pub detail: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A suspend, reactivate or deprovision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionRun {
    /// `suspend`, `reactivate`, `deprovision`.
    pub name: String,
    /// `running`, `succeeded`, `failed`.
    pub status: String,
    /// Why, by who asked.
    pub reason: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// Its operations; empty until it is planned.
    pub operations: Vec<Operation>,
    /// When a failed one is tried again (H14).
    #[serde(default)]
    pub next_at: Option<Timestamp>,
}

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
        let last = waiting.iter().filter_map(|o| o.tries.last()).filter(|t| t.finished_at.is_some()).max_by_key(|t| t.finished_at)?;
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

    /// Changes the state by the table; any other change is a fault of ours and changes nothing.
    pub(crate) fn enter(&mut self, to: State, event: &mut Event) -> bool {
        if self.state == to {
            return true;
        }
        let allowed = is_allowed(Some(self.state), to);
        assert!(allowed, "transition {} to {} is not in the table", self.state.name(), to.name());
        event.from_state = Some(self.state);
        event.to_state = Some(to);
        self.state = to;
        allowed
    }

    /// Ends the present wait and begins another, or none.
    pub(crate) fn wait_for(&mut self, reason: Option<(&str, Option<String>)>, now: Timestamp, events: &mut Vec<Event>) {
        if let (Some(waiting), Some((new, detail))) = (&mut self.waiting, &reason) {
            if waiting.reason == *new {
                waiting.detail.clone_from(detail);
                return;
            }
        }
        if let Some(old) = self.waiting.take() {
            events.push(Event { detail: serde_json::json!({"reason": old.reason, "since": old.since}), ..Event::new(EventKind::WaitEnded) });
            self.waits.push(Wait { reason: old.reason, since: old.since, until: now });
        }
        if let Some((reason, detail)) = reason {
            events.push(Event { detail: serde_json::json!({"reason": reason}), ..Event::new(EventKind::WaitStarted) });
            self.waiting = Some(Waiting { reason: reason.to_owned(), since: now, detail });
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

    /// Which operations are done again when what `name` made is made anew for `waiting`: that one, and all that was done on
    /// top of it since. The newest of a name and item counts.
    pub(crate) fn done_on(&self, name: &str, waiting: usize) -> Vec<usize> {
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

    /// Retries of all operations of a step (H10).
    pub fn retries_of(&self, step: Step) -> u32 {
        self.operations.iter().filter(|o| o.planned.step == step).map(|o| o.retries).sum()
    }
}
