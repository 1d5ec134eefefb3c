//! Taking work: what is due and what is not, fairly among tenants, within limits and room, under a lease.

use provisor_core::breaker::Calls;
use provisor_core::cluster::HealthState;
use provisor_core::run::Command;
use provisor_core::{Class, RequestId, Span, State, Timestamp};
use provisor_store::OpError;
use provisor_store::ops::admit::DryRun;
use provisor_store::ops::clusters::{Credentials, UpdateCluster};
use provisor_store::ops::gate::{AtGate, Happened};
use provisor_store::tx::{Stmt, both};
use serde_json::json;

use super::scene::{LEASE, Lease, Scene, cluster_spec, cpus, failed, good, managed, name, names, spec};
use super::tables::{Sql, row_of};
use crate::build::START;

static FIRST: Stmt = both("update tenant set last_claimed = 10 where name = 'small'");
static FORGET: Stmt = both("update request set run = replace(run, 'debian-12', 'unknown') where id = ?1");
static SPOIL: Stmt = both("update request set run = '{}', due_at = 0 where id = ?1");
static NEWER: Stmt = both("update request set run = replace(run, '\"version\":1', '\"version\":9'), due_at = 0 where id = ?1");

/// Who was claimed, in order.
async fn claimed(scene: &Scene, limit: usize) -> Vec<RequestId> {
    scene.claim("w", limit).await.claimed.iter().map(|c| c.run.id).collect()
}

async fn reason(scene: &Scene, id: RequestId) -> String {
    scene.run_of(id).await.waiting.map_or_else(String::new, |w| w.reason)
}

pub async fn takes_under_a_lease(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let nothing = scene.claim("w", 8).await;
    assert_eq!((nothing.claimed.len(), nothing.busy, nothing.next_due), (0, false, Timestamp::NEVER));
    let id = scene.admit("db", json!({})).await;
    let batch = scene.claim("w", 8).await;
    assert!(batch.busy);
    let first = &batch.claimed[0];
    assert_eq!((first.run.id, first.generation, names(&first.calls)), (id, 1, vec!["create_volume".to_owned()]));
    assert_eq!(first.calls[0].send_by, Some(START.plus(Span(LEASE.0 / 2))), "a create is not sent after half of the lease (H5)");
    let row = row_of(&scene.store, id).await;
    assert_eq!((row.due_at, row.worker.as_deref(), row.generation), (START.plus(LEASE).0, Some("w"), 1));
    let run = scene.run_of(id).await;
    assert_eq!((run.state, run.provisioning_started_at, run.waiting), (State::Allocating, Some(START), None));
    // Held by somebody it is due when the lease ends, not before.
    let again = scene.claim("w", 8).await;
    assert_eq!((again.claimed.len(), again.busy, again.next_due), (0, false, START.plus(LEASE)));
    scene.check().await;
}

pub async fn a_lease_that_ran_out_is_taken_over(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.admit("db", json!({})).await;
    let old = scene.take("old").await;
    scene.clock.advance(Span(LEASE.0 - 1));
    assert!(!scene.claim("new", 8).await.busy);
    scene.clock.advance(Span(1));
    let new = scene.take("new").await;
    assert_eq!((new.generation, names(&new.calls)), (2, vec!["find_volume".to_owned()]), "what may have been made is looked for");
    // H-fencing: whatever the former holder brings changes nothing, nor does it under the new number.
    let answers = vec![good(&old.calls[0])];
    assert_eq!(scene.refused(scene.settle(&old, answers.clone())).await, OpError::Fenced);
    let thief = Lease { generation: 2, ..old.clone() };
    assert_eq!(scene.refused(scene.settle(&thief, answers)).await, OpError::Fenced);
    scene.check().await;
    scene.drive(new).await;
    scene.check().await;
}

pub async fn limits_hold(scene: Scene) {
    scene.tenant("acme", json!({"max_concurrent": 3})).await;
    scene.cluster("one", json!({"capacity": {"cpu": 100}})).await;
    for n in 0..6 {
        scene.admit(&format!("n{n}"), json!({})).await;
    }
    assert_eq!(scene.claim("w", 0).await.claimed.len(), 0);
    assert_eq!(claimed(&scene, 2).await.len(), 2);
    assert_eq!(claimed(&scene, 8).await.len(), 1, "three of a tenant are in work at once");
    let full = scene.claim("w", 8).await;
    assert_eq!((full.busy, full.next_due), (false, START.plus(LEASE)), "the rest of the tenant's queue is not due");
    scene.check().await;
}

