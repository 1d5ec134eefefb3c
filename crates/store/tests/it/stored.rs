//! What a million stored requests cost: lists, reads, timelines, the feed, admission, claim and settlement with so many
//! in the store, beside the same with ten thousand.
//!
//! `cargo xtask bench --stored 1000000` runs it in a release build and keeps `docs/bench/stored.json`. A hundred requests
//! are driven through their lives by the real operations; their rows are then copied by SQL, each copy with ids, names and
//! places in the log of its own. Both sizes are measured in turns, because other work on the machine comes and goes.
//! Rejected: rows written by hand, which look like ours until somebody changes the format; over HTTP, which costs the same
//! at every size and hides a part of the difference.

#![allow(clippy::print_stdout, reason = "a measurement prints its table")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use provisor_core::id::{Id, Named};
use provisor_core::run::Command;
use provisor_core::{Kind, RequestId, Span, State, TenantId};
use provisor_store::clock::{Clock, ManualClock};
use provisor_store::driver::postgres::Lanes;
use provisor_store::driver::{Driver, Postgres, Sqlite};
use provisor_store::ops::admit::Idempotency;
use provisor_store::ops::log::{EntriesOf, Feed, Head};
use provisor_store::ops::requests::{GetRequest, ListRequests};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::build::{Folder, START};
use crate::pipeline::scene::{Lease, Scene, managed, spec};

const SMALL: u64 = 10_000;
const LARGE: u64 = 1_000_000;
/// Requests that are driven through their lives, each of a tenant of its own.
const ORIGINALS: u64 = 100;
const ROUNDS: usize = 200;
/// What may be slower with so many more, and by how much.
const LIMIT: f64 = 1.2;
/// The letters of an id that tell its moment. The originals all have the same, so that copying is one replacement.
const MOMENT: usize = 10;
/// Tables whose rows belong to a request.
const TABLES: [&str; 5] = ["request", "label", "resource", "event", "idempotency"];
/// Columns that count the log; each copy of the originals goes on where the one before ended.
const PLACES: [&str; 2] = ["position", "place"];

/// The original of each kind of life.
#[derive(Clone, Copy)]
struct Originals {
    moment: [char; MOMENT],
    completed: RequestId,
    released: RequestId,
    tenant: TenantId,
}

fn moment_of<K: Named>(id: Id<K>) -> [char; MOMENT] {
    let letters: Vec<char> = id.letters().chars().take(MOMENT).collect();
    letters.try_into().unwrap()
}

/// Of a hundred: 69 stand, 20 were released, 10 wait for somebody's input, one is in the queue.
async fn originals(scene: &Scene) -> Originals {
    let mut tenants = Vec::new();
    for n in 0..ORIGINALS {
        tenants.push(scene.tenant(&format!("t{n}"), json!({"max_concurrent": 1000})).await.id);
    }
    for n in 0..4 {
        let much = json!({"cpu": 90_000_000, "memory_gb": 90_000_000, "storage_gb": 90_000_000, "slots": 90_000_000});
        scene.cluster(&format!("c{n}"), json!({"capacity": much})).await;
    }
    scene.clock.advance(Span::seconds(1));
    let now = || -> RequestId { scene.id() };
    let moment = moment_of(now());
    let word: String = moment.iter().collect();
    let (mut completed, mut released) = (None, None);
    for n in 0..ORIGINALS {
        let (name, tenant) = (format!("n{n}-{word}"), format!("t{n}"));
        let extra = json!({"tenant": tenant, "labels": {"role": format!("r{}", n % 20), "team": "blue"}});
        let spec = match n % 10 {
            8 => provisor_core::Spec { tenant, ..managed(&name) },
            _ => spec(&name, extra),
        };
        let key = Idempotency { route: "POST /api/requests".to_owned(), key: name, fingerprint: "f".to_owned() };
        let id = scene.store.run(scene.admission(vec![spec], Some(key))).await.unwrap()[0].run.id;
        match n % 10 {
            8 => scene.until(id, State::Configuring).await,
            9 if n == ORIGINALS - 1 => continue,
            6 | 7 => {
                scene.until(id, State::Completed).await;
                scene.ask(id, Command::Deprovision { reason: None, force: false }).await.unwrap();
                released = Some(id);
                scene.until(id, State::RolledBack).await
            }
            _ => {
                completed = completed.or(Some(id));
                scene.until(id, State::Completed).await
            }
        };
    }
    assert_eq!(moment_of(now()), moment, "time stood still");
    scene.store.run(Head).await.unwrap();
    Originals { moment, completed: completed.unwrap(), released: released.unwrap(), tenant: tenants[0] }
}

