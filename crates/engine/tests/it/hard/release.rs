//! Taking back: never of a stranger (H3), believed only of the same backend (H4), owed until it is done (H8).

use provisor_core::event::EventKind;
use provisor_core::run::{Command, Row};
use provisor_core::{Class, State};
use provisor_store::OpError;
use provisor_store::ops::log::EntriesOf;
use provisor_store::ops::quota::{QuotaOf, QuotaProof};
use serde_json::json;

use crate::ground::Ground;
use crate::steps::{ask, completed, deprovision, sleep, until};
use crate::toy::{Next, Trouble};
use crate::world::{Test, actor};

pub(crate) async fn h03_a_stranger_in_our_place_is_left_alone(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    let run = t.run_of(id).await;
    let server = run.ledger.iter().find(|r| r.kind == "server").unwrap();
    let place = ("one".to_owned(), server.provider_id.clone().unwrap());
    let strange = ("server".to_owned(), "of-somebody-else".to_owned());
    t.world.objects.lock().unwrap().insert(place.clone(), strange.clone());
    ask(&t, id, deprovision()).await;
    let run = t.until(id, &[State::RolledBack]).await;
    assert_eq!(t.world.objects.lock().unwrap().clone(), [(place, strange)].into());
    assert!(run.ledger.iter().all(Row::is_closed));
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    let replaced: Vec<_> = entries.iter().filter(|e| e.kind == EventKind::Replaced).collect();
    assert_eq!(replaced.len(), 1, "the row closes with that fact");
    assert_eq!(replaced[0].body.resource.as_ref().map(|r| r.id), Some(server.id));
}

async fn other_credentials(t: &Test) -> Result<(), OpError> {
    let spec = t.engine.cluster("one").await.unwrap().spec;
    t.engine.update_cluster("one", spec, Some(json!({"password": "another"})), None).await.map(drop)
}

