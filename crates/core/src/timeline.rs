//! What happened to a request, oldest first, in the words of the API (SPEC 9.2).
//!
//! The lifecycle comes from the log, because the log is permanent and keeps its order. Attempts that ended
//! and operations, those under way included, and waits come from the document, which knows them while they run;
//! operations of actions that a later action has replaced are taken from the log again. Rejected: a table of
//! timeline rows beside the log, which could disagree with it.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::event::{Event, EventKind};
use crate::failure::Failure;
use crate::id::AttemptId;
use crate::lifecycle::{Outcome, Step};
use crate::run::{Attempt, AttemptState, Operation, OperationStatus, Row, RowState, Run, Try};
use crate::spec::Source;
use crate::time::{Span, Timestamp};

/// One entry of the log.
#[derive(Debug, Clone, Copy)]
pub struct Fact<'a> {
    /// When.
    pub at: Timestamp,
    /// What.
    pub event: &'a Event,
}

/// One event of a timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its name in the API.
    pub event: &'static str,
    /// When.
    pub at: Timestamp,
    /// What belongs to it.
    pub metadata: Map<String, Value>,
}

/// Figures of a timeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// From the first attempt until ready, less waits for manual input (H46).
    pub provisioning_duration: Option<Span>,
    /// Spent waiting for something by name, until now.
    pub waited: Span,
    /// From admission until terminated, or now.
    pub lifetime: Span,
}

/// A timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    /// Oldest first.
    pub items: Vec<Item>,
    /// Figures.
    pub summary: Summary,
}

/// The names of the events of a timeline, besides `operation` and `wait`, which stand there on request.
pub const NAMES: [&str; 16] = [
    "created",
    "provisioning_started",
    "step_started",
    "step_finished",
    "attempt_started",
    "attempt_failed",
    "attempt_lost",
    "attempt_not_started",
    "ready",
    "failed",
    "cancelled",
    "rejected",
    "suspended",
    "reactivated",
    "termination_started",
    "terminated",
];

