//! Race and hedge through a whole engine: the first to verify wins, and nothing of the other is left (SPEC 3.4, H7).

use provisor_core::run::{AttemptState, Role};
use provisor_core::{Run, State};
use provisor_store::ops::quota::QuotaProof;
use serde_json::json;

use crate::toy::Next;
use crate::world::Test;

fn tried(kind: &str) -> serde_json::Value {
    json!({"strategy": {"type": kind}})
}

/// Waits until every attempt but the winner is released.
async fn settled(t: &Test, id: provisor_core::RequestId) -> Run {
    for _ in 0..20_000 {
        let run = t.run_of(id).await;
        let others = run.attempts.iter().filter(|a| Some(a.id) != run.winner);
        if run.state == State::Completed && others.clone().all(|a| a.released_at.is_some()) {
            return run;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{:#?}", t.run_of(id).await);
}

fn clusters_with_objects(t: &Test) -> Vec<String> {
    let mut found: Vec<String> = t.world.objects.lock().unwrap().keys().map(|(cluster, _)| cluster.clone()).collect();
    found.dedup();
    found
}

#[tokio::test(start_paused = true)]
async fn h07_a_race_is_won_once_and_nothing_of_the_loser_is_left() {
    let t = Test::start(&["one", "two"], json!({})).await;
    // The first one is held up, so that the second one wins.
    t.world.script("one", "create_server", &[Next::Fail(provisor_core::Class::Transient); 2]);
    let id = t.admit(vec![Test::spec("db", tried("race"))]).await[0];
    let run = settled(&t, id).await;
    let ends: Vec<_> = run.attempts.iter().map(|a| (a.role, a.cluster_name.as_str(), a.state)).collect();
    assert_eq!(ends, [(Role::First, "one", AttemptState::Lost), (Role::Race, "two", AttemptState::Won)]);
    assert_eq!(run.endpoints().len(), 1);
    assert_eq!(clusters_with_objects(&t), ["two"]);
    assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty(), "usage is what is held");
}

#[tokio::test(start_paused = true)]
async fn a_race_goes_on_after_a_crash() {
    let mut t = Test::start(&["one", "two"], json!({})).await;
    t.world.script("one", "create_server", &[Next::Fail(provisor_core::Class::Transient); 2]);
    let id = t.admit(vec![Test::spec("db", tried("race"))]).await[0];
    for _ in 0..20_000 {
        if t.run_of(id).await.attempts.len() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    t.crash_and_start().await;
    let run = settled(&t, id).await;
    assert_eq!(run.attempts.len(), 2, "no third one");
    assert_eq!(clusters_with_objects(&t).len(), 1);
    assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_hedge_overtakes_one_that_hangs() {
    let t = Test::start(&["one", "two"], json!({})).await;
    t.world.script("one", "create_server", &[Next::Hang; 20]);
    let id = t.admit(vec![Test::spec("db", tried("hedge"))]).await[0];
    let run = settled(&t, id).await;
    assert_eq!(run.attempts[0].state, AttemptState::Lost);
    assert_eq!((run.attempts[1].role, run.winner), (Role::Hedge, Some(run.attempts[1].id)));
    let waited = run.attempts[1].started_at.since(run.attempts[0].started_at).as_seconds_f64();
    assert!((119.0..125.0).contains(&waited), "by `hedge_after_seconds`, as nothing is recorded: {waited}");
    assert_eq!(clusters_with_objects(&t), ["two"]);
}
