//! Creates that may have been done: found (H5), late (H6), made anew (H10).

use std::sync::Arc;

use provisor_core::event::EventKind;
use provisor_core::run::{Row, Run};
use provisor_core::{Class, Span, State};
use provisor_engine::Config;
use provisor_store::ops::log::EntriesOf;
use provisor_store::tx::{Stmt, both};
use serde_json::json;

use crate::ground::Ground;
use crate::steps::{Do, ask, deprovision, sleep, until};
use crate::toy::Next;
use crate::world::{Test, engine_with};

const STEAL: Stmt = both("update request set worker = 'other', generation = generation + 1 where id = ?1");

fn servers(run: &Run) -> Vec<&Row> {
    run.ledger.iter().filter(|r| r.kind == "server").collect()
}

fn live_servers(t: &Test) -> usize {
    t.world.live().iter().filter(|kind| *kind == "server").count()
}

pub(crate) async fn h05_a_lost_answer_is_adopted_and_not_made_twice(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::LoseReply]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!((*t.world.created.lock().unwrap(), servers(&run).len()), (2, 1));
}

pub(crate) async fn h05_a_create_in_doubt_is_made_anew_only_when_it_cannot_come_any_more(ground: Ground) {
    let mut t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::Hang]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "makes its server", |_| t.world.count("create_server") == 1).await;
    // Whoever sent it is gone; what it sent may still arrive.
    t.crash_and_start().await;
    let run = t.until(id, &[State::Completed]).await;
    let [former, new] = servers(&run)[..] else { panic!("{:#?}", run.ledger) };
    let lease = Config::default().lease;
    assert!(former.send_by < former.created_at.plus(lease), "nobody sends it after its lease");
    let over = former.send_by.plus(former.call_limit).plus(Span::seconds(5));
    assert!(new.created_at >= over, "{} {}", new.created_at.to_rfc3339(), over.to_rfc3339());
    assert_ne!(former.tag, new.tag);
    assert_eq!(live_servers(&t), 1);
    assert!(t.world.count("find") >= 2, "absent in two reads");
}

pub(crate) async fn h05_a_create_that_cannot_be_sent_in_time_is_not_sent(ground: Ground) {
    let mut t = Test::start_on(ground, &["one"], json!({})).await;
    // Whoever begins asks the backend who it is, and that takes longer than the worker may take to send.
    t.world.script("one", "identity", &[Next::Slow(8); 2]);
    t.crash_and_start().await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    let volume = run.attempts[0].operations.iter().find(|o| o.planned.name == "create_volume").unwrap();
    let codes: Vec<&str> = volume.tries.iter().filter_map(|t| Some(t.error.as_ref()?.code.as_str())).collect();
    assert!(codes.contains(&"not_sent_in_time"), "{:#?}", volume.tries);
    assert_eq!((*t.world.created.lock().unwrap(), run.ledger.len()), (2, 2), "certainly not sent, so there is no doubt");
}

pub(crate) async fn h05_a_create_under_way_at_a_lost_lease_is_adopted(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::LoseReply]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "has a server", |_| t.world.live().len() == 2).await;
    // Somebody else is given the lease and dies with it.
    t.engine.store().run(Do(&STEAL, id.to_string())).await.unwrap();
    t.until(id, &[State::Completed]).await;
    assert_eq!((t.world.live().len(), *t.world.created.lock().unwrap()), (2, 2));
}

pub(crate) async fn h05_a_lease_with_a_create_in_flight_is_not_handed_back(ground: Ground) {
    let mut t = Test::start_on(ground, &["one"], json!({})).await;
    t.running = None;
    sleep(0.01).await;
    let (store, world) = (t.engine.store().clone(), Arc::clone(&t.world));
    let worker = |name: &str, shutdown: i64| {
        let config = Config { worker: name.to_owned(), alone: false, shutdown: Span::seconds(shutdown), ..Config::default() };
        let (store, world) = (store.clone(), Arc::clone(&world));
        async move { engine_with(store, &world, config).await.unwrap() }
    };
    t.world.script("one", "create_server", &[Next::Hang]);
    let first = worker("w1", 2).await;
    let running = first.start().await.unwrap();
    t.engine = first;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "makes its server", |_| t.world.count("create_server") == 1).await;
    let stopped = t.engine.store().now();
    assert!(!running.shutdown().await, "what hangs is not waited for any longer");
    t.engine = worker("w2", 30).await;
    t.running = Some(t.engine.start().await.unwrap());
    // The other one has no turn before the lease has run out.
    until(&t, id, "looked for", |_| t.world.count("find") > 0).await;
    let waited = t.engine.store().now().since(stopped);
    assert!(waited >= Span::seconds(5), "handed back after {} s", waited.as_seconds_f64());
    t.until(id, &[State::Completed]).await;
    assert_eq!(live_servers(&t), 1);
}

