//! The course of a request: against its cancel (H7), over several attempts (H9, H11), and when nothing moves (H12).

use provisor_core::event::EventKind;
use provisor_core::run::{AttemptState, Command};
use provisor_core::spec::Sealed;
use provisor_core::{Class, State};
use provisor_store::OpError;
use provisor_store::ops::log::EntriesOf;
use provisor_store::ops::quota::QuotaProof;
use serde_json::json;

use crate::ground::Ground;
use crate::steps::{ask, completed, sleep, until};
use crate::toy::Next;
use crate::world::{Test, actor};

pub(crate) async fn h07_a_cancel_at_any_moment_leaves_nothing_or_a_service(ground: Ground) {
    let step = if ground == Ground::Sqlite { 13 } else { 26 };
    for after_ms in (0..130).step_by(step) {
        for lost in ["create_volume", "create_server", "none"] {
            let t = Test::start_on(ground, &["one"], json!({})).await;
            t.world.script("one", lost, &[Next::LoseReply]);
            let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
            sleep(f64::from(after_ms) / 1000.0).await;
            match t.engine.command(id, Command::Cancel { reason: None }, actor()).await {
                Ok(_) => {
                    let run = t.until(id, &[State::RolledBack]).await;
                    assert!(t.world.live().is_empty());
                    assert!(run.attempts.iter().all(|a| a.state == AttemptState::Cancelled));
                }
                Err(error) => {
                    assert!(matches!(error, OpError::StateConflict { .. }), "{error}");
                    t.until(id, &[State::Completed]).await;
                }
            }
            assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
        }
    }
}

pub(crate) async fn h07_a_cancel_waits_for_the_create_in_flight_and_takes_it_back(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::LoseReply]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "has a server", |_| t.world.live().len() == 2).await;
    ask(&t, id, Command::Cancel { reason: None }).await;
    sleep(10.0).await;
    // The volume stands under the server of which nothing is known yet, and the call may still be under way.
    assert_eq!((t.run_of(id).await.state, t.world.live().len()), (State::RollingBack, 2));
    assert_eq!(t.world.count("delete_server") + t.world.count("delete_volume"), 0);
    t.until(id, &[State::RolledBack]).await;
    assert!(t.world.live().is_empty());
}

