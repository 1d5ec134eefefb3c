//! Small shapes that several others hold.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Give it as `cursor` (of events: as `after`) for the next page; `null` at the end of a list.
    pub next_cursor: Option<String>,
}

/// A list that comes whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Items<T> {
    /// The entries.
    pub items: Vec<T>,
}

/// One place where a service answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Endpoint {
    /// `ssh`, `http` …
    pub name: String,
    /// Where.
    pub url: String,
}

/// Why something at a backend did not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Failure {
    /// Stable code, for example `operation_timed_out`; its page is `/errors/CODE`.
    pub code: String,
    /// `transient`, `permanent`, `throttled`, `auth`, `capacity`.
    pub class: String,
    /// A sentence or two for people.
    pub message: String,
    /// The step it happened in.
    pub step: Option<String>,
    /// The operation it happened in.
    pub operation: Option<String>,
    /// The attempt it happened in.
    pub attempt: Option<String>,
    /// When.
    pub at: Option<String>,
    /// What the backend told when it was asked why, a line each: its events and messages, the end of a console.
    #[serde(default)]
    pub diagnosis: Vec<String>,
}

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Actor {
    /// `token`, `worker` or `system`.
    pub kind: String,
    /// Which one.
    pub id: String,
}

/// What `/health/live` and `/health/ready` answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStatus {
    /// `ok`.
    pub status: String,
    /// The version of the server.
    pub version: String,
}
