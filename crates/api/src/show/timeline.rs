//! Timelines.

use provisor_core::timeline::{Fact, timeline as build};
use provisor_core::{Run, Span, Timestamp};
use provisor_store::ops::log::Entry;
use provisor_wire::timeline::{Moment, Summary, Timeline};

use super::time;

/// The timeline of a request.
pub fn timeline(run: &Run, log: &[Entry], operations: bool, now: Timestamp) -> Timeline {
    let facts: Vec<Fact<'_>> = log.iter().map(|e| Fact { at: e.at, event: &e.body }).collect();
    let made = build(run, &facts, operations, now);
    let shown = made.items.into_iter();
    let shown = shown.map(|i| Moment { event: i.event.to_owned(), timestamp: time(i.at), metadata: i.metadata });
    Timeline {
        environment_id: run.id.to_string(),
        environment_name: run.spec.name.clone(),
        timeline: shown.collect(),
        summary: Summary {
            provisioning_duration_seconds: made.summary.provisioning_duration.map(Span::as_seconds_f64),
            wait_seconds: made.summary.waited.as_seconds_f64(),
            total_lifetime_hours: made.summary.lifetime.as_seconds_f64() / 3600.0,
        },
    }
}
