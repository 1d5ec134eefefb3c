//! A timeline for people: what happened and when since the beginning, with the durations of the steps.

use provisor_core::Timestamp;
use provisor_wire::Timeline;
use provisor_wire::timeline::Moment;
use serde_json::Value;

use crate::output::{Colour, Out, Table, clean, clock, inline, seconds};

/// Metadata with a place of their own, or that say nothing to people.
const QUIET: [&str; 12] = [
    "deadline_seconds",
    "deadline_source",
    "learned",
    "step",
    "attempt",
    "actor",
    "started_at",
    "finished_at",
    "duration_seconds",
    "provisioning_duration_seconds",
    "tries",
    "operation",
];

/// What goes without saying.
fn is_usual(key: &str, value: &Value) -> bool {
    match key {
        "status" => value == "succeeded",
        "retries" => *value == 0,
        _ => value == "" || value.as_array().is_some_and(Vec::is_empty),
    }
}

/// The table with its summary.
pub(crate) fn table(out: Out, timeline: &Timeline) -> String {
    let mut table = Table::new(&["time", "after", "event", "what", "took"]);
    let begin = timeline.timeline.first().and_then(|m| Timestamp::parse(&m.timestamp));
    for moment in &timeline.timeline {
        let after = match (begin, Timestamp::parse(&moment.timestamp)) {
            (Some(begin), Some(at)) => format!("+{}", seconds(at.since(begin).as_seconds_f64())),
            _ => String::new(),
        };
        table.row(vec![clock(&moment.timestamp), after, paint(out, &moment.event), what(moment), took(moment)]);
    }
    let summary = &timeline.summary;
    let ready = summary.provisioning_duration_seconds.map_or("not ready yet".to_owned(), |s| format!("ready in {}", seconds(s)));
    format!(
        "{} ({})\n{}\n{ready}, waited {}, lifetime {}\n",
        clean(&timeline.environment_name),
        timeline.environment_id,
        table.render(),
        seconds(summary.wait_seconds),
        seconds(summary.total_lifetime_hours * 3600.0)
    )
}

fn paint(out: Out, event: &str) -> String {
    let colour = match event {
        "ready" => Colour::Green,
        "failed" | "attempt_failed" | "rejected" => Colour::Red,
        "operation" | "step_started" => Colour::Dim,
        "step_finished" => return event.to_owned(),
        _ => Colour::Bold,
    };
    out.paint(colour, event)
}

/// Step or operation first, then what else is known.
fn what(moment: &Moment) -> String {
    let mut parts = Vec::new();
    for key in ["step", "operation"] {
        parts.extend(moment.metadata.get(key).map(inline));
    }
    for (key, value) in moment.metadata.iter().filter(|(k, v)| !QUIET.contains(&k.as_str()) && !v.is_null()) {
        if !is_usual(key, value) {
            parts.push(format!("{key}={}", inline(value)));
        }
    }
    if let Some(deadline) = moment.metadata.get("deadline_seconds").and_then(Value::as_f64) {
        let source = moment.metadata.get("deadline_source").map(inline).unwrap_or_default();
        let samples = moment.metadata.get("learned").and_then(|l| l.get("samples")).map(|n| format!(" from {n} samples"));
        parts.push(format!("deadline {} ({source}{})", seconds(deadline), samples.unwrap_or_default()));
    }
    if let Some(tries) = moment.metadata.get("tries").and_then(Value::as_array).filter(|t| t.len() > 1) {
        parts.push(format!("tries={}", tries.len()));
    }
    parts.retain(|p| !p.is_empty());
    parts.join("  ")
}

/// How long a step or an operation took, or the whole until it was ready.
fn took(moment: &Moment) -> String {
    let number = |key: &str| moment.metadata.get(key).and_then(Value::as_f64);
    if let Some(n) = number("duration_seconds").or_else(|| number("provisioning_duration_seconds")) {
        return seconds(n);
    }
    let end = moment.metadata.get("finished_at").and_then(Value::as_str).and_then(Timestamp::parse);
    let begin = match moment.metadata.get("started_at").and_then(Value::as_str) {
        Some(text) => Timestamp::parse(text),
        None => Timestamp::parse(&moment.timestamp),
    };
    match (begin, end) {
        (Some(begin), Some(end)) => seconds(end.since(begin).as_seconds_f64()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::output::Format;
    use serde_json::json;

    #[test]
    fn durations_stand_beside_their_steps() {
        let timeline: Timeline = serde_json::from_value(json!({
            "environment_id": "req_1", "environment_name": "db",
            "timeline": [
                {"event": "created", "timestamp": "2026-11-21T10:00:00.000000Z", "metadata": {}},
                {"event": "step_finished", "timestamp": "2026-11-21T10:00:04.500000Z", "metadata": {"step": "allocate", "duration_seconds": 4.2}},
                {"event": "operation", "timestamp": "2026-11-21T10:00:01.000000Z",
                 "metadata": {"operation": "create_server", "finished_at": "2026-11-21T10:00:03.000000Z", "tries": [{}, {}], "status": "succeeded"}}],
            "summary": {"provisioning_duration_seconds": 12.4, "wait_seconds": 0.1, "total_lifetime_hours": 0.5}
        }))
        .unwrap();
        let text = table(Out { format: Format::Table, quiet: false, colour: false }, &timeline);
        assert!(text.contains("10:00:04.5  +4.5 s  step_finished  allocate"), "{text}");
        assert!(text.contains("4.2 s"), "{text}");
        assert!(text.contains("create_server  tries=2  2.0 s"), "{text}");
        assert!(text.contains("ready in 12.4 s, waited 0.1 s, lifetime 30 min 0 s"), "{text}");
    }
}
