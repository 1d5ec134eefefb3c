//! What is asked of a service that stands: while something else runs (H13), and when it fails (H14).

use provisor_core::State;
use provisor_core::event::EventKind;
use provisor_core::lifecycle::Outcome;
use provisor_core::run::{Command, Run};
use provisor_core::{Class, Span};
use provisor_store::ops::log::EntriesOf;
use provisor_store::ops::quota::{QuotaOf, QuotaProof};
use serde_json::json;

use crate::ground::Ground;
use crate::steps::{ask, completed, deprovision, sleep, until};
use crate::toy::Next;
use crate::world::Test;

const SUSPEND: Command = Command::Suspend { reason: None };
const REACTIVATE: Command = Command::Reactivate { reason: None };

pub(crate) async fn h13_suspend_reactivate_deprovision_in_a_hurry_while_calls_hang(ground: Ground) {
    for (hangs, pause) in
        [("stop_server", 0.0), ("stop_server", 0.05), ("stop_server", 40.0), ("start_server", 0.05), ("start_server", 40.0)]
    {
        let t = Test::start_on(ground, &["one"], json!({})).await;
        let id = completed(&t, "db").await;
        t.world.script("one", hangs, &[Next::Hang; 3]);
        for command in [SUSPEND, REACTIVATE, SUSPEND, REACTIVATE] {
            ask(&t, id, command).await;
            sleep(pause).await;
        }
        ask(&t, id, deprovision()).await;
        let run = t.until(id, &[State::RolledBack]).await;
        assert_eq!(run.outcome, Some(Outcome::Deprovisioned));
        assert!(t.world.live().is_empty());
        assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
    }
}

pub(crate) async fn h13_what_is_wanted_last_is_reached(ground: Ground) {
    for pause in [0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05] {
        let mut t = Test::start_on(ground, &["one"], json!({})).await;
        let id = completed(&t, "db").await;
        for turn in 0..5 {
            ask(&t, id, if turn % 2 == 0 { SUSPEND } else { REACTIVATE }).await;
            sleep(pause).await;
            if turn == 3 {
                t.crash_and_start().await;
            }
        }
        let run = until(&t, id, "suspended", |r| {
            r.state == State::Suspended && r.action.as_ref().is_some_and(|a| a.status != "running")
        })
        .await;
        assert_eq!(run.action.unwrap().status, "succeeded", "{pause}");
        let last = t.world.calls.lock().unwrap().iter().rev().find(|c| c.ends_with("_server") && c.starts_with('s')).cloned();
        assert_eq!(last.as_deref(), Some("stop_server"), "{pause}");
    }
}

/// What a failed suspend may have stopped is started again, whatever is asked in between.
pub(crate) async fn h13_a_suspend_that_failed_half_way_is_undone(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    t.world.script("one", "stop_server", &[Next::Fail(Class::Permanent)]);
    ask(&t, id, SUSPEND).await;
    until(&t, id, "failed", |r| r.action.as_ref().is_some_and(|a| a.status == "failed")).await;
    ask(&t, id, SUSPEND).await;
    ask(&t, id, REACTIVATE).await;
    sleep(60.0).await;
    let run = t.run_of(id).await;
    assert_eq!((run.state, t.world.count("start_server")), (State::Completed, 1), "{:?}", run.action);
}

fn failed(run: &Run, name: &str) -> bool {
    run.action.as_ref().is_some_and(|a| a.name == name && a.status == "failed")
}

async fn told(t: &Test, run: &Run, kind: EventKind) -> usize {
    let entries = t.engine.store().run(EntriesOf::all(run.id)).await.unwrap();
    entries.iter().filter(|e| e.kind == kind).count()
}

pub(crate) async fn h14_a_suspend_that_fails_is_told_and_tried_again(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    t.world.script("one", "stop_server", &[Next::Fail(Class::Permanent)]);
    ask(&t, id, SUSPEND).await;
    let run = until(&t, id, "failed", |r| failed(r, "suspend")).await;
    assert_eq!(run.state, State::Completed, "the state stays");
    assert!(run.health.is_some(), "how it stands is shown");
    assert_eq!(told(&t, &run, EventKind::SuspendFailed).await, 1);
    let ended = run.action.unwrap().finished_at.unwrap();
    t.until(id, &[State::Suspended]).await;
    let run = until(&t, id, "done", |r| r.action.as_ref().is_some_and(|a| a.status == "succeeded")).await;
    let again = run.action.as_ref().unwrap().started_at.since(ended);
    assert!(again >= Span::seconds(895) && again < Span::seconds(960), "after {} s", again.as_seconds_f64());
    // What is suspended keeps what it holds.
    let used = t.engine.store().run(QuotaOf { tenant: "acme".into() }).await.unwrap();
    assert!(used.iter().any(|d| d.name == "cpu" && d.used == 1), "{used:?}");
    let cluster = t.engine.cluster("one").await.unwrap();
    assert_eq!((cluster.used.cpu, cluster.used_slots), (1, 1));
}

pub(crate) async fn h14_a_failed_reactivate_is_stopped_again(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    ask(&t, id, SUSPEND).await;
    t.until(id, &[State::Suspended]).await;
    t.world.script("one", "start_server", &[Next::Fail(Class::Permanent)]);
    ask(&t, id, REACTIVATE).await;
    let run = until(&t, id, "failed", |r| failed(r, "reactivate")).await;
    assert_eq!((run.state, told(&t, &run, EventKind::ReactivateFailed).await), (State::Suspended, 1));
    until(&t, id, "stopped again", |_| t.world.count("stop_server") == 2).await;
    // Asked for once more it works.
    ask(&t, id, REACTIVATE).await;
    t.until(id, &[State::Completed]).await;
}
