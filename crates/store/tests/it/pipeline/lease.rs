//! Leases: kept by who has them, given back, freed at the start of a process; notes for their holder.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use provisor_core::event::EventKind;
use provisor_core::run::Command;
use provisor_core::{Class, RequestId, ResourceId, Span, State, Timestamp};
use provisor_store::OpError;
use provisor_store::ops::heartbeat::{FreeAll, HandBack, KeepLeases, Kept};
use provisor_store::ops::log::EntriesOf;
use provisor_store::ops::meta::GetMeta;
use provisor_store::ops::processes::{Beat, Place};
use provisor_store::ops::reappeared::Reappeared;
use serde_json::json;

use super::scene::{LEASE, Lease, Scene, failed, good, names};
use super::tables::{assert_same, row_of};
use crate::build::START;

async fn keep(scene: &Scene, worker: &str, leases: &[(RequestId, i64)]) -> Vec<Kept> {
    let keep = KeepLeases { worker: worker.to_owned(), leases: leases.to_vec(), context: Arc::clone(&scene.context) };
    scene.store.run(keep).await.unwrap()
}

async fn hand_back(scene: &Scene, worker: &str, leases: &[(RequestId, i64)]) {
    scene.store.run(HandBack { worker: worker.to_owned(), leases: leases.to_vec() }).await.unwrap();
}

async fn due(scene: &Scene, id: RequestId) -> Timestamp {
    Timestamp(row_of(&scene.store, id).await.due_at)
}

pub async fn a_heartbeat_extends_its_own(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let (mine, other) = (scene.admit("mine", json!({})).await, scene.admit("other", json!({})).await);
    let one = scene.take("one").await;
    let two = scene.take("two").await;
    assert_eq!(keep(&scene, "nobody", &[(one.id, 1)]).await, []);
    scene.clock.advance(Span::seconds(4));
    let kept = keep(&scene, "one", &[(one.id, 1)]).await;
    assert_eq!(kept, [Kept { id: one.id, generation: 1, attention: false }]);
    let later = START.plus(Span::seconds(4)).plus(LEASE);
    assert_eq!((due(&scene, one.id).await, due(&scene, two.id).await), (later, START.plus(LEASE)));
    // Only what is still so.
    scene.clock.advance(Span::seconds(4));
    let named = [(two.id, 1), (two.id, 7), (one.id, 1)];
    assert_eq!(keep(&scene, "two", &named).await, [Kept { id: two.id, generation: 1, attention: false }]);
    assert_eq!((due(&scene, one.id).await, due(&scene, two.id).await), (later, scene.store.now().plus(LEASE)));
    assert!([mine, other].contains(&one.id) && [mine, other].contains(&two.id) && one.id != two.id);
    scene.check().await;
}

pub async fn a_lease_that_its_holder_does_not_know_runs_out(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    // The answer of this claim never came.
    drop(scene.claim("w", 8).await);
    for _ in 0..3 {
        scene.clock.advance(Span(LEASE.0 / 3));
        assert_eq!(keep(&scene, "w", &[]).await, []);
    }
    scene.clock.advance(Span::seconds(1));
    let again = scene.take("w").await;
    assert_eq!((again.id, again.generation), (id, 2));
    scene.drive(again).await;
    scene.until(id, State::Completed).await;
    scene.check().await;
}

pub async fn h12_time_without_any_worker_is_counted(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let downtime = || scene.context.downtime.load(Ordering::Relaxed);
    keep(&scene, "w", &[]).await;
    scene.clock.advance(Span(LEASE.0 * 2));
    keep(&scene, "w", &[]).await;
    assert_eq!(downtime(), 0, "two leases are not yet a gap");
    scene.clock.advance(Span::seconds(3600));
    keep(&scene, "other", &[]).await;
    assert_eq!(downtime(), Span::seconds(3600).0);
    scene.clock.advance(Span::seconds(60));
    keep(&scene, "w", &[]).await;
    assert_eq!(downtime(), Span::seconds(3660).0);
    let stored = scene.store.run(GetMeta { name: "downtime".to_owned() }).await.unwrap();
    assert_eq!(stored, Some(Span::seconds(3660).0.to_string()));
}

