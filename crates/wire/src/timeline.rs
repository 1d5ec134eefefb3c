//! The timeline.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// What happened to a request, oldest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timeline {
    /// The request's id, of whatever kind.
    pub environment_id: String,
    /// Its name.
    pub environment_name: String,
    /// The events.
    pub timeline: Vec<Moment>,
    /// Figures.
    pub summary: Summary,
}

/// One event of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Moment {
    /// `created`, `provisioning_started`, `ready` …
    pub event: String,
    /// When.
    pub timestamp: String,
    /// What belongs to it.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
}

/// Figures of a timeline.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// From the start of provisioning until ready, without waits for manual input.
    pub provisioning_duration_seconds: Option<f64>,
    /// Time spent waiting for something by name.
    pub wait_seconds: f64,
    /// From its admission until its end, or now.
    pub total_lifetime_hours: f64,
}
