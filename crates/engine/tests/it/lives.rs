//! Whole lives: every moment of a cancel, two workers over a bad store, what must not grow for ever.

use std::sync::Arc;

use provisor_core::cluster::ClusterSpec;
use provisor_core::run::Command;
use provisor_core::{Class, RequestId, State, Timestamp};
use provisor_store::Store;
use provisor_store::driver::{Faulty, Inline};
use provisor_store::ops::quota::QuotaProof;
use serde_json::json;

use crate::steps::{DAMAGE, Do, KEEP, MEND, ask, completed, deprovision, sleep};
use crate::toy::Next;
use crate::world::{Test, actor};

/// Counts what the store is asked, by name.
struct Counting(Inline, std::sync::Mutex<std::collections::BTreeMap<&'static str, usize>>);
impl provisor_store::driver::Driver for Counting {
    fn run(&self, job: Arc<dyn provisor_store::driver::Job>) -> provisor_store::tx::Answer<'_, ()> {
        *self.1.lock().unwrap().entry(job.name()).or_default() += 1;
        self.0.run(job)
    }
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_costs_little_and_starves_nobody() {
    let clock = provisor_store::clock::of_runtime(Timestamp(1_000_000_000_000));
    let counting = Arc::new(Counting(Inline::in_memory(clock).unwrap(), std::sync::Mutex::default()));
    let t = Test::start_over(Store::new(Arc::clone(&counting) as _), &["one"], json!({"max_concurrent": 10})).await;
    let full = t.admit(vec![Test::spec("full", json!({"size": {"cpu": 6, "memory_gb": 1, "storage_gb": 1}}))]).await[0];
    t.until(full, &[State::Completed]).await;
    let big = |i| Test::spec(&format!("big-{i}"), json!({"size": {"cpu": 8, "memory_gb": 1, "storage_gb": 1}}));
    t.admit((0..400).map(big).collect()).await;
    sleep(120.0).await;
    let count = |name: &str| counting.1.lock().unwrap().get(name).copied().unwrap_or_default();
    let before = count("claim");
    let began = t.engine.store().now();
    completed(&t, "small").await;
    let took = t.engine.store().now().since(began).as_seconds_f64();
    assert!(took < 5.0, "{took} s");
    sleep(60.0).await;
    assert!(count("claim") - before < 1500);
}

#[tokio::test(start_paused = true)]
async fn an_idle_engine_asks_little() {
    let clock = provisor_store::clock::of_runtime(Timestamp(1_000_000_000_000));
    let counting = Arc::new(Counting(Inline::in_memory(clock).unwrap(), std::sync::Mutex::default()));
    let t = Test::start_over(Store::new(Arc::clone(&counting) as _), &["one", "two"], json!({})).await;
    let ids = [completed(&t, "a").await, completed(&t, "b").await, completed(&t, "c").await];
    t.world.script("one", "stop_server", &[Next::Hang; 50]);
    t.world.script("two", "stop_server", &[Next::Hang; 50]);
    ask(&t, ids[0], Command::Suspend { reason: None }).await;
    t.world.script("one", "delete_server", &[Next::Fail(Class::Permanent); 5000]);
    ask(&t, ids[1], deprovision()).await;
    sleep(600.0).await;
    let count = |name: &str| counting.1.lock().unwrap().get(name).copied().unwrap_or_default();
    let (claims, settles) = (count("claim"), count("settle"));
    let size = serde_json::to_string(&t.run_of(ids[1]).await).unwrap().len();
    sleep(900.0).await;
    // A poll a second, and one for each try of the release that never succeeds.
    assert!(count("claim") - claims < 3 * 900, "{}", count("claim") - claims);
    assert!(count("settle") - settles < 900);
    let later = serde_json::to_string(&t.run_of(ids[1]).await).unwrap().len();
    assert!(later < size + 300, "{size} {later}");
}

/// Two workers over one store that is slow, fails and loses answers, on a backend that loses answers, too.
#[tokio::test(start_paused = true)]
async fn chaos_two_workers_over_a_bad_store() {
    use provisor_core::{Chance, Span};
    for seed in 1..=6_u64 {
        let clock = provisor_store::clock::of_runtime(Timestamp(1_000_000_000_000));
        let faulty = Arc::new(Faulty::new(Arc::new(Inline::in_memory(clock).unwrap()), seed));
        let mut t = Test::start_over(Store::new(Arc::clone(&faulty) as _), &["one", "two"], json!({"max_concurrent": 20})).await;
        t.running = None;
        sleep(0.01).await;
        let mut chance = provisor_core::chance::SplitMix::new(seed);
        let start = |name: &str| {
            let config = provisor_engine::Config { worker: name.to_owned(), alone: false, ..provisor_engine::Config::default() };
            let (store, world) = (t.engine.store().clone(), Arc::clone(&t.world));
            async move {
                for _ in 0..100 {
                    let made = crate::world::engine_with(store.clone(), &world, config.clone()).await;
                    if let Ok(engine) = made
                        && let Ok(running) = engine.start().await
                    {
                        return (engine, running);
                    }
                }
                panic!("it does not start")
            }
        };
        let mut workers = vec![start("w1").await, start("w2").await];
        let ids = t.admit((0..8).map(|i| Test::spec(&format!("v-{i}"), json!({}))).collect()).await;
        for operation in ["create_volume", "create_server"] {
            let mut script = Vec::new();
            for _ in 0..12 {
                match chance.below(4) {
                    0 => script.push(Next::LoseReply),
                    1 => script.push(Next::Fail(Class::Transient)),
                    _ => {}
                }
            }
            t.world.script("one", operation, &script);
        }
        faulty.set_rates(provisor_store::driver::faulty::Rates {
            before: 50,
            lost: 50,
            delayed: 100,
            longest: Span::seconds(14),
        });
        for round in 0..30 {
            sleep(f64::from(u32::try_from(chance.below(9000)).unwrap()) / 1000.0).await;
            let which = usize::try_from(chance.below(8)).unwrap();
            let command = match chance.below(5) {
                0 => Command::Suspend { reason: None },
                1 => Command::Reactivate { reason: None },
                2 if which < 2 => Command::Cancel { reason: None },
                3 if which == 2 => deprovision(),
                _ => continue,
            };
            let _ = t.engine.command(ids[which], command, actor()).await;
            if round % 7 == 3 {
                let dead = usize::try_from(chance.below(2)).unwrap();
                let name = format!("w{}", dead + 1);
                let (_, running) = std::mem::replace(&mut workers[dead], start(&name).await);
                if round % 2 == 0 {
                    drop(running);
                } else {
                    running.shutdown().await;
                }
            }
        }
        faulty.set_rates(provisor_store::driver::faulty::Rates::default());
        sleep(1500.0).await;
        let mut expected = 0;
        for id in &ids {
            let run = t.run_of(*id).await;
            assert!(
                matches!(run.state, State::Completed | State::Suspended | State::RolledBack),
                "seed {seed}: {:?} {:?} {:#?}",
                run.state,
                run.waiting,
                run.attempts.last()
            );
            assert!(run.ledger.iter().all(|r| !r.in_doubt && r.busy.is_none()), "seed {seed}");
            let open: Vec<_> = run.ledger.iter().filter(|r| !r.is_closed()).collect();
            assert_eq!(open.len(), if run.state == State::RolledBack { 0 } else { 2 }, "seed {seed} {:#?}", run.ledger);
            expected += open.len();
            if let Some(action) = run.action.as_ref().filter(|_| run.state != State::RolledBack) {
                assert_ne!(action.status, "running", "seed {seed}");
            }
        }
        assert_eq!(t.world.live().len(), expected, "seed {seed}");
        assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty(), "seed {seed}");
        drop(workers);
    }
}