/// The timeline of a request from its log, in the log's order, and its document.
pub fn timeline(run: &Run, log: &[Fact<'_>], operations: bool, now: Timestamp) -> Timeline {
    let mut items = Vec::new();
    for fact in log {
        lifecycle(run, fact, &mut items);
    }
    for attempt in &run.attempts {
        if let Some(item) = attempt_end(run, attempt) {
            items.insert(place_of(&items, item.at), item);
        }
    }
    if operations {
        items.extend(all_operations(run, log));
        items.extend(all_waits(run));
    }
    // Stable: what has the same time keeps the log's order.
    items.sort_by_key(|i| i.at);
    Timeline { items, summary: summary(run, now) }
}

/// The figures of a request's timeline.
pub fn summary(run: &Run, now: Timestamp) -> Summary {
    let ended: i64 = run.waits.iter().map(|w| w.until.since(w.since).0).sum();
    let still = run.waiting.as_ref().map_or(Span::ZERO, |w| now.since(w.since));
    Summary {
        provisioning_duration: provisioning_duration(run),
        waited: Span(ended).plus(still),
        lifetime: run.terminated_at.unwrap_or(now).since(run.created_at),
    }
}

/// From the first attempt until ready, less waits for manual input (H46).
pub fn provisioning_duration(run: &Run) -> Option<Span> {
    let (from, to) = (run.provisioning_started_at?, run.ready_at?);
    let inside = |since: Timestamp, until: Timestamp| until.min(to).since(since.max(from)).0;
    let by_hand: i64 = run.waits.iter().filter(|w| w.reason == "manual_input").map(|w| inside(w.since, w.until)).sum();
    Some(Span((to.since(from).0 - by_hand).max(0)))
}

/// A failure as users see it: all keys, and a class that they know.
pub fn failure_value(failure: &Failure) -> Value {
    json!({
        "code": failure.code, "class": failure.class.public_name(), "message": failure.message, "step": failure.step,
        "operation": failure.operation, "attempt": failure.attempt, "at": failure.at, "diagnosis": failure.diagnosis,
    })
}

fn shown(failure: Option<&Failure>) -> Value {
    failure.map_or(Value::Null, failure_value)
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(map) = value { map } else { Map::new() }
}

fn detail(event: &Event, key: &str) -> Value {
    event.detail.get(key).cloned().unwrap_or(Value::Null)
}

/// The events of the timeline that one fact of the log becomes: mostly none or one.
fn lifecycle(run: &Run, fact: &Fact<'_>, items: &mut Vec<Item>) {
    let event = fact.event;
    let mut add = |name, metadata| items.push(Item { event: name, at: fact.at, metadata: object(metadata) });
    let why = json!({"reason": detail(event, "reason"), "actor": event.actor});
    match event.kind {
        EventKind::Started => add("created", json!({"kind": run.spec.kind, "region": run.spec.region, "actor": event.actor})),
        EventKind::AttemptStarted => {
            if run.attempts.first().is_none_or(|a| Some(a.id) == event.attempt) {
                add("provisioning_started", provisioning_started(run));
            }
            let (cluster, number, role) = (detail(event, "cluster"), detail(event, "number"), detail(event, "role"));
            add("attempt_started", json!({"attempt": event.attempt, "cluster": cluster, "number": number, "role": role}));
        }
        EventKind::AttemptNotStarted => {
            let (role, instead, reason) = (detail(event, "role"), detail(event, "instead"), detail(event, "reason"));
            add("attempt_not_started", json!({"role": role, "instead": instead, "reason": reason, "step": event.step}));
        }
        EventKind::StepStarted => add("step_started", json!({"attempt": event.attempt, "step": event.step})),
        EventKind::StepFinished => add("step_finished", step_finished(run, event)),
        EventKind::Completed => add("ready", ready(run)),
        EventKind::Failed => add("failed", json!({"error": shown(event.error.as_ref()), "outcome": event.outcome})),
        EventKind::Rejected => add("rejected", why),
        EventKind::Suspended => add("suspended", why),
        EventKind::Reactivated => add("reactivated", why),
        EventKind::RollbackStarted | EventKind::DeprovisionStarted => {
            if event.outcome == Some(Outcome::Cancelled) {
                add("cancelled", why);
            }
            add(
                "termination_started",
                json!({"outcome": event.outcome, "reason": detail(event, "reason"), "actor": event.actor}),
            );
        }
        EventKind::RolledBack | EventKind::Deprovisioned => {
            add("terminated", json!({"outcome": event.outcome, "refund": event.refund}));
        }
        _ => {}
    }
}

fn provisioning_started(run: &Run) -> Value {
    let Some(Source { repository, branch, commit_sha, .. }) = &run.spec.source else { return json!({}) };
    let short: Option<String> = commit_sha.as_ref().map(|c| c.chars().take(8).collect());
    json!({"repository": repository, "branch": branch, "commit_sha": short})
}

fn step_finished(run: &Run, event: &Event) -> Value {
    let attempt = run.attempts.iter().find(|a| Some(a.id) == event.attempt);
    let step = attempt.and_then(|a| a.steps.iter().find(|s| Some(s.step.name()) == event.step.as_deref()));
    let duration = step.and_then(|s| Some(s.finished_at?.since(s.started_at?)));
    let retries = attempt.zip(step).map(|(a, s)| a.retries_of(s.step));
    let status = detail(event, "status");
    json!({"attempt": event.attempt, "step": event.step, "status": status, "duration_seconds": duration, "retries": retries})
}

fn ready(run: &Run) -> Value {
    let winner = run.winner.and_then(|w| run.attempts.iter().find(|a| a.id == w));
    let summary = winner.map(|attempt| {
        let passed =
            attempt.operations.iter().filter(|o| o.planned.step == Step::Verify && o.status == OperationStatus::Succeeded);
        let names: Vec<String> = passed.map(title).collect();
        let checks = if names.is_empty() { "nothing to verify".to_owned() } else { format!("verified by {}", names.join(", ")) };
        let made_as: Vec<String> = ["flavor", "image"]
            .iter()
            .filter_map(|fact| attempt.facts.get(*fact).map(|value| format!("; {fact} {value}")))
            .collect();
        format!("{checks}; on {} by attempt {}{}", attempt.cluster_name, attempt.number, made_as.concat())
    });
    json!({"provisioning_duration_seconds": provisioning_duration(run), "readiness_summary": summary, "attempt": run.winner})
}

fn title(operation: &Operation) -> String {
    let item = operation.planned.item.as_ref().map_or(String::new(), |i| format!(" {i}"));
    format!("{}{item}", operation.planned.name)
}

/// The end of an attempt that did not win. From the document: the log tells of a failed attempt only once
/// the next one begins, and not at all when none follows.
fn attempt_end(run: &Run, attempt: &Attempt) -> Option<Item> {
    let event = match attempt.state {
        AttemptState::Failed => "attempt_failed",
        AttemptState::Lost => "attempt_lost",
        _ => return None,
    };
    let next = attempt.replaced_by.and_then(|id| run.attempts.iter().find(|a| a.id == id));
    let metadata = json!({
        "attempt": attempt.id, "number": attempt.number, "cluster": attempt.cluster_name, "error": shown(attempt.error.as_ref()),
        "replaced_by": attempt.replaced_by, "replaced_on": next.map(|a| &a.cluster_name),
    });
    Some(Item { event, at: attempt.finished_at?, metadata: object(metadata) })
}

/// Where the end of an attempt stands among what has the same time: before what it led to.
fn place_of(items: &[Item], at: Timestamp) -> usize {
    let follows = |i: &Item| matches!(i.event, "failed" | "cancelled" | "termination_started" | "attempt_started");
    let place = items.iter().position(|i| i.at > at || (i.at == at && follows(i)));
    place.unwrap_or(items.len())
}

/// What it waited for by name, the wait that still goes on included: with the attempts they make up the whole.
fn all_waits(run: &Run) -> impl Iterator<Item = Item> {
    let ended = run.waits.iter().map(|w| (&w.reason, w.since, Some(w.until), None));
    let open = run.waiting.iter().map(|w| (&w.reason, w.since, None, w.detail.as_ref()));
    ended.chain(open).map(|(reason, since, until, detail)| {
        let took = until.map(|until| until.since(since));
        let metadata = json!({"reason": reason, "finished_at": until, "duration_seconds": took, "detail": detail});
        Item { event: "wait", at: since, metadata: object(metadata) }
    })
}

/// What tells one operation from all others of a request.
type Key = (Option<AttemptId>, String, Option<String>, Option<Timestamp>);

fn all_operations(run: &Run, log: &[Fact<'_>]) -> Vec<Item> {
    let mut known: BTreeSet<Key> = BTreeSet::new();
    let mut items = Vec::new();
    let mut add = |operation: &Operation, attempt: Option<AttemptId>, action: Option<&str>| {
        let Some(first) = operation.tries.first() else { return };
        known.insert((attempt, operation.planned.name.clone(), operation.planned.item.clone(), Some(first.started_at)));
        items.push(Item {
            event: "operation",
            at: first.started_at,
            metadata: object(operation_value(operation, attempt, action)),
        });
    };
    for attempt in &run.attempts {
        attempt.operations.iter().for_each(|o| add(o, Some(attempt.id), None));
    }
    if let Some(action) = &run.action {
        action.operations.iter().for_each(|o| add(o, run.winner, Some(&action.name)));
    }
    items.extend(run.ledger.iter().filter_map(|r| release_value(run, r)));
    let ended = log.iter().filter(|f| f.event.kind == EventKind::OperationDone);
    items.extend(ended.filter_map(|f| replaced_operation(f.event, &known)));
    items
}

fn operation_value(operation: &Operation, attempt: Option<AttemptId>, action: Option<&str>) -> Value {
    let open = matches!(operation.status, OperationStatus::Running | OperationStatus::Waiting | OperationStatus::Looking);
    let finished = operation.tries.last().and_then(|t| t.finished_at).filter(|_| !open);
    let deadline = (!operation.planned.awaits_input).then_some(operation.deadline);
    json!({
        "attempt": attempt, "step": operation.planned.step, "operation": operation.planned.name, "item": operation.planned.item,
        "action": action, "resource": operation.row, "finished_at": finished, "status": operation.status,
        "tries": operation.tries.iter().map(try_value).collect::<Vec<_>>(),
        "deadline_seconds": deadline, "deadline_source": operation.deadline_source, "learned": operation.learned,
    })
}

/// The release of a resource, which belongs to no step.
fn release_value(run: &Run, row: &Row) -> Option<Item> {
    let first = row.releases.first()?.started_at;
    let last = row.releases.last()?;
    let status = match row.state {
        RowState::Released if row.written_off => "failed",
        RowState::Released => "succeeded",
        _ if last.finished_at.is_none() => "running",
        _ => "waiting",
    };
    let name = format!("delete_{}", row.kind);
    let attempt = run.attempts.iter().find(|a| a.id == row.attempt);
    let source = attempt.map_or("default", |a| a.settings.deadline(&name, row.release_deadline).1);
    let metadata = json!({
        "attempt": row.attempt, "step": null, "operation": name, "item": null, "action": null,
        "resource": row.id, "finished_at": last.finished_at.filter(|_| row.is_closed()), "status": status,
        "tries": row.releases.iter().map(try_value).collect::<Vec<_>>(),
        "deadline_seconds": row.release_deadline, "deadline_source": source, "learned": null,
    });
    Some(Item { event: "operation", at: first, metadata: object(metadata) })
}

fn try_value(one: &Try) -> Value {
    json!({"started_at": one.started_at, "finished_at": one.finished_at, "error": shown(one.error.as_ref())})
}

/// An operation that ended, of an action that the document has forgotten.
fn replaced_operation(event: &Event, known: &BTreeSet<Key>) -> Option<Item> {
    let tries: Vec<Try> = serde_json::from_value(detail(event, "tries")).ok()?;
    let first = tries.first()?.started_at;
    let name = event.detail.get("operation")?.as_str()?.to_owned();
    let item = event.detail.get("item").and_then(Value::as_str).map(str::to_owned);
    if known.contains(&(event.attempt, name.clone(), item.clone(), Some(first))) {
        return None;
    }
    let metadata = json!({
        "attempt": event.attempt, "step": event.step, "operation": name, "item": item, "action": null,
        "resource": detail(event, "resource"), "finished_at": tries.last().and_then(|t| t.finished_at),
        "status": detail(event, "status"), "tries": tries.iter().map(try_value).collect::<Vec<_>>(),
        "deadline_seconds": detail(event, "deadline_seconds"), "deadline_source": detail(event, "deadline_source"),
        "learned": detail(event, "learned"),
    });
    Some(Item { event: "operation", at: first, metadata: object(metadata) })
}

#[cfg(test)]
mod tests;
