//! A request with all that was done for it: the aggregate that one transaction loads, changes and keeps.
//!
//! One document instead of a table for each part: every decision needs all of it, and one row is written
//! instead of ten. The store projects what must be asked across requests (ledger rows, due times,
//! holdings) into tables in the same transaction. Rejected: folding the log at each load, which makes a
//! long life expensive; the log stays the record, the document is its fold. What is not there, or as usual, is not
//! written: the document is read and written at each change. What is usual is thereby part of the document's form: a
//! release that changes it raises [`RUN_VERSION`] (`what_is_usual_is_part_of_the_form` holds it).
//!
//! [`advance`] decides what to do next, [`settle`] takes in answers, [`command`] what people ask for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::{ProviderType, Settings};
use crate::event::Endpoint;
use crate::failure::Failure;
use crate::id::{AttemptId, ClusterId, RequestId, ResourceId, Tag, TenantId};
use crate::lifecycle::{Outcome, State, Step};
use crate::spec::{Spec, Strategy};
use crate::time::{Span, Timestamp};

mod action;
pub mod admit;
pub mod advance;
pub mod attempt;
mod back;
pub mod command;
mod held;
mod operation;
mod person;
pub mod pipeline;
mod questions;
mod restored;
pub mod settle;
pub mod strategy;
pub mod undo;

pub use admit::Admission;
pub use advance::{Directive, Moment};
pub use attempt::Launch;
pub use command::{Command, Refusal};
pub use operation::{Operation, OperationStatus, Try};

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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
    /// How it is tried where it does not say so itself; fixed at admission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Strategy>,
    /// Where it stands.
    pub state: State,
    /// Why it left, once it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// What is wanted of the service.
    pub wanted: Wanted,
    /// The last suspend, reactivate or deprovision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionRun>,
    /// What the sweeper or a failed action found (H14, H15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<ServiceHealth>,
    /// In order of their numbers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The attempt that won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<AttemptId>,
    /// Everything that was made or may have been.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ledger: Vec<Row>,
    /// What it waits for now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// Waits that ended, for the account of time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<Wait>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Prerequisites.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub depends_on: Vec<RequestId>,
    /// The request that this one retries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RequestId>,
    /// The request that retries this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retried_as: Option<RequestId>,
    /// When it was admitted.
    pub created_at: Timestamp,
    /// When its first attempt began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provisioning_started_at: Option<Timestamp>,
    /// When it first completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// When it entered rolling_back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_started_at: Option<Timestamp>,
    /// When it was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminated_at: Option<Timestamp>,
    /// The last progress, for stuck detection (H12).
    pub progress: Progress,
    /// Input given by hand for a managed service (SPEC 3.8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manual_input: Option<ManualInput>,
    /// What a person was last asked to confirm (H17).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmation: Option<Box<Confirmation>>,
    /// Who asked for the present termination, for its events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// The access details, encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<crate::spec::Sealed>,
}

/// A question that only a person can answer: whether a vendor has done something (H17). Provisor cannot see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmation {
    /// `suspend`, `reactivate` or `release`.
    pub of: String,
    /// The answer; the first one wins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<ManualInput>,
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The settings that hold for it; not written where they are the usual ones.
    #[serde(default, skip_serializing_if = "Settings::are_usual")]
    pub settings: Settings,
    /// When it began another cluster could have taken it, and may yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub others: bool,
    /// How it stands.
    pub state: AttemptState,
    /// The four steps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepRun>,
    /// Its operations in plan order; a recreation adds further ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// Facts that its operations learned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub facts: BTreeMap<String, String>,
    /// Where it answers; shown only once it has won.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The attempt that took over, or that won.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<AttemptId>,
    /// Its failure is in the log: the request went on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failure_told: bool,
    /// The last step in which another attempt beside it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_beside: Option<Step>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// When all that it made was confirmed gone and its cluster's capacity given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Immutable uid, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The backend's identity when it was made (H4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// How it stands.
    pub state: RowState,
    /// When the intent was written.
    pub created_at: Timestamp,
    /// When it was confirmed gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_at: Option<Timestamp>,
    /// After this moment its create is not sent any more (H5).
    pub send_by: Timestamp,
    /// Longest time its create call may be under way.
    pub call_limit: Span,
    /// Whether a create may have been done of which we do not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_doubt: bool,
    /// Looks that found nothing at or after the time that the look was for.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub empty_looks: u32,
    /// When it was last looked for or told to go: a look counts by when it was asked, not by when it was answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_at: Option<Timestamp>,
    /// It is to go: by rollback, by a lost attempt, or because it was spoiled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unwanted: bool,
    /// A call for it is under way (a look or a release), handed out under this generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<i64>,
    /// Calls begun for its release or look.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calls: u32,
    /// When to try next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Tries of its release, of very many only the first and the last ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub releases: Vec<Try>,
    /// Deadline of one of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub release_deadline: Span,
    /// Failed tries of its release.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// Since when clean-up is owed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed_since: Option<Timestamp>,
    /// Why it could not be released.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<Failure>,
    /// An administrator closed it without proof (H8).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Its operations; empty until it is planned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
    /// When a failed one is tried again (H14).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// One before it was given up after it had begun: what that did is not known, although this one did nothing yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub halfway: bool,
    /// Whether what a failed reactivate may have started is being stopped again (H14).
    #[serde(default)]
    pub stop: Stop,
}

/// The stop that follows a failed reactivate (H14): it is part of that action, whose error stays to be seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// There is none.
    #[default]
    None,
    /// At work.
    Running,
    /// It stands still again.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workflow::Planned;
    use serde_json::json;

    /// Stored documents count on it: a release that changes one of these must raise [`RUN_VERSION`] and say what the older
    /// version means.
    #[test]
    fn what_is_usual_is_part_of_the_form() {
        assert_eq!(RUN_VERSION, 1);
        let usual = json!({
            "retry": {"initial": 5.0, "factor": 2.0, "cap": 300.0, "max_retries": 3}, "deadlines": {}, "list_lag": 5.0,
            "late_create": 120.0, "orphan_grace": 900.0, "probe_first_after": 0.0, "probe_every": 10.0, "probe_deadline": 300.0,
            "sweep_every": 300.0, "hedge_after": 120.0, "extra_launch_budget_percent": 5.0,
        });
        assert_eq!(serde_json::to_value(Settings::default()).unwrap(), usual);
        let short = json!({"planned": {"name": "reserve", "step": "allocate"}, "status": "pending", "deadline": 60.0});
        let operation: Operation = serde_json::from_value(short.clone()).unwrap();
        assert_eq!(serde_json::to_value(&operation).unwrap(), short);
        let Planned { deadline, call_limit, .. } = operation.planned;
        assert_eq!((deadline, call_limit), (Span::seconds(60), Span::seconds(30)));
        assert_eq!(operation.planned.on_retry, crate::workflow::OnRetry::Nudge);
        assert_eq!((operation.retries, operation.calls, operation.generation), (0, 0, 0));
        assert_eq!(operation.deadline_source, "default");
    }
}