/// The columns of a copy: `{k}` is its number, `as_digits` that number as ten digits.
fn copied(columns: &[(String, bool)], moment: &str, as_digits: &str, places: i64) -> String {
    let column = |(name, is_text): &(String, bool)| match (is_text, PLACES.contains(&name.as_str())) {
        (true, _) => format!("replace({name}, '{moment}', {as_digits})"),
        (false, true) => format!("{name} + k.n * {places}"),
        (false, false) => name.clone(),
    };
    columns.iter().map(column).collect::<Vec<_>>().join(", ")
}

fn names(columns: &[(String, bool)]) -> String {
    columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
}

fn copy_on_sqlite(path: &std::path::Path, moment: &str, copies: u64) {
    let connection = Connection::open(path).unwrap();
    let quick = "pragma journal_mode = off; pragma synchronous = off; pragma cache_size = -1000000; pragma temp_store = memory;";
    connection.execute_batch(quick).unwrap();
    let places: i64 = connection.query_row("select max(position) from event", [], |row| row.get(0)).unwrap();
    for table in TABLES {
        let mut statement = connection.prepare(&format!("select name, type from pragma_table_info('{table}')")).unwrap();
        let columns = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.eq_ignore_ascii_case("text"))));
        let columns: Vec<(String, bool)> = columns.unwrap().map(Result::unwrap).collect();
        let values = copied(&columns, moment, "printf('%010d', k.n)", places);
        let names = names(&columns);
        let copy = format!(
            "create temp table original as select * from main.{table}; begin;
             insert into main.{table} ({names}) select {values} from
               (with recursive s (n) as (select 1 union all select n + 1 from s where n < {copies}) select n from s) as k
               cross join original;
             commit; drop table original;"
        );
        connection.execute_batch(&copy).unwrap_or_else(|e| panic!("{table}: {e}"));
    }
}

