//! Stores, clusters and commands that go wrong in the middle.

use provisor_core::cluster::ClusterSpec;
use provisor_core::lifecycle::Outcome;
use provisor_core::run::Command;
use provisor_core::{ClusterId, Span, State};
use provisor_store::driver::Fault;
use provisor_store::ops::clusters::CreateCluster;
use serde_json::json;

use crate::steps::{DAMAGE, Do, GONE, KEEP, MEND, ask, deprovision, sleep, until, with_faults};
use crate::toy::Next;
use crate::world::Test;

#[tokio::test(start_paused = true)]
async fn a_lost_answer_of_claim_or_settle_loses_no_request() {
    for (operation, after) in [("claim", 0.0), ("settle", 0.0), ("settle", 0.03), ("settle", 0.05), ("settle", 0.08)] {
        let (t, faulty) = with_faults().await;
        if operation == "claim" {
            sleep(0.5).await;
            faulty.next(Some("claim"), Fault::LostAnswer);
        }
        let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
        sleep(after).await;
        if operation == "settle" {
            faulty.next(Some("settle"), Fault::LostAnswer);
        }
        t.until(id, &[State::Completed]).await;
        assert_eq!(t.world.live().len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_this_process_does_not_know_yet_fails_nobody() {
    let t = Test::start(&["one"], json!({})).await;
    let full = t.admit(vec![Test::spec("full", json!({"size": {"cpu": 8, "memory_gb": 1, "storage_gb": 1}}))]).await[0];
    t.until(full, &[State::Completed]).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    sleep(0.1).await;
    ask(&t, full, deprovision()).await;
    // Another process forgets the cluster and registers one that is not bound here yet.
    let one = t.engine.cluster("one").await.unwrap();
    t.engine.store().run(Do(&GONE, "one".into())).await.unwrap();
    let mut chance = provisor_core::chance::SplitMix::new(5);
    let new = ClusterId::new(t.engine.store().now(), &mut chance);
    let spec = ClusterSpec { name: "two".into(), ..one.spec };
    t.engine.store().run(CreateCluster { id: new, spec, credentials: None }).await.unwrap();
    let run = t.until(id, &[State::Completed, State::RolledBack]).await;
    assert_eq!((run.state, run.error), (State::Completed, None));
}

#[tokio::test(start_paused = true)]
async fn an_inventory_that_never_comes_does_not_stop_the_sweeper() {
    let t = Test::start(&["one"], json!({})).await;
    t.world.script("one", "list_owned", &[Next::Hang]);
    sleep(2000.0).await;
    assert!(t.world.count("list_owned") > 3, "{}", t.world.count("list_owned"));
}

#[tokio::test(start_paused = true)]
async fn an_inventory_is_waited_for_as_long_as_the_settings_say() {
    let t = Test::start(&["one"], json!({})).await;
    let mut spec = t.engine.cluster("one").await.unwrap().spec;
    spec.settings.insert("deadlines".into(), json!({"list_owned": 2}));
    t.engine.update_cluster("one", spec, None, None).await.unwrap();
    t.world.script("one", "list_owned", &[Next::Hang]);
    let begin = t.engine.store().now();
    assert!(t.engine.inventory("one").await.is_err());
    assert_eq!(t.engine.store().now().since(begin), Span::seconds(2));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_dependent_stops_nobody_else() {
    let t = Test::start(&["one"], json!({})).await;
    let ids = t.admit(vec![Test::spec("db", json!({})), Test::spec("web", json!({"depends_on": ["db"]}))]).await;
    for statement in [&KEEP, &DAMAGE] {
        t.engine.store().run(Do(statement, ids[1].to_string())).await.unwrap();
    }
    t.until(ids[0], &[State::Completed]).await;
    ask(&t, ids[0], Command::Deprovision { reason: None, force: true }).await;
    t.until(ids[0], &[State::RolledBack]).await;
    // Once it can be read again it learns what it missed.
    t.engine.store().run(Do(&MEND, ids[1].to_string())).await.unwrap();
    let run = t.until(ids[1], &[State::RolledBack, State::Completed]).await;
    assert_eq!(run.outcome, Some(Outcome::DependencyFailed));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_request_that_waits_for_room_stops_nobody_else() {
    let t = Test::start(&["one"], json!({})).await;
    let full = t.admit(vec![Test::spec("full", json!({"size": {"cpu": 7, "memory_gb": 1, "storage_gb": 1}}))]).await[0];
    t.until(full, &[State::Completed]).await;
    let big = t.admit(vec![Test::spec("big", json!({"size": {"cpu": 3, "memory_gb": 1, "storage_gb": 1}}))]).await[0];
    sleep(1000.0).await;
    t.engine.store().run(Do(&DAMAGE, big.to_string())).await.unwrap();
    let small = t.admit(vec![Test::spec("small", json!({}))]).await[0];
    t.until(small, &[State::Completed]).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_told_to_be_made_and_has_no_id_yet_is_looked_for_when_it_is_dropped() {
    let t = Test::start(&["one"], json!({})).await;
    t.world.silent.lock().unwrap().push("create_server".into());
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "has a server", |_| t.world.live().len() == 2).await;
    sleep(0.5).await;
    ask(&t, id, Command::Cancel { reason: None }).await;
    t.until(id, &[State::RolledBack]).await;
    assert!(t.world.live().is_empty(), "{:?}", t.world.live());
}

#[tokio::test(start_paused = true)]
async fn what_a_live_request_owns_is_owned_and_what_is_gone_is_missing() {
    let t = Test::start(&["one"], json!({})).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    sleep(20.0).await;
    let seen = t.engine.inventory("one").await.unwrap();
    assert_eq!(seen["owned"].as_array().unwrap().len(), 2);
    assert_eq!(seen["missing"], json!([]));
    t.world.objects.lock().unwrap().clear();
    let seen = t.engine.inventory("one").await.unwrap();
    assert_eq!(seen["missing"].as_array().unwrap().len(), 2);
}
