//! One operation of an attempt or an action, with all its tries.

use serde::{Deserialize, Serialize};

use super::is_zero;
use crate::deadline::Learned;
use crate::failure::Failure;
use crate::id::ResourceId;
use crate::time::{Span, Timestamp};
use crate::workflow::plan::Planned;

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
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Try>,
    /// Tries after the first, by which `max_retries` is counted (H10).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u32,
    /// When the next try or look is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Calls begun for it, to tell answers apart.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calls: u32,
    /// The ledger row of what it makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<ResourceId>,
    /// A spoiled object that must be gone before the next try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clears: Option<ResourceId>,
    /// Deadline of a try and where it comes from.
    pub deadline: Span,
    /// `default`, `cluster` or `learned`.
    #[serde(default = "usual_source", skip_serializing_if = "is_usual_source")]
    pub deadline_source: String,
    /// What a learned deadline rests on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Box<Learned>>,
    /// The lease generation under which its call was handed out; another holder asks anew.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: i64,
    /// Since when the cluster's breaker, a pause or its limit of calls has held it back (H27, H28).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_since: Option<Timestamp>,
    /// When the operation gives up waiting for throttling, whatever its retries (H10).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled_until: Option<Timestamp>,
    /// Why it failed, where it was held back for too long: no try of it can say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Box<Failure>>,
}

/// One try of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Try {
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
    /// How it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// Its deadline, where that was a learned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Span>,
    /// It goes on with what an earlier try had made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub goes_on: bool,
    /// Another process went on with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub taken_over: bool,
}

impl Try {
    /// One that begins now.
    pub fn begin(now: Timestamp) -> Self {
        Self { started_at: now, finished_at: None, error: None, learned: None, goes_on: false, taken_over: false }
    }

    /// A learned deadline has ended it.
    pub fn was_cut_short(&self) -> bool {
        self.learned.is_some() && self.error.as_ref().is_some_and(|e| e.code == "operation_timed_out")
    }
}

fn usual_source() -> String {
    "default".to_owned()
}

fn is_usual_source(source: &str) -> bool {
    source == "default"
}
