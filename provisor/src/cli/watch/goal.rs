//! When waiting for a request is over, and whether it ended as asked. Pure.

use provisor_wire::Request;

use crate::cli::view;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goal {
    /// Whatever its tenant wants of it: running, suspended or gone.
    Wanted,
    /// A verified service.
    Completed,
    /// A suspended service.
    Suspended,
    /// A service that runs again.
    Reactivated,
    /// Everything released.
    Gone,
}

/// How a request stands to a goal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Not over yet.
    Going,
    /// As asked.
    Good,
    /// Over, but otherwise; in words.
    Bad(String),
}

impl Verdict {
    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        *self != Self::Going
    }
}

/// Judges a request.
pub(crate) fn judge(goal: Goal, r: &Request) -> Verdict {
    let action = r.action.as_ref();
    let runs = |name: &str| action.is_some_and(|a| a.name == name && a.status == "running");
    let failed = |name: &str| {
        let action = action.filter(|a| a.name == name && a.status == "failed")?;
        let error = action.error.as_ref().map_or(String::new(), |e| format!(": {}", view::failure(e)));
        Some(Verdict::Bad(format!("{name} failed{error}")))
    };
    match (goal, r.state.as_str()) {
        // Why not by `wanted`: what failed is wanted gone too, but nobody asked for that.
        (Goal::Wanted, "rolled_back") => match r.outcome.as_deref() {
            Some("deprovisioned" | "cancelled") => Verdict::Good,
            _ => Verdict::Bad(end_of(r)),
        },
        (Goal::Wanted, state) => match r.wanted.as_str() {
            "gone" => judge(Goal::Gone, r),
            "suspended" => judge(Goal::Suspended, r),
            _ if state == "suspended" || runs("reactivate") => judge(Goal::Reactivated, r),
            _ => judge(Goal::Completed, r),
        },
        (Goal::Completed, "completed") | (Goal::Gone, "rolled_back") => Verdict::Good,
        (Goal::Suspended, "suspended") if !runs("suspend") => Verdict::Good,
        (Goal::Reactivated, "completed") if !runs("reactivate") => Verdict::Good,
        (Goal::Suspended, "completed") => failed("suspend").unwrap_or_else(|| while_wanted("suspended", r)),
        (Goal::Reactivated, "suspended") => failed("reactivate").unwrap_or_else(|| while_wanted("running", r)),
        (Goal::Completed, "suspended") => Verdict::Bad("is suspended".to_owned()),
        (_, "rolled_back") => Verdict::Bad(end_of(r)),
        _ => Verdict::Going,
    }
}

/// A wish goes on until it is given up: a reactivate that failed is stopped again, and somebody else may want otherwise.
fn while_wanted(wanted: &str, r: &Request) -> Verdict {
    if r.wanted == wanted || r.wanted == "gone" {
        return Verdict::Going;
    }
    let error = r.action.as_ref().and_then(|a| a.error.as_ref()).map_or(String::new(), |e| format!(": {}", view::failure(e)));
    Verdict::Bad(format!("is wanted {} again; its timeline says why{error}", r.wanted))
}

/// How a request that is rolled back came to its end.
fn end_of(r: &Request) -> String {
    let outcome = r.outcome.as_deref().unwrap_or("rolled back").replace('_', " ");
    let error = r.error.as_ref().map_or(String::new(), |e| format!(": {}", view::failure(e)));
    format!("{outcome}{error}")
}
