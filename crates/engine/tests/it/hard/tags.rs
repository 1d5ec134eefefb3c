//! H1: what a tag is, and what it names.

use std::collections::BTreeSet;
use std::sync::Arc;

use provisor_core::run::Row;
use provisor_core::{Class, State};
use provisor_engine::Config;
use serde_json::json;

use crate::ground::Ground;
use crate::toy::{Next, World};
use crate::world::{Test, engine_with};

pub(crate) async fn h01_a_tag_names_one_row_of_one_installation(ground: Ground) {
    let mut t = Test::start_on(ground, &["one", "two"], json!({})).await;
    // A further try that makes anew, then a further attempt.
    t.world.script("one", "wait_server", &[Next::Hang; 2]);
    t.world.script("one", "probe_tcp", &[Next::Fail(Class::Permanent)]);
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let run = t.until(id, &[State::Completed]).await;
    let servers = |attempt: usize| {
        let of_it = |r: &&Row| r.attempt == run.attempts[attempt].id && r.kind == "server";
        run.ledger.iter().filter(of_it).count()
    };
    assert_eq!((run.attempts.len(), servers(0), servers(1)), (2, 2, 1));

    let installation = t.engine.installation().to_owned();
    let mut tags = BTreeSet::new();
    for row in &run.ledger {
        let tag = row.tag.to_string();
        assert_eq!(tag, format!("pvr-{installation}-{}", row.id.letters()));
        assert!(tag.len() <= 60 && tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{tag}");
        assert!(tags.insert(tag), "two rows under one tag: {:#?}", run.ledger);
    }
    let objects = t.world.objects.lock().unwrap().clone();
    for (place, (_, tag)) in &objects {
        assert!(tags.contains(tag), "{place:?} bears {tag}");
    }

    // The store's, whatever process asks; another store has another.
    t.crash_and_start().await;
    assert_eq!(t.engine.installation(), installation);
    let config = Config { alone: false, ..Config::default() };
    let elsewhere = engine_with(ground.store().0, &Arc::new(World::default()), config).await.unwrap();
    assert_ne!(elsewhere.installation(), installation);
}
