//! What comes back from a call.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::Endpoint;
use crate::failure::Failure;
use crate::time::Timestamp;
use crate::workflow::CallKey;

/// What an operation learned or made. Empty fields change nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Made {
    /// The backend's id of what was made.
    pub provider_id: Option<String>,
    /// Immutable uid, where the backend has one apart from the id.
    #[serde(default)]
    pub uid: Option<String>,
    /// Where the service answers.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    /// Facts that later operations of the attempt need (`floating_ip`, `flavor` …). Never secrets.
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
}

/// An object found at the backend by its tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The kind of resource.
    pub kind: String,
    /// The backend's id.
    pub provider_id: String,
    /// Immutable uid, where there is one.
    #[serde(default)]
    pub uid: Option<String>,
    /// The tag that it carries.
    pub tag: String,
    /// Age, where the backend tells it.
    #[serde(default)]
    pub age_seconds: Option<u64>,
    /// In a terminal bad state: to be released, never adopted (H10).
    #[serde(default)]
    pub spoiled: bool,
}

impl Found {
    /// Which of several objects under one tag is the row's: the first that is not spoiled. The others are surplus.
    pub(crate) fn kept(found: &[Self]) -> Option<&Self> {
        found.iter().find(|f| !f.spoiled).or(found.first())
    }
}

/// The result of one call, as the engine brings it to core.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// The operation is done.
    Done(Made),
    /// Not done yet, but something durable is known: the id of what is being made.
    Progress(Made),
    /// It failed.
    Failed(Failure),
    /// Its deadline passed; with what was seen last, for the error.
    TimedOut {
        /// Status or error of the last look.
        last_seen: Option<String>,
        /// What the backend told when it was asked why.
        diagnosis: Vec<String>,
    },
    /// What carries the tag; empty when nothing does.
    Looked(Vec<Found>),
    /// The resource is confirmed absent. `replaced`: another object stood in its place (H3).
    Gone {
        /// A stranger stood there and was left alone.
        replaced: bool,
    },
    /// Nobody waits for it any more; it was dropped between two looks.
    Dropped,
    /// It was not sent: the cluster's breaker, a pause or its limit of calls holds it back until about then. No try.
    Held {
        /// When to ask again.
        until: Timestamp,
    },
}

/// A reply to a call.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The call.
    pub key: CallKey,
    /// What came back.
    pub reply: Reply,
}