fn copy_on_postgres(url: &str, moment: &str, copies: u64) {
    let ask = |text: &str| crate::postgres::sql(url, text);
    let places: i64 = ask("select max(place) from feed")[0].parse().unwrap();
    assert_eq!(ask("select count(*) from event")[0], ask("select count(*) from feed")[0], "each has its place");
    let rows: i64 = ask("select max(position) from event")[0].parse().unwrap();
    for table in TABLES.into_iter().chain(["feed"]) {
        let list = format!(
            "select column_name || ' ' || data_type from information_schema.columns where table_name = '{table}' order by 1"
        );
        let columns: Vec<(String, bool)> =
            ask(&list).iter().filter_map(|l| l.split_once(' ')).map(|(name, kind)| (name.to_owned(), kind == "text")).collect();
        let values = copied(&columns, moment, "lpad(k.n::text, 10, '0')", places);
        // The rows of `event` are counted by another number than the events in them.
        let values = values.replace(&format!("position + k.n * {places}"), &format!("position + k.n * {rows}"));
        let names = names(&columns);
        ask(&format!(
            "set synchronous_commit = off; create temp table original as select * from {table};
             insert into {table} ({names}) select {values} from generate_series(1, {copies}) as k (n) cross join original"
        ));
    }
    ask("update feed_state set head = (select max(place) from feed);
         select setval(pg_get_serial_sequence('event', 'position'), (select max(position) from event))");
    // As the server does by itself after a while.
    ask("vacuum analyze");
    ask("checkpoint");
}

/// A store of one size.
struct Filled {
    scene: Scene,
    originals: Originals,
    copies: u64,
    head: i64,
    turn: u64,
}

impl Filled {
    async fn new(size: u64, open: impl Fn(Clock) -> Arc<dyn Driver>, copy: impl Fn(&str, u64)) -> Self {
        let begin = Instant::now();
        let scene = |at| {
            let clock = ManualClock::new(at);
            Scene::over(open(clock.clock()), clock, None)
        };
        // Closed before its rows are copied, as it may remember where the log ends.
        let originals = originals(&scene(START)).await;
        let copies = size / ORIGINALS - 1;
        copy(&originals.moment.iter().collect::<String>(), copies);
        let scene = scene(START.plus(Span::seconds(60)));
        let head = scene.store.run(Head).await.unwrap();
        println!("{size} requests and {head} events are there after {:.0} s", begin.elapsed().as_secs_f64());
        Self { scene, originals, copies, head, turn: 0 }
    }

    /// The same request in another copy each time, all over the younger half of the store.
    fn copy_of(&self, original: RequestId) -> RequestId {
        let half = self.copies / 2;
        let number = half + (self.turn * 7919) % half;
        let letters = original.letters();
        format!("req_{number:010}{}", &letters[MOMENT..]).parse().unwrap()
    }

    /// One measurement; the duration is of the operation alone.
    async fn once(&mut self, what: &str) -> Duration {
        self.turn += 1;
        let store = &self.scene.store;
        let page = ListRequests { limit: 50, ..Default::default() };
        let deep = || Some(self.copy_of(self.originals.completed));
        let list = |list: ListRequests| async move {
            let begin = Instant::now();
            let found = store.run(list).await.unwrap();
            assert!(!found.items.is_empty());
            begin.elapsed()
        };
        let tenant = Some(self.originals.tenant);
        let feed = |feed: Feed| async move {
            let begin = Instant::now();
            assert!(!store.run(feed).await.unwrap().entries.is_empty());
            begin.elapsed()
        };
        let middle = self.head / 2;
        match what {
            "list" => list(page).await,
            "list, deep" => list(ListRequests { cursor: deep(), ..page }).await,
            "list by state" => list(ListRequests { state: Some(State::Completed), ..page }).await,
            "list by state, deep" => list(ListRequests { state: Some(State::RolledBack), cursor: deep(), ..page }).await,
            "list by a rare state" => list(ListRequests { state: Some(State::Queued), ..page }).await,
            "list by tenant" => list(ListRequests { tenant, ..page }).await,
            "list by tenant and state, deep" => {
                list(ListRequests { tenant, state: Some(State::Completed), cursor: deep(), ..page }).await
            }
            "list by kind, deep" => list(ListRequests { kind: Some(Kind::Managed), cursor: deep(), ..page }).await,
            "list by label, deep" => {
                list(ListRequests { label: Some(("role".to_owned(), "r3".to_owned())), cursor: deep(), ..page }).await
            }
            "list by name" => {
                let id = self.copy_of(self.originals.completed);
                let name = format!("n0-{}", &id.letters()[..MOMENT]);
                list(ListRequests { name: Some(name), ..page }).await
            }
            "get" => {
                let id = self.copy_of(self.originals.released);
                let begin = Instant::now();
                assert!(store.run(GetRequest { id, scope: None }).await.unwrap().is_some());
                begin.elapsed()
            }
            "timeline" => {
                let subject = self.copy_of(self.originals.released);
                let begin = Instant::now();
                assert!(store.run(EntriesOf { subject, after: 0 }).await.unwrap().len() > 5);
                begin.elapsed()
            }
            "feed, deep" => feed(Feed { after: middle, limit: 100, ..Default::default() }).await,
            "feed of a tenant, deep" => feed(Feed { after: middle, tenant, limit: 10, ..Default::default() }).await,
            "admit" => {
                let extra = json!({"tenant": format!("t{}", self.turn % ORIGINALS)});
                let admission = self.scene.admission(vec![spec(&format!("new-{}", self.turn), extra)], None);
                let begin = Instant::now();
                store.run(admission).await.unwrap();
                begin.elapsed()
            }
            _ => panic!("{what}?"),
        }
    }

    /// A claim, and all of its settlements.
    async fn work(&self) -> [Duration; 2] {
        let begin = Instant::now();
        let mut claimed = self.scene.claim("w", 1).await.claimed;
        let claim = begin.elapsed();
        let lease = Lease::of("w", claimed.remove(0));
        let begin = Instant::now();
        assert_eq!(self.scene.drive(lease).await.state, State::Completed);
        [claim, begin.elapsed()]
    }
}

const READS: [&str; 14] = [
    "list",
    "list, deep",
    "list by state",
    "list by state, deep",
    "list by a rare state",
    "list by tenant",
    "list by tenant and state, deep",
    "list by kind, deep",
    "list by label, deep",
    "list by name",
    "get",
    "timeline",
    "feed, deep",
    "feed of a tenant, deep",
];
const WRITES: [&str; 3] = ["admit", "claim", "settle to the end"];

fn median(all: &mut [Duration]) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1e6
}