#[tokio::test(start_paused = true)]
async fn a_graceful_stop_at_any_moment_makes_nothing_twice() {
    for after_ms in (0..140).step_by(10) {
        let mut t = Test::start(&["one"], json!({})).await;
        let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
        sleep(f64::from(after_ms) / 1000.0).await;
        assert!(t.running.take().unwrap().shutdown().await);
        t.crash_and_start().await;
        let run = t.until(id, &[State::Completed]).await;
        assert_eq!((*t.world.created.lock().unwrap(), run.ledger.len()), (2, 2), "{after_ms}");
    }
}

/// An environment, and a cluster that takes it.
async fn environment(t: &Test, name: &str, ttl_seconds: f64) -> RequestId {
    let cluster = json!({"name": format!("argo-{name}"), "provider": "simulation", "simulates": "argocd", "region": "eu"});
    let (spec, _) = ClusterSpec::check("", &cluster).unwrap();
    t.engine.register_cluster(spec, None).await.unwrap();
    let spec = json!({"name": name, "tenant": "acme", "kind": "environment", "region": "eu", "ttl_seconds": ttl_seconds,
        "source": {"repository": "https://git.example/a.git", "branch": "b", "commit_sha": "0a1b2c3d"}});
    let id = t.admit(vec![Test::spec_of(&spec)]).await[0];
    t.until(id, &[State::Completed]).await;
    id
}

