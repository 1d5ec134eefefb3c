//! What holds when many write at once: the log loses, repeats and reverses nothing (H34), limits hold (H18),
//! nothing is claimed twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use provisor_core::chance::SplitMix;
use provisor_core::event::{Event, EventKind};
use provisor_core::{Chance, EventId, RequestId, State};
use provisor_store::driver::postgres::Lanes;
use provisor_store::ops::log::{Feed, Head};
use provisor_store::ops::quota::QuotaProof;
use provisor_store::tx::{Stmt, both};
use provisor_store::value::Val;
use provisor_store::{Mode, Op, OpError, Store, Tx};
use serde_json::json;

use crate::build::{EVENTS, World, rows_text};
use crate::pipeline::scene::{Lease, Scene, good, spec};

const VERSION: Stmt = both("select events from request where id = ?1 for update");
const COUNT: Stmt = both("update request set events = ?2 where id = ?1");
const PAUSE: Stmt = both("select 1 from pg_sleep(?1::bigint::float8 / 1000)");

/// Writes events of several requests, one after another, and dawdles.
struct Append {
    requests: Vec<RequestId>,
    pause: i64,
    seed: u64,
}

impl Op for Append {
    type Out = ();
    const NAME: &'static str = "append";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        let now = tx.now().await?;
        let mut chance = SplitMix::new(self.seed);
        for id in &self.requests {
            let count = 1 + i64::try_from(chance.below(4)).unwrap();
            let version = tx.row(&VERSION, &[(*id).into()]).await?.unwrap().int(0)? + count;
            let events: Vec<Event> = (0..count).map(|_| Event::new(EventKind::OperationStarted)).collect();
            let body = rows_text(&json!({}), &events);
            let id_of_first = EventId::new(now, &mut chance);
            let values =
                [id_of_first.into(), (*id).into(), version.into(), count.into(), Val::Null, "acme".into(), 0.into(), body.into()];
            tx.exec(&EVENTS, &values).await?;
            tx.exec(&COUNT, &[(*id).into(), version.into()]).await?;
            if self.pause > 0 {
                tx.rows(&PAUSE, &[self.pause.into()]).await?;
            }
        }
        Ok(())
    }
}

