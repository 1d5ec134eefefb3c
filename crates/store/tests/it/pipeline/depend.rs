//! Prerequisites: who waits is woken by a completion and fails with an end, however long the chain (H24).

use provisor_core::lifecycle::Outcome;
use provisor_core::run::Command;
use provisor_core::{RequestId, Span, State, Timestamp};
use serde_json::json;

use super::scene::{Scene, spec};
use super::tables::row_of;

fn on(names: &[&str]) -> serde_json::Value {
    json!({"depends_on": names})
}

fn cancel() -> Command {
    Command::Cancel { reason: None }
}

pub async fn a_completion_wakes(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let first = scene.admit("first", json!({})).await;
    let second = scene.admit("second", json!({})).await;
    let both = scene.admit("both", on(&["first", "second"])).await;
    assert_eq!(row_of(&scene.store, both).await.due_at, Timestamp::NEVER.0, "who waits for prerequisites is not due");
    assert_eq!(scene.run_of(both).await.waiting.unwrap().reason, "prerequisites");
    scene.until(first, State::Completed).await;
    scene.until(second, State::Completed).await;
    scene.until(both, State::Completed).await;
    // What is completed already is not waited for.
    let late = scene.admit("late", on(&["first", &both.to_string()])).await;
    assert_eq!(row_of(&scene.store, late).await.due_at, scene.store.now().0);
    assert_eq!(scene.run_of(late).await.depends_on.len(), 2);
    scene.check().await;
}

pub async fn a_half_completion_is_looked_at_and_put_away(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let first = scene.completed("first", json!({})).await;
    scene.ask(first, Command::Suspend { reason: None }).await.unwrap();
    scene.until(first, State::Suspended).await;
    scene.admit("second", json!({})).await;
    let both = scene.admit("both", on(&["first", "second"])).await;
    let second = scene.take("w").await;
    scene.drive(second).await;
    // The second one woke it; the suspended one keeps it waiting (H24).
    assert!(scene.claim("w", 8).await.busy);
    let run = scene.run_of(both).await;
    assert_eq!((run.state, run.waiting.unwrap().detail.unwrap().as_str()), (State::Queued, "1 not completed yet"));
    assert_eq!(row_of(&scene.store, both).await.due_at, Timestamp::NEVER.0);
    scene.ask(first, Command::Reactivate { reason: None }).await.unwrap();
    scene.until(both, State::Completed).await;
    scene.check().await;
}

/// A chain of `length` and its first request; the last comes first in the batch.
async fn chain(scene: &Scene, length: usize) -> Vec<RequestId> {
    let before = |n: usize| if n == 0 { json!({}) } else { on(&[&format!("link-{}", n - 1)]) };
    let specs = (0..length).rev().map(|n| spec(&format!("link-{n}"), before(n))).collect();
    let views = scene.try_admit(specs).await.unwrap();
    views.into_iter().rev().map(|v| v.run.id).collect()
}

pub async fn an_end_fails_the_whole_chain(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let links = chain(&scene, 200).await;
    scene.ask(links[0], cancel()).await.unwrap();
    for (n, id) in links.iter().enumerate() {
        let run = scene.run_of(*id).await;
        assert_eq!(run.state, State::RolledBack, "link {n}");
        let outcome = if n == 0 { Outcome::Cancelled } else { Outcome::DependencyFailed };
        assert_eq!(run.outcome, Some(outcome), "link {n}");
        if n > 0 {
            let error = run.error.unwrap();
            assert_eq!(error.code, "dependency_failed");
            assert!(error.message.contains(&links[n - 1].to_string()), "it names its own prerequisite: {}", error.message);
        }
    }
    assert_eq!(scene.tenant_now("acme").await.usage.amounts.cpu, 0);
    let batch = scene.claim("w", 64).await;
    assert_eq!((batch.busy, batch.next_due), (false, Timestamp::NEVER), "what is over is not looked at again");
    scene.check().await;
}

/// As long as one batch can make it: each link is one more level for whoever tells the next.
pub async fn the_longest_chain_of_a_batch_fails_in_one_transaction(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let links = chain(&scene, 1000).await;
    scene.ask(links[0], cancel()).await.unwrap();
    assert_eq!(scene.run_of(links[999]).await.outcome, Some(Outcome::DependencyFailed));
    scene.check().await;
}

pub async fn a_failed_worker_run_fails_its_dependents(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let first = scene.admit("first", json!({"strategy": {"type": "single"}})).await;
    // A diamond: the last one hears of it twice, and fails once.
    let left = scene.admit("left", on(&["first"])).await;
    let right = scene.admit("right", on(&["first"])).await;
    let last = scene.admit("last", on(&["left", "right"])).await;
    let lease = scene.take("w").await;
    let answer = super::scene::failed(&lease.calls[0], provisor_core::Class::Permanent);
    scene.settle(&lease, vec![answer]).await.unwrap();
    assert_eq!(scene.run_of(first).await.outcome, Some(Outcome::Failed));
    for id in [left, right, last] {
        let run = scene.run_of(id).await;
        assert_eq!((run.state, run.outcome), (State::RolledBack, Some(Outcome::DependencyFailed)));
    }
    scene.clock.advance(Span::seconds(1));
    scene.until(first, State::RolledBack).await;
    scene.check().await;
}
