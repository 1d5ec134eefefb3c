//! Stores, clusters and commands that go wrong in the middle.

use provisor_core::cluster::ClusterSpec;
use provisor_core::lifecycle::Outcome;
use provisor_core::run::Command;
use provisor_core::{Class, ClusterId, Span, State};
use provisor_store::OpError;
use provisor_store::driver::Fault;
use provisor_store::ops::clusters::CreateCluster;
use provisor_store::ops::quota::QuotaProof;
use serde_json::json;

use crate::steps::{DAMAGE, Do, GONE, KEEP, MEND, ask, completed, deprovision, sleep, until, with_faults};
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
async fn h12_downtime_kills_nothing_that_waits_for_a_release() {
    let mut t = Test::start(&["one"], json!({})).await;
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

async fn other_credentials(t: &Test) -> Result<(), OpError> {
    let spec = t.engine.cluster("one").await.unwrap().spec;
    t.engine.update_cluster("one", spec, Some(json!({"password": "another"})), None).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn h4_credentials_of_another_backend_are_refused_while_rows_are_open() {
    let t = Test::start(&["one"], json!({})).await;
    let id = completed(&t, "db").await;
    t.world.behind.lock().unwrap().insert("one".into(), "elsewhere".into());
    let refused = other_credentials(&t).await;
    assert!(matches!(refused, Err(OpError::InUse { .. })), "{refused:?}");
    t.world.behind.lock().unwrap().clear();
    ask(&t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
    // With nothing open it becomes another backend, and what is made there can be released there.
    t.world.behind.lock().unwrap().insert("one".into(), "elsewhere".into());
    other_credentials(&t).await.unwrap();
    sleep(60.0).await;
    let id = completed(&t, "db").await;
    ask(&t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
    assert!(t.world.live().is_empty());
}

#[tokio::test(start_paused = true)]
async fn h4_what_another_backend_does_not_have_is_not_gone() {
    let mut t = Test::start(&["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::LoseReply]);
    let id = t.admit(vec![Test::spec("db", json!({"strategy": {"type": "single"}}))]).await[0];
    until(&t, id, "has a server", |_| t.world.live().len() == 2).await;
    // The name of the backend leads elsewhere by now.
    t.running = None;
    t.world.behind.lock().unwrap().insert("one".into(), "elsewhere".into());
    t.crash_and_start().await;
    sleep(400.0).await;
    let run = t.run_of(id).await;
    assert_eq!(t.world.count("create_server"), 1, "nothing is made there");
    assert!(run.ledger.iter().all(|r| !r.is_closed()), "{:#?}", run.ledger);
    t.world.behind.lock().unwrap().clear();
    t.crash_and_start().await;
    t.until(id, &[State::RolledBack, State::Completed]).await;
    let run = t.run_of(id).await;
    if run.state == State::RolledBack {
        assert!(t.world.live().is_empty());
    } else {
        assert_eq!(t.world.live().len(), 2);
    }
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
async fn h13_suspend_reactivate_deprovision_in_a_hurry_while_calls_hang() {
    for (hangs, pause) in
        [("stop_server", 0.0), ("stop_server", 0.05), ("stop_server", 40.0), ("start_server", 0.05), ("start_server", 40.0)]
    {
        let t = Test::start(&["one"], json!({})).await;
        let id = completed(&t, "db").await;
        t.world.script("one", hangs, &[Next::Hang; 3]);
        for command in [
            Command::Suspend { reason: None },
            Command::Reactivate { reason: None },
            Command::Suspend { reason: None },
            Command::Reactivate { reason: None },
        ] {
            ask(&t, id, command).await;
            sleep(pause).await;
        }
        ask(&t, id, deprovision()).await;
        let run = t.until(id, &[State::RolledBack]).await;
        assert_eq!(run.outcome, Some(Outcome::Deprovisioned));
        assert!(t.world.live().is_empty());
        assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn h13_what_is_wanted_last_is_reached() {
    for pause in [0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.05] {
        let mut t = Test::start(&["one"], json!({})).await;
        let id = completed(&t, "db").await;
        for turn in 0..5 {
            let command = if turn % 2 == 0 { Command::Suspend { reason: None } } else { Command::Reactivate { reason: None } };
            ask(&t, id, command).await;
            sleep(pause).await;
            if turn == 3 {
                t.crash_and_start().await;
            }
        }
        let run = until(&t, id, "suspended", |r| {
            r.state == State::Suspended && r.action.as_ref().is_some_and(|a| a.status != "running")
        })
        .await;
        assert_eq!(run.action.unwrap().status, "succeeded", "{pause}");
        let last = t.world.calls.lock().unwrap().iter().rev().find(|c| c.ends_with("_server") && c.starts_with('s')).cloned();
        assert_eq!(last.as_deref(), Some("stop_server"), "{pause}");
    }
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
async fn h2_each_orphan_is_seen_twice() {
    let t = Test::start(&["one"], json!({})).await;
    let id = completed(&t, "db").await;
    let row = t.run_of(id).await.ledger[1].clone();
    ask(&t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
    sleep(1000.0).await;
    let put_back = || {
        let key = ("one".to_owned(), row.provider_id.clone().unwrap());
        t.world.objects.lock().unwrap().insert(key, ("server".to_owned(), row.tag.to_string()));
    };
    for round in 0..2 {
        put_back();
        t.engine.sweep("one", false).await.unwrap();
        assert_eq!(t.world.live().len(), 1, "round {round}: seen once");
        t.engine.sweep("one", false).await.unwrap();
        assert_eq!(t.world.live().len(), 0, "round {round}: seen twice");
    }
    // Once, then not any more, then once again: these are not two sweeps of one orphan.
    put_back();
    t.engine.sweep("one", false).await.unwrap();
    t.world.objects.lock().unwrap().clear();
    t.engine.sweep("one", false).await.unwrap();
    put_back();
    t.engine.sweep("one", false).await.unwrap();
    assert_eq!(t.world.live().len(), 1);
}
