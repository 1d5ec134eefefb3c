//! Queued for ever (H16).

use provisor_core::{RequestId, State};
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::steps::sleep;
use crate::world::Test;

fn size(cpu: i64) -> Value {
    json!({"cpu": cpu, "memory_gb": 1, "storage_gb": 1})
}

/// A cluster of eight with one request of so many on it, and another tenant's concurrency out of the way.
async fn filled(ground: Ground, cpu: i64) -> (Test, RequestId) {
    let t = Test::start_on(ground, &["one"], json!({"max_concurrent": 10})).await;
    let id = t.admit(vec![Test::spec("full", json!({"size": size(cpu)}))]).await[0];
    t.until(id, &[State::Completed]).await;
    (t, id)
}

/// Time in which nobody works and nothing but time passes.
async fn away(t: &mut Test, seconds: f64) {
    t.running = None;
    sleep(seconds).await;
    t.crash_and_start().await;
}

pub(crate) async fn h16_a_queue_time_out_fails_with_its_code(ground: Ground) {
    let (t, _) = filled(ground, 8).await;
    let waits = t.admit(vec![Test::spec("waits", json!({"queue_timeout_seconds": 20}))]).await[0];
    sleep(10.0).await;
    let run = t.run_of(waits).await;
    assert_eq!(run.waiting.as_ref().map(|w| w.reason.as_str()), Some("capacity"));
    let run = t.until(waits, &[State::RolledBack]).await;
    assert_eq!(run.error.unwrap().code, "queue_timeout");
}

pub(crate) async fn h16_what_can_never_fit_fails_an_hour_after_the_clusters_changed(ground: Ground) {
    let (mut t, _) = filled(ground, 6).await;
    let big = t.admit(vec![Test::spec("big", json!({"size": size(4)}))]).await[0];
    sleep(5.0).await;
    let change = |capacity: i64, enabled: bool, t: &Test| {
        let engine = std::sync::Arc::clone(&t.engine);
        async move {
            let mut spec = engine.cluster("one").await.unwrap().spec;
            (spec.capacity.cpu, spec.provisioning_enabled) = (Some(capacity), enabled);
            engine.update_cluster("one", spec, None, None).await.unwrap();
        }
    };
    // Full, or switched off: that may end. It is judged by the total capacity.
    change(8, false, &t).await;
    away(&mut t, 3700.0).await;
    sleep(20.0).await;
    assert_eq!(t.run_of(big).await.state, State::Queued);
    change(3, true, &t).await;
    sleep(60.0).await;
    assert_eq!(t.run_of(big).await.state, State::Queued, "whoever changes a cluster may be at it still");
    away(&mut t, 3600.0).await;
    let run = t.until(big, &[State::RolledBack]).await;
    assert_eq!((run.attempts.len(), run.error.unwrap().class), (0, provisor_core::Class::Capacity));
}

pub(crate) async fn h16_after_a_quarter_of_an_hour_younger_ones_take_no_room(ground: Ground) {
    let (mut t, full) = filled(ground, 5).await;
    let big = t.admit(vec![Test::spec("big", json!({"size": size(4)}))]).await[0];
    sleep(5.0).await;
    let small = t.admit(vec![Test::spec("small", json!({}))]).await[0];
    t.until(small, &[State::Completed]).await;
    assert_eq!(t.run_of(big).await.state, State::Queued, "it has no place, and blocks nobody");
    away(&mut t, 950.0).await;
    let younger = t.admit(vec![Test::spec("younger", json!({}))]).await[0];
    sleep(40.0).await;
    assert_eq!(t.run_of(younger).await.state, State::Queued, "the room is kept for who has waited longer");
    crate::steps::ask(&t, full, crate::steps::deprovision()).await;
    t.until(big, &[State::Completed]).await;
    t.until(younger, &[State::Completed]).await;
}
