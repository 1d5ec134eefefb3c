//! From what the store holds to what callers see. Pure.

pub mod cluster;
pub mod event;
pub mod request;
pub mod tenant;
pub mod timeline;

use provisor_core::{Failure, Timestamp};
use provisor_wire::parts;
use serde::Serialize;
use serde_json::Value;

/// A time as text.
pub(crate) fn time(at: Timestamp) -> String {
    at.to_rfc3339()
}

/// A time as text, where there is one.
pub(crate) fn time_of(at: Option<Timestamp>) -> Option<String> {
    at.map(Timestamp::to_rfc3339)
}

/// The word that an enum has in the API.
pub(crate) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(text)) => text,
        _ => String::new(),
    }
}

/// A failure as users see it.
pub(crate) fn failure(failure: &Failure) -> parts::Failure {
    parts::Failure {
        code: failure.code.clone(),
        class: failure.class.public_name().to_owned(),
        message: failure.message.clone(),
        step: failure.step.clone(),
        operation: failure.operation.clone(),
        attempt: failure.attempt.map(|a| a.to_string()),
        at: time_of(failure.at),
        diagnosis: failure.diagnosis.clone(),
    }
}

/// The same, where there is one.
pub(crate) fn failure_of(one: Option<&Failure>) -> Option<parts::Failure> {
    one.map(failure)
}

/// Endpoints.
pub(crate) fn endpoints(list: &[provisor_core::event::Endpoint]) -> Vec<parts::Endpoint> {
    list.iter().map(|e| parts::Endpoint { name: e.name.clone(), url: e.url.clone() }).collect()
}
