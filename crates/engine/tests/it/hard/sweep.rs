//! The sweeper: its safety (H2), drift (H15), and a store that is older than the world (H41).

use provisor_core::event::EventKind;
use provisor_core::{Span, State};
use provisor_store::OpError;
use provisor_store::ops::log::EntriesOf;
use serde_json::json;

use crate::ground::Ground;
use crate::steps::{ask, completed, deprovision, sleep};
use crate::toy::Next;
use crate::world::Test;

/// The tag and the id of a server that was made and released.
async fn rolled_back(t: &Test, name: &str) -> (String, String) {
    let id = completed(t, name).await;
    let run = t.run_of(id).await;
    let row = run.ledger.iter().find(|r| r.kind == "server").unwrap();
    ask(t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
    (row.tag.to_string(), row.provider_id.clone().unwrap())
}

fn put_back(t: &Test, provider_id: &str, tag: &str) {
    let key = ("one".to_owned(), provider_id.to_owned());
    t.world.objects.lock().unwrap().insert(key, ("server".to_owned(), tag.to_owned()));
}

pub(crate) async fn h02_an_orphan_goes_after_the_grace_and_two_sweeps(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let (tag, provider_id) = rolled_back(&t, "db").await;
    put_back(&t, &provider_id, &tag);
    let first = t.engine.sweep("one", false).await.unwrap();
    assert_eq!(first["orphaned"][0]["provider_id"], json!(provider_id));
    assert_eq!(first["released"], json!([]), "too young, and seen once");
    let second = t.engine.sweep("one", false).await.unwrap();
    assert_eq!(second["released"], json!([]), "too young");
    let dry = t.engine.sweep("one", true).await.unwrap();
    assert_eq!(dry["released"], json!([]));
    assert_eq!(t.world.live().len(), 1);
    sleep(1000.0).await;
    t.engine.sweep("one", false).await.unwrap();
    t.engine.sweep("one", false).await.unwrap();
    assert!(t.world.live().is_empty());
}

pub(crate) async fn h02_each_orphan_is_seen_twice(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let (tag, provider_id) = rolled_back(&t, "db").await;
    sleep(1000.0).await;
    for round in 0..2 {
        put_back(&t, &provider_id, &tag);
        t.engine.sweep("one", false).await.unwrap();
        assert_eq!(t.world.live().len(), 1, "round {round}: seen once");
        t.engine.sweep("one", false).await.unwrap();
        assert_eq!(t.world.live().len(), 0, "round {round}: seen twice");
    }
    // Once, then not any more, then once again: these are not two sweeps of one orphan.
    put_back(&t, &provider_id, &tag);
    t.engine.sweep("one", false).await.unwrap();
    t.world.objects.lock().unwrap().clear();
    t.engine.sweep("one", false).await.unwrap();
    put_back(&t, &provider_id, &tag);
    t.engine.sweep("one", false).await.unwrap();
    assert_eq!(t.world.live().len(), 1);
}

pub(crate) async fn h02_strangers_and_too_much_at_once_are_left_alone(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({"max_concurrent": 10})).await;
    let mut gone = Vec::new();
    for number in 0..6 {
        gone.push(rolled_back(&t, &format!("db-{number}")).await);
    }
    let stays = completed(&t, "stays").await;
    put_back(&t, "of-others", "pvr-anotherinstallation-00000000000000000000000000");
    put_back(&t, "of-nobody", "web-1");
    // A second object under the tag of a row that is open: no doubt explains it.
    let row = t.run_of(stays).await.ledger.iter().find(|r| r.kind == "server").unwrap().clone();
    put_back(&t, "a-clone", row.tag.as_str());
    for (tag, provider_id) in &gone {
        put_back(&t, provider_id, tag);
    }
    sleep(1000.0).await;
    let mut last = json!({});
    for _ in 0..3 {
        last = t.engine.sweep("one", false).await.unwrap();
    }
    assert!(last["alarm"].as_str().unwrap().contains("6 objects"), "six are more than max(5, 2 %): {last:#}");
    assert_eq!(t.world.live().len(), 6 + 2 + 3, "nothing is released");
    let orphans: Vec<&str> = last["orphaned"].as_array().unwrap().iter().map(|o| o["provider_id"].as_str().unwrap()).collect();
    assert!(orphans.contains(&"a-clone") && !orphans.contains(&"of-others") && !orphans.contains(&"of-nobody"), "{last:#}");

    // What an open row holds is not orphaned; its clone is, and a person may say so.
    let owned = t.engine.release_orphan("one", row.provider_id.as_deref().unwrap(), "test").await;
    assert!(matches!(owned, Err(OpError::NotFound(_))), "{owned:?}");
    t.engine.release_orphan("one", "a-clone", "test").await.unwrap();
    assert_eq!(t.world.live().len(), 6 + 2 + 2);
    put_back(&t, "a-clone", row.tag.as_str());

    // One less, and they go; what is not ours, or not explained, stays for a person to decide.
    t.world.objects.lock().unwrap().remove(&("one".to_owned(), gone[0].1.clone()));
    for _ in 0..2 {
        last = t.engine.sweep("one", false).await.unwrap();
    }
    assert_eq!(last["alarm"], json!(null), "{last:#}");
    let left: Vec<String> = t.world.objects.lock().unwrap().keys().map(|(_, id)| id.clone()).collect();
    assert_eq!(left.len(), 2 + 3, "{left:?}");
    assert!(["of-others", "of-nobody", "a-clone"].iter().all(|id| left.iter().any(|l| l == id)), "{left:?}");
}