pub async fn a_lease_is_given_back_by_its_holder_alone(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let lease = scene.take("w").await;
    let before = scene.tables().await;
    hand_back(&scene, "other", &[(id, lease.generation)]).await;
    hand_back(&scene, "w", &[(id, lease.generation + 1), (id, 0)]).await;
    hand_back(&scene, "w", &[]).await;
    assert_same(&before, &scene.tables().await);
    scene.clock.advance(Span::seconds(1));
    hand_back(&scene, "w", &[(id, lease.generation)]).await;
    let row = row_of(&scene.store, id).await;
    assert_eq!((row.worker, row.due_at, row.generation), (None, scene.store.now().0, 1), "due at once");
    // Who gave it back does not write any more (H-fencing), and giving back twice takes it from nobody.
    assert_eq!(scene.refused(scene.settle(&lease, vec![good(&lease.calls[0])])).await, OpError::Fenced);
    let next = scene.take("next").await;
    assert_eq!(next.generation, 2);
    let before = scene.tables().await;
    hand_back(&scene, "w", &[(id, lease.generation)]).await;
    assert_same(&before, &scene.tables().await);
    scene.check().await;
}

pub async fn a_lease_taken_over_is_not_given_back_by_the_former_holder(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let old = scene.take("old").await;
    scene.clock.advance(LEASE);
    let new = scene.take("new").await;
    let before = scene.tables().await;
    hand_back(&scene, "old", &[(id, old.generation), (id, new.generation)]).await;
    assert_same(&before, &scene.tables().await);
    assert_eq!(keep(&scene, "old", &[(id, old.generation), (id, new.generation)]).await, []);
    // The same worker again: its own older lease is lost, too.
    scene.clock.advance(LEASE);
    let newest = scene.take("new").await;
    assert_eq!(scene.refused(scene.settle(&new, vec![])).await, OpError::Fenced);
    assert_eq!(newest.generation, 3);
    scene.drive(newest).await;
    scene.check().await;
}

pub async fn the_only_process_frees_all_leases(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    for name in ["a", "b"] {
        scene.admit(name, json!({})).await;
    }
    let (a, b) = (scene.take("dead").await, scene.take("dead-too").await);
    assert_eq!(scene.store.run(FreeAll).await, Ok(2));
    assert_eq!(scene.store.run(FreeAll).await, Ok(0));
    for lease in [&a, &b] {
        assert_eq!(scene.refused(scene.settle(lease, vec![good(&lease.calls[0])])).await, OpError::Fenced);
    }
    let batch = scene.claim("w", 8).await;
    assert_eq!(batch.claimed.len(), 2);
    for claimed in batch.claimed {
        assert_eq!((claimed.generation, names(&claimed.calls)), (2, vec!["find_volume".to_owned()]));
        scene.drive(Lease::of("w", claimed)).await;
    }
    scene.check().await;
}

pub async fn a_command_leaves_a_note_for_the_holder(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    assert!(!row_of(&scene.store, id).await.attention);
    let mut lease = scene.take("w").await;
    scene.clock.advance(Span::seconds(2));
    scene.ask(id, Command::Cancel { reason: None }).await.unwrap();
    let row = row_of(&scene.store, id).await;
    assert_eq!(
        (row.attention, row.worker.as_deref(), row.generation),
        (true, Some("w"), 1),
        "it takes the lease from nobody (H7)"
    );
    assert_eq!(row.due_at, START.plus(LEASE).0);
    // Told at every heartbeat, until the holder has looked.
    for _ in 0..2 {
        assert!(keep(&scene, "w", &[(id, 1)]).await[0].attention);
    }
    // The create was under way: its answer goes into the ledger, and what it made is released.
    let settled = scene.settle(&lease, vec![good(&lease.calls[0])]).await.unwrap();
    assert_eq!((settled.run.state, names(&settled.calls)), (State::RollingBack, vec!["delete_volume".to_owned()]));
    assert!(!row_of(&scene.store, id).await.attention);
    assert!(!keep(&scene, "w", &[(id, 1)]).await[0].attention);
    lease.calls = settled.calls;
    scene.drive(lease).await;
    let row = row_of(&scene.store, id).await;
    assert_eq!((row.worker, row.due_at, row.attention), (None, Timestamp::NEVER.0, false));
    scene.check().await;
}

