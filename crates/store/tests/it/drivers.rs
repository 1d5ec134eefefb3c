//! The drivers: group commit, refusals among neighbours, failed commits, lost answers, clocks.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use provisor_core::{Span, Timestamp};
use provisor_store::clock::ManualClock;
use provisor_store::driver::{Fault, Faulty, Inline, Sqlite};
use provisor_store::ops::meta::{GetMeta, PutMeta};
use provisor_store::tx::{Stmt, both};
use provisor_store::{Mode, Op, OpError, Store, Tx};

use crate::build::{Folder, HeldWriter, Joining, Put, START, Then, World};

async fn is_there(store: &Store, name: &str) -> bool {
    store.run(GetMeta { name: name.to_owned() }).await.unwrap().is_some()
}

fn put(name: &str, then: Then) -> Put {
    Put { name: name.to_owned(), then }
}

/// Queues operations behind one that holds the writer, so that they share one commit; answers theirs.
async fn together<O: Op>(store: &Store, operations: Vec<O>) -> Vec<Result<O::Out, OpError>> {
    let held = HeldWriter::hold(store).await;
    let waiting: Vec<_> = operations
        .into_iter()
        .map(|op| {
            let store = store.clone();
            tokio::spawn(async move { store.run(op).await })
        })
        .collect();
    // Every task has queued its operation once it has been polled.
    for _ in 0..waiting.len() + 2 {
        tokio::task::yield_now().await;
    }
    held.let_go().await;
    let mut answers = Vec::new();
    for task in waiting {
        answers.push(task.await.unwrap());
    }
    answers
}