pub async fn what_waits_for_a_person_is_not_in_work(scene: Scene) {
    scene.tenant("acme", json!({"max_concurrent": 1})).await;
    scene.cluster("one", json!({})).await;
    let licence = scene.try_admit(vec![managed("licence")]).await.unwrap()[0].run.id;
    let lease = scene.take("w").await;
    scene.admit("db", json!({})).await;
    assert!(!scene.claim("w", 8).await.busy, "the one slot is taken");
    let run = scene.drive(lease).await;
    assert_eq!(run.waiting.as_ref().map(|w| w.reason.as_str()), Some("manual_input"));
    assert_eq!(row_of(&scene.store, licence).await.worker, None);
    assert_eq!(claimed(&scene, 8).await.len(), 1, "the slot is free again (H19)");
    scene.check().await;
}

pub async fn tenants_take_turns(scene: Scene) {
    scene.cluster("one", json!({"capacity": {"cpu": 1000}})).await;
    for tenant in ["a", "b", "c"] {
        scene.tenant(tenant, json!({"max_concurrent": 100})).await;
        let many = if tenant == "a" { 50 } else { 3 };
        let specs = (0..many).map(|n| spec(&format!("n{n}"), json!({"tenant": tenant}))).collect();
        scene.try_admit(specs).await.unwrap();
    }
    let mut turns = String::new();
    for limit in [1, 1, 2, 5, 1, 1] {
        for claimed in scene.claim("w", limit).await.claimed {
            turns.push_str(&claimed.run.spec.tenant);
        }
    }
    // Whoever comes first among equals comes first each time.
    let first: String = turns.chars().take(3).collect();
    assert_eq!(turns, format!("{}aa", first.repeat(3)), "round after round, then the one that still has some");
    scene.check().await;
}

/// A tenant whose requests find no place does not stand in the way of the others, however many it has and
/// however few a worker asks for.
pub async fn a_queue_without_a_place_delays_nobody(scene: Scene) {
    scene.cluster("one", json!({"capacity": {"cpu": 8}})).await;
    scene.tenant("big", json!({"max_concurrent": 1000})).await;
    scene.tenant("small", json!({})).await;
    let stands = scene.try_admit(vec![spec("stands", json!({"tenant": "big"}))]).await.unwrap()[0].run.id;
    scene.until(stands, State::Completed).await;
    let large = |n| spec(&format!("n{n}"), super::scene::merged(cpus(8), json!({"tenant": "big"})));
    scene.try_admit((0..300).map(large).collect()).await.unwrap();
    let small = scene.try_admit(vec![spec("db", json!({"tenant": "small"}))]).await.unwrap()[0].run.id;
    // It was the one with the last turn; let the other be first.
    scene.store.run(Sql(&FIRST, vec![])).await.unwrap();
    assert_eq!(claimed(&scene, 1).await, [small], "in the first claim");
    scene.check().await;
}

pub async fn who_has_no_room_is_due_again_later(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let full = scene.completed("full", cpus(8)).await;
    let waits = scene.admit("waits", json!({})).await;
    let mut now = scene.store.now();
    let since = now;
    let mut pauses = Vec::new();
    while pauses.len() < 24 {
        let batch = scene.claim("w", 8).await;
        assert_eq!((batch.claimed.len(), batch.busy), (0, true));
        let due = Timestamp(row_of(&scene.store, waits).await.due_at);
        assert_eq!(batch.next_due, due);
        pauses.push(due.since(now).0 / 1_000_000);
        assert!(!scene.claim("w", 8).await.busy, "before that it is not due");
        scene.clock.advance(due.since(now));
        now = due;
    }
    assert_eq!((pauses[0], pauses[23]), (1, 30), "the longer it waits the less often: {pauses:?}");
    assert!(pauses.windows(2).all(|p| p[0] <= p[1]), "{pauses:?}");
    let waiting = scene.run_of(waits).await.waiting.unwrap();
    assert_eq!((waiting.reason.as_str(), waiting.since), ("capacity", since));
    assert_eq!(waiting.detail.as_deref(), Some("one: no room: cpu 1 asked, 0 of 8 left"));
    scene.check().await;
    scene.ask(full, Command::Deprovision { reason: None, force: false }).await.unwrap();
    scene.until(waits, State::Completed).await;
    scene.check().await;
}