pub async fn a_command_makes_due_what_nobody_holds(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.completed("db", json!({})).await;
    assert_eq!(due(&scene, id).await, Timestamp::NEVER);
    scene.ask(id, Command::Suspend { reason: None }).await.unwrap();
    let row = row_of(&scene.store, id).await;
    assert_eq!((row.attention, row.worker, row.due_at), (false, None, scene.store.now().0));
    // A dead holder's note waits for the next one.
    let lease = scene.take("dead").await;
    assert_eq!(names(&lease.calls), ["stop_server"]);
    scene.ask(id, Command::Deprovision { reason: None, force: false }).await.unwrap();
    assert!(row_of(&scene.store, id).await.attention);
    scene.clock.advance(LEASE);
    let next = scene.take("next").await;
    assert!(!row_of(&scene.store, id).await.attention);
    assert_eq!(names(&next.calls), ["delete_server"], "in reverse order");
    scene.drive(next).await;
    assert_eq!(scene.run_of(id).await.state, State::RolledBack);
    scene.check().await;
}

/// The ids of a request's closed rows.
async fn closed_rows(scene: &Scene, id: RequestId) -> Vec<ResourceId> {
    scene.run_of(id).await.ledger.iter().filter(|r| r.is_closed()).map(|r| r.id).collect()
}

pub async fn what_comes_back_is_logged(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.cluster("two", json!({})).await;
    let id = scene.admit("db", json!({})).await;
    let mut lease = scene.take("w").await;
    for answer in [good as fn(&_) -> _, |c| failed(c, Class::Permanent)] {
        let answers = lease.calls.iter().map(answer).collect();
        lease.calls = scene.settle(&lease, answers).await.unwrap().calls;
    }
    scene.drive(lease).await;
    assert_eq!(scene.run_of(id).await.state, State::Completed);
    let row = closed_rows(&scene, id).await[0];
    let reappeared = |row| Reappeared { row, provider_id: "volume-back".to_owned(), context: Arc::clone(&scene.context) };
    let before = row_of(&scene.store, id).await;
    scene.store.run(reappeared(row)).await.unwrap();
    assert_eq!(row_of(&scene.store, id).await, before, "due, lease and state stay");
    let last = scene.store.run(EntriesOf { subject: id, after: 0 }).await.unwrap().pop().unwrap();
    let resource = last.body.resource.unwrap();
    assert_eq!(
        (last.kind, resource.id, resource.provider_id.as_deref()),
        (EventKind::ResourceReappeared, row, Some("volume-back"))
    );
    assert_eq!(last.request.unwrap().state, State::Completed);
    // Of one that is held, the holder is told; of one that is over it is logged all the same.
    scene.ask(id, Command::Deprovision { reason: None, force: false }).await.unwrap();
    let lease = scene.take("w").await;
    scene.store.run(reappeared(row)).await.unwrap();
    let held = row_of(&scene.store, id).await;
    assert_eq!((held.attention, held.worker.as_deref(), held.generation), (true, Some("w"), lease.generation));
    scene.drive(lease).await;
    scene.store.run(reappeared(row)).await.unwrap();
    assert_eq!(due(&scene, id).await, Timestamp::NEVER);
    assert_eq!(scene.run_of(id).await.state, State::RolledBack);
    assert_eq!(scene.refused(scene.store.run(reappeared(scene.id()))).await, OpError::NotFound("resource"));
    scene.check().await;
}

pub async fn h28_workers_have_their_places(scene: Scene) {
    let beat = |name: &str| scene.store.run(Beat { name: name.to_owned(), lease: LEASE });
    let place = |rank, count| Ok(Place { rank, count });
    assert_eq!(beat("a").await, Ok(Place::none()), "a new one waits until all others must have looked");
    scene.clock.advance(Span::seconds(9));
    assert_eq!(beat("a").await, Ok(Place::none()));
    scene.clock.advance(Span::seconds(1));
    assert_eq!(beat("a").await, place(0, 1));
    assert_eq!(beat("b").await, Ok(Place::none()));
    scene.clock.advance(Span::seconds(5));
    assert_eq!(beat("a").await, place(0, 2), "room is made before the new one uses it");
    assert_eq!(beat("b").await, Ok(Place::none()));
    scene.clock.advance(Span::seconds(5));
    assert_eq!((beat("a").await, beat("b").await), (place(0, 2), place(1, 2)));
    scene.clock.advance(Span::seconds(9));
    assert_eq!(beat("a").await, place(0, 2));
    scene.clock.advance(Span::seconds(1));
    assert_eq!(beat("a").await, place(0, 1), "the other is dead");
    assert_eq!(beat("b").await, Ok(Place::none()), "and begins anew");
}