#[tokio::test(start_paused = true)]
async fn h46_the_end_of_a_time_to_live_is_told_by_whom() {
    for suspends in [false, true] {
        let t = Test::start(&["one"], json!({})).await;
        let id = environment(&t, "pr", 100.0).await;
        if suspends {
            t.world.script("argo-pr", "stop_server", &[Next::Hang; 2]);
            sleep(99.0).await;
            ask(&t, id, Command::Suspend { reason: None }).await;
        }
        t.until(id, &[State::RolledBack]).await;
        let entries = t.engine.store().run(provisor_store::ops::log::EntriesOf::all(id)).await.unwrap();
        let begun = entries.iter().find(|e| e.kind.name() == "service.deprovision-started").unwrap();
        assert_eq!(begun.body.actor.as_ref().map(|a| a.id.as_str()), Some("ttl"), "{suspends}");
    }
}

/// A queued request whose clusters come and go says so, without growing for ever.
#[tokio::test(start_paused = true)]
async fn what_waits_and_flaps_does_not_grow_for_ever() {
    let t = Test::start(&["one"], json!({})).await;
    let full = t.admit(vec![Test::spec("full", json!({"size": {"cpu": 8, "memory_gb": 1, "storage_gb": 1}}))]).await[0];
    t.until(full, &[State::Completed]).await;
    let id = t.admit(vec![Test::spec("db", json!({}))]).await[0];
    let mut sizes = Vec::new();
    for round in 0..200 {
        let mut spec = t.engine.cluster("one").await.unwrap().spec;
        spec.provisioning_enabled = round % 2 == 0;
        t.engine.update_cluster("one", spec, None, None).await.unwrap();
        sleep(31.0).await;
        sizes.push(serde_json::to_string(&t.run_of(id).await).unwrap().len());
    }
    assert!(sizes[199] < sizes[99] + 200, "{} {}", sizes[99], sizes[199]);
    let run = t.run_of(id).await;
    let (told, now) = (run.waits.iter().map(|w| w.until.since(w.since).0).sum::<i64>(), run.waiting.unwrap().since);
    assert_eq!(told, now.since(run.created_at).0, "the account of time stays right");
}

/// The owed release of a failed attempt, retried for weeks, and a suspend that never works.
#[tokio::test(start_paused = true)]
async fn what_is_tried_for_ever_does_not_grow_for_ever() {
    let t = Test::start(&["one"], json!({})).await;
    let id = completed(&t, "db").await;
    t.world.script("one", "stop_server", &[Next::Fail(Class::Permanent); 2000]);
    ask(&t, id, Command::Suspend { reason: None }).await;
    sleep(10_000.0).await;
    let size = serde_json::to_string(&t.run_of(id).await).unwrap().len();
    sleep(20_000.0).await;
    let later = serde_json::to_string(&t.run_of(id).await).unwrap().len();
    assert!(later < size + 200, "{size} {later}");
    // As asked, the newest wish wins over it at once.
    ask(&t, id, deprovision()).await;
    t.until(id, &[State::RolledBack]).await;
}

/// A batch in any order of its items, whatever of it fails.
#[tokio::test(start_paused = true)]
async fn h24_a_batch_in_any_order_ends() {
    for fails in ["", "create_volume"] {
        for first in 0..3_usize {
            let t = Test::start(&["one"], json!({})).await;
            t.world.script("one", fails, &[Next::Fail(Class::Permanent)]);
            let mut specs = vec![
                Test::spec("a", json!({"strategy": {"type": "single"}})),
                Test::spec("b", json!({"depends_on": ["a"]})),
                Test::spec("c", json!({"depends_on": ["a", "b"]})),
            ];
            specs.rotate_left(first);
            let ids = t.admit(specs).await;
            for id in ids {
                let run = t.until(id, &[State::Completed, State::RolledBack]).await;
                assert_eq!(run.state == State::Completed, fails.is_empty());
            }
            assert!(t.engine.store().run(QuotaProof).await.unwrap().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_request_whose_time_is_over_keeps_nobody_busy() {
    let clock = provisor_store::clock::of_runtime(Timestamp(1_000_000_000_000));
    let counting = Arc::new(Counting(Inline::in_memory(clock).unwrap(), std::sync::Mutex::default()));
    let t = Test::start_over(Store::new(Arc::clone(&counting) as _), &["one"], json!({})).await;
    let full = t.admit(vec![Test::spec("full", json!({"size": {"cpu": 8, "memory_gb": 1, "storage_gb": 1}}))]).await[0];
    t.until(full, &[State::Completed]).await;
    let id = t.admit(vec![Test::spec("db", json!({"queue_timeout_seconds": 20}))]).await[0];
    for statement in [&KEEP, &DAMAGE] {
        t.engine.store().run(Do(statement, id.to_string())).await.unwrap();
    }
    sleep(120.0).await;
    let claims = counting.1.lock().unwrap()["claim"];
    assert!(claims < 400, "{claims}");
    t.engine.store().run(Do(&MEND, id.to_string())).await.unwrap();
    assert_eq!(t.until(id, &[State::RolledBack]).await.error.unwrap().code, "queue_timeout");
}
