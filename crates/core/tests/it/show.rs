//! What a section of a scenario shows: new facts, new calls, what changed in the ledger and in the attempts, and
//! where the request stands.

use std::fmt::Write as _;

use provisor_core::event::{Event, EventKind};
use provisor_core::run::{Attempt, OperationStatus, Row};
use provisor_core::workflow::{Call, CallKey, Task};
use provisor_core::{Failure, Run, State, Timestamp};

use crate::bench::{Bench, START};

/// Facts that only say in more words what calls and states say.
const HIDDEN: [EventKind; 6] = [
    EventKind::StepStarted,
    EventKind::StepFinished,
    EventKind::OperationStarted,
    EventKind::OperationDone,
    EventKind::WaitStarted,
    EventKind::WaitEnded,
];

/// What was shown last, to show only what changed.
#[derive(Default)]
pub(crate) struct Shown {
    events: usize,
    rows: Vec<String>,
    attempts: Vec<String>,
    action: Option<String>,
    health: Option<String>,
}

pub(crate) fn time(at: Timestamp) -> String {
    if at == Timestamp::NEVER {
        return "never".to_owned();
    }
    let text = format!("{:.3}", at.since(START).as_seconds_f64());
    format!("+{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

fn failure(f: &Failure) -> String {
    let class = format!("{:?}", f.class).to_lowercase();
    format!("{}/{class}", f.code)
}

/// Everything new since the last section.
pub(crate) fn section(bench: &Bench, shown: &mut Shown, calls: &[String]) -> String {
    let mut out = String::new();
    for (_, e) in &bench.log[shown.events..] {
        if !HIDDEN.contains(&e.kind) {
            writeln!(out, "{}", event(bench, e)).unwrap();
        }
    }
    shown.events = bench.log.len();
    for c in calls {
        writeln!(out, "> {c}").unwrap();
    }
    let rows: Vec<String> = bench.run.ledger.iter().map(|r| row(bench, r)).collect();
    changed(&mut out, &mut shown.rows, rows);
    let attempts: Vec<String> = bench.run.attempts.iter().map(attempt).collect();
    changed(&mut out, &mut shown.attempts, attempts);
    let action = bench.run.action.as_ref().map(|a| {
        let error = a.error.as_ref().map_or(String::new(), |e| format!(" {}", failure(e)));
        format!("action {} {}{error}", a.name, a.status)
    });
    let health = bench.run.health.as_ref().map(|h| format!("health {}", h.state));
    for (old, new) in [(&mut shown.action, action), (&mut shown.health, health)] {
        if *old != new {
            writeln!(out, "{}", new.as_deref().unwrap_or("health unknown")).unwrap();
            *old = new;
        }
    }
    writeln!(out, "= {}", standing(bench)).unwrap();
    out
}

fn changed(out: &mut String, old: &mut Vec<String>, new: Vec<String>) {
    for (i, line) in new.iter().enumerate() {
        if old.get(i) != Some(line) {
            writeln!(out, "{line}").unwrap();
        }
    }
    *old = new;
}

fn event(bench: &Bench, e: &Event) -> String {
    let mut out = format!("{} {}", if e.kind.is_published() { "*" } else { "-" }, e.kind.name());
    if let Some(to) = e.to_state {
        write!(out, " [{} → {}]", e.from_state.map_or("new", State::name), to.name()).unwrap();
    }
    if let Some(attempt) = e.attempt {
        write!(out, " attempt {}", bench.attempt_number(attempt)).unwrap();
    }
    if let Some(step) = &e.step {
        write!(out, " {step}").unwrap();
    }
    if let Some(resource) = &e.resource {
        write!(out, " {} id={}", bench.row_label(resource.id), resource.provider_id.as_deref().unwrap_or("?")).unwrap();
    }
    if let Some(error) = &e.error {
        write!(out, " {}", failure(error)).unwrap();
    }
    if let Some(outcome) = e.outcome {
        write!(out, " outcome={}", serde_json::to_value(outcome).unwrap().as_str().unwrap()).unwrap();
    }
    for endpoint in &e.endpoints {
        write!(out, " {}={}", endpoint.name, endpoint.url).unwrap();
    }
    if matches!(e.kind, EventKind::RolledBack) {
        write!(out, " refund={}", e.refund).unwrap();
    }
    if let Some(actor) = &e.actor {
        write!(out, " by {}:{}", actor.kind, actor.id).unwrap();
    }
    out
}

/// The name of a call in a scenario, without its number.
pub(crate) fn key(bench: &Bench, key: &CallKey) -> String {
    let repeated = |operations: &[provisor_core::run::Operation], index: usize| {
        // A call of an action that another has followed.
        let Some(planned) = operations.get(index).map(|o| &o.planned) else { return "former".to_owned() };
        let same = |o: &&provisor_core::run::Operation| o.planned.name == planned.name && o.planned.item == planned.item;
        let item = planned.item.as_ref().map_or(String::new(), |i| format!(":{i}"));
        format!("{}{item}{}", planned.name, "'".repeat(operations[..index].iter().filter(same).count()))
    };
    match key {
        CallKey::Operation { attempt, operation, .. } => {
            let attempt = bench.run.attempts.iter().find(|a| a.id == *attempt).unwrap();
            let at = if attempt.number == 1 { String::new() } else { format!("@{}", attempt.number) };
            format!("{}{at}", repeated(&attempt.operations, *operation))
        }
        CallKey::Action { operation, .. } => {
            format!("action.{}", repeated(&bench.run.action.as_ref().unwrap().operations, *operation))
        }
        CallKey::Look { row, .. } => format!("look({})", bench.row_label(*row)),
        CallKey::Release { row, .. } => format!("release({})", bench.row_label(*row)),
    }
}

/// The number of a call.
pub(crate) fn number(key: &CallKey) -> u32 {
    match key {
        CallKey::Operation { number, .. }
        | CallKey::Action { number, .. }
        | CallKey::Look { number, .. }
        | CallKey::Release { number, .. } => *number,
    }
}

/// A call as a scenario shows it.
pub(crate) fn call(bench: &Bench, c: &Call) -> String {
    let mut out = format!("{}#{}", key(bench, &c.key), number(&c.key));
    match &c.task {
        Task::Perform(work) => {
            if let Some(tag) = &work.tag {
                let row = bench.run.ledger.iter().find(|r| r.tag == *tag && r.id == tag.row("bench").unwrap()).unwrap();
                write!(out, " tag={}", bench.row_label(row.id)).unwrap();
            }
            if let Some(id) = &work.provider_id {
                write!(out, " id={id}").unwrap();
            }
            if work.try_number > 1 {
                write!(out, " try={}", work.try_number).unwrap();
            }
        }
        Task::Find { .. } => {}
        Task::Release(held) => {
            write!(out, " id={} of {}", held.provider_id, held.identity.as_deref().unwrap_or("?")).unwrap();
        }
    }
    write!(out, " by {}", time(c.deadline.at())).unwrap();
    if let Some(send_by) = c.send_by {
        write!(out, " send by {}", time(send_by)).unwrap();
    }
    out
}

fn row(bench: &Bench, r: &Row) -> String {
    let mut out = format!("row {} {}", bench.row_label(r.id), r.state.name());
    if let Some(id) = &r.provider_id {
        write!(out, " id={id}").unwrap();
    }
    let flags = [(r.unwanted && !r.is_closed(), "unwanted"), (r.in_doubt, "in doubt"), (r.written_off, "written off")];
    for (_, flag) in flags.into_iter().filter(|(set, _)| *set) {
        write!(out, ", {flag}").unwrap();
    }
    if let Some(at) = r.next_at.filter(|at| *at > bench.now && !r.is_closed()) {
        write!(out, ", next at {}", time(at)).unwrap();
    }
    if let Some(error) = r.last_error.as_ref().filter(|_| !r.is_closed()) {
        write!(out, ", {}", failure(error)).unwrap();
    }
    out
}

fn attempt(a: &Attempt) -> String {
    let state = serde_json::to_value(a.state).unwrap();
    let error = a.error.as_ref().map_or(String::new(), |e| format!(" {}", failure(e)));
    let released = if a.released_at.is_some() { ", released" } else { "" };
    format!("attempt {} on {} {}{error}{released}", a.number, a.cluster_name, state.as_str().unwrap())
}

fn standing(bench: &Bench) -> String {
    let run: &Run = &bench.run;
    let mut out = run.state.name().to_owned();
    if let Some(outcome) = run.outcome {
        write!(out, " ({})", serde_json::to_value(outcome).unwrap().as_str().unwrap()).unwrap();
    }
    if let Some(waiting) = &run.waiting {
        let detail = waiting.detail.as_ref().map_or(String::new(), |d| format!(": {d}"));
        write!(out, " waits for {}{detail}", waiting.reason).unwrap();
    }
    write!(out, " at {}", time(bench.now)).unwrap();
    if bench.wake_at < Timestamp::NEVER {
        write!(out, ", wakes {}", time(bench.wake_at)).unwrap();
    }
    let flying: Vec<String> = bench.in_flight.keys().map(|k| key(bench, k)).collect();
    if !flying.is_empty() {
        write!(out, ", in flight: {}", flying.join(" ")).unwrap();
    }
    out
}

/// Steps of the attempt that is shown, with retries.
pub(crate) fn steps(bench: &Bench) -> String {
    let Some(attempt) = bench.run.shown() else { return "no attempt\n".to_owned() };
    let mut out = String::new();
    for step in &attempt.steps {
        let status = serde_json::to_value(step.status).unwrap();
        let retries = attempt.retries_of(step.step);
        let span = |at: Option<Timestamp>| at.map_or("-".to_owned(), time);
        let (from, to) = (span(step.started_at), span(step.finished_at));
        writeln!(out, "step {} {} {from} to {to} retries {retries}", step.step.name(), status.as_str().unwrap()).unwrap();
    }
    for operation in attempt.operations.iter().filter(|o| o.tries.len() > 1 || o.status == OperationStatus::Failed) {
        let tries: Vec<String> = operation.tries.iter().map(|t| t.error.as_ref().map_or("ok".to_owned(), failure)).collect();
        writeln!(out, "tries of {}: {}", operation.planned.name, tries.join(", ")).unwrap();
    }
    out
}