pub async fn who_has_no_place_does_not_block_its_tenant(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.completed("stands", cpus(4)).await;
    let large = scene.admit("large", cpus(8)).await;
    let small = scene.admit("small", cpus(1)).await;
    assert_eq!(claimed(&scene, 8).await, [small]);
    assert_eq!(reason(&scene, large).await, "capacity");
    scene.check().await;
}

pub async fn a_sick_cluster_is_waited_for_by_name(scene: Scene) {
    scene.tenant("acme", json!({})).await;
    let one = scene.cluster("one", json!({})).await;
    let id = scene.admit("db", json!({})).await;
    for state in [HealthState::Degraded, HealthState::Offline] {
        scene.health(one.id, state).await;
        assert_eq!(claimed(&scene, 8).await, []);
        assert_eq!(reason(&scene, id).await, "cluster_health");
        scene.clock.advance(Span::seconds(30));
    }
    scene.health(one.id, HealthState::Online).await;
    assert_eq!(claimed(&scene, 8).await, [id]);
    scene.check().await;
}

pub async fn h27_an_open_breaker_takes_nothing_new(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let one = scene.cluster_now("one").await;
    let at = |happened| scene.store.run(AtGate { id: one.id, happened });
    assert!(at(Happened::Calls(Calls { good: 0, bad: 10 })).await.unwrap().changed);
    let dry = scene.store.run(DryRun(scene.admission(vec![spec("dry", json!({}))], None))).await.unwrap();
    assert_eq!(dry.items[0].cluster, None);
    let reasons = &dry.items[0].choice.rejected;
    assert!(dry.items[0].choice.may_wait && reasons[0].1.contains("circuit breaker is open"), "{reasons:?}");
    let id = scene.admit("db", json!({})).await;
    assert_eq!(claimed(&scene, 8).await, []);
    assert_eq!(reason(&scene, id).await, "cluster_health");
    scene.clock.advance(Span::seconds(30));
    assert_eq!(claimed(&scene, 8).await, [], "half open, only what is there already tries it");
    assert!(at(Happened::Probe(Span::seconds(5))).await.unwrap().changed);
    assert!(at(Happened::Probed { good: true }).await.unwrap().changed);
    scene.clock.advance(Span::seconds(30));
    assert_eq!(claimed(&scene, 8).await, [id]);
    scene.check().await;
}

pub async fn what_never_fits_any_more_fails_after_an_hour(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", cpus(8)).await;
    let one = scene.cluster_now("one").await;
    let spec = cluster_spec("one", json!({"capacity": {"cpu": 4}}));
    scene
        .store
        .run(UpdateCluster { id: one.id, spec, credentials: Credentials::Keep, if_match: None, identity: None })
        .await
        .unwrap();
    while scene.store.now() < START.plus(Span::seconds(3600)) {
        assert_eq!(scene.run_of(id).await.state, State::Queued);
        let due = scene.claim("w", 8).await.next_due;
        scene.clock.advance(due.since(scene.store.now()));
    }
    let run = scene.until(id, State::RolledBack).await;
    assert_eq!(run.error.unwrap().code, "no_cluster");
    assert_eq!(scene.claim("w", 8).await.next_due, Timestamp::NEVER);
    scene.check().await;
}

pub async fn a_queue_time_out_ends_the_wait(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.completed("full", cpus(8)).await;
    let start = scene.store.now();
    let room = scene.admit("room", json!({"queue_timeout_seconds": 20})).await;
    let order = scene.admit("order", json!({"queue_timeout_seconds": 5, "depends_on": ["room"]})).await;
    assert_eq!(row_of(&scene.store, order).await.due_at, Timestamp::NEVER.0);
    scene.claim("w", 8).await;
    for (id, seconds) in [(order, 5), (room, 20)] {
        let run = scene.until(id, State::RolledBack).await;
        assert_eq!(run.error.unwrap().code, "queue_timeout");
        assert_eq!(scene.store.now(), start.plus(Span::seconds(seconds)), "not later than it said");
    }
    scene.check().await;
}

