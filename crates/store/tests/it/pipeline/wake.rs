//! A cluster that is back: what waits there because of a failure is brought forward, and nothing else is.

use std::collections::BTreeSet;
use std::sync::Arc;

use provisor_core::run::Command;
use provisor_core::{Class, ClusterId, RequestId, Span, Timestamp};
use provisor_store::ops::wake::{Owing, WAKE_AT_MOST, WaitingOn, Wake};
use serde_json::{Value, json};

use super::scene::{Lease, Scene, cpus, failed};
use super::tables::row_of;

/// Pauses of minutes from the first failure on; owed from the third.
fn slow() -> Value {
    json!({"settings": {"retry": {"initial_seconds": 200, "cap_seconds": 300, "max_retries": 2}}})
}

async fn with_two(scene: Scene) -> (Scene, ClusterId, ClusterId) {
    scene.tenant("acme", json!({})).await;
    let one = scene.cluster("one", slow()).await.id;
    let mut two = slow();
    two["region"] = json!("us");
    let two = scene.cluster("two", two).await.id;
    (scene, one, two)
}

async fn wake(scene: &Scene, cluster: ClusterId, requests: &[RequestId], before: usize) -> Vec<RequestId> {
    let (requests, context) = (requests.to_vec(), Arc::clone(&scene.context));
    scene.store.run(Wake { cluster, requests, before, context }).await.unwrap()
}

async fn due(scene: &Scene, id: RequestId) -> Timestamp {
    Timestamp(row_of(&scene.store, id).await.due_at)
}

async fn deprovision(scene: &Scene, id: RequestId) {
    scene.ask(id, Command::Deprovision { reason: None, force: false }).await.unwrap();
}

/// Claims everything that is due, and each call fails.
async fn fail_all(scene: &Scene) {
    for claimed in scene.claim("w", 64).await.claimed {
        let lease = Lease::of("w", claimed);
        let answers = lease.calls.iter().map(|c| failed(c, Class::Transient)).collect();
        scene.settle(&lease, answers).await.unwrap();
    }
}

pub async fn brings_forward_what_a_failure_made_wait(scene: Scene) {
    let (scene, one, two) = with_two(scene).await;
    let (here, there) = (scene.completed("here", json!({})).await, scene.completed("there", json!({"region": "us"})).await);
    let stands = scene.completed("stands", json!({})).await;
    assert_eq!(scene.store.run(WaitingOn { cluster: one }).await.unwrap(), []);
    for id in [here, there] {
        deprovision(&scene, id).await;
    }
    // Something that is being made: its first call fails as well.
    let new = scene.admit("new", json!({})).await;
    fail_all(&scene).await;
    let now = scene.store.now();
    for id in [here, there, new] {
        assert!(due(&scene, id).await > now.plus(Span::seconds(100)), "it pauses");
    }
    let waiting: BTreeSet<RequestId> = scene.store.run(WaitingOn { cluster: one }).await.unwrap().into_iter().collect();
    assert_eq!(waiting, [here, new].into());
    let before = scene.tables().await;
    assert_eq!(wake(&scene, one, &[there, stands, scene.id()], 0).await, [], "they do not wait there");
    super::tables::assert_same(&before, &scene.tables().await);
    let woken: BTreeSet<RequestId> = wake(&scene, one, &[here, there, new], 0).await.into_iter().collect();
    assert_eq!(woken, waiting);
    for id in [here, new] {
        assert!(due(&scene, id).await <= now.plus(Span::seconds(1)), "it is tried within the second");
    }
    assert!(due(&scene, there).await > now.plus(Span::seconds(100)));
    assert_eq!(wake(&scene, one, &[here, new], 0).await, [], "once is enough");
    // The later ones of very many come later, but all soon.
    assert_eq!(wake(&scene, two, &[there], 640).await, [there]);
    let later = due(&scene, there).await;
    assert!(later >= now.plus(Span::seconds(10)) && later <= now.plus(Span::seconds(11)), "{later:?}");
    scene.check().await;
    scene.until(here, provisor_core::State::RolledBack).await;
    assert!(scene.store.now().since(now) <= Span::seconds(20), "it did not wait for its pause");
    scene.until(new, provisor_core::State::Completed).await;
    scene.check().await;
}

pub async fn leaves_a_holder_s_lease_and_tells_it(scene: Scene) {
    let (scene, one, _) = with_two(scene).await;
    let id = scene.completed("db", json!({})).await;
    deprovision(&scene, id).await;
    let lease = scene.take("w").await;
    let held = row_of(&scene.store, id).await;
    // A call has failed and another is still under way: the lease is kept, and the failed one pauses.
    let mut settle = scene.settling(&lease, vec![failed(&lease.calls[0], Class::Transient)]);
    settle.in_flight = true;
    scene.store.run(settle).await.unwrap();
    assert_eq!(wake(&scene, one, &[id], 0).await, [id]);
    let told = row_of(&scene.store, id).await;
    assert_eq!((told.worker, told.generation, told.attention), (held.worker, held.generation, true));
    assert!(told.due_at >= held.due_at, "the lease is as long as before");
    scene.clock.advance(Span::seconds(2));
    let settled = scene.settle(&lease, Vec::new()).await.unwrap();
    assert_eq!(settled.calls.len(), 1, "its holder asks anew at once");
    scene.check().await;
}

pub async fn names_those_to_whom_something_is_owed(scene: Scene) {
    let (scene, one, two) = with_two(scene).await;
    let mut ids = Vec::new();
    for n in 0..3 {
        ids.push(scene.completed(&format!("s{n}"), cpus(1)).await);
    }
    let there = scene.completed("there", json!({"region": "us"})).await;
    assert!(scene.store.run(Owing).await.unwrap().is_empty());
    for id in ids.iter().chain([&there]) {
        deprovision(&scene, *id).await;
    }
    for _ in 0..3 {
        assert!(scene.store.run(Owing).await.unwrap().is_empty(), "not before its tries are used up");
        fail_all(&scene).await;
        scene.clock.advance(Span::seconds(301));
    }
    let owing = scene.store.run(Owing).await.unwrap();
    assert_eq!(owing, [(one, ids.iter().copied().collect()), (two, [there].into())].into());
    assert!(WAKE_AT_MOST >= ids.len());
    scene.until(ids[0], provisor_core::State::RolledBack).await;
    scene.check().await;
}
