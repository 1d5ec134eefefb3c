//! What an error of the server or of the connection means for the operation that met it.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::{Severity, SqlState};

use crate::op::OpError;

/// What is to be done about an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Another transaction was in the way; the same again may work.
    Again(String),
    /// A lock was not free for too long.
    Busy(String),
    /// The connection is of no more use.
    Lost(String),
    /// The server refused the statement.
    Refused(String),
    /// A row was not there any more as it had been read.
    Fenced,
}

impl Fault {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Again(text) | Self::Busy(text) | Self::Lost(text) | Self::Refused(text) => text,
            Self::Fenced => "a row was not there any more as it had been read",
        }
    }

    /// What the operation that met it is told.
    pub(super) fn error(&self) -> OpError {
        match self {
            Self::Fenced => OpError::Fenced,
            other => OpError::Database(other.text().to_owned()),
        }
    }

    pub(super) fn of(error: &Error) -> Self {
        let text = text(error);
        let Some(said) = error.as_db_error() else {
            let is_io = error.source().is_some_and(<dyn std::error::Error + 'static>::is::<std::io::Error>);
            return if error.is_closed() || is_io { Self::Lost(text) } else { Self::Refused(text) };
        };
        if matches!(said.parsed_severity(), Some(Severity::Fatal | Severity::Panic)) {
            return Self::Lost(text);
        }
        let again = [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            // Two that found nothing and made the same thing at once: the second time it is found.
            SqlState::UNIQUE_VIOLATION,
        ];
        if again.contains(said.code()) {
            return Self::Again(text);
        }
        if *said.code() == SqlState::LOCK_NOT_AVAILABLE {
            return Self::Busy(text);
        }
        if *said.code() == SqlState::QUERY_CANCELED {
            return Self::Refused(format!("a statement took longer than it may: {text}"));
        }
        let code = said.code().code();
        // A server that is not the writing one any more, and statements prepared before a change of the schema.
        let is_stale = *said.code() == SqlState::FEATURE_NOT_SUPPORTED && text.contains("cached plan");
        let lost = *said.code() == SqlState::READ_ONLY_SQL_TRANSACTION || is_stale;
        if lost || code.starts_with("08") || code.starts_with("57P") { Self::Lost(text) } else { Self::Refused(text) }
    }
}

/// An error in one line, with what caused it.
pub(super) fn text(error: &Error) -> String {
    let all = if let Some(said) = error.as_db_error() {
        let detail = said.detail().map(|d| format!(" ({d})")).unwrap_or_default();
        format!("{}{detail} [{}]", said.message(), said.code().code())
    } else {
        let cause = error.source().map(|c| format!(": {c}")).filter(|c| !error.to_string().contains(c.as_str()));
        format!("{error}{}", cause.unwrap_or_default())
    };
    all.split_whitespace().collect::<Vec<_>>().join(" ")
}
