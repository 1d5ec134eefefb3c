//! Problem documents (RFC 9457): every error of the API has this shape.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// An error of the API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `/errors/CODE`: a page that exists.
    #[serde(rename = "type")]
    pub kind: String,
    /// A short title, the same for each code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened here.
    pub detail: String,
    /// The path that was asked for.
    pub instance: Option<String>,
    /// Stable code.
    pub code: String,
    /// Whether the same call may succeed later.
    pub retriable: bool,
    /// Faults of the input, each with its pointer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Fault>,
    /// What belongs to single codes: `dimensions`, `state`, `allowed`, `cycle`, `clusters` …
    #[serde(flatten)]
    #[schema(value_type = Object)]
    pub more: Map<String, Value>,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.title, self.code, self.detail)?;
        for fault in &self.errors {
            write!(f, "\n  {}: {}", fault.pointer, fault.message)?;
        }
        Ok(())
    }
}

/// One fault of an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Fault {
    /// A JSON pointer, for example `/requests/1/size/cpu`.
    pub pointer: String,
    /// `required`, `unknown_key`, `type`, `format`, `min`, `max`, `enum`, `unique`, `exists`.
    pub rule: String,
    /// The value that breaks it.
    #[schema(value_type = Object)]
    pub value: Value,
    /// A sentence for people.
    pub message: String,
}
