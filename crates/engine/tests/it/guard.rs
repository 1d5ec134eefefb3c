//! Breaker, bulkhead and refused credentials, on virtual time (H27, H28, H29).

use std::time::Duration;

use provisor_core::breaker::State as BreakerState;
use provisor_core::cluster::ClusterSpec;
use provisor_core::run::Command;
use provisor_core::{Class, Run, Span, State};
use provisor_store::OpError;
use provisor_store::ops::clusters::{ClusterView, GetCluster};
use serde_json::{Value, json};

use crate::toy::Next;
use crate::world::{Test, actor};

/// A tenant that may do as much at once as it likes.
fn busy() -> Value {
    json!({"max_concurrent": 5000})
}

/// Gives a cluster room without limit, and settings of its own.
async fn configure(t: &Test, name: &str, settings: Value) {
    let mut cluster = json!({"name": name, "provider": "simulation", "simulates": "openstack", "region": "eu",
        "settings": {"retry": {"initial_seconds": 1, "cap_seconds": 2}, "late_create_seconds": 60}});
    for (key, value) in settings.as_object().unwrap() {
        cluster["settings"][key] = value.clone();
    }
    let (spec, _) = ClusterSpec::check("", &cluster).unwrap();
    t.engine.update_cluster(name, spec, None, None).await.unwrap();
}

async fn view(t: &Test, name: &str) -> ClusterView {
    t.engine.store().run(GetCluster { key: name.to_owned() }).await.unwrap().unwrap()
}

