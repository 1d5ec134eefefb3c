//! Answers in, next calls out: the whole way of a request, its fence, and what a settlement leaves alone.

use provisor_core::event::EventKind::{
    self, AttemptStarted, Completed, ResourceAllocated, ServiceActivated, Started, StepCompleted,
};
use provisor_core::run::{AttemptState, RowState};
use provisor_core::workflow::{Answer, Found, Reply};
use provisor_core::{Class, RequestId, Span, State};
use provisor_store::OpError;
use provisor_store::ops::log::EntriesOf;
use provisor_store::ops::settle::Settle;
use serde_json::json;

use super::scene::{LEASE, Lease, Scene, failed, good, made, name, names};
use super::tables::row_of;
use crate::build::START;

async fn kinds(scene: &Scene, id: RequestId) -> Vec<EventKind> {
    let entries = scene.store.run(EntriesOf { subject: id, after: 0 }).await.unwrap();
    entries.iter().filter(|e| e.kind.is_published()).map(|e| e.kind).collect()
}

pub async fn leads_to_a_service(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let mut lease = scene.take("w").await;
    let mut done = Vec::new();
    let mut states = Vec::new();
    loop {
        scene.clock.advance(Span::seconds(1));
        done.extend(names(&lease.calls));
        let answers = lease.calls.iter().map(good).collect();
        let settled = scene.settle(&lease, answers).await.unwrap();
        states.push(settled.run.state);
        let row = row_of(&scene.store, id).await;
        let held = (row.worker.is_some(), row.due_at == scene.store.now().plus(LEASE).0);
        assert_eq!(held, (!settled.released, !settled.released), "extended as long as something is under way");
        scene.check().await;
        if settled.released {
            break;
        }
        lease.calls = settled.calls;
    }
    assert_eq!(done, ["create_volume", "create_server", "create_rule", "wait_server", "probe_tcp"]);
    let expected = [State::Allocating, State::Configuring, State::Activating, State::Verifying, State::Completed];
    assert_eq!(states, expected);
    let published = [
        Started,
        AttemptStarted,
        ResourceAllocated,
        ResourceAllocated,
        StepCompleted,
        StepCompleted,
        StepCompleted,
        StepCompleted,
        ServiceActivated,
        Completed,
    ];
    assert_eq!(kinds(&scene, id).await, published);
    let one = scene.cluster_now("one").await;
    assert_eq!((one.reserved.cpu, one.reserved_slots, one.used.cpu, one.used_slots), (0, 0, 1, 1), "reserved became used");
    assert_eq!(scene.tenant_now("acme").await.in_work, 0);
}

pub async fn is_fenced(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let queued = Lease { id, generation: 0, worker: "w".to_owned(), calls: Vec::new() };
    assert_eq!(scene.refused(scene.settle(&queued, vec![])).await, OpError::Fenced, "nobody holds it");
    let lease = scene.take("w").await;
    let answers = || vec![good(&lease.calls[0])];
    for wrong in [
        Lease { generation: 0, ..lease.clone() },
        Lease { generation: 2, ..lease.clone() },
        Lease { worker: "other".to_owned(), ..lease.clone() },
        Lease { worker: String::new(), ..lease.clone() },
        Lease { id: scene.id(), ..lease.clone() },
    ] {
        assert_eq!(scene.refused(scene.settle(&wrong, answers())).await, OpError::Fenced, "{wrong:?}");
        let closing = Settle { closing: true, ..scene.settling(&wrong, answers()) };
        assert_eq!(scene.refused(scene.store.run(closing)).await, OpError::Fenced, "{wrong:?}");
    }
    // It has run out, but nobody took it: it is still the holder's.
    scene.clock.advance(Span::seconds(60));
    let settled = scene.settle(&lease, answers()).await.unwrap();
    assert_eq!(names(&settled.calls), ["create_server"]);
    scene.check().await;
}

pub async fn the_same_answer_twice_counts_once(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let mut lease = scene.take("w").await;
    let retried = vec![failed(&lease.calls[0], Class::Transient)];
    scene.store.run(Settle { in_flight: true, ..scene.settling(&lease, retried.clone()) }).await.unwrap();
    let once = scene.run_of(id).await;
    scene.store.run(Settle { in_flight: true, ..scene.settling(&lease, retried) }).await.unwrap();
    assert_eq!(scene.run_of(id).await, once, "a failed try");
    scene.clock.advance(Span::seconds(2));
    lease.calls = scene.settle(&lease, vec![]).await.unwrap().calls;
    assert_eq!(names(&lease.calls), ["create_volume"], "its second try");
    let answers: Vec<Answer> = lease.calls.iter().map(good).collect();
    let first = scene.settle(&lease, answers.clone()).await.unwrap();
    assert_eq!(names(&first.calls), ["create_server"]);
    let before = (scene.run_of(id).await, kinds(&scene, id).await);
    let again = scene.settle(&lease, answers).await.unwrap();
    assert!(again.calls.is_empty(), "what was handed out is not handed out again");
    assert_eq!((again.run, kinds(&scene, id).await), before);
    // Who repeats does not know of the calls that went with the lost answer: the next holder asks anew.
    assert!(again.released);
    assert_eq!(row_of(&scene.store, id).await.due_at, scene.store.now().0);
    lease = scene.take("next").await;
    assert_eq!((lease.generation, names(&lease.calls)), (2, vec!["find_server".to_owned()]));
    scene.drive(lease).await;
    let run = scene.until(id, State::Completed).await;
    let made = |kind| run.ledger.iter().filter(|r| r.kind == kind && r.provider_id.is_some()).count();
    assert_eq!((made("volume"), made("server"), run.attempts.len()), (1, 1, 1));
    scene.check().await;
}

