//! Why something at a backend did not work, in classes that decide what happens next.

use serde::{Deserialize, Serialize};

use crate::time::{Span, Timestamp};

/// The class of a provider's error (SPEC 3.2), with those that only Provisor itself needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// May work when tried again.
    Transient,
    /// Will not work on this cluster however often it is tried.
    Permanent,
    /// The backend asks us to slow down; not a retry.
    Throttled,
    /// Our credentials are refused, or the backend is not the one that it was (H4).
    Auth,
    /// The backend has no room, or its quota is used up; another cluster may have.
    Capacity,
    /// A create whose answer is lost: it may have been done. Shown to users as transient.
    Ambiguous,
}

impl Class {
    /// The name that users see: ambiguous is transient to them.
    pub fn public_name(self) -> &'static str {
        match self {
            Self::Transient | Self::Ambiguous => "transient",
            Self::Permanent => "permanent",
            Self::Throttled => "throttled",
            Self::Auth => "auth",
            Self::Capacity => "capacity",
        }
    }
}

/// A failed call as it is recorded: what users see of it, without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Stable code, for example `operation_timed_out` or `image_not_found`.
    pub code: String,
    /// What follows from it.
    pub class: Class,
    /// One or two sentences for people, with the provider's own words.
    pub message: String,
    /// The step it happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The operation it happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// The attempt it happened in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<crate::id::AttemptId>,
    /// When it was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// How long the backend asked us to wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Span>,
    /// The object that was being made is there and in a terminal bad state: it is to be released and
    /// made anew, never adopted (H10).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub spoiled: bool,
    /// What the backend told when it was asked why: its own events, messages, the end of a console. For people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnosis: Vec<String>,
}

/// Lines of a diagnosis that are kept: it is stored with each event of its failure.
const DIAGNOSIS_LINES: usize = 16;
/// Characters of a line that are kept.
const DIAGNOSIS_LINE: usize = 300;

impl Failure {
    /// A failure of a class with a code and a message.
    pub fn new(class: Class, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            code: code.into(),
            class,
            message: message.into(),
            step: None,
            operation: None,
            attempt: None,
            at: None,
            retry_after: None,
            spoiled: false,
            diagnosis: Vec::new(),
        }
    }

    /// The same failure, of an object that must be released and made anew.
    #[must_use]
    pub fn spoiled(mut self) -> Self {
        self.spoiled = true;
        self
    }

    /// With what the backend told about it, shortened to what a log can hold.
    #[must_use]
    pub fn diagnosed(mut self, lines: Vec<String>) -> Self {
        let shortened = lines.into_iter().take(DIAGNOSIS_LINES).map(|line| match line.char_indices().nth(DIAGNOSIS_LINE) {
            Some((end, _)) => line.get(..end).unwrap_or_default().to_owned() + "…",
            None => line,
        });
        self.diagnosis = shortened.collect();
        self
    }

    /// The same failure, to be tried again no sooner than after `wait`.
    #[must_use]
    pub fn after(mut self, wait: Span) -> Self {
        self.retry_after = Some(wait);
        self
    }
}