pub(crate) async fn h06_a_late_twin_is_released_and_the_row_closes_last(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::Hang]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    let [former, _] = servers(&run)[..] else { panic!("{:#?}", run.ledger) };
    assert!(!former.is_closed() && former.in_doubt, "it may still come");
    let late = ("one".to_owned(), "late".to_owned());
    t.world.objects.lock().unwrap().insert(late.clone(), ("server".to_owned(), former.tag.to_string()));
    let run = until(&t, id, "rid of the doubt", |r| servers(r)[0].is_closed()).await;
    assert!(!t.world.objects.lock().unwrap().contains_key(&late), "the twin is released");
    assert_eq!((run.state, live_servers(&t)), (State::Completed, 1));

    // Where nothing comes, the row closes after the time in which it could, and not before.
    t.world.script("one", "create_server", &[Next::Hang]);
    let id = t.admit(vec![Test::spec("other", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    let run = until(&t, id, "rid of the doubt", |r| servers(r)[0].is_closed()).await;
    let row = servers(&run)[0];
    let after = row.released_at.unwrap().since(row.send_by);
    assert!(after >= Span::seconds(60) && row.empty_looks >= 2, "after {} s, {} looks", after.as_seconds_f64(), row.empty_looks);
}

pub(crate) async fn h06_what_comes_under_a_closed_row_is_released_and_told(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::Hang]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    let run = until(&t, id, "rid of the doubt", |r| servers(r)[0].is_closed()).await;
    let late = ("one".to_owned(), "late".to_owned());
    t.world.objects.lock().unwrap().insert(late, ("server".to_owned(), servers(&run)[0].tag.to_string()));
    assert_eq!(live_servers(&t), 2);
    sleep(1600.0).await;
    let now = t.run_of(id).await;
    assert_eq!((now.state, live_servers(&t)), (State::Completed, 1), "the state stays");
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    let told: Vec<_> = entries.iter().filter(|e| e.kind == EventKind::ResourceReappeared).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].body.resource.as_ref().and_then(|r| r.provider_id.as_deref()), Some("late"));
    ask(&t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
    assert!(t.world.live().is_empty(), "none after release");
}

pub(crate) async fn h10_what_must_be_made_anew_has_a_row_and_a_tag_of_its_own(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    // A look that is not answered ends after 30 s, a try after 60.
    t.world.script("one", "wait_server", &[Next::Hang; 4]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    let rows = servers(&run);
    assert_eq!(rows.len(), 3, "each try that makes anew is a row");
    assert!(rows[..2].iter().all(|r| r.is_closed()) && !rows[2].is_closed());
    let wait = run.attempts[0].operations.iter().find(|o| o.planned.name == "wait_server").unwrap();
    assert_eq!((wait.tries.len(), wait.retries), (3, 2));
    for one in &wait.tries[..2] {
        let took = one.finished_at.unwrap().since(one.started_at);
        assert!(took >= wait.deadline, "each has the full deadline: {} s", took.as_seconds_f64());
    }
    assert_eq!(live_servers(&t), 1);
}

pub(crate) async fn h10_what_is_spoiled_is_released_and_not_adopted(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::Spoil]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    assert_eq!(servers(&run).len(), 2);
    assert_eq!((*t.world.created.lock().unwrap(), live_servers(&t)), (3, 1));
    let kept = servers(&run).into_iter().find(|r| !r.is_closed()).unwrap().tag.to_string();
    assert!(t.world.objects.lock().unwrap().values().any(|(_, tag)| *tag == kept), "the new one");
}

/// A backend that asks to slow down for ever is waited for no longer than the operation's deadline.
pub(crate) async fn h10_throttling_is_no_retry_and_ends(ground: Ground) {
    let t = Test::start_on(ground, &["one"], json!({})).await;
    let next = [Next::Fail(Class::Transient), Next::Fail(Class::Throttled), Next::Fail(Class::Transient)];
    t.world.script("one", "create_server", &next);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    let server = run.attempts[0].operations.iter().find(|o| o.planned.name == "create_server").unwrap();
    assert_eq!((server.tries.len(), server.retries), (4, 2));

    for operation in ["create_volume", "find", "create_rule"] {
        t.world.script("one", operation, &[Next::Fail(Class::Throttled); 3000]);
    }
    let id = t.admit(vec![Test::spec("other", json!({}))]).await[0];
    let run = t.until(id, &[State::RolledBack]).await;
    assert_eq!(run.error.unwrap().class, Class::Throttled);
}
