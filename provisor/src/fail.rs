//! How a command ends: the exit codes of the contract, and the errors behind them.
//!
//! One enum for the whole command line, because every command ends in the same few ways and a script
//! tells them apart by the exit code alone.

use std::io::ErrorKind;
use std::process::ExitCode;

use provisor_core::check::Flaw;
use provisor_store::OpError;
use provisor_store::vault::VaultError;
use provisor_wire::{ClientError, Problem};
use serde_json::{Value, json};

use crate::config::Database;
use crate::config::load::Fault;
use crate::output::{clean, inline};

/// The exit codes (API.md, CLI).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// It failed, or did not end as asked.
    Failed = 1,
    /// Usage, unreadable file, configuration.
    Usage = 2,
    /// Refused: quota, approval, validation, state, rights.
    Refused = 3,
    /// Not found.
    NotFound = 4,
    /// Unreachable or unavailable.
    Unreachable = 5,
    /// Timed out waiting.
    TimedOut = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fail {
    /// The command line or an input file cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The configuration is wrong.
    #[error("the configuration is not valid")]
    Config(Vec<Fault>),
    /// The input breaks rules; found before anything was sent.
    #[error("{0}")]
    Flawed(String, Vec<Flaw>),
    /// The server refused; its problem document.
    #[error("{0}")]
    Problem(Box<Problem>),
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// A name means several things.
    #[error("{0}")]
    Ambiguous(String),
    /// The server cannot be reached.
    #[error("{0}")]
    Unreachable(String),
    /// The server answered something that is no answer.
    #[error("{0}")]
    Unreadable(String),
    /// It ended otherwise than asked.
    #[error("{0}")]
    Ended(String),
    /// It did not end in time.
    #[error("{0}")]
    TimedOut(String),
    /// Interrupted by the user; the work goes on.
    #[error("{0}")]
    Interrupted(String),
    /// Nobody reads our output any more.
    #[error("the output was closed")]
    Closed,
}

impl Fail {
    /// A store that cannot be used at a start. What may do at the next try has an exit code of its own, so that a
    /// supervisor tries again.
    pub(crate) fn of_store(what: &str, database: &Database, error: &OpError) -> Self {
        let text = format!("{what} on {database}: {error}");
        if error.is_outage() { Self::Unreachable(text) } else { Self::Usage(text) }
    }

    /// A file that cannot be used. A full disk may have room at the next try.
    pub(crate) fn of_io(what: &str, error: &std::io::Error) -> Self {
        let text = format!("{what}: {error}");
        match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Unreachable(text),
            _ => Self::Usage(text),
        }
    }

    /// The same of the vault in it.
    pub(crate) fn of_vault(database: &Database, error: &VaultError) -> Self {
        match error {
            VaultError::Store(error) => Self::of_store("the store cannot be used", database, error),
            other => Self::Usage(other.to_string()),
        }
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Config(_) | Self::Ambiguous(_) => Exit::Usage,
            Self::Flawed(..) => Exit::Refused,
            Self::Problem(problem) => exit_of_status(problem.status),
            Self::NotFound(_) => Exit::NotFound,
            Self::Unreachable(_) => Exit::Unreachable,
            Self::Unreadable(_) | Self::Ended(_) | Self::Interrupted(_) => Exit::Failed,
            Self::TimedOut(_) => Exit::TimedOut,
            Self::Closed => Exit::Done,
        }
    }

    /// As a problem document, for `-o json`.
    pub(crate) fn json(&self) -> Value {
        if let Self::Problem(problem) = self {
            return json!(problem);
        }
        let (code, errors) = match self {
            Self::Config(faults) => ("configuration", faults.iter().map(fault_json).collect()),
            Self::Flawed(_, flaws) => ("invalid_request", flaws.iter().map(|f| json!(f)).collect()),
            Self::Ambiguous(_) => ("ambiguous_name", Vec::new()),
            Self::NotFound(_) => ("not_found", Vec::new()),
            Self::Unreachable(_) => ("unreachable", Vec::new()),
            Self::TimedOut(_) => ("timed_out", Vec::new()),
            Self::Usage(_) => ("usage", Vec::new()),
            _ => ("failed", Vec::new()),
        };
        json!({"title": self.to_string(), "code": code, "detail": self.to_string(), "errors": Value::Array(errors), "exit": self.exit() as u8})
    }

    /// For people: what went wrong, then each fault on a line of its own.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Config(faults) => {
                let lines: Vec<String> = faults.iter().map(|f| format!("  {f}")).collect();
                format!("{self}:\n{}", lines.join("\n"))
            }
            Self::Flawed(_, flaws) => {
                let lines: Vec<String> = flaws.iter().map(|f| flaw_line(&f.pointer, &f.rule, &f.value, &f.message)).collect();
                format!("{self}:\n{}", lines.join("\n"))
            }
            Self::Problem(problem) => problem_text(problem),
            other => other.to_string(),
        }
    }
}

