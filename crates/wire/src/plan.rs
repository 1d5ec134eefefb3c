//! The answer of a dry run.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::problem::Fault;

/// What would become of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Plan {
    /// Whether it would be admitted.
    pub valid: bool,
    /// Faults of the specification.
    pub errors: Vec<Fault>,
    /// Each dimension of the tenant's quota.
    pub quota: Vec<PlannedUse>,
    /// The rule that would hold it for approval.
    #[schema(value_type = Object)]
    pub rule: Value,
    /// Names of the batch in the order in which they may begin.
    pub order: Vec<String>,
    /// Where it would be placed now.
    pub cluster: Option<String>,
    /// The other clusters, each with its reason.
    pub rejected: Vec<Rejected>,
    /// The steps with their operations.
    pub steps: Vec<PlannedStep>,
    /// How long it would take.
    pub expected_seconds: Expected,
}

/// One dimension of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedUse {
    /// Its name.
    pub name: String,
    /// The limit; `null` is none.
    pub limit: Option<i64>,
    /// In use now.
    pub used: i64,
    /// Asked for.
    pub requested: i64,
    /// Whether it fits.
    pub ok: bool,
}

/// A cluster that would not take it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rejected {
    /// Its name.
    pub cluster: String,
    /// Why.
    pub reason: String,
}

/// One step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    /// `allocate`, `configure`, `activate`, `verify`.
    pub name: String,
    /// Its operations.
    pub operations: Vec<String>,
}

/// Expected time; `null` without data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Expected {
    /// Half of such requests took at most this.
    pub p50: Option<f64>,
    /// Nine of ten took at most this.
    pub p90: Option<f64>,
}

impl Plan {
    /// The plan of a specification that cannot be admitted: its faults and nothing else.
    pub fn refused(errors: Vec<Fault>) -> Self {
        Self {
            valid: false,
            errors,
            quota: Vec::new(),
            rule: Value::Null,
            order: Vec::new(),
            cluster: None,
            rejected: Vec::new(),
            steps: Vec::new(),
            expected_seconds: Expected::default(),
        }
    }
}
