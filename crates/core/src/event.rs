//! The facts of the log (SPEC 8). One structure for all: most readers ask for the same few things.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::{Flaws, Object};
use crate::failure::Failure;
use crate::id::AttemptId;
use crate::lifecycle::{Outcome, State};

macro_rules! kinds {
    ($($variant:ident $name:literal $published:literal $doc:literal;)*) => {
        /// What an event tells. Published ones go out to followers and count in `sequence` (H35); the
        /// others are for the timeline.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum EventKind { $(#[doc = $doc] $variant,)* }
        impl EventKind {
            /// All kinds.
            pub const ALL: &'static [EventKind] = &[$(Self::$variant,)*];
            /// The name in the log and in the API.
            pub fn name(self) -> &'static str { match self { $(Self::$variant => $name,)* } }
            /// Whether followers get it.
            pub fn is_published(self) -> bool { match self { $(Self::$variant => $published,)* } }
            /// What it tells, in words.
            pub fn meaning(self) -> &'static str { match self { $(Self::$variant => $doc,)* } }
            /// The kind of that name.
            pub fn parse(name: &str) -> Option<Self> { match name { $($name => Some(Self::$variant),)* _ => None } }
        }
    };
}

kinds! {
    Started "provisioning.started" true "Admitted.";
    ApprovalRequired "provisioning.approval-required" true "A rule holds it.";
    Approved "provisioning.approved" true "Approved; it resumes.";
    Rejected "provisioning.rejected" true "Refused or expired.";
    InputRequired "provisioning.input-required" true "It waits for manual input.";
    StepCompleted "provisioning.step-completed" true "A step of the leading attempt is done.";
    ResourceAllocated "resource.allocated" true "A resource was made.";
    ServiceActivated "service.activated" true "The winning attempt is verified.";
    Completed "provisioning.completed" true "The request is completed.";
    Failed "provisioning.failed" true "No attempt lives or may follow.";
    RollbackStarted "provisioning.rollback-started" true "What was made is being taken back.";
    RolledBack "provisioning.rolled-back" true "Nothing is left of a request that never completed.";
    ResourceReleased "resource.released" true "A resource is confirmed gone.";
    ResourceReappeared "resource.reappeared" true "A resource came back after its release.";
    DeprovisionStarted "service.deprovision-started" true "A completed service is being released.";
    Deprovisioned "service.deprovisioned" true "A service that once completed is released.";
    Suspended "service.suspended" true "Suspended.";
    Reactivated "service.reactivated" true "Running again.";
    SuspendFailed "service.suspend-failed" true "A suspend failed; it is tried again.";
    ReactivateFailed "service.reactivate-failed" true "A reactivate failed.";
    Drifted "service.drifted" true "Found changed outside.";
    AttemptStarted "attempt.started" true "An attempt began on a cluster.";
    AttemptFailed "attempt.failed" true "An attempt failed; the request goes on.";
    AttemptNotStarted "attempt.not-started" false "A second attempt had no room or no budget; the request goes on without it.";
    AttemptLost "attempt.lost" true "Another attempt won.";
    WrittenOff "resource.written-off" true "An administrator closed clean-up that is owed without proof (H8).";
    StepStarted "step.started" false "A step of an attempt began.";
    StepFinished "step.finished" false "A step of an attempt ended.";
    OperationStarted "operation.started" false "A try of an operation began.";
    OperationRetried "operation.retried" false "A try failed; another follows.";
    OperationTimedOut "operation.timed-out" false "A try passed its deadline.";
    OperationDone "operation.done" false "An operation ended; all its tries.";
    WaitStarted "wait.started" false "It waits for something by name.";
    WaitEnded "wait.ended" false "A wait ended.";
    CancelRequested "request.cancel-requested" false "Somebody cancelled it.";
    ActionRequested "request.action-requested" false "Somebody asked for suspend, reactivate or deprovision.";
    CleanupOwed "resource.cleanup-owed" false "A resource could not be released yet.";
    Replaced "resource.replaced" false "Another object stood where ours was; it was left alone (H3).";
    LearningOff "deadlines.learning-off" false "Too many operations like one of it hit a learned deadline: deadlines of that class are the configured ones for an hour (H30).";
    RetriedAs "request.retried-as" false "A new request follows this one.";
}

impl Serialize for EventKind {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::text::read(d, "a kind of event", Self::parse)
    }
}

/// Who did it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// `token`, `worker` or `system`.
    pub kind: String,
    /// Which one.
    pub id: String,
}

impl Actor {
    /// Provisor itself, by the name of the part that decided.
    pub fn system(id: &str) -> Self {
        Self { kind: "system".to_owned(), id: id.to_owned() }
    }

    /// A worker.
    pub fn worker(id: &str) -> Self {
        Self { kind: "worker".to_owned(), id: id.to_owned() }
    }
}

/// A resource as an event names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceRef {
    /// `server`, `volume` …
    pub kind: String,
    /// The ledger row.
    pub id: crate::id::ResourceId,
    /// The backend's id, once known.
    pub provider_id: Option<String>,
}

/// One place where a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `ssh`, `http` …
    pub name: String,
    /// Where.
    pub url: String,
}

impl Endpoint {
    /// Reads one that somebody gives.
    pub fn check(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Self> {
        let mut o = Object::new(pointer, value, flaws);
        let name = o.required_text("name", 63, flaws);
        let url = o.required_text("url", 2048, flaws);
        let good = |u: &String| u.contains("://") && !u.contains(char::is_whitespace) && !u.contains(char::is_control);
        if let Some(url) = url.as_ref().filter(|u| !good(u)) {
            flaws.add(&o.at("url"), "format", &Value::from(url.clone()), "must be a URL");
        }
        o.finish(flaws);
        Some(Self { name: name?, url: url? })
    }
}

/// One fact about a request, as core decides it. The store adds id, position, sequence and time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// What it tells.
    pub kind: EventKind,
    /// State before, where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_state: Option<State>,
    /// State after, where it changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_state: Option<State>,
    /// Outcome, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    /// The step it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The attempt it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<AttemptId>,
    /// The resource it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceRef>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Whether an order service should refund (H32).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refund: bool,
    /// Endpoints, only once there is a winner (H33).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// Whatever else the timeline shows.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
}

impl Event {
    /// A bare fact.
    pub fn new(kind: EventKind) -> Self {
        Self {
            kind,
            from_state: None,
            to_state: None,
            outcome: None,
            actor: None,
            step: None,
            attempt: None,
            resource: None,
            error: None,
            refund: false,
            endpoints: Vec::new(),
            detail: Value::Null,
        }
    }
}
