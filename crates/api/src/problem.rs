//! The one place from errors to problem documents (RFC 9457).
//!
//! A handler answers a [`Problem`]; the outermost layer writes it, with the path and the request id. Public
//! text and private text are apart: `private` goes to the log only.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use provisor_core::check::Flaw;
use provisor_core::error_code::{self, ErrorCode};
use provisor_store::OpError;
use serde_json::{Map, Value, json};

/// The media type of problem documents.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// An error on its way to the caller.
#[derive(Debug, Clone)]
pub struct Problem {
    code: &'static ErrorCode,
    detail: String,
    errors: Vec<Flaw>,
    more: Map<String, Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
    private: Option<String>,
}

impl Problem {
    /// A problem of a code, with what happened here.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let (code, private) = match error_code::find(code) {
            Some(code) => (code, None),
            None => (&error_code::INTERNAL, Some(format!("unknown code {code}: {detail}"))),
        };
        Self { code, detail, errors: Vec::new(), more: Map::new(), headers: Vec::new(), private }
    }

    /// A fault of ours: the caller sees nothing of it, the log all.
    pub fn internal(private: impl Into<String>) -> Self {
        let mut problem = Self::new("internal", "Something went wrong inside.");
        problem.private = Some(private.into());
        problem
    }

    /// Faults of the input.
    pub fn invalid(errors: Vec<Flaw>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{}: {}.", place(&one.pointer), one.message),
            many => format!("{} values break a rule; errors names each.", many.len()),
        };
        Self { errors, ..Self::new("invalid_request", detail) }
    }

    /// One fault of the input.
    pub fn flaw(pointer: &str, rule: &str, value: Value, message: impl Into<String>) -> Self {
        Self::invalid(vec![Flaw { pointer: pointer.to_owned(), rule: rule.to_owned(), value, message: message.into() }])
    }

    /// There is no such thing, or not for this caller.
    pub fn not_found(what: &str) -> Self {
        Self::new("not_found", format!("There is no such {what}."))
    }

    /// Adds a member that belongs to the code.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header of the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code.code
    }

    /// The faults of the input.
    pub fn errors(&self) -> &[Flaw] {
        &self.errors
    }

    /// What only the log may know.
    pub(crate) fn private(&self) -> Option<&str> {
        self.private.as_deref()
    }

    /// The status it is answered with.
    pub fn status(&self) -> StatusCode {
        self.code.status.and_then(|s| StatusCode::from_u16(s).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The document.
    pub(crate) fn document(&self, instance: &str, request_id: &str) -> Value {
        let mut map = self.more.clone();
        let mut put = |name: &str, value: Value| map.insert(name.to_owned(), value);
        put("type", format!("/errors/{}", self.code.code).into());
        put("title", self.code.title.into());
        put("status", self.status().as_u16().into());
        put("detail", self.detail.clone().into());
        put("instance", instance.into());
        put("code", self.code.code.into());
        put("retriable", self.code.retriable.into());
        put("request_id", request_id.into());
        if !self.errors.is_empty() {
            put("errors", json!(self.errors));
        }
        Value::Object(map)
    }

    /// Writes the answer; `kept` are headers that a layer below has set (`Allow`).
    pub(crate) fn render(&self, instance: &str, request_id: &str, kept: HeaderMap) -> Response {
        let body = self.document(instance, request_id).to_string();
        let mut response = (self.status(), body).into_response();
        response.headers_mut().extend(kept.into_iter().filter(|(n, _)| n.as_ref().is_some_and(|n| *n == header::ALLOW)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        for (name, value) in &self.headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
        response
    }
}

fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "The body" } else { pointer }
}

impl IntoResponse for Problem {
    /// The outermost layer writes it: here are neither the path nor the request id.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Vec<Flaw>> for Problem {
    fn from(flaws: Vec<Flaw>) -> Self {
        Self::invalid(flaws)
    }
}

impl From<OpError> for Problem {
    fn from(error: OpError) -> Self {
        let private = error.to_string();
        match error {
            OpError::NotFound(what) => Self::not_found(what),
            OpError::StateConflict { state, allowed, detail } => {
                Self::new("state_conflict", detail).with("state", state).with("allowed", allowed)
            }
            OpError::NameTaken { pointer, name, holder } => name_taken(pointer, name, holder),
            OpError::QuotaExceeded(dimensions) => {
                let names: Vec<&str> = dimensions.iter().map(|d| d.name.as_str()).collect();
                let detail = format!("It would take more than the tenant's quota of {}.", names.join(", "));
                Self::new("quota_exceeded", detail).with("dimensions", json!(dimensions))
            }
            OpError::NoCluster { pointer, rule, value, rejected } => no_cluster(pointer, rule, value, &rejected),
            OpError::DependencyCycle(cycle) => {
                Self::new("dependency_cycle", format!("The circle is {}.", cycle.join(" → "))).with("cycle", cycle)
            }
            OpError::DependencyUnknown { pointer, name } => {
                let message = format!("{name} is neither a name in the batch nor a live request of the tenant");
                Self::pointed("dependency_unknown", pointer, "exists", name, message)
            }
            OpError::DependencyEnded { pointer, name, state } => {
                let message = format!("{name} is {state} and will not become a running service");
                Self::pointed("dependency_ended", pointer, "exists", name, message).with("state", state)
            }
            OpError::Invalid(flaws) => Self::invalid(flaws),
            OpError::IdempotencyMismatch => {
                Self::new("idempotency_mismatch", "This Idempotency-Key came with another body before.")
            }
            OpError::PreconditionFailed { current } => {
                Self::new("precondition_failed", format!("The version is {current} by now.")).with("etag", current)
            }
            OpError::InUse { counts } => in_use(counts),
            OpError::Backend { code, message } => {
                let detail = format!("The cluster's backend did not do it: {message}");
                Self::new("unavailable", detail).with("error", json!({"code": code, "message": message}))
            }
            OpError::Fenced => Self::unavailable("Somebody else changed it at the same time.", private),
            OpError::Database(_) => Self::unavailable("The store could not be reached; nothing was stored.", private),
            OpError::Unknown(_) => {
                let detail =
                    "The store's answer was lost: it may be done or not. Repeat it with the same Idempotency-Key, or look.";
                Self::unavailable(detail, private)
            }
            OpError::Corrupt(_) => Self::internal(private),
        }
    }
}

impl Problem {
    fn unavailable(detail: &str, private: String) -> Self {
        let mut problem = Self::new("unavailable", detail).header(header::RETRY_AFTER, "1");
        problem.private = Some(private);
        problem
    }

    fn pointed(code: &str, pointer: String, rule: &str, value: String, message: String) -> Self {
        let mut problem = Self::new(code, format!("{}: {message}.", place(&pointer)));
        problem.errors = vec![Flaw { pointer, rule: rule.to_owned(), value: value.into(), message }];
        problem
    }
}

fn name_taken(pointer: String, name: String, holder: String) -> Problem {
    let message = format!("the name {name} is taken by {holder}");
    Problem::pointed("name_taken", pointer, "unique", name.clone(), message).with("name", name).with("holder", holder)
}

fn no_cluster(pointer: String, rule: &str, value: Value, rejected: &[(String, String)]) -> Problem {
    let reasons: Vec<String> = rejected.iter().map(|(cluster, reason)| format!("{cluster}: {reason}")).collect();
    let shown: Vec<Value> = rejected.iter().map(|(cluster, reason)| json!({"cluster": cluster, "reason": reason})).collect();
    let why = if reasons.is_empty() { "none is registered".to_owned() } else { reasons.join("; ") };
    let detail = format!("No registered cluster can ever take it ({why}).");
    let mut problem = Problem::new("no_cluster", detail.clone()).with("rejected", shown);
    problem.errors = vec![Flaw { pointer, rule: rule.to_owned(), value, message: detail }];
    problem
}

fn in_use(counts: Vec<(String, i64)>) -> Problem {
    let words: Vec<String> = counts.iter().map(|(what, n)| format!("{n} {what}")).collect();
    let map: Map<String, Value> = counts.into_iter().map(|(what, n)| (what, n.into())).collect();
    Problem::new("in_use", format!("It is in use: {}.", words.join(", "))).with("counts", map)
}