pub(crate) async fn h04_credentials_of_another_backend_are_refused_while_rows_are_open(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
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

pub(crate) async fn h04_what_another_backend_does_not_have_is_not_gone(ground: Ground) {
    let mut t = Test::start_on(ground, &["one"], json!({})).await;
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
    let run = t.until(id, &[State::RolledBack, State::Completed]).await;
    assert_eq!(t.world.live().len(), if run.state == State::RolledBack { 0 } else { 2 });
}

/// Failover while the former attempt's clean-up is owed: capacity stays held there, and is given back.
pub(crate) async fn h08_a_lost_attempt_s_debt_holds_its_cluster_s_capacity(ground: Ground) {
    let t = Test::start_on(ground, &["one", "two"], json!({"quota": {"cpu": 9}})).await;
    t.world.script("one", "create_server", &[Next::Fail(Class::Permanent)]);
    t.world.script("one", "delete_volume", &[Next::Fail(Class::Permanent); 20]);
    let id = t.admit(vec![Test::spec("db", json!({"size": {"cpu": 8, "memory_gb": 1, "storage_gb": 1}}))]).await[0];
    t.until(id, &[State::Completed]).await;
    sleep(20.0).await;
    assert_eq!(t.run_of(id).await.owed().count(), 1);
    // The quota, on the other hand, is held once.
    let other = t.admit(vec![Test::spec("other", json!({}))]).await[0];
    sleep(5.0).await;
    assert_eq!(t.run_of(other).await.state, State::Queued, "nobody gets the room that an orphan may take");
    t.until(other, &[State::Completed]).await;
    assert_eq!(t.run_of(id).await.owed().count(), 0);
    assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
}

pub(crate) async fn h08_a_write_off_frees_what_is_held_and_watches_on(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let id = completed(&t, "db").await;
    t.world.script("one", "delete_server", &[Next::Fail(Class::Permanent); 500]);
    ask(&t, id, deprovision()).await;
    sleep(60.0).await;
    let run = t.run_of(id).await;
    assert_eq!((run.state, run.holds_quota()), (State::RollingBack, true));
    let owed: Vec<_> = run.owed().cloned().collect();
    assert_eq!((owed.len(), owed[0].kind.as_str()), (1, "server"));
    assert!(owed[0].last_error.is_some() && owed[0].provider_id.is_some() && owed[0].owed_since.is_some());

    let off = Command::WriteOff { resources: vec![owed[0].id], reason: "the host burnt down".into() };
    ask(&t, id, off).await;
    let run = t.until(id, &[State::RolledBack]).await;
    let row = run.ledger.iter().find(|r| r.id == owed[0].id).unwrap();
    assert!(row.is_closed() && row.written_off);
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    let told = entries.iter().find(|e| e.kind == EventKind::WrittenOff).unwrap();
    assert_eq!(told.body.actor, Some(actor()));
    let used = t.engine.store().run(QuotaOf { tenant: "acme".into() }).await.unwrap();
    assert!(used.iter().all(|d| d.used == 0), "{used:?}");

    // It was there all the same: what stays under its tag is still released, and told of.
    assert_eq!(t.world.live(), ["server"]);
    t.world.script("one", "delete_server", &[]);
    sleep(1600.0).await;
    assert!(t.world.live().is_empty());
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    assert!(entries.iter().any(|e| e.kind == EventKind::ResourceReappeared));
}

/// With the usual pauses, which have grown to five minutes by the time the trouble is over.
async fn is_over_within_a_minute_after(ground: Ground, trouble: Trouble) {
    let t = Test::start_on(ground, &[], json!({})).await;
    t.register("one", json!({"simulates": "openstack", "settings": {}})).await;
    t.register("two", json!({"simulates": "openstack", "region": "us", "settings": {}})).await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        ids.push(completed(&t, name).await);
    }
    t.world.trouble.lock().unwrap().extend([("one".to_owned(), trouble), ("two".to_owned(), trouble)]);
    for id in &ids {
        ask(&t, *id, deprovision()).await;
    }
    let other = t.admit(vec![Test::spec("other", json!({"region": "us", "strategy": {"type": "single"}}))]).await[0];
    sleep(1500.0).await;
    for id in &ids {
        assert_eq!(t.run_of(*id).await.owed().count(), 1);
    }
    // Only one of the two is well again.
    t.world.trouble.lock().unwrap().remove("one");
    let began = t.engine.store().now();
    for id in &ids {
        t.until(*id, &[State::RolledBack]).await;
    }
    let took = t.engine.store().now().since(began).as_seconds_f64();
    assert!(took <= 60.0, "{took} s");
    assert_ne!(t.run_of(other).await.state, State::Completed);
    let asked = t.world.count("delete_server");
    assert!(asked < 6 * 40, "{asked} tries: nobody is tried all the time");
}

pub(crate) async fn h08_what_is_owed_is_done_within_a_minute_of_the_end_of_an_outage(ground: Ground) {
    is_over_within_a_minute_after(ground, Trouble::Away).await;
}

pub(crate) async fn h08_what_is_owed_is_done_within_a_minute_of_the_end_of_a_trouble_that_no_test_sees(ground: Ground) {
    is_over_within_a_minute_after(ground, Trouble::Deaf).await;
}

/// What is being made waits for no more than a minute either.
pub(crate) async fn h08_what_waits_to_be_made_goes_on_within_a_minute_of_the_end_of_an_outage(ground: Ground) {
    let t = Test::start_on(ground, &[], json!({})).await;
    let patient = json!({"retry": {"max_retries": 20}});
    t.register("one", json!({"simulates": "openstack", "settings": patient})).await;
    t.world.trouble.lock().unwrap().insert("one".to_owned(), Trouble::Away);
    let id = t.admit(vec![Test::spec("db", json!({"strategy": {"type": "single"}}))]).await[0];
    sleep(1500.0).await;
    assert_eq!(t.run_of(id).await.state, State::Allocating);
    t.world.trouble.lock().unwrap().clear();
    let began = t.engine.store().now();
    t.until(id, &[State::Completed]).await;
    let took = t.engine.store().now().since(began).as_seconds_f64();
    assert!(took <= 60.0, "{took} s");
    assert_eq!(t.world.live().len(), 2, "a volume and a server");
}
