//! What is special to PostgreSQL: lanes, folded commits, lost connections, the server's clock.

use std::sync::Arc;
use std::time::Duration;

use provisor_core::{Span, State};
use provisor_store::driver::Postgres;
use provisor_store::driver::postgres::Lanes;
use provisor_store::ops::meta::{GetMeta, PutMeta};
use provisor_store::tx::{Stmt, both};
use provisor_store::{Mode, Op, OpError, Store, Tx};
use tokio::sync::Notify;

use super::{database, sql};
use crate::build::{Joining, Put, Then, World};

fn put(name: &str, then: Then) -> Put {
    Put { name: name.to_owned(), then }
}

async fn is_there(store: &Store, name: &str) -> bool {
    store.run(GetMeta { name: name.to_owned() }).await.unwrap().is_some()
}

fn open(url: &str, lanes: Lanes) -> Store {
    Store::new(Arc::new(Postgres::open_with(url, lanes, None).unwrap()))
}

const ONE_LANE: Lanes = Lanes::of(1, 1, 16);

/// Runs one statement after another, with a pause of the server's between them.
struct Slow {
    name: String,
    statements: &'static [Stmt],
}

impl Op for Slow {
    type Out = ();
    const NAME: &'static str = "slow";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        PutMeta { name: self.name.clone(), value: Some("1".to_owned()) }.run(tx).await?;
        for stmt in self.statements {
            tx.rows(stmt, &[]).await?;
        }
        Ok(())
    }
}

static PAUSE: [Stmt; 1] = [both("select 1 from pg_sleep(0.3)")];

static LONG: [Stmt; 1] = [both("select 1 from pg_sleep(3)")];

#[tokio::test]
async fn who_is_held_up_holds_up_nobody_else() {
    let Some(url) = database() else { return };
    let store = open(&url, Lanes { standby: true, ..ONE_LANE });
    let held = spawn(&store, Slow { name: "held".to_owned(), statements: &LONG });
    let at_it = "select count(*) from pg_stat_activity where query like '%pg_sleep(3)%' and application_name = 'provisor'";
    while sql(&url, at_it) != ["1"] {
        assert!(!held.is_finished(), "it was not seen at it");
        tokio::task::yield_now().await;
    }
    for name in ["a", "b", "c"] {
        assert_eq!(store.run(put(name, Then::Succeed)).await, Ok(name.to_owned()));
    }
    assert!(!is_there(&store, "held").await, "it is still at it");
    held.await.unwrap().unwrap();
    assert!(is_there(&store, "held").await);
}

static STUCK: [Stmt; 1] = [both("select 1 from pg_sleep(30)")];

#[tokio::test]
async fn a_statement_that_is_stuck_is_ended_and_said_so() {
    let Some(url) = database() else { return };
    let store = open(&url, Lanes { statement_limit: Duration::from_millis(200), ..ONE_LANE });
    let stuck = store.run(Slow { name: "stuck".to_owned(), statements: &STUCK }).await;
    assert!(matches!(&stuck, Err(OpError::Database(text)) if text.contains("took longer than it may")), "{stuck:?}");
    assert!(!is_there(&store, "stuck").await);
    assert_eq!(store.run(put("next", Then::Succeed)).await, Ok("next".to_owned()));
}

fn spawn<O: Op>(store: &Store, op: O) -> tokio::task::JoinHandle<Result<O::Out, OpError>> {
    let store = store.clone();
    tokio::spawn(async move { store.run(op).await })
}

async fn together<O: Op>(store: &Store, operations: Vec<O>) -> Vec<Result<O::Out, OpError>> {
    let held = spawn(store, Slow { name: "held".to_owned(), statements: &PAUSE });
    tokio::task::yield_now().await;
    let waiting: Vec<_> = operations.into_iter().map(|op| spawn(store, op)).collect();
    held.await.unwrap().unwrap();
    let mut answers = Vec::new();
    for task in waiting {
        answers.push(task.await.unwrap());
    }
    answers
}

/// Stands still in the middle of its transaction until it is told to go on, as in a process that was stopped.
struct Frozen(Arc<Notify>);

impl Op for Frozen {
    type Out = ();
    const NAME: &'static str = "frozen";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        PutMeta { name: "held".to_owned(), value: Some("1".to_owned()) }.run(tx).await?;
        self.0.notified().await;
        Ok(())
    }
}