async fn pass(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

fn waits_for(run: &Run) -> Option<&str> {
    run.waiting.as_ref().map(|w| w.reason.as_str())
}

#[tokio::test(start_paused = true)]
async fn h27_a_sick_cluster_fails_fast_is_tried_by_one_call_and_goes_on() {
    let t = Test::start(&["one"], busy()).await;
    // Twice as long open is still within the operation's own deadline of 60 s.
    configure(&t, "one", json!({"breaker": {"failures": 4, "window_seconds": 60, "open_seconds": 20}})).await;
    t.world.script("one", "create_volume", &[Next::Fail(Class::Transient); 9]);
    let ids = t.admit((0..8).map(|n| Test::spec(&format!("r{n}"), json!({}))).collect()).await;
    pass(5.0).await;
    let breaker = view(&t, "one").await.gate.breaker;
    assert!(matches!(breaker.state, BreakerState::Open { .. }) && breaker.opened == 1, "{breaker:?}");
    assert_eq!(t.world.count("create_volume"), 8, "nothing is called any more");
    for id in &ids {
        let run = t.run_of(*id).await;
        assert_eq!((run.state, waits_for(&run)), (State::Allocating, Some("cluster_health")));
    }
    // Nothing new is placed there, and why is said.
    let late = t.admit(vec![Test::spec("late", json!({}))]).await[0];
    pass(2.0).await;
    let run = t.run_of(late).await;
    assert_eq!((run.state, waits_for(&run)), (State::Queued, Some("cluster_health")));
    let detail = run.waiting.unwrap().detail.unwrap();
    assert!(detail.contains("circuit breaker is open"), "{detail}");
    // Half open, one call alone sees that it is still sick.
    pass(20.0).await;
    assert_eq!(t.world.count("create_volume"), 9);
    assert_eq!(view(&t, "one").await.gate.breaker.opened, 2);
    for id in ids.iter().chain([&late]) {
        let run = t.until(*id, &[State::Completed]).await;
        let retries: u32 = run.attempts.iter().flat_map(|a| &a.operations).map(|o| o.retries).sum();
        assert!(run.attempts.len() == 1 && retries <= 2, "waiting used no retry: {retries}");
    }
    assert_eq!(view(&t, "one").await.gate.breaker.state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn h27_what_a_backend_refuses_opens_nothing() {
    let t = Test::start(&["one"], busy()).await;
    configure(&t, "one", json!({"breaker": {"failures": 2, "window_seconds": 60, "open_seconds": 30}})).await;
    t.world.script("one", "create_volume", &[Next::Fail(Class::Permanent); 20]);
    let ids = t.admit((0..10).map(|n| Test::spec(&format!("r{n}"), json!({}))).collect()).await;
    for id in ids {
        t.until(id, &[State::RolledBack]).await;
    }
    assert_eq!(view(&t, "one").await.gate.breaker.opened, 0);
}

/// How long requests of cluster `two` take, the slowest of a hundred left out.
async fn p99_of_two(t: &Test, prefix: &str) -> Span {
    let specs = (0..100).map(|n| Test::spec(&format!("{prefix}{n}"), json!({"cluster": "two"}))).collect();
    let mut took = Vec::new();
    for id in t.admit(specs).await {
        let run = t.until(id, &[State::Completed]).await;
        took.push(run.ready_at.unwrap().since(run.created_at));
    }
    took.sort();
    took[98]
}

#[tokio::test(start_paused = true)]
async fn h28_a_storm_on_one_cluster_leaves_the_others_alone() {
    let t = Test::start(&["one", "two"], busy()).await;
    configure(&t, "one", json!({"max_in_flight": 8})).await;
    configure(&t, "two", json!({})).await;
    let quiet = p99_of_two(&t, "quiet").await;
    t.world.script("one", "create_volume", &[Next::Hang; 10_000]);
    t.admit((0..600).map(|n| Test::spec(&format!("storm{n}"), json!({"cluster": "one"}))).collect()).await;
    pass(1.0).await;
    let stormy = p99_of_two(&t, "stormy").await;
    assert!(stormy.0 * 10 <= quiet.0 * 11, "{stormy:?} instead of {quiet:?}");
    assert!(t.world.count("create_volume") <= 300, "most of the storm has not been sent");
}

#[tokio::test(start_paused = true)]
async fn h28_releases_pass_where_creates_are_held_back() {
    let t = Test::start(&["one"], busy()).await;
    configure(&t, "one", json!({"max_in_flight": 4})).await;
    let service = t.admit(vec![Test::spec("stands", json!({}))]).await[0];
    t.until(service, &[State::Completed]).await;
    t.world.script("one", "create_volume", &[Next::Hang; 1000]);
    let creates = t.admit((0..40).map(|n| Test::spec(&format!("c{n}"), json!({}))).collect()).await;
    pass(5.0).await;
    assert_eq!(t.world.count("create_volume"), 1 + 3, "so many creates are in flight, and no more");
    let waiting = t.run_of(creates[39]).await;
    assert_eq!(waits_for(&waiting), Some("capacity"));
    let attempts: u32 = waiting.attempts.iter().flat_map(|a| &a.operations).map(|o| o.retries).sum();
    assert_eq!(attempts, 0, "waiting is no retry");
    let began = t.engine.store().now();
    t.engine.command(service, Command::Deprovision { reason: None, force: false }, actor()).await.unwrap();
    t.until(service, &[State::RolledBack]).await;
    assert!(t.engine.store().now().since(began) < Span::seconds(2), "a release waits for no create");
}

#[tokio::test(start_paused = true)]
async fn h29_refused_credentials_pause_the_cluster_until_there_are_others() {
    let t = Test::start(&["one", "two"], busy()).await;
    // Once is a login that has run out: the call is made again, and nobody notices.
    t.world.script("one", "create_volume", &[Next::Fail(Class::Auth)]);
    let lucky = t.admit(vec![Test::spec("lucky", json!({"cluster": "one"}))]).await[0];
    let run = t.until(lucky, &[State::Completed]).await;
    assert_eq!(run.attempts[0].operations[0].tries.len(), 1);
    assert!(view(&t, "one").await.gate.paused.is_none());

    t.world.script("one", "create_volume", &[Next::Fail(Class::Auth); 2]);
    t.world.script("one", "test", &[Next::Fail(Class::Auth); 1000]);
    let id = t.admit(vec![Test::spec("db", json!({"cluster": "one"}))]).await[0];
    pass(3.0).await;
    let run = t.run_of(id).await;
    assert_eq!((run.state, waits_for(&run)), (State::Allocating, Some("cluster_health")));
    assert!(view(&t, "one").await.gate.paused.is_some());
    let elsewhere = t.admit(vec![Test::spec("free", json!({}))]).await[0];
    let run = t.until(elsewhere, &[State::Completed]).await;
    assert_eq!(run.attempts[0].cluster_name, "two", "nothing is placed there");

    // Credentials that are refused too are not stored.
    let spec = view(&t, "one").await.spec;
    t.world.script("one", "identity", &[Next::Fail(Class::Auth)]);
    let refused = t.engine.update_cluster("one", spec.clone(), Some(json!({"password": "wrong"})), None).await;
    let Err(OpError::Invalid(flaws)) = refused else { panic!("{:?}", refused.map(|v| v.version)) };
    assert_eq!(flaws[0].pointer, "/credentials");
    assert!(view(&t, "one").await.gate.paused.is_some());

    t.world.script("one", "test", &[]);
    t.engine.update_cluster("one", spec, Some(json!({"password": "right"})), None).await.unwrap();
    assert!(view(&t, "one").await.gate.paused.is_none());
    let run = t.until(id, &[State::Completed]).await;
    let operation = &run.attempts[0].operations[0];
    assert_eq!((run.attempts.len(), operation.retries, operation.tries.len()), (1, 0, 1), "no retry was used");
}
