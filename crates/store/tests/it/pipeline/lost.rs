//! The answer of a commit is lost and the caller asks again: nothing is there twice, nothing is left behind.

use provisor_core::run::Command;
use provisor_core::workflow::Answer;
use provisor_core::{Class, Run, Span, State};
use provisor_store::OpError;
use provisor_store::driver::Fault;
use provisor_store::ops::admit::Idempotency;
use serde_json::json;

use super::scene::{LEASE, Scene, failed, good, names, spec};
use super::tables::{assert_same, row_of};

fn lose(scene: &Scene, operation: &'static str) {
    scene.faults.next(Some(operation), Fault::LostAnswer);
}

fn is_lost<T>(answer: &Result<T, OpError>) -> bool {
    matches!(answer, Err(OpError::Unknown(_)))
}

pub async fn an_admission(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let key = || Some(Idempotency { route: "POST /api/requests".into(), key: "k".into(), fingerprint: "f".into() });
    let batch = || vec![spec("db", json!({})), spec("web", json!({"depends_on": ["db"]}))];
    lose(&scene, "admit");
    assert!(is_lost(&scene.store.run(scene.admission(batch(), key())).await));
    let before = scene.tables().await;
    let views = scene.store.run(scene.admission(batch(), key())).await.unwrap();
    assert_same(&before, &scene.tables().await);
    assert_eq!((views.len(), scene.tenant_now("acme").await.usage.amounts.cpu), (2, 2));
    // Without a key it is the name that keeps a second one out.
    lose(&scene, "admit");
    assert!(is_lost(&scene.try_admit(vec![spec("third", json!({}))]).await));
    let error = scene.refused(scene.try_admit(vec![spec("third", json!({}))])).await;
    assert!(matches!(error, OpError::NameTaken { .. }), "{error:?}");
    // What failed before is not there.
    scene.faults.next(Some("admit"), Fault::Before);
    let error = scene.refused(scene.try_admit(vec![spec("fourth", json!({}))])).await;
    assert!(matches!(error, OpError::Database(_)), "{error:?}");
    scene.check().await;
}

pub async fn a_claim(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    lose(&scene, "claim");
    assert!(is_lost(&scene.store.run(scene.claiming("w", 8)).await));
    let row = row_of(&scene.store, id).await;
    assert_eq!((row.worker.as_deref(), row.generation), (Some("w"), 1));
    scene.check().await;
    // Asked again it is not given out twice, also not to the same worker, until the lease has run out.
    assert!(!scene.claim("w", 8).await.busy);
    scene.clock.advance(LEASE);
    let lease = scene.take("w").await;
    assert_eq!((lease.id, lease.generation, names(&lease.calls)), (id, 2, vec!["find_volume".to_owned()]));
    scene.drive(lease).await;
    let run = scene.until(id, State::Completed).await;
    assert_eq!(run.attempts.len(), 1, "one attempt, begun once");
    assert_eq!(run.ledger.iter().filter(|r| r.provider_id.is_some()).count(), 2, "one volume and one server");
    scene.check().await;
}

/// Every settlement of a whole life loses its answer once; the worker gives the lease up, as it must.
pub async fn every_settlement(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.admit("db", json!({})).await;
    let mut lost = 0;
    // A create that may have been made in vain is looked for beyond the end (H6).
    let in_doubt = |run: &Run| run.ledger.iter().any(|r| !r.is_closed() && r.provider_id.is_none());
    for round in 0..400 {
        let run = scene.run_of(id).await;
        if run.state == State::Completed && !in_doubt(&run) {
            break;
        }
        let batch = scene.claim("w", 1).await;
        let Some(claimed) = batch.claimed.into_iter().next() else {
            scene.clock.advance(batch.next_due.since(scene.store.now()).max(Span(1)));
            continue;
        };
        let lease = super::scene::Lease::of("w", claimed);
        // A try that fails, now and then, so that failures are not counted twice either.
        let answer = |c: &_| if round % 7 == 3 { failed(c, Class::Transient) } else { good(c) };
        let answers: Vec<Answer> = lease.calls.iter().map(answer).collect();
        lose(&scene, "settle");
        assert!(is_lost(&scene.settle(&lease, answers.clone()).await));
        lost += 1;
        let after = (scene.run_of(id).await, scene.view(id).await.events);
        // Told again under the same lease it is what it was.
        if let Ok(again) = scene.settle(&lease, answers).await {
            assert_eq!((again.run, scene.view(id).await.events), after);
        }
        scene.check().await;
    }
    let run = scene.run_of(id).await;
    assert_eq!((run.state, run.attempts.len()), (State::Completed, 1));
    assert!(lost >= 5, "{lost}");
    let live: Vec<_> = run.ledger.iter().filter(|r| !r.is_closed()).map(|r| r.kind.as_str()).collect();
    let made = run.ledger.iter().filter(|r| r.provider_id.is_some()).count();
    assert_eq!((live.len(), made), (2, 2), "{live:?}");
    scene.check().await;
}

pub async fn a_command(scene: Scene) {
    let scene = scene.with_one_of_each().await;
    let id = scene.completed("db", json!({})).await;
    for command in [Command::Suspend { reason: None }, Command::Deprovision { reason: None, force: false }] {
        lose(&scene, "ask");
        assert!(is_lost(&scene.ask(id, command.clone()).await));
        let before = scene.tables().await;
        scene.ask(id, command).await.unwrap();
        assert_same(&before, &scene.tables().await);
    }
    scene.until(id, State::RolledBack).await;
    scene.check().await;
}
