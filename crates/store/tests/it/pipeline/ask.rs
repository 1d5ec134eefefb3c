//! What people ask for: done, done already, or refused by state, and nothing else changes.

use std::sync::Arc;

use provisor_core::event::{Endpoint, EventKind};
use provisor_core::lifecycle::Outcome;
use provisor_core::run::{Command, ManualInput};
use provisor_core::{Class, RequestId, Span, State, Timestamp};
use provisor_store::OpError;
use provisor_store::ops::command::Ask;
use provisor_store::ops::log::EntriesOf;
use serde_json::json;

use super::scene::{Lease, Scene, actor, failed, managed};
use super::tables::{assert_same, row_of};

fn cancel() -> Command {
    Command::Cancel { reason: Some("no need".to_owned()) }
}

fn suspend() -> Command {
    Command::Suspend { reason: None }
}

fn reactivate() -> Command {
    Command::Reactivate { reason: None }
}

fn deprovision(force: bool) -> Command {
    Command::Deprovision { reason: None, force }
}

fn input(url: &str) -> Command {
    Command::ManualInput(ManualInput {
        endpoints: vec![Endpoint { name: "web".to_owned(), url: url.to_owned() }],
        credentials: None,
    })
}

/// Something that is so already or under way is fine, and changes nothing at all.
async fn changes_nothing(scene: &Scene, id: RequestId, command: Command) {
    let before = scene.tables().await;
    scene.ask(id, command).await.unwrap();
    assert_same(&before, &scene.tables().await);
}

async fn conflict(scene: &Scene, id: RequestId, command: Command) -> (String, Vec<String>) {
    match scene.refused(scene.ask(id, command)).await {
        OpError::StateConflict { state, allowed, .. } => (state, allowed),
        other => panic!("{other:?}"),
    }
}

pub async fn cancels_what_is_queued_at_once(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({"order_id": "o-1"})).await;
    scene.clock.advance(Span::seconds(1));
    let view = scene.ask(id, cancel()).await.unwrap();
    assert_eq!((view.run.state, view.run.outcome, view.version), (State::RolledBack, Some(Outcome::Cancelled), 2));
    assert_eq!(row_of(&scene.store, id).await.due_at, Timestamp::NEVER.0);
    let entries = scene.store.run(EntriesOf { subject: id, after: 0 }).await.unwrap();
    let last = entries.last().unwrap();
    assert_eq!((last.kind, last.body.refund), (EventKind::RolledBack, true));
    assert_eq!(entries[1].body.actor, Some(actor()));
    changes_nothing(&scene, id, cancel()).await;
    assert_eq!(scene.tenant_now("acme").await.usage.amounts.cpu, 0);
    scene.admit("db", json!({})).await;
    scene.check().await;
}

pub async fn is_refused_by_state(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    for command in [suspend(), reactivate(), deprovision(false), deprovision(true), input("http://a")] {
        assert_eq!(conflict(&scene, id, command).await, ("queued".to_owned(), vec!["cancel".to_owned()]));
    }
    scene.until(id, State::Completed).await;
    let standing = vec!["suspend".to_owned(), "deprovision".to_owned(), "check-status".to_owned()];
    assert_eq!(conflict(&scene, id, cancel()).await, ("completed".to_owned(), standing));
    let rows: Vec<_> = scene.run_of(id).await.ledger.iter().map(|r| r.id).collect();
    let write_off = Command::WriteOff { resources: rows, reason: "gone".to_owned() };
    assert_eq!(conflict(&scene, id, write_off).await.0, "completed", "nothing is owed");
    scene.ask(id, deprovision(false)).await.unwrap();
    scene.until(id, State::RolledBack).await;
    for command in [cancel(), suspend(), reactivate()] {
        assert_eq!(conflict(&scene, id, command).await, ("rolled_back".to_owned(), vec!["retry".to_owned()]));
    }
    changes_nothing(&scene, id, deprovision(false)).await;
    scene.check().await;
}

pub async fn of_others_is_not_found(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let other = scene.tenant("other", json!({})).await.id;
    let id = scene.admit("db", json!({})).await;
    let context = || Arc::clone(&scene.context);
    let asked = Ask { id, scope: Some(other), command: cancel(), actor: actor(), context: context() };
    assert_eq!(scene.refused(scene.store.run(asked)).await, OpError::NotFound("request"));
    let asked = Ask { id: scene.id(), scope: None, command: cancel(), actor: actor(), context: context() };
    assert_eq!(scene.refused(scene.store.run(asked)).await, OpError::NotFound("request"));
    let own = scene.run_of(id).await.tenant;
    let asked = Ask { id, scope: Some(own), command: cancel(), actor: actor(), context: context() };
    assert!(scene.store.run(asked).await.is_ok());
}

