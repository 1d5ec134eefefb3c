//! H16: who has waited long without a place keeps the room of its best cluster from those that came later.

use provisor_core::run::Command;
use provisor_core::{Class, RequestId, Span, State};
use provisor_store::ops::admit::DryRun;
use serde_json::{Value, json};

use super::scene::{Lease, Scene, cpus, failed, merged, spec};

const QUARTER: Span = Span::seconds(900);

/// A cluster half full, and a request for all of it that has been looked at once.
async fn half_full(scene: &Scene) -> (RequestId, RequestId) {
    let stands = scene.completed("stands", cpus(4)).await;
    let large = scene.admit("large", cpus(8)).await;
    assert!(scene.claim("w", 8).await.claimed.is_empty());
    (stands, large)
}

async fn starts(scene: &Scene, id: RequestId) -> bool {
    scene.claim("w", 8).await.claimed.iter().any(|c| c.run.id == id)
}

async fn detail(scene: &Scene, id: RequestId) -> String {
    scene.run_of(id).await.waiting.and_then(|w| w.detail).unwrap_or_default()
}

pub async fn room_is_kept_after_a_quarter_of_an_hour(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let (stands, large) = half_full(&scene).await;
    scene.clock.advance(Span(QUARTER.0 - 1));
    let soon = scene.admit("soon", cpus(1)).await;
    assert!(starts(&scene, soon).await, "a moment before it is anybody's room");
    scene.clock.advance(Span(1));
    let late = scene.admit("late", cpus(1)).await;
    assert!(!starts(&scene, late).await);
    let text = detail(&scene, late).await;
    assert_eq!(text, "one: no room: cpu 1 asked, 0 of 8 left, as it is kept for a request that has waited longer");
    scene.check().await;
    // The room comes together, and goes to the one that waited.
    for id in [stands, soon] {
        scene.until(id, State::Completed).await;
        scene.ask(id, Command::Deprovision { reason: None, force: false }).await.unwrap();
    }
    scene.until(large, State::Completed).await;
    assert_eq!(scene.run_of(late).await.state, State::Queued);
    scene.ask(large, Command::Deprovision { reason: None, force: false }).await.unwrap();
    scene.until(late, State::Completed).await;
    scene.check().await;
}

pub async fn older_ones_and_other_clusters_are_free(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let gate = scene.admit("gate", cpus(1)).await;
    let older = scene.admit("older", json!({"depends_on": ["gate"]})).await;
    scene.until(gate, State::Completed).await;
    scene.ask(gate, Command::Suspend { reason: None }).await.unwrap();
    scene.until(gate, State::Suspended).await;
    scene.until(older, State::Completed).await;
    let kept_back = scene.admit("kept-back", json!({"depends_on": ["gate"]})).await;
    scene.claim("w", 8).await;
    scene.clock.advance(Span::millis(5));
    let large = scene.admit("large", cpus(8)).await;
    scene.claim("w", 8).await;
    scene.clock.advance(QUARTER);
    let late = scene.admit("late", cpus(1)).await;
    assert!(!starts(&scene, late).await);
    // Its prerequisite completes: it was admitted before the large one.
    scene.ask(gate, Command::Reactivate { reason: None }).await.unwrap();
    let gate_again = scene.take("w").await;
    scene.drive(gate_again).await;
    assert!(starts(&scene, kept_back).await, "who is older than the one that waits is not held back");
    assert_eq!(scene.run_of(large).await.state, State::Queued);
    // A second cluster has room for the late one; the large one would not fit there.
    scene.cluster("two", json!({"capacity": {"cpu": 2}})).await;
    scene.clock.advance(Span::seconds(1));
    assert!(starts(&scene, late).await);
    assert_eq!(scene.run_of(late).await.attempts[0].cluster_name, "two");
    scene.check().await;
}

pub async fn nothing_is_kept_for_who_could_not_use_it(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.tenant("small", json!({"max_concurrent": 1})).await;
    let of_small = |name: &str, extra: Value| spec(name, merged(extra, json!({"tenant": "small"})));
    let stands = scene.completed("stands", cpus(4)).await;
    let large = scene.try_admit(vec![of_small("large", cpus(8))]).await.unwrap()[0].run.id;
    scene.claim("w", 8).await;
    scene.clock.advance(Span::seconds(1));
    let busy = scene.try_admit(vec![of_small("busy", cpus(1))]).await.unwrap()[0].run.id;
    assert!(starts(&scene, busy).await, "its tenant's one slot is taken now");
    scene.clock.advance(QUARTER);
    let late = scene.admit("late", cpus(1)).await;
    assert!(starts(&scene, late).await);
    // One that waits for something else than room keeps nothing either.
    scene.ask(large, Command::Cancel { reason: None }).await.unwrap();
    assert_eq!(scene.run_of(large).await.state, State::RolledBack);
    assert_eq!(scene.run_of(stands).await.state, State::Completed);
    scene.check().await;
}

pub async fn a_dry_run_and_a_further_attempt_know_of_it(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.cluster("two", json!({"capacity": {"cpu": 8}})).await;
    scene.completed("stands", merged(cpus(4), json!({"cluster": "two"}))).await;
    let large = scene.admit("large", merged(cpus(8), json!({"cluster": "two"}))).await;
    scene.claim("w", 8).await;
    scene.clock.advance(QUARTER);
    let id = scene.admit("db", cpus(1)).await;
    let mut batch = scene.claim("w", 8).await;
    assert_eq!(batch.claimed.len(), 1);
    let lease = Lease::of("w", batch.claimed.remove(0));
    assert_eq!(scene.run_of(id).await.attempts[0].cluster_name, "one");
    let pinned = spec("dry", merged(cpus(1), json!({"cluster": "two"})));
    let dry = scene.store.run(DryRun(scene.admission(vec![pinned, spec("free", cpus(1))], None))).await.unwrap();
    assert_eq!((dry.items[0].cluster.as_deref(), dry.items[0].choice.may_wait), (None, true));
    assert_eq!(dry.items[1].cluster.as_deref(), Some("one"));
    // What is kept is no spare capacity: the failed attempt has no successor (H11).
    let answer = failed(&lease.calls[0], Class::Permanent);
    let settled = scene.settle(&lease, vec![answer]).await.unwrap();
    assert_eq!((settled.run.attempts.len(), settled.run.state), (1, State::RolledBack));
    assert_eq!(scene.run_of(large).await.state, State::Queued);
    scene.check().await;
}