#[tokio::test]
async fn one_refusal_does_not_spoil_its_neighbours() {
    let world = World::sqlite();
    let operations = vec![
        put("a", Then::Succeed),
        put("b", Then::Refuse),
        put("c", Then::Panic),
        put("d", Then::Wait),
        put("e", Then::Succeed),
    ];
    let answers = together(&world.store, operations).await;
    assert_eq!(answers[0], Ok("a".to_owned()));
    assert_eq!(answers[1], Err(OpError::NotFound("anything")));
    assert!(matches!(&answers[2], Err(OpError::Corrupt(text)) if text.contains("on purpose")), "{:?}", answers[2]);
    assert!(matches!(&answers[3], Err(OpError::Corrupt(text)) if text.contains("waits for more")), "{:?}", answers[3]);
    assert_eq!(answers[4], Ok("e".to_owned()));
    for (name, expected) in [("a", true), ("b", false), ("c", false), ("d", false), ("e", true)] {
        assert_eq!(is_there(&world.store, name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn what_joins_is_done_as_one_and_alone_where_that_fails() {
    let joining = |name: &str, then| Joining { name: name.to_owned(), then };
    let world = World::sqlite();
    let all = vec![joining("a", Then::Succeed), joining("b", Then::Refuse), joining("c", Then::Succeed)];
    assert_eq!(together(&world.store, all).await, [Ok(3), Err(OpError::NotFound("anything")), Ok(3)]);
    for then in [Then::Panic, Then::Wait] {
        let all = vec![joining("d", Then::Succeed), joining("e", then), joining("f", Then::Succeed)];
        let answers = together(&world.store, all).await;
        assert_eq!((&answers[0], &answers[2]), (&Ok(1), &Ok(1)), "each is done alone");
        assert!(matches!(&answers[1], Err(OpError::Corrupt(_))), "{:?}", answers[1]);
    }
    for (name, expected) in [("a", true), ("b", false), ("c", true), ("d", true), ("e", false), ("f", true)] {
        assert_eq!(is_there(&world.store, name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_failed_commit_fails_the_whole_group_and_stores_nothing() {
    let world = World::sqlite();
    let operations = vec![put("a", Then::Succeed), put("b", Then::SpoilCommit), put("c", Then::Refuse)];
    for answer in together(&world.store, operations).await {
        assert!(matches!(&answer, Err(OpError::Database(_))), "{answer:?}");
    }
    assert!(!is_there(&world.store, "a").await);
    assert_eq!(world.store.run(put("a", Then::Succeed)).await, Ok("a".to_owned()), "the writer goes on");
}

#[tokio::test]
async fn a_failed_commit_inline_stores_nothing() {
    let world = World::inline();
    let answer = world.store.run(put("a", Then::SpoilCommit)).await;
    assert!(matches!(&answer, Err(OpError::Database(_))), "{answer:?}");
    assert!(world.store.run(put("b", Then::Panic)).await.is_err());
    assert!(!is_there(&world.store, "a").await && !is_there(&world.store, "b").await);
    assert_eq!(world.store.run(put("a", Then::Succeed)).await, Ok("a".to_owned()));
}

/// Says that it reads, and writes.
struct Pretender;

impl Op for Pretender {
    type Out = ();
    const NAME: &'static str = "pretender";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        const PUT: Stmt = both("insert into meta (name, value) values ('pretender', '1')");
        tx.exec(&PUT, &[]).await.map(drop)
    }
}

#[tokio::test]
async fn what_says_that_it_reads_cannot_write() {
    for world in [World::sqlite(), World::inline()] {
        let answer = world.store.run(Pretender).await;
        assert!(matches!(&answer, Err(OpError::Database(_))), "{answer:?}");
        assert!(!is_there(&world.store, "pretender").await);
        assert_eq!(world.store.run(put("a", Then::Succeed)).await, Ok("a".to_owned()), "and all goes on");
    }
}

#[tokio::test]
async fn h42_an_answer_comes_after_the_commit() {
    let folder = Folder::new();
    let store = Store::open_sqlite(&folder.database()).unwrap();
    let other = rusqlite::Connection::open(folder.database()).unwrap();
    for round in 0..20 {
        store.run(put(&format!("key-{round}"), Then::Succeed)).await.unwrap();
        let seen: i64 = other.query_row("select count(*) from meta", [], |r| r.get(0)).unwrap();
        assert_eq!(seen, round + 1, "another connection sees what was answered");
    }
    let mode: i64 = other.query_row("pragma application_id", [], |r| r.get(0)).unwrap();
    assert_ne!(mode, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_commits_and_all_is_stored() {
    let world = World::sqlite();
    let tasks: Vec<_> = (0..64)
        .map(|writer| {
            let store = world.store.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    store.run(put(&format!("{writer}-{n}"), Then::Succeed)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(count(&world.store).await, 64 * 50);
}

struct Count;
const COUNT: Stmt = both("select count(*) from meta");
impl Op for Count {
    type Out = i64;
    const NAME: &'static str = "count";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<i64, OpError> {
        tx.row(&COUNT, &[]).await?.unwrap().int(0)
    }
}

async fn count(store: &Store) -> i64 {
    store.run(Count).await.unwrap()
}

/// Says that it reads, but writes.
struct Liar;
const LIE: Stmt = both("insert into meta (name, value) values ('lie', 'lie')");
impl Op for Liar {
    type Out = ();
    const NAME: &'static str = "liar";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        tx.exec(&LIE, &[]).await.map(drop)
    }
}

#[tokio::test]
async fn an_operation_that_reads_cannot_write() {
    for world in [World::sqlite(), World::inline()] {
        assert!(matches!(world.store.run(Liar).await, Err(OpError::Database(_))));
        assert_eq!(count(&world.store).await, 0);
        world.store.run(put("a", Then::Succeed)).await.unwrap();
        assert_eq!(count(&world.store).await, 1);
    }
}

#[tokio::test]
async fn what_is_queued_is_done_although_nobody_waits() {
    let folder = Folder::new();
    let store = Store::open_sqlite(&folder.database()).unwrap();
    let held = HeldWriter::hold(&store).await;
    let dropped = tokio::time::timeout(Duration::from_millis(1), store.run(put("a", Then::Succeed))).await;
    assert!(dropped.is_err());
    held.let_go().await;
    drop(store);
    let store = Store::open_sqlite(&folder.database()).unwrap();
    assert!(is_there(&store, "a").await);
}

#[tokio::test]
async fn faults_come_as_scripted() {
    let clock = ManualClock::new(START);
    let inner = Arc::new(Inline::in_memory(clock.clock()).unwrap());
    let faulty = Arc::new(Faulty::new(inner, 7));
    let store = Store::new(faulty.clone());
    faulty.next(Some("put_meta"), Fault::Before);
    faulty.next(Some("put_meta"), Fault::LostAnswer);
    faulty.next(None, Fault::LostAnswer);
    let set = |name: &str| PutMeta { name: name.to_owned(), value: Some("1".to_owned()) };
    let read = store.run(GetMeta { name: "a".to_owned() }).await;
    assert!(matches!(read, Err(OpError::Database(_))), "a read only fails: {read:?}");
    assert!(matches!(store.run(set("a")).await, Err(OpError::Database(_))));
    assert!(!is_there(&store, "a").await);
    assert!(matches!(store.run(set("a")).await, Err(OpError::Unknown(_))));
    assert!(is_there(&store, "a").await, "the answer was lost, not the commit");
    assert_eq!(store.run(set("b")).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn faults_come_by_seed_and_the_same_each_time() {
    let trace = |seed| async move {
        let faulty = Arc::new(Faulty::new(Arc::new(Inline::in_memory(ManualClock::new(START).clock()).unwrap()), seed));
        faulty.set_rates(provisor_store::driver::faulty::Rates {
            before: 200,
            lost: 200,
            delayed: 200,
            longest: Span::seconds(60),
        });
        let store = Store::new(faulty);
        let mut seen = Vec::new();
        for n in 0..100 {
            let answer = store.run(put(&n.to_string(), Then::Succeed)).await;
            seen.push((answer, tokio::time::Instant::now()));
        }
        let first = seen[0].1;
        seen.into_iter().map(|(answer, at)| (answer, at - first)).collect::<Vec<_>>()
    };
    let (one, two) = (trace(3).await, trace(3).await);
    assert_eq!(one, two);
    assert!(one.iter().any(|(a, _)| matches!(a, Err(OpError::Unknown(_)))));
    assert!(one.iter().any(|(a, _)| matches!(a, Err(OpError::Database(_)))));
    assert!(one.last().unwrap().1 > Duration::from_mins(1));
}

#[tokio::test]
async fn h40_the_clock_never_goes_back() {
    let clock = ManualClock::new(START);
    let store = Store::in_memory(clock.clock()).unwrap();
    clock.advance(Span::seconds(10));
    let later = store.now();
    assert_eq!(later, START.plus(Span::seconds(10)));
    clock.advance(Span::seconds(-5));
    assert_eq!(store.now(), later);
}

#[tokio::test]
async fn h40_the_clock_begins_after_the_last_event() {
    let folder = Folder::new();
    let far = Timestamp(START.0 + Span::seconds(400_000_000).0);
    {
        let inline = Inline::open(&folder.database(), ManualClock::new(far).clock()).unwrap();
        let world = World::over(Store::new(Arc::new(inline)), None);
        let tenant = world.tenant("acme").await;
        let run = world.request(&tenant, "db", provisor_core::State::Queued).await;
        world.event(&run, 1, Some(1), provisor_core::event::EventKind::Started).await;
    }
    let store = Store::open_sqlite(&folder.database()).unwrap();
    let now = store.now();
    assert!(now >= far);
    while store.now() == now {
        std::hint::spin_loop();
    }
}

/// How fast small writes are; run by hand: `cargo test -p provisor-store --release speed -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout, clippy::cast_precision_loss)]
async fn speed_of_small_writes() {
    let folder = Folder::new();
    let store = Store::new(Arc::new(Sqlite::open(Path::new(&folder.database())).unwrap()));
    let (writers, each) = (512, 200);
    let start = tokio::time::Instant::now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..each {
                    store.run(put(&format!("{writer}-{n}"), Then::Succeed)).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    println!("{:.0} writes/s", f64::from(writers * each) / start.elapsed().as_secs_f64());
}