/// Follows the log until the writers are done and the end is reached; answers subject and version of each.
async fn follow(store: Store, done: Arc<AtomicBool>, limit: i64) -> Vec<(RequestId, i64)> {
    let (mut after, mut seen) = (0, Vec::new());
    loop {
        let last_look = done.load(Ordering::SeqCst);
        let page = store.run(Feed { after, limit, ..Default::default() }).await.unwrap();
        assert!(page.entries.iter().all(|e| e.position > after), "never back");
        seen.extend(page.entries.iter().map(|e| (e.subject, e.version)));
        after = page.next;
        if page.at_head && last_look {
            return seen;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h34_readers_lose_repeat_and_reverse_nothing_among_eight_writers() {
    let lanes = Lanes::of(8, 3, 3);
    let Some(url) = super::database() else { return };
    let world = World::over(Store::new(Arc::new(super::driver(&url, lanes))), None);
    let tenant = world.tenant("acme").await;
    let mut requests = Vec::new();
    for n in 0..6 {
        requests.push(world.request(&tenant, &format!("r{n}"), State::Queued).await.id);
    }
    let done = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [3, 50, 1000].map(|limit| tokio::spawn(follow(world.store.clone(), Arc::clone(&done), limit))).into();
    let writers: Vec<_> = (0..8u64)
        .map(|writer| {
            let (store, all) = (world.store.clone(), requests.clone());
            tokio::spawn(async move {
                let mut chance = SplitMix::new(writer);
                for n in 0..40 {
                    // Batches of several requests in order, against single writes; some take their time.
                    let several = chance.below(3) == 0;
                    let some: Vec<_> =
                        all.iter().copied().filter(|_| chance.below(2) == 0).take(if several { 6 } else { 1 }).collect();
                    let pause = i64::try_from(chance.below(8)).unwrap();
                    store.run(Append { requests: some, pause, seed: writer * 1000 + n }).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    done.store(true, Ordering::SeqCst);
    let written: i64 = super::sql(&url, "select sum(count) from event")[0].parse().unwrap();
    assert!(written > 300, "{written}");
    let mut first: Option<Vec<_>> = None;
    for reader in readers {
        let seen = reader.await.unwrap();
        assert_eq!(i64::try_from(seen.len()).unwrap(), written, "nothing is lost or repeated");
        let mut versions: BTreeMap<RequestId, i64> = BTreeMap::new();
        for (subject, version) in &seen {
            let last = versions.insert(*subject, *version).unwrap_or(0);
            assert_eq!(*version, last + 1, "nothing is reversed");
        }
        assert_eq!(&seen, first.get_or_insert_with(|| seen.clone()), "all see the same order");
    }
    assert_eq!(world.store.run(Head).await, Ok(written));
}

#[tokio::test]
async fn h34_a_long_transaction_of_others_holds_no_reader_back() {
    let Some(url) = super::database() else { return };
    let world = World::over(Store::open_postgres(&url).unwrap(), None);
    let tenant = world.tenant("acme").await;
    let run = world.request(&tenant, "db", State::Queued).await;
    // It has a transaction number that is older than all that is to come.
    let (client, link) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    let link = tokio::spawn(link);
    client.batch_execute("begin; insert into meta (name, value) values ('long', 'one')").await.unwrap();
    for version in 1..=5 {
        world.event(&run, version, Some(version), EventKind::Started).await;
        assert_eq!(world.store.run(Head).await, Ok(version));
    }
    client.batch_execute("commit").await.unwrap();
    drop(client);
    link.await.unwrap().unwrap();
    world.event(&run, 6, Some(6), EventKind::Started).await;
    let page = world.store.run(Feed { after: 0, limit: 100, ..Default::default() }).await.unwrap();
    assert_eq!(page.entries.iter().map(|e| e.version).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn h18_of_sixty_four_callers_one_gets_the_last_unit() {
    let lanes = Lanes::of(8, 2, 2);
    let Some(scene) = Scene::postgres_with(lanes) else { return };
    let scene = Arc::new(scene);
    scene.tenant("acme", json!({"quota": {"cpu": 3}})).await;
    scene.cluster("one", json!({"capacity": {"cpu": 1000}})).await;
    for n in 0..2 {
        scene.admit(&format!("before-{n}"), json!({})).await;
    }
    let call = |n: usize| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.try_admit(vec![spec(&format!("race-{n}"), json!({}))]).await })
    };
    let mut admitted = 0;
    for task in (0..64).map(call).collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(OpError::QuotaExceeded(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(admitted, 1);
    assert_eq!(scene.store.run(QuotaProof).await, Ok(vec![]));
    scene.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h21_of_sixteen_callers_one_gets_the_name_and_one_key_has_one_answer() {
    let Some(scene) = Scene::postgres_with(Lanes::of(8, 2, 1)) else { return };
    let scene = Arc::new(scene.with_one_of_each().await);
    let call = |_| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move { scene.try_admit(vec![spec("same", json!({}))]).await })
    };
    let mut admitted = 0;
    for task in (0..16).map(call).collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(_) => admitted += 1,
            Err(OpError::NameTaken { .. }) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(admitted, 1);
    let key = provisor_store::ops::admit::Idempotency { route: "r".to_owned(), key: "k".to_owned(), fingerprint: "f".to_owned() };
    let call = |_| {
        let (scene, key) = (Arc::clone(&scene), key.clone());
        tokio::spawn(async move { scene.store.run(scene.admission(vec![spec("other", json!({}))], Some(key))).await })
    };
    let mut ids = BTreeSet::new();
    for task in (0..16).map(call).collect::<Vec<_>>() {
        ids.insert(task.await.unwrap().unwrap()[0].run.id);
    }
    assert_eq!(ids.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_workers_drive_many_requests_and_all_adds_up() {
    let Some(scene) = Scene::postgres_with(Lanes::of(6, 2, 4)) else { return };
    let scene = Arc::new(scene);
    for name in ["acme", "bolt"] {
        scene.tenant(name, json!({"max_concurrent": 5})).await;
    }
    for name in ["one", "two"] {
        scene.cluster(name, json!({})).await;
    }
    let mut ids = Vec::new();
    for n in 0..40 {
        let tenant = if n % 2 == 0 { "acme" } else { "bolt" };
        ids.push(
            scene.admit(&format!("r{n}"), json!({"tenant": tenant, "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}})).await,
        );
    }
    let work = |worker: usize| {
        let scene = Arc::clone(&scene);
        tokio::spawn(async move {
            let name = format!("w{worker}");
            let mut taken: Vec<RequestId> = Vec::new();
            let mut idle = 0;
            while idle < 5 {
                let batch = scene.claim(&name, 3).await;
                idle = if batch.claimed.is_empty() { idle + 1 } else { 0 };
                for claimed in batch.claimed {
                    let mut lease = Lease::of(&name, claimed);
                    taken.push(lease.id);
                    loop {
                        let answers = lease.calls.iter().map(good).collect();
                        let settled = scene.settle(&lease, answers).await.unwrap();
                        if settled.released {
                            break;
                        }
                        lease.calls = settled.calls;
                    }
                }
                tokio::task::yield_now().await;
            }
            taken
        })
    };
    for task in (0..6).map(work).collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut completed = 0;
    for id in &ids {
        completed += usize::from(scene.run_of(*id).await.state == State::Completed);
    }
    // Both clusters together have room for sixteen.
    assert_eq!(completed, 16);
    assert_eq!(scene.store.run(QuotaProof).await, Ok(vec![]));
    scene.check().await;
}

/// The processor's time that this process has had, which a busy machine does not change as much as it does the clock.
fn own_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    [11, 12].iter().filter_map(|n| fields.get(*n)?.parse::<u64>().ok()).sum()
}

/// How fast whole requests are; run by hand:
/// `cargo test -p provisor-store --release speed_of_whole -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, clippy::cast_precision_loss)]
async fn speed_of_whole_requests() {
    for lanes in [Lanes::default(), Lanes::of(1, 2, 32), Lanes::of(4, 2, 1), Lanes::of(2, 2, 16)] {
        let Some(scene) = Scene::postgres_with(lanes) else { return };
        let before = own_time();
        let scene = Arc::new(scene);
        for n in 0..8 {
            scene.tenant(&format!("t{n}"), json!({"max_concurrent": 1000})).await;
        }
        scene
            .cluster("one", json!({"capacity": {"cpu": 100_000, "memory_gb": 100_000, "storage_gb": 100_000, "slots": 100_000}}))
            .await;
        let start = tokio::time::Instant::now();
        let call = |caller: usize| {
            let scene = Arc::clone(&scene);
            tokio::spawn(async move {
                let worker = format!("w{caller}");
                let mut completed = 0;
                for n in 0..10 {
                    let tenant = format!("t{}", (caller + n) % 8);
                    scene.admit(&format!("r{caller}-{n}"), json!({"tenant": tenant})).await;
                    for claimed in scene.claim(&worker, 1).await.claimed {
                        completed += usize::from(scene.drive(Lease::of(&worker, claimed)).await.state == State::Completed);
                    }
                }
                completed
            })
        };
        let mut completed = 0;
        for task in (0..32).map(call).collect::<Vec<_>>() {
            completed += task.await.unwrap();
        }
        let seconds = start.elapsed().as_secs_f64();
        println!(
            "{lanes:?}: {completed} of 320 completed, {:.0} requests/s, {} ticks of this process",
            completed as f64 / seconds,
            own_time() - before
        );
        assert_eq!(scene.store.run(QuotaProof).await, Ok(vec![]));
    }
}
