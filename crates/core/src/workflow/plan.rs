//! What an attempt is going to do, fixed at its start and followed to its end (H43).

use serde::{Deserialize, Serialize};

use crate::lifecycle::Step;
use crate::time::Span;
use crate::workflow::Made;

/// The version of the plan's meaning; a worker claims only plans that it knows.
pub const PLAN_VERSION: u16 = 1;

/// The operations of one attempt, or of one action (suspend, reactivate).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// See [`PLAN_VERSION`].
    pub version: u16,
    /// In order of their steps; `after` names earlier ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Planned>,
}

/// What a retry of a waiting operation does after a time-out (H10): never a bare further wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRetry {
    /// Perform it again: its first call repeats the action.
    #[default]
    Nudge,
    /// Release what the named earlier operation made, make it anew, then perform this one again.
    Recreate(String),
}

impl OnRetry {
    fn is_usual(&self) -> bool {
        *self == Self::Nudge
    }
}

// What a stored plan means where it does not say: part of its form (see `crate::run`).

fn usual_deadline() -> Span {
    Span::seconds(60)
}

#[allow(clippy::trivially_copy_pass_by_ref)] // It is how serde asks.
fn is_usual_deadline(deadline: &Span) -> bool {
    *deadline == usual_deadline()
}

fn usual_call_limit() -> Span {
    Span::seconds(30)
}

#[allow(clippy::trivially_copy_pass_by_ref)] // It is how serde asks.
fn is_usual_call_limit(limit: &Span) -> bool {
    *limit == usual_call_limit()
}

/// One operation of a plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// Its name (API.md, Operation names).
    pub name: String,
    /// The step it belongs to.
    pub step: Step,
    /// Names of operations of this plan that must have succeeded first. An operation also waits for all
    /// earlier steps. What it made is released before what they made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// The kind of resource that it makes; `None` when it makes nothing that needs releasing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub makes: Option<String>,
    /// What its retry does.
    #[serde(default, skip_serializing_if = "OnRetry::is_usual")]
    pub on_retry: OnRetry,
    /// Default deadline of one try; settings override it per cluster and operation.
    #[serde(default = "usual_deadline", skip_serializing_if = "is_usual_deadline")]
    pub deadline: Span,
    /// Longest time one call of it may be under way before its answer counts as lost.
    #[serde(default = "usual_call_limit", skip_serializing_if = "is_usual_call_limit")]
    pub call_limit: Span,
    /// Waits for a person instead of a backend (kind managed): has no deadline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub awaits_input: bool,
    /// Tells apart several operations of one name in a plan (one rule for each port, say).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
}

impl Planned {
    /// An operation with the usual limits: retried by performing it again, 60 s, 30 s for one call.
    pub fn new(name: &str, step: Step) -> Self {
        Self {
            name: name.to_owned(),
            step,
            after: Vec::new(),
            makes: None,
            on_retry: OnRetry::Nudge,
            deadline: usual_deadline(),
            call_limit: usual_call_limit(),
            awaits_input: false,
            item: None,
        }
    }

    /// Comes after others of the same plan.
    #[must_use]
    pub fn after(mut self, names: &[&str]) -> Self {
        self.after = names.iter().map(|n| (*n).to_owned()).collect();
        self
    }

    /// Makes a resource of a kind.
    #[must_use]
    pub fn makes(mut self, kind: &str) -> Self {
        self.makes = Some(kind.to_owned());
        self
    }

    /// Deadline of a try.
    #[must_use]
    pub fn within(mut self, seconds: i64) -> Self {
        self.deadline = Span::seconds(seconds);
        self
    }

    /// Longest time of one call.
    #[must_use]
    pub fn call_limit(mut self, seconds: i64) -> Self {
        self.call_limit = Span::seconds(seconds);
        self
    }

    /// Which of several of the same name.
    #[must_use]
    pub fn item(mut self, item: impl Into<String>) -> Self {
        self.item = Some(item.into());
        self
    }

    /// After a time-out or a failure that spoiled it, what `operation` made is released and made anew.
    #[must_use]
    pub fn recreate(mut self, operation: &str) -> Self {
        self.on_retry = OnRetry::Recreate(operation.to_owned());
        self
    }
}

/// Whether an operation asks the service itself and not its cluster, as the names of probes say (API.md, Operation names).
pub fn asks_the_service(operation: &str) -> bool {
    operation.starts_with("probe_")
}

/// Gives plans for clusters, so that a transaction can start an attempt without leaving itself. Pure.
pub trait Planner: Send + Sync {
    /// The plan of an attempt at `spec` on a cluster.
    fn plan(&self, cluster: crate::id::ClusterId, spec: &crate::spec::Spec) -> Result<Plan, crate::failure::Failure>;
    /// The plan of `suspend` or `reactivate`.
    fn plan_action(
        &self,
        cluster: crate::id::ClusterId,
        action: &str,
        spec: &crate::spec::Spec,
    ) -> Result<Plan, crate::failure::Failure>;
    /// What an operation brings that asks nobody, so that no call is needed to know it. Such an operation is over
    /// in the decision that begins it: there is nothing at a backend that a crash could leave behind.
    fn answer(&self, cluster: crate::id::ClusterId, operation: &str, spec: &crate::spec::Spec) -> Option<Made> {
        let _ = (cluster, operation, spec);
        None
    }
}