#[tokio::test]
async fn what_a_frozen_process_has_locked_is_free_before_a_lease_would_be() {
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    store.run(PutMeta { name: "held".to_owned(), value: Some("0".to_owned()) }).await.unwrap();
    let go_on = Arc::new(Notify::new());
    let frozen = spawn(&store, Frozen(Arc::clone(&go_on)));
    // The transaction of another process; its own waits for the row until the server ends the frozen one's.
    let other = open(&url, ONE_LANE);
    let holds = async {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and state = 'idle in transaction'";
        while sql(&url, waiting).first().is_none_or(|n| n == "0") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), holds).await.expect("it holds the row");
    let second = other.run(PutMeta { name: "held".to_owned(), value: Some("2".to_owned()) });
    tokio::time::timeout(Duration::from_secs(9), second).await.expect("before a lease of 10 s ends").unwrap();
    go_on.notify_one();
    frozen.await.unwrap().expect_err("its transaction was ended");
    assert_eq!(store.run(GetMeta { name: "held".to_owned() }).await.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn one_refusal_does_not_spoil_its_neighbours_in_one_commit() {
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    let refused =
        [put("a", Then::Refuse), put("b", Then::Succeed), put("c", Then::Panic), put("d", Then::Succeed), put("e", Then::Refuse)];
    let answers = together(&store, refused.into()).await;
    assert_eq!(answers[0], Err(OpError::NotFound("anything")));
    assert_eq!(answers[1], Ok("b".to_owned()));
    assert!(matches!(&answers[2], Err(OpError::Corrupt(text)) if text.contains("on purpose")), "{:?}", answers[2]);
    assert_eq!(answers[3], Ok("d".to_owned()));
    for (name, expected) in [("a", false), ("b", true), ("c", false), ("d", true), ("e", false)] {
        assert_eq!(is_there(&store, name).await, expected, "{name}");
    }
    let transactions = sql(&url, "select count(distinct xmin::text) from meta where name in ('b', 'd')");
    assert_eq!(transactions, ["2"], "each is in a savepoint of its own");
}

#[tokio::test]
async fn what_joins_is_done_as_one_and_alone_where_that_fails() {
    let joining = |name: &str, then| Joining { name: name.to_owned(), then };
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    let all = vec![joining("a", Then::Succeed), joining("b", Then::Refuse), joining("c", Then::Succeed)];
    assert_eq!(together(&store, all).await, [Ok(3), Err(OpError::NotFound("anything")), Ok(3)]);
    let transactions = sql(&url, "select count(distinct xmin::text) from meta where name in ('a', 'c')");
    assert_eq!(transactions, ["1"]);
    for then in [Then::Panic, Then::SpoilCommit] {
        let all = vec![joining("d", Then::Succeed), joining("e", then), joining("f", Then::Succeed)];
        let answers = together(&store, all).await;
        assert_eq!((&answers[0], &answers[2]), (&Ok(1), &Ok(1)), "each is done alone");
        assert!(answers[1].is_err(), "{:?}", answers[1]);
    }
    for (name, expected) in [("a", true), ("b", false), ("c", true), ("d", true), ("e", false), ("f", true)] {
        assert_eq!(is_there(&store, name).await, expected, "{name}");
    }
}

#[tokio::test]
async fn a_statement_that_fails_takes_only_its_operation_with_it() {
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    // `pragma` is no statement of PostgreSQL.
    let answers = together(&store, vec![put("a", Then::Succeed), put("b", Then::SpoilCommit), put("c", Then::Succeed)]).await;
    assert_eq!((&answers[0], &answers[2]), (&Ok("a".to_owned()), &Ok("c".to_owned())));
    assert!(matches!(&answers[1], Err(OpError::Database(_))), "{:?}", answers[1]);
    assert!(!is_there(&store, "b").await);
    assert!(matches!(store.run(put("b", Then::SpoilCommit)).await, Err(OpError::Database(_))));
    assert_eq!(store.run(put("b", Then::Succeed)).await, Ok("b".to_owned()));
}

static LIE: Stmt = both("insert into meta (name, value) values ('lie', 'lie')");
struct Liar;
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
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    assert!(matches!(store.run(Liar).await, Err(OpError::Database(_))));
    assert!(!is_there(&store, "lie").await);
}

#[tokio::test]
async fn what_is_queued_is_done_although_nobody_waits() {
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    let held = spawn(&store, Slow { name: "held".to_owned(), statements: &PAUSE });
    tokio::task::yield_now().await;
    let dropped = tokio::time::timeout(Duration::from_millis(1), store.run(put("a", Then::Succeed))).await;
    assert!(dropped.is_err());
    held.abort();
    drop(held.await);
    drop(store);
    assert_eq!(sql(&url, "select name from meta order by name"), ["a", "held"]);
}

