//! Crashes at any moment, graceful stops, and the account of time in between.

use provisor_core::State;
use provisor_core::run::Command;
use provisor_store::ops::quota::QuotaProof;
use serde_json::json;

use crate::toy::Next;
use crate::world::{Test, actor};

/// A crash every so many milliseconds of a request's life, through its whole length.
#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_makes_nothing_twice_and_loses_nothing() {
    for after_ms in (1..140).step_by(6) {
        let mut t = Test::start(&["one"], json!({})).await;
        let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
        tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
        t.crash_and_start().await;
        t.until(id, &[State::Completed]).await;
        // A create that was cut off is looked for longer than it can be late, then made anew; never two live.
        assert_eq!(t.world.live().len(), 2, "after {after_ms} ms");
        assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_moment_of_a_rollback_leaves_nothing() {
    for after_ms in (1..140).step_by(9) {
        let mut t = Test::start(&["one"], json!({})).await;
        let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
        t.until(id, &[State::Completed]).await;
        t.engine.command(id, Command::Deprovision { reason: None, force: false }, actor()).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(after_ms)).await;
        t.crash_and_start().await;
        t.until(id, &[State::RolledBack]).await;
        assert!(t.world.live().is_empty());
        assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_graceful_stop_waits_for_a_create_and_hands_the_lease_back() {
    let mut t = Test::start(&["one"], json!({})).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    assert_eq!(t.run_of(id).await.state, State::Allocating);
    assert!(t.running.take().unwrap().shutdown().await);
    let stopped = t.run_of(id).await;
    assert!(stopped.ledger.iter().all(|r| r.busy.is_none()), "the create in flight was waited for and settled");
    t.crash_and_start().await;
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!(*t.world.created.lock().unwrap(), 2, "nothing was made twice");
    assert!(run.attempts[0].operations.iter().all(|o| o.tries.len() == 1), "it was resumed, not restarted");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_answers_ends_at_its_deadline() {
    let t = Test::start(&["one", "two"], json!({})).await;
    t.world.script("one", "create_rule", &[Next::Hang; 9]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed, State::RolledBack]).await;
    assert_eq!(run.attempts[0].error.as_ref().unwrap().code, "operation_timed_out");
}

/// The last look of a wait is often cut off by its deadline; what the one before it saw is what helps.
#[tokio::test(start_paused = true)]
async fn a_wait_that_ends_tells_what_was_seen_before_its_last_look_was_cut_off() {
    let t = Test::start(&[], json!({})).await;
    let settings = json!({"deadlines": {"wait_server": 20}, "retry": {"max_retries": 2}});
    t.register("one", json!({"simulates": "openstack", "settings": settings})).await;
    t.world.silent.lock().unwrap().push("wait_server".to_owned());
    t.world.script("one", "wait_server", &[Next::Slow(1), Next::Hang].repeat(3));
    let strategy = json!({"type": "single"});
    let id = t.admit(vec![Test::spec("db", json!({"strategy": strategy}))]).await[0];
    let run = t.until(id, &[State::Completed, State::RolledBack]).await;
    let error = run.attempts[0].error.clone().unwrap();
    assert_eq!(error.code, "operation_timed_out", "{error:?}");
    assert!(error.message.ends_with("; last seen: accepted"), "{error:?}");
}