/// Both in turns; what was measured, as a table and as JSON, and what is not flat.
async fn compare(database: &str, mut filled: [Filled; 2]) -> (Vec<Value>, String) {
    let mut times: Vec<[Vec<Duration>; 2]> = (READS.iter().chain(&WRITES)).map(|_| Default::default()).collect();
    for round in 0..ROUNDS {
        // Who is first has the colder caches.
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            for (index, what) in READS.iter().chain(&WRITES[..1]).enumerate() {
                times[index][which].push(filled[which].once(what).await);
            }
            let [claim, settle] = filled[which].work().await;
            times[READS.len() + 1][which].push(claim);
            times[READS.len() + 2][which].push(settle);
        }
    }
    let (mut rows, mut slow) = (Vec::new(), String::new());
    for (what, [small, large]) in READS.iter().chain(&WRITES).zip(&mut times) {
        let (small, large) = (median(small), median(large));
        let ratio = large / small;
        println!("| {database} | {what} | {small:.0} | {large:.0} | {ratio:.2} |");
        if ratio > LIMIT {
            writeln!(slow, "{database}: {what} is {ratio:.2} times as slow").unwrap();
        }
        rows.push(json!({"database": database, "operation": what, "small_us": small.round(), "large_us": large.round(),
            "ratio": (ratio * 100.0).round() / 100.0}));
    }
    (rows, slow)
}

fn large() -> u64 {
    std::env::var("PROVISOR_BENCH_STORED").map_or(LARGE, |text| text.parse().expect("a number"))
}

async fn on_sqlite() -> (Vec<Value>, String) {
    let folders = [Folder::new(), Folder::new()];
    let mut both = Vec::new();
    for (folder, size) in folders.iter().zip([SMALL, large()]) {
        let path = folder.database();
        let open = |clock| Arc::new(Sqlite::open_with_clock(&path, clock).unwrap()) as Arc<dyn Driver>;
        both.push(Filled::new(size, open, |moment, copies| copy_on_sqlite(&path, moment, copies)).await);
    }
    let done = compare("sqlite", both.try_into().ok().unwrap()).await;
    drop(folders);
    done
}

async fn on_postgres() -> Option<(Vec<Value>, String)> {
    let mut both = Vec::new();
    for size in [SMALL, large()] {
        let url = crate::postgres::database()?;
        let open = |clock| Arc::new(Postgres::open_with(&url, Lanes::default(), Some(clock)).unwrap()) as Arc<dyn Driver>;
        both.push(Filled::new(size, open, |moment, copies| copy_on_postgres(&url, moment, copies)).await);
    }
    Some(compare("postgres", both.try_into().ok().unwrap()).await)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of many minutes"]
async fn a_million_stored_requests_are_as_fast_as_ten_thousand() {
    println!("| database | operation | µs at {SMALL} | µs at {} | ratio |\n|---|---|---|---|---|", large());
    let only = std::env::var("PROVISOR_BENCH_DATABASE").unwrap_or_default();
    let (mut rows, mut slow) = if only == "postgres" { Default::default() } else { on_sqlite().await };
    if only != "sqlite"
        && let Some((more, also)) = on_postgres().await
    {
        rows.extend(more);
        slow += &also;
    }
    if let Some(out) = std::env::var_os("PROVISOR_BENCH_OUT") {
        let text = serde_json::to_string_pretty(&json!({"stored": [SMALL, large()], "rounds": ROUNDS, "rows": rows})).unwrap();
        std::fs::write(out, text + "\n").unwrap();
    }
    assert!(slow.is_empty(), "more than {LIMIT} times as slow:\n{slow}");
}