fn fault_json(fault: &Fault) -> Value {
    json!({"key": fault.key, "source": fault.source.to_string(), "rule": fault.rule, "value": fault.value, "message": fault.message})
}

/// The exit code of an HTTP status.
pub(crate) fn exit_of_status(status: u16) -> Exit {
    match status {
        404 => Exit::NotFound,
        429 | 502 | 503 | 504 => Exit::Unreachable,
        400..=499 => Exit::Refused,
        _ => Exit::Failed,
    }
}

/// One validation fault on a line.
fn flaw_line(pointer: &str, rule: &str, value: &Value, message: &str) -> String {
    let value = if value.is_null() { String::new() } else { format!(", value: {value}") };
    let pointer = if pointer.is_empty() { "/" } else { pointer };
    clean(&format!("  {pointer}: {message} (rule: {rule}{value})"))
}

/// A problem document for people: title, detail, every error, and what else it carries.
fn problem_text(problem: &Problem) -> String {
    let mut lines = vec![format!("{} ({})", problem.title, problem.code)];
    if !problem.detail.is_empty() && problem.detail != problem.title {
        lines.push(format!("  {}", problem.detail));
    }
    lines.extend(problem.errors.iter().map(|f| flaw_line(&f.pointer, &f.rule, &f.value, &f.message)));
    for (key, value) in problem.more.iter().filter(|(_, v)| !v.is_null()) {
        match value.as_array() {
            Some(items) if items.iter().any(Value::is_object) => {
                lines.extend(items.iter().map(|item| format!("  {key}: {}", inline(item))));
            }
            _ => lines.push(format!("  {key}: {}", inline(value))),
        }
    }
    clean(&lines.join("\n"))
}

impl From<ClientError> for Fail {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Problem(problem) => Self::Problem(problem),
            ClientError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            // Why: a gateway in between says so when the server is away.
            ClientError::Other(text)
                if text.starts_with("HTTP 502") || text.starts_with("HTTP 503") || text.starts_with("HTTP 504") =>
            {
                Self::Unreachable(text)
            }
            ClientError::Other(text) => Self::Unreadable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    #[test]
    fn a_store_that_may_answer_the_next_time_is_unreachable() {
        let database = Database::Sqlite("provisor.db".into());
        for (error, exit) in [
            (OpError::Database("connection closed".to_owned()), Exit::Unreachable),
            (OpError::Unknown("connection closed".to_owned()), Exit::Unreachable),
            (OpError::Corrupt("a letter".to_owned()), Exit::Usage),
        ] {
            assert_eq!(Fail::of_store("the store cannot be used", &database, &error).exit(), exit, "{error}");
            assert_eq!(Fail::of_vault(&database, &VaultError::Store(error)).exit(), exit);
        }
        assert_eq!(Fail::of_vault(&database, &VaultError::Damaged).exit(), Exit::Usage);
    }

    #[test]
    fn statuses_become_exit_codes() {
        let expected = [(404, 4), (409, 3), (422, 3), (401, 3), (413, 3), (429, 5), (503, 5), (500, 1)];
        for (status, exit) in expected {
            assert_eq!(exit_of_status(status) as u8, exit, "{status}");
        }
    }

    #[test]
    fn a_problem_is_readable() {
        let problem = json!({"type": "/errors/quota_exceeded", "instance": null, "retriable": false, "title": "Quota exceeded", "status": 422, "code": "quota_exceeded", "detail": "too much",
            "dimensions": [{"name": "cpu", "limit": 4, "used": 3, "requested": 2}],
            "errors": [{"pointer": "/requests/1/size/cpu", "rule": "max", "value": 9, "message": "must be at most 8"}]});
        let problem = serde_json::from_value(problem).unwrap_or_else(|e| panic!("{e}"));
        let text = Fail::Problem(problem).text();
        assert!(text.contains("dimensions: limit=4 name=cpu requested=2 used=3"), "{text}");
        assert!(text.contains("/requests/1/size/cpu: must be at most 8 (rule: max, value: 9)"), "{text}");
    }
}