/// Ends the store's sessions. The one that asks is not among them.
const KICK: &str = "select pg_terminate_backend(pid) from pg_stat_activity \
     where datname = current_database() and application_name = 'provisor' and pid <> pg_backend_pid()";

#[tokio::test]
async fn connections_that_ended_are_opened_again() {
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    for round in 0..3 {
        let name = format!("a{round}");
        assert_eq!(store.run(put(&name, Then::Succeed)).await, Ok(name.clone()));
        assert!(is_there(&store, &name).await);
        sql(&url, KICK);
    }
}

#[tokio::test]
async fn a_connection_lost_before_the_commit_stores_nothing() {
    static SELF: [Stmt; 1] = [both("select 1 from pg_terminate_backend(pg_backend_pid())")];
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    let answer = store.run(Slow { name: "a".to_owned(), statements: &SELF }).await;
    assert!(matches!(&answer, Err(OpError::Database(_))), "{answer:?}");
    assert!(!is_there(&store, "a").await);
}

#[tokio::test]
async fn h20_a_connection_lost_during_the_commit_is_unknown() {
    let Some(url) = database() else { return };
    let store = open(&url, ONE_LANE);
    store.run(put("first", Then::Succeed)).await.unwrap();
    // A deferred trigger runs within the commit and ends its own session.
    sql(
        &url,
        "create function end_session() returns trigger language plpgsql as
         'begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(1); return null; end';
         create constraint trigger at_commit after insert on meta deferrable initially deferred
         for each row when (new.name = 'lost') execute function end_session()",
    );
    let answer = store.run(put("lost", Then::Succeed)).await;
    assert!(matches!(&answer, Err(OpError::Unknown(_))), "{answer:?}");
    assert_eq!(store.run(put("next", Then::Succeed)).await, Ok("next".to_owned()));
}

#[tokio::test]
async fn a_deadlock_is_run_again() {
    static FIRST: [Stmt; 3] = [
        both("select value from meta where name = 'x' for update"),
        both("select 1 from pg_sleep(0.3)"),
        both("select value from meta where name = 'y' for update"),
    ];
    static SECOND: [Stmt; 3] = [
        both("select value from meta where name = 'y' for update"),
        both("select 1 from pg_sleep(0.3)"),
        both("select value from meta where name = 'x' for update"),
    ];
    let Some(url) = database() else { return };
    let store = open(&url, Lanes::of(2, 1, 1));
    for name in ["x", "y"] {
        store.run(put(name, Then::Succeed)).await.unwrap();
    }
    let one = spawn(&store, Slow { name: "one".to_owned(), statements: &FIRST });
    let two = spawn(&store, Slow { name: "two".to_owned(), statements: &SECOND });
    assert_eq!((one.await.unwrap(), two.await.unwrap()), (Ok(()), Ok(())));
    assert_eq!(sql(&url, "select deadlocks::text from pg_stat_get_db_deadlocks((select oid from pg_database where datname = current_database())) d(deadlocks)").len(), 1);
}

#[tokio::test]
async fn h40_the_clock_is_the_servers_and_goes_on_between_operations() {
    let Some(world) = World::postgres() else { return };
    let first = world.store.now();
    while world.store.now() == first {
        tokio::task::yield_now().await;
    }
    let before = world.store.now();
    let tenant = world.tenant("acme").await;
    let after = world.store.now();
    // The server is on this machine; half of a round trip may be on either side.
    let slack = Span::seconds(1);
    assert!(before <= tenant.created_at.plus(slack) && tenant.created_at <= after.plus(slack), "{before:?} {tenant:?} {after:?}");
    let run = world.request(&tenant, "db", State::Queued).await;
    assert!(run.created_at.0 > 0);
}

/// How fast small writes are; run by hand: `cargo test -p provisor-store --release speed -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn speed_of_small_writes() {
    let Some(url) = database() else { return };
    for (writers, group) in [(1, 1), (1, 16), (1, 64), (2, 16), (4, 1), (4, 16), (8, 1), (8, 16)] {
        let store = open(&url, Lanes::of(writers, 2, group));
        let (callers, each) = (64, 100);
        let start = tokio::time::Instant::now();
        let caller = |caller| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..each {
                    let op = PutMeta { name: format!("{writers}-{group}-{caller}-{n}"), value: Some("1".to_owned()) };
                    store.run(op).await.unwrap();
                }
            })
        };
        for task in (0..callers).map(caller).collect::<Vec<_>>() {
            task.await.unwrap();
        }
        println!(
            "{writers} writers, groups of {group}: {:.0} writes/s",
            f64::from(callers * each) / start.elapsed().as_secs_f64()
        );
    }
}