pub(crate) async fn h07_a_cancel_after_the_win_is_refused_and_names_deprovision(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    match t.engine.command(id, Command::Cancel { reason: None }, actor()).await {
        Err(OpError::StateConflict { state, allowed, detail }) => {
            assert_eq!(state, "completed");
            assert!(allowed.iter().any(|a| a == "deprovision") && detail.contains("deprovision"), "{allowed:?} {detail}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((t.run_of(id).await.state, t.world.live().len()), (State::Completed, 2));
}

pub(crate) async fn h09_attempts_share_no_name(ground: Ground) {
    let t = Test::start_on(ground, &["one", "two"], json!({})).await;
    t.world.script("one", "create_rule", &[Next::Fail(Class::Permanent)]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    let named = |n: usize| run.ledger.iter().find(|r| r.attempt == run.attempts[n].id && r.kind == "server").unwrap();
    assert_ne!(named(0).name, named(1).name);
    assert_eq!(run.attempts[0].state, AttemptState::Failed);
    // What is shown of it is the winner's alone.
    assert_eq!(run.endpoints(), run.attempts[1].endpoints);
}

pub(crate) async fn h09_the_next_namespace_begins_after_the_former_is_gone(ground: Ground) {
    let t = Test::start_on(ground, &[], json!({})).await;
    for name in ["one", "two"] {
        t.register(name, json!({"simulates": "kubernetes"})).await;
    }
    t.world.script("one", "create_rule", &[Next::Fail(Class::Permanent)]);
    t.world.script("one", "delete_volume", &[Next::Fail(Class::Transient); 3]);
    let namespace = |strategy: &str| {
        json!({"name": "shop", "tenant": "acme", "kind": "kubernetes_namespace", "region": "eu",
            "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}, "strategy": {"type": strategy}})
    };
    for strategy in ["race", "hedge"] {
        let flaws = provisor_core::Spec::check("", &namespace(strategy), &NoSeal).unwrap_err();
        assert!(flaws.iter().any(|f| f.pointer.starts_with("/strategy")), "{flaws:?}");
    }
    let id = t.admit(vec![Test::spec_of(&namespace("failover"))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    let [former, next] = &run.attempts[..] else { panic!("{:#?}", run.attempts) };
    assert!(next.started_at >= former.released_at.unwrap(), "two of one name never stand at once");
    assert!(run.ledger.iter().filter(|r| r.attempt == former.id).all(|r| r.released_at.unwrap() <= next.started_at));
}

struct NoSeal;
impl provisor_core::spec::Seal for NoSeal {
    fn seal(&self, _: &str) -> Sealed {
        panic!("nothing to seal here")
    }
}

pub(crate) async fn h11_the_state_is_the_leader_s_and_goes_back_with_it(ground: Ground) {
    let t = Test::start_on(ground, &["one", "two"], json!({})).await;
    t.world.script("one", "probe_tcp", &[Next::Fail(Class::Permanent)]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!(run.attempts.len(), 2);
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    let mut course: Vec<State> = entries.iter().filter_map(|e| Some(e.request.as_ref()?.state)).collect();
    course.dedup();
    let once = [State::Allocating, State::Configuring, State::Activating, State::Verifying];
    assert_eq!(course, [&[State::Queued][..], &once, &once, &[State::Completed]].concat());
    let failed = entries.iter().position(|e| e.kind == EventKind::AttemptFailed).unwrap();
    let back = entries[failed..].iter().find(|e| e.request.as_ref().is_some_and(|r| r.state == State::Allocating)).unwrap();
    assert_eq!(back.at, entries[failed].at, "the edge back stands in the transaction of the failure");
    assert!(entries.iter().all(|e| e.kind != EventKind::Failed), "another attempt followed");
}

pub(crate) async fn h11_without_room_elsewhere_it_fails_with_the_attempt_s_own_error(ground: Ground) {
    let t = Test::start_on(ground, &["one", "two"], json!({})).await;
    let full = json!({"size": {"cpu": 8, "memory_gb": 1, "storage_gb": 1}, "cluster": "two"});
    let full = t.admit(vec![Test::spec("full", full)]).await[0];
    t.until(full, &[State::Completed]).await;
    t.world.script("one", "create_server", &[Next::Fail(Class::Permanent)]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::RolledBack]).await;
    let error = run.error.as_ref().unwrap();
    assert_eq!((run.attempts.len(), error.code.as_str(), error.operation.as_deref()), (1, "scripted", Some("create_server")));
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    assert_eq!(entries.iter().filter(|e| e.kind == EventKind::Failed).count(), 1);
}

pub(crate) async fn h12_what_is_stuck_ends_without_another_attempt(ground: Ground) {
    let t = Test::start_on(ground, &["two"], json!({})).await;
    let settings = json!({"retry": {"initial_seconds": 5, "cap_seconds": 120, "max_retries": 100}});
    t.register("one", json!({"simulates": "openstack", "default": true, "settings": settings})).await;
    // It waits for the release of what is to be made anew, which never succeeds and is tried too often to be owed yet:
    // nothing moves.
    t.world.script("one", "wait_server", &[Next::Hang; 3]);
    t.world.script("one", "delete_server", &[Next::Fail(Class::Transient); 500]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    sleep(1700.0).await;
    assert_eq!(t.run_of(id).await.error, None);
    let run = until(&t, id, "stuck", |r| r.error.is_some()).await;
    let error = run.error.as_ref().unwrap();
    assert_eq!((error.code.as_str(), run.attempts.len(), run.state), ("stuck", 1, State::RollingBack));
    let ended = run.termination_started_at.unwrap().since(run.created_at).as_seconds_f64();
    assert!((1800.0..2000.0).contains(&ended), "after {ended} s");
    t.world.script("one", "delete_server", &[]);
    t.until(id, &[State::RolledBack]).await;
    assert!(t.world.live().is_empty());
}

pub(crate) async fn h12_downtime_kills_nothing(ground: Ground) {
    let mut t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "wait_server", &[Next::Hang]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "waited for", |_| t.world.count("wait_server") == 1).await;
    t.running = None;
    sleep(3.0 * 3600.0).await;
    t.crash_and_start().await;
    let run = t.until(id, &[State::Completed, State::RolledBack]).await;
    assert_eq!(run.state, State::Completed);
    let wait = run.attempts[0].operations.iter().find(|o| o.planned.name == "wait_server").unwrap();
    assert_eq!(wait.retries, 0, "the provider was asked once before any deadline fired");
}

pub(crate) async fn h12_downtime_kills_nothing_that_waits_for_a_release(ground: Ground) {
    let mut t = Test::start_on(ground, &[], json!({})).await;
    // Tries enough that the release is not owed before it succeeds.
    let settings = json!({"retry": {"initial_seconds": 1, "cap_seconds": 2, "max_retries": 20}});
    t.register("one", json!({"simulates": "openstack", "default": true, "settings": settings})).await;
    t.world.script("one", "wait_server", &[Next::Hang; 3]);
    t.world.script("one", "delete_server", &[Next::Fail(Class::Transient); 8]);
    let id = t.admit(vec![Test::spec("db", json!({"strategy": {"type": "single"}}))]).await[0];
    until(&t, id, "waits for the next try of a release", |r| r.ledger.iter().any(|r| r.failures > 0 && r.busy.is_none())).await;
    t.running = None;
    sleep(3.0 * 3600.0).await;
    t.crash_and_start().await;
    let run = t.until(id, &[State::Completed, State::RolledBack]).await;
    assert_eq!((run.state, run.error), (State::Completed, None));
}
