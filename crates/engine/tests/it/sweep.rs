//! The sweeper and its safety rules (H2, H6, H41).

use provisor_core::State;
use provisor_core::run::Command;
use serde_json::json;

use crate::world::{Test, actor};

async fn rolled_back(t: &Test) -> (String, String) {
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    let run = t.run_of(id).await;
    let row = run.ledger.iter().find(|r| r.kind == "server").unwrap();
    let (tag, provider_id) = (row.tag.to_string(), row.provider_id.clone().unwrap());
    t.engine.command(id, Command::Deprovision { reason: None, force: false }, actor()).await.unwrap();
    t.until(id, &[State::RolledBack]).await;
    (tag, provider_id)
}

fn put_back(t: &Test, provider_id: &str, tag: &str) {
    let key = ("one".to_owned(), provider_id.to_owned());
    t.world.objects.lock().unwrap().insert(key, ("server".to_owned(), tag.to_owned()));
}

#[tokio::test(start_paused = true)]
async fn h2_an_orphan_goes_after_the_grace_and_two_sweeps() {
    let t = Test::start(&["one"], json!({})).await;
    let (tag, provider_id) = rolled_back(&t).await;
    put_back(&t, &provider_id, &tag);
    let first = t.engine.sweep("one", false).await.unwrap();
    assert_eq!(first["orphaned"][0]["provider_id"], json!(provider_id));
    assert_eq!(first["released"], json!([]), "too young, and seen once");
    tokio::time::sleep(std::time::Duration::from_secs(1000)).await;
    let dry = t.engine.sweep("one", true).await.unwrap();
    assert_eq!(dry["released"], json!([]));
    t.engine.sweep("one", false).await.unwrap();
    t.engine.sweep("one", false).await.unwrap();
    assert!(t.world.live().is_empty());
}

#[tokio::test(start_paused = true)]
async fn h41_an_own_tag_without_a_row_stops_all_releases() {
    let t = Test::start(&["one"], json!({})).await;
    let (tag, provider_id) = rolled_back(&t).await;
    put_back(&t, &provider_id, &tag);
    let unknown = format!("pvr-{}-00000000000000000000000000", t.engine.installation());
    put_back(&t, "stranger", &unknown);
    tokio::time::sleep(std::time::Duration::from_secs(4000)).await;
    for _ in 0..3 {
        t.engine.sweep("one", false).await.unwrap();
    }
    assert_eq!(t.world.live().len(), 2, "nothing is released while something unexplained is there");
}

#[tokio::test(start_paused = true)]
async fn what_a_live_request_owns_is_owned_and_what_is_gone_is_missing() {
    let t = Test::start(&["one"], json!({})).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let seen = t.engine.inventory("one").await.unwrap();
    assert_eq!(seen["owned"].as_array().unwrap().len(), 2);
    assert_eq!(seen["missing"], json!([]));
    t.world.objects.lock().unwrap().clear();
    let seen = t.engine.inventory("one").await.unwrap();
    assert_eq!(seen["missing"].as_array().unwrap().len(), 2);
}

async fn health(t: &Test, id: provisor_core::RequestId) -> Option<String> {
    t.run_of(id).await.health.map(|h| h.state)
}

#[tokio::test(start_paused = true)]
async fn h15_what_two_sweeps_in_a_row_miss_is_told_and_changes_nothing_else() {
    let t = Test::start(&["one"], json!({})).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let before = t.run_of(id).await;
    let kept = t.world.objects.lock().unwrap().clone();
    t.world.objects.lock().unwrap().clear();
    t.engine.sweep("one", true).await.unwrap();
    t.engine.sweep("one", false).await.unwrap();
    assert_eq!(health(&t, id).await, None, "a dry run counts for nothing, one sweep for not enough");
    t.engine.sweep("one", false).await.unwrap();
    assert_eq!(health(&t, id).await.as_deref(), Some("missing"));
    t.engine.sweep("one", false).await.unwrap();
    let run = t.run_of(id).await;
    assert_eq!((run.state, run.wanted, run.ledger.len()), (before.state, before.wanted, before.ledger.len()));
    assert!(t.world.live().is_empty(), "nothing is made again by itself");
    *t.world.objects.lock().unwrap() = kept;
    t.engine.sweep("one", false).await.unwrap();
    assert_eq!(health(&t, id).await.as_deref(), Some("ok"));
    let told = t.engine.store().run(provisor_store::ops::log::EntriesOf::all(id)).await.unwrap();
    let drifted: Vec<&str> = told
        .iter()
        .filter(|e| e.kind == provisor_core::event::EventKind::Drifted)
        .map(|e| e.body.detail["health"].as_str().unwrap())
        .collect();
    assert_eq!(drifted, ["missing", "ok"], "told once at each change");
}

#[tokio::test(start_paused = true)]
async fn h15_one_sweep_that_sees_it_begins_the_count_anew_and_what_is_missing_can_be_released() {
    let t = Test::start(&["one"], json!({})).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    tokio::time::sleep(std::time::Duration::from_secs(20)).await;
    let kept = t.world.objects.lock().unwrap().clone();
    for _ in 0..3 {
        t.world.objects.lock().unwrap().clear();
        t.engine.sweep("one", false).await.unwrap();
        *t.world.objects.lock().unwrap() = kept.clone();
        t.engine.sweep("one", false).await.unwrap();
    }
    assert_eq!(health(&t, id).await, None);
    t.world.objects.lock().unwrap().clear();
    t.engine.command(id, Command::Deprovision { reason: None, force: false }, actor()).await.unwrap();
    t.until(id, &[State::RolledBack]).await;
}
