//! Clocks (H40): whose counts, and what it may not do.

use std::sync::Arc;

use provisor_core::{Span, State};
use provisor_engine::Config;
use provisor_store::ops::log::EntriesOf;
use serde_json::json;

use crate::ground::Ground;
use crate::steps::{ask, deprovision, sleep, until};
use crate::toy::Next;
use crate::world::{Test, engine_over, engine_with};

pub(crate) async fn h40_a_clock_that_goes_back_dates_nothing_before_its_cause(ground: Ground) {
    let twice = ground.twice(Span::seconds(3600));
    let (ahead, behind) = (twice.first.clone(), twice.second.clone());
    assert!(ahead.now().since(behind.now()) >= Span::seconds(3599));
    let mut t = Test::start_over(ahead.clone(), &["one"], json!({})).await;
    t.world.script("one", "create_server", &[Next::LoseReply]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "has a server", |_| t.world.live().len() == 2).await;
    // Another process takes over, by a clock that is an hour behind.
    t.running = None;
    sleep(0.01).await;
    let last = ahead.run(EntriesOf::all(id)).await.unwrap().last().unwrap().at;
    t.engine = engine_over(behind, &t.world).await;
    t.running = Some(t.engine.start().await.unwrap());
    t.until(id, &[State::Completed]).await;
    assert!(t.engine.store().now() < last, "it really is behind");
    ask(&t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
    assert_eq!((t.world.live().len(), *t.world.created.lock().unwrap()), (0, 2), "and what was in doubt was found");
    let entries = t.engine.store().run(EntriesOf::all(id)).await.unwrap();
    assert!(entries.len() > 20);
    for pair in entries.windows(2) {
        assert!(pair[0].at <= pair[1].at, "{} before {}", pair[1].kind.name(), pair[0].kind.name());
    }
}

pub(crate) async fn h40_a_lease_runs_out_by_the_clock_of_the_store(ground: Ground) {
    let mut t = Test::start_on(ground, &["one"], json!({})).await;
    t.running = None;
    sleep(0.01).await;
    let (store, world) = (t.engine.store().clone(), Arc::clone(&t.world));
    let worker = |name: &str| {
        let config = Config { worker: name.to_owned(), alone: false, ..Config::default() };
        let (store, world) = (store.clone(), Arc::clone(&world));
        async move { engine_with(store, &world, config).await.unwrap() }
    };
    let (first, second) = (worker("w1").await, worker("w2").await);
    t.world.script("one", "create_rule", &[Next::Hang]);
    let dead = first.start().await.unwrap();
    t.engine = first;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    until(&t, id, "at work", |_| t.world.count("create_rule") == 1).await;
    let running = second.start().await.unwrap();
    sleep(25.0).await;
    assert_eq!(t.world.count("create_rule"), 1, "whose holder lives is nobody else's");
    drop(dead);
    let died = t.engine.store().now();
    t.engine = second;
    t.running = Some(running);
    until(&t, id, "taken over", |_| t.world.count("create_rule") == 2).await;
    let waited = t.engine.store().now().since(died).as_seconds_f64();
    // It was kept for ten seconds at most three before.
    assert!((6.0..12.0).contains(&waited), "after {waited} s");
    t.until(id, &[State::Completed]).await;
    assert_eq!(t.world.live().len(), 2);
}
