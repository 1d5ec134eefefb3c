//! One request through the four steps, and every way in which one can go wrong.

use provisor_core::run::{AttemptState, Command};
use provisor_core::{Class, State};
use provisor_store::ops::log::EntriesOf;
use provisor_store::ops::quota::QuotaProof;
use serde_json::json;

use crate::toy::Next;
use crate::world::{Test, actor};

#[tokio::test(start_paused = true)]
async fn a_request_completes_and_its_time_adds_up() {
    let t = Test::start(&["one"], json!({})).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!(run.endpoints().len(), 1);
    let attempt = run.shown().unwrap();
    let mut at = attempt.started_at;
    for step in &attempt.steps {
        assert_eq!(step.started_at, Some(at), "steps abut");
        at = step.finished_at.unwrap();
    }
    assert_eq!(attempt.finished_at, Some(at));
    let waits: i64 = run.waits.iter().map(|w| w.until.since(w.since).0).sum();
    let worked = attempt.finished_at.unwrap().since(attempt.started_at).0;
    assert_eq!(run.ready_at.unwrap().since(run.created_at).0, waits + worked);
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    let published: Vec<_> = entries.iter().filter_map(|e| e.sequence).collect();
    assert_eq!(published, (1..=i64::try_from(published.len()).unwrap()).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_fails_over_and_leaves_nothing() {
    let t = Test::start(&["one", "two"], json!({})).await;
    t.world.script("one", "create_server", &[Next::Fail(Class::Permanent); 20]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!(run.attempts.len(), 2);
    assert_eq!(run.attempts[0].state, AttemptState::Failed);
    assert_eq!(run.attempts[0].replaced_by, Some(run.attempts[1].id));
    assert_eq!(run.attempts[0].finished_at, Some(run.attempts[1].started_at));
    for _ in 0..1000 {
        if t.run_of(id).await.attempts[0].released_at.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let objects = t.world.objects.lock().unwrap().clone();
    assert!(objects.keys().all(|(cluster, _)| cluster == "two"), "{objects:?}");
    assert_eq!(objects.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn exhausted_retries_roll_back_to_nothing() {
    let t = Test::start(&["one"], json!({})).await;
    t.world.script("one", "wait_server", &[Next::Fail(Class::Transient); 99]);
    t.world.script("one", "delete_server", &[Next::Fail(Class::Transient); 5]);
    let id = t.admit(vec![Test::spec("db", json!({"order_id": "o-1"}))]).await[0];
    let run = t.until(id, &[State::RolledBack]).await;
    assert!(t.world.live().is_empty());
    assert_eq!(run.error.unwrap().operation.as_deref(), Some("wait_server"));
    assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    let last = entries.iter().rev().find(|e| e.sequence.is_some()).unwrap();
    assert_eq!(last.kind.name(), "provisioning.rolled-back");
    assert!(last.body.refund);
}

#[tokio::test(start_paused = true)]
async fn suspend_reactivate_and_deprovision() {
    let t = Test::start(&["one"], json!({})).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    t.engine.command(id, Command::Suspend { reason: Some("unpaid".into()) }, actor()).await.unwrap();
    t.until(id, &[State::Suspended]).await;
    t.engine.command(id, Command::Reactivate { reason: None }, actor()).await.unwrap();
    t.until(id, &[State::Completed]).await;
    t.engine.command(id, Command::Deprovision { reason: None, force: false }, actor()).await.unwrap();
    let run = t.until(id, &[State::RolledBack]).await;
    assert!(t.world.live().is_empty());
    assert_eq!(run.action.unwrap().status, "succeeded");
}

#[tokio::test(start_paused = true)]
async fn dependents_wait_and_fail_with_their_prerequisite() {
    let t = Test::start(&["one"], json!({})).await;
    t.world.script("one", "create_volume", &[Next::Fail(Class::Permanent)]);
    let ids = t
        .admit(vec![
            Test::spec("web", json!({"depends_on": ["db"]})),
            Test::spec("db", json!({})),
            Test::spec("top", json!({"depends_on": ["web"]})),
        ])
        .await;
    for id in &ids {
        t.until(*id, &[State::RolledBack]).await;
    }
    let (web, top) = (t.run_of(ids[0]).await, t.run_of(ids[2]).await);
    for run in [web, top] {
        assert_eq!(run.outcome, Some(provisor_core::lifecycle::Outcome::DependencyFailed));
        assert!(run.attempts.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn h18_capacity_and_concurrency_are_never_overrun() {
    let t = Test::start(&["one"], json!({"max_concurrent": 3})).await;
    let specs = (0..12).map(|i| Test::spec(&format!("vps-{i}"), json!({}))).collect();
    let ids = t.admit(specs).await;
    let mut most = 0;
    for _ in 0..4000 {
        let mut standing = 0;
        let mut working = 0;
        for id in &ids {
            let run = t.run_of(*id).await;
            standing += u32::from(run.state == State::Completed);
            working += u32::from(run.is_in_work());
        }
        most = most.max(working);
        assert!(standing + working <= 8, "capacity is 8");
        if standing == 8 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(most, 3);
    for id in &ids {
        let run = t.run_of(*id).await;
        let command = if run.state == State::Completed { Command::Deprovision { reason: None, force: false } } else { continue };
        t.engine.command(*id, command, actor()).await.unwrap();
    }
    for id in ids.iter().skip(8) {
        t.until(*id, &[State::Completed]).await;
    }
    assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
}