pub(crate) async fn h41_an_own_tag_without_a_row_stops_all_releases(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let (tag, provider_id) = rolled_back(&t, "db").await;
    put_back(&t, &provider_id, &tag);
    let unknown = format!("pvr-{}-00000000000000000000000000", t.engine.installation());
    put_back(&t, "stranger", &unknown);
    sleep(1000.0).await;
    for _ in 0..3 {
        let swept = t.engine.sweep("one", false).await.unwrap();
        assert!(swept["alarm"].as_str().is_none_or(|a| a.contains("after-restore")), "{swept:#}");
    }
    assert_eq!(t.world.live().len(), 2, "nothing is released while something unexplained is there");
    // Only what is listed as orphaned can be released by its id.
    let wrong = t.engine.release_orphan("one", "nothing-of-that-name", "test").await;
    assert!(matches!(wrong, Err(OpError::NotFound(_))), "{wrong:?}");
    assert_eq!(t.world.live().len(), 2);
    // A call must have an answer: what does not go is told as such, and can be asked for again.
    t.world.script("one", "delete_server", &[Next::Hang]);
    let asked = t.engine.store().now();
    let silent = t.engine.release_orphan("one", "stranger", "test").await;
    assert!(matches!(&silent, Err(OpError::Backend { code, .. }) if code == "backend_silent"), "{silent:?}");
    assert!(t.engine.store().now().since(asked) < Span::seconds(20));
    assert_eq!(t.world.live().len(), 2);
    // Once it is explained, here by an administrator's word, the sweeper goes on.
    let released = t.engine.release_orphan("one", "stranger", "test").await.unwrap();
    assert_eq!((&released["released"], &released["balance"]["unexplained"]), (&json!(["stranger"]), &json!(1)), "{released:#}");
    assert_eq!(t.world.live().len(), 1, "and nothing else");
    t.engine.sweep("one", false).await.unwrap();
    assert!(t.world.live().is_empty());
}

async fn health(t: &Test, id: provisor_core::RequestId) -> Option<String> {
    t.run_of(id).await.health.map(|h| h.state)
}

pub(crate) async fn h15_what_two_sweeps_in_a_row_miss_is_told_and_changes_nothing_else(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    sleep(20.0).await;
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
    assert!(run.holds_quota() && t.world.live().is_empty(), "nothing is made again by itself");
    *t.world.objects.lock().unwrap() = kept;
    t.engine.sweep("one", false).await.unwrap();
    assert_eq!(health(&t, id).await.as_deref(), Some("ok"));
    let told = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    let drifted = told.iter().filter(|e| e.kind == EventKind::Drifted);
    let drifted: Vec<&str> = drifted.map(|e| e.body.detail["health"].as_str().unwrap()).collect();
    assert_eq!(drifted, ["missing", "ok"], "told once at each change");
}

pub(crate) async fn h15_one_sweep_that_sees_it_begins_the_count_anew_and_what_is_missing_can_be_released(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    sleep(20.0).await;
    let kept = t.world.objects.lock().unwrap().clone();
    for _ in 0..3 {
        t.world.objects.lock().unwrap().clear();
        t.engine.sweep("one", false).await.unwrap();
        *t.world.objects.lock().unwrap() = kept.clone();
        t.engine.sweep("one", false).await.unwrap();
    }
    assert_eq!(health(&t, id).await, None);
    t.world.objects.lock().unwrap().clear();
    ask(&t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
}