pub async fn the_newest_wish_wins(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.completed("db", json!({})).await;
    changes_nothing(&scene, id, reactivate()).await;
    scene.ask(id, suspend()).await.unwrap();
    changes_nothing(&scene, id, suspend()).await;
    let lease = scene.take("w").await;
    scene.ask(id, reactivate()).await.unwrap();
    assert_eq!(scene.run_of(id).await.state, State::Completed, "the state changes when an action has ended (H13)");
    scene.drive(lease).await;
    scene.check().await;
    scene.ask(id, suspend()).await.unwrap();
    scene.until(id, State::Suspended).await;
    let tenant = scene.tenant_now("acme").await;
    assert_eq!((tenant.usage.amounts.cpu, scene.cluster_now("one").await.used.cpu), (1, 1), "a suspended one keeps all (H14)");
    scene.ask(id, deprovision(false)).await.unwrap();
    changes_nothing(&scene, id, deprovision(false)).await;
    conflict(&scene, id, reactivate()).await;
    scene.until(id, State::RolledBack).await;
    scene.check().await;
}

pub async fn what_others_wait_for_needs_force(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let db = scene.completed("db", json!({})).await;
    scene.ask(db, suspend()).await.unwrap();
    scene.until(db, State::Suspended).await;
    let web = scene.admit("web", json!({"depends_on": ["db"]})).await;
    let (state, allowed) = conflict(&scene, db, deprovision(false)).await;
    assert_eq!((state.as_str(), allowed), ("suspended", vec!["deprovision".to_owned()]));
    scene.ask(db, deprovision(true)).await.unwrap();
    changes_nothing(&scene, db, deprovision(false)).await;
    scene.until(db, State::RolledBack).await;
    let run = scene.run_of(web).await;
    assert_eq!((run.state, run.outcome), (State::RolledBack, Some(Outcome::DependencyFailed)));
    // Once a dependent is in work its prerequisite may go (H24).
    let db = scene.completed("db", json!({})).await;
    scene.admit("web", json!({"depends_on": ["db"]})).await;
    let lease = scene.take("w").await;
    scene.ask(db, deprovision(false)).await.unwrap();
    scene.drive(lease).await;
    scene.until(db, State::RolledBack).await;
    scene.check().await;
}

pub async fn the_first_input_wins(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.try_admit(vec![managed("licence")]).await.unwrap()[0].run.id;
    let lease = scene.take("w").await;
    scene.drive(lease).await;
    assert_eq!(scene.tenant_now("acme").await.in_work, 0);
    scene.ask(id, input("http://a")).await.unwrap();
    assert_eq!(scene.tenant_now("acme").await.in_work, 1);
    changes_nothing(&scene, id, input("http://a")).await;
    conflict(&scene, id, input("http://b")).await;
    scene.check().await;
    let run = scene.until(id, State::Completed).await;
    assert_eq!(run.endpoints()[0].url, "http://a");
    scene.check().await;
}

pub async fn a_write_off_ends_what_is_owed(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.completed("db", json!({})).await;
    scene.ask(id, deprovision(false)).await.unwrap();
    // The server is never gone; the volume stands under it.
    while scene.run_of(id).await.owed().count() == 0 {
        let batch = scene.claim("w", 8).await;
        for claimed in batch.claimed {
            let lease = Lease::of("w", claimed);
            let answers = lease.calls.iter().map(|c| failed(c, Class::Transient)).collect();
            scene.settle(&lease, answers).await.unwrap();
        }
        scene.clock.advance(Span::seconds(3));
    }
    let owed: Vec<_> = scene.run_of(id).await.owed().map(|r| r.id).collect();
    let write_off = || Command::WriteOff { resources: owed.clone(), reason: "the cloud is gone".to_owned() };
    scene.ask(id, write_off()).await.unwrap();
    let run = scene.run_of(id).await;
    assert_eq!((run.state, run.owed().count()), (State::RollingBack, 0), "the rest is still there");
    assert_eq!(row_of(&scene.store, id).await.due_at, scene.store.now().0);
    changes_nothing(&scene, id, write_off()).await;
    scene.check().await;
    scene.until(id, State::RolledBack).await;
    changes_nothing(&scene, id, write_off()).await;
    scene.check().await;
}