pub async fn other_calls_keep_the_lease(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let lease = scene.take("w").await;
    let progress = Answer { key: lease.calls[0].key.clone(), reply: Reply::Progress(made("volume-1")) };
    let settled = scene.store.run(Settle { in_flight: true, ..scene.settling(&lease, vec![progress]) }).await.unwrap();
    assert!(settled.calls.is_empty() && !settled.released);
    assert_eq!(row_of(&scene.store, id).await.worker.as_deref(), Some("w"));
    let run = scene.run_of(id).await;
    assert_eq!((run.ledger[0].provider_id.as_deref(), run.ledger[0].state), (Some("volume-1"), RowState::Created));
    assert_eq!(run.state, State::Allocating, "known, not done");
    let settled = scene.settle(&lease, vec![]).await.unwrap();
    assert!(settled.released, "with nothing under way it is given back");
    scene.check().await;
}

pub async fn at_closing_nothing_begins(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let lease = scene.take("w").await;
    let closing = Settle { closing: true, ..scene.settling(&lease, vec![good(&lease.calls[0])]) };
    let settled = scene.store.run(closing).await.unwrap();
    assert!(settled.calls.is_empty() && settled.released);
    let row = row_of(&scene.store, id).await;
    assert_eq!((row.worker, row.due_at), (None, START.0), "somebody else goes on at once");
    let next = scene.take("next").await;
    assert_eq!(names(&next.calls), ["create_server"], "resumed, not restarted (SPEC 6.4)");
    let calls = next.calls.clone();
    let closing = Settle { closing: true, in_flight: true, ..scene.settling(&next, vec![]) };
    assert!(!scene.store.run(closing).await.unwrap().released, "a create is still out: the lease runs out (H5)");
    assert_eq!(row_of(&scene.store, id).await.worker.as_deref(), Some("next"));
    scene.drive(Lease { calls, ..next }).await;
    assert_eq!(scene.run_of(id).await.state, State::Completed);
    scene.check().await;
}

pub async fn a_lost_create_is_adopted(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let mut lease = scene.take("w").await;
    let settled = scene.settle(&lease, vec![failed(&lease.calls[0], Class::Ambiguous)]).await.unwrap();
    assert_eq!(names(&settled.calls), ["find_volume"]);
    assert!(settled.run.ledger[0].in_doubt);
    scene.check().await;
    lease.calls = settled.calls;
    let tag = scene.run_of(id).await.ledger[0].tag.to_string();
    let found =
        Found { kind: "volume".to_owned(), provider_id: "vol-9".to_owned(), uid: None, tag, age_seconds: None, spoiled: false };
    let answer = Answer { key: lease.calls[0].key.clone(), reply: Reply::Looked(vec![found]) };
    let settled = scene.settle(&lease, vec![answer]).await.unwrap();
    let row = &settled.run.ledger[0];
    assert_eq!((row.provider_id.as_deref(), row.in_doubt, settled.run.ledger.len()), (Some("vol-9"), false, 1));
    scene.check().await;
    lease.calls = settled.calls;
    scene.drive(lease).await;
    scene.until(id, State::Completed).await;
    scene.check().await;
}

pub async fn clean_up_owed_keeps_everything_until_it_is_gone(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.completed("db", json!({})).await;
    scene.ask(id, provisor_core::run::Command::Deprovision { reason: None, force: false }).await.unwrap();
    for _ in 0..400 {
        let batch = scene.claim("w", 8).await;
        for claimed in batch.claimed {
            let lease = Lease::of("w", claimed);
            let answers = lease.calls.iter().map(|c| failed(c, Class::Transient)).collect();
            scene.settle(&lease, answers).await.unwrap();
        }
        if scene.run_of(id).await.owed().count() > 0 {
            break;
        }
        scene.clock.advance(Span::seconds(1));
    }
    scene.check().await;
    let run = scene.run_of(id).await;
    assert_eq!((run.state, run.owed().count()), (State::RollingBack, 1));
    assert_eq!(scene.tenant_now("acme").await.usage.amounts.cpu, 1, "its quota stays taken");
    assert_eq!(scene.cluster_now("one").await.used.cpu, 1);
    assert_eq!(run.attempts[0].state, AttemptState::Won);
    scene.until(id, State::RolledBack).await;
    assert_eq!(scene.tenant_now("acme").await.usage.amounts.cpu, 0);
    assert_eq!(scene.cluster_now("one").await.used.cpu, 0);
    scene.check().await;
}

pub async fn a_backend_becomes_known(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let one = scene.cluster_now("one").await.id;
    let id = scene.admit("db", json!({})).await;
    let lease = scene.take("w").await;
    assert_eq!(name(&lease.calls[0]), "create_volume");
    let identities = vec![(scene.id(), "elsewhere".to_owned()), (one, "cloud-1".to_owned())];
    let settle = Settle { identities, ..scene.settling(&lease, vec![good(&lease.calls[0])]) };
    scene.store.run(settle).await.unwrap();
    let run = scene.run_of(id).await;
    assert_eq!(run.attempts[0].identity.as_deref(), Some("cloud-1"));
    assert_eq!(run.ledger[0].identity.as_deref(), Some("cloud-1"), "and so does what was made there (H4)");
    scene.check().await;
}