pub async fn a_queue_time_out_needs_no_slot(scene: Scene) {
    scene.tenant("acme", json!({"max_concurrent": 1})).await;
    scene.cluster("one", json!({})).await;
    scene.admit("busy", json!({})).await;
    let worker = scene.take("w").await;
    scene.admit("queued", json!({})).await;
    let id = scene.admit("hasty", json!({"queue_timeout_seconds": 5})).await;
    assert_eq!(scene.claim("w", 8).await.next_due, START.plus(Span::seconds(5)));
    scene.clock.advance(Span::seconds(5));
    assert!(scene.claim("w", 8).await.busy);
    let run = scene.run_of(id).await;
    assert_eq!((run.state, run.error.unwrap().code.as_str()), (State::RolledBack, "queue_timeout"));
    scene.drive(worker).await;
    scene.check().await;
}

pub async fn an_image_that_nobody_has_fails(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    // Admission would refuse it; here the cluster forgets the image after that.
    scene.store.run(Sql(&FORGET, vec![id.into()])).await.unwrap();
    let run = scene.until(id, State::RolledBack).await;
    assert_eq!(run.error.unwrap().code, "image_not_found");
    scene.check().await;
}

pub async fn a_row_that_cannot_be_read_stops_nobody(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let begun = scene.admit("begun", json!({})).await;
    scene.take("w").await;
    let spoiled = scene.admit("spoiled", json!({})).await;
    let newer = scene.admit("newer", json!({})).await;
    for (stmt, id) in [(&SPOIL, begun), (&SPOIL, spoiled), (&NEWER, newer)] {
        scene.store.run(Sql(stmt, vec![id.into()])).await.unwrap();
    }
    let good = scene.admit("good", json!({})).await;
    assert_eq!(claimed(&scene, 8).await, [good]);
    let row = row_of(&scene.store, newer).await;
    assert_eq!((row.generation, row.worker), (0, None), "a version that it does not know is not claimed (H43)");
    assert!(row.due_at > scene.store.now().0 && row.due_at < Timestamp::NEVER.0, "somebody looks again later");
}

pub async fn a_failed_attempt_goes_on_elsewhere(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.cluster("two", json!({})).await;
    let id = scene.admit("db", json!({})).await;
    let mut lease = scene.take("w").await;
    lease.calls = scene.settle(&lease, vec![good(&lease.calls[0])]).await.unwrap().calls;
    assert_eq!(names(&lease.calls), ["create_server"]);
    let settled = scene.settle(&lease, vec![failed(&lease.calls[0], Class::Permanent)]).await.unwrap();
    let mut next = names(&settled.calls);
    next.sort();
    assert_eq!(next, ["create_volume", "delete_volume"], "the next begins while the failed one is released");
    assert_eq!(settled.run.attempts.len(), 2);
    let (one, two) = (scene.cluster_now("one").await, scene.cluster_now("two").await);
    assert_eq!((one.reserved.cpu, two.reserved.cpu), (1, 1), "both hold room until the first is released");
    scene.check().await;
    lease.calls = settled.calls;
    lease.calls.sort_by_key(name);
    scene.drive(lease).await;
    assert_eq!(scene.run_of(id).await.state, State::Completed);
    let (one, two) = (scene.cluster_now("one").await, scene.cluster_now("two").await);
    assert_eq!((one.reserved.cpu, one.used.cpu, two.reserved.cpu, two.used.cpu), (0, 0, 0, 1));
    scene.check().await;
}

pub async fn without_room_elsewhere_a_failed_attempt_is_the_last(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    scene.cluster("two", json!({"capacity": {"cpu": 1}})).await;
    let stands = scene.completed("stands", json!({"cluster": "two"})).await;
    let id = scene.admit("db", json!({})).await;
    let lease = scene.take("w").await;
    let settled = scene.settle(&lease, vec![failed(&lease.calls[0], Class::Permanent)]).await.unwrap();
    assert_eq!((settled.run.attempts.len(), settled.run.error.unwrap().code.as_str()), (1, "scripted"));
    scene.until(id, State::RolledBack).await;
    assert_eq!(scene.run_of(stands).await.state, State::Completed);
    scene.check().await;
}
