//! Eight processes that write with their transactions open for a while, and readers that lose, repeat and reverse
//! nothing (H34).
//!
//! Ten seconds by default; `PROVISOR_TEST_WRITERS_SECONDS=60` for the whole minute, with `--nocapture` for the numbers.
//! The transactions are the real ones, held open by a trigger of the test's database after each insert into the log, so
//! that they commit in another order than they wrote in.

#![allow(clippy::print_stdout, reason = "a long run says what it saw")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::house::LIMIT;
use crate::outside::{Http, list, text, wait_up_to};
use crate::postgres::sql;
use crate::processes::{Stage, TOKEN};

/// Processes that write: two that answer, and these that work.
const WORKERS: usize = 6;
/// Each of so many ask at a time, so that several transactions are always open.
const CLIENTS: usize = 8;
const DAWDLE: &str = "create function dawdle() returns trigger language plpgsql as \
    $$ begin perform pg_sleep(random() * 0.01); return null; end $$; \
    create trigger dawdle after insert on event for each statement execute function dawdle()";

/// An event as all readers must see it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    id: String,
    subject: String,
    sequence: u64,
}

impl Seen {
    fn of(event: &Value) -> Self {
        let sequence = text(event, "/sequence").parse().unwrap();
        Self { id: text(event, "/id").to_owned(), subject: text(event, "/subject").to_owned(), sequence }
    }
}

/// Follows the feed by its cursor until the writers are done and nothing more comes.
fn by_cursor(http: &Http, limit: usize, done: &AtomicBool) -> Vec<Seen> {
    let (mut seen, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let last_look = done.load(Ordering::SeqCst);
        let page = http.get(&format!("/api/events?limit={limit}&after={after}"));
        let items = list(&page, "/items");
        seen.extend(items.iter().map(Seen::of));
        let next = text(&page, "/next_cursor").to_owned();
        if items.is_empty() && next == after && last_look {
            return seen;
        }
        after = next;
        std::thread::sleep(Duration::from_millis(if items.is_empty() { 20 } else { 0 }));
    }
}

/// Follows the live stream until it has given the event that is last of all. It is cut off now and then, and goes on
/// with what it saw last.
fn by_stream(address: &str, last: &std::sync::Mutex<Option<String>>, cut_after: usize) -> Vec<Seen> {
    let (mut seen, mut cursor) = (Vec::new(), "0".to_owned());
    let begin = Instant::now();
    loop {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let head = format!(
            "GET /api/events/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\nlast-event-id: {cursor}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let (mut lines, mut count, mut id) = (BufReader::new(stream), 0, String::new());
        let mut line = Vec::new();
        while count < cut_after {
            assert!(begin.elapsed() < LIMIT * 5, "{} events by stream", seen.len());
            match lines.read_until(b'\n', &mut line) {
                Ok(0) => break,
                Ok(_) => {}
                // What is there of a line so far stays.
                Err(_) => {
                    let all_of_it = last.lock().unwrap().clone();
                    if all_of_it.is_some_and(|last| seen.last().is_some_and(|s: &Seen| s.id == last)) {
                        return seen;
                    }
                    continue;
                }
            }
            let told = String::from_utf8(std::mem::take(&mut line)).unwrap();
            if let Some(position) = told.strip_prefix("id:") {
                position.trim().clone_into(&mut id);
            } else if let Some(data) = told.strip_prefix("data:") {
                let event: Value = serde_json::from_str(data.trim()).unwrap_or_else(|e| panic!("{e}: {told}"));
                seen.push(Seen::of(&event));
                cursor.clone_from(&id);
                count += 1;
            }
        }
    }
}

/// Asks for servers, releases some, cancels some, until the time is over.
fn write(http: &Http, client: usize, until: Instant, asked: &AtomicUsize) {
    for n in 0.. {
        if Instant::now() > until {
            return;
        }
        let order = |m: usize| {
            json!({"name": format!("c{client}-{n}-{m}"), "tenant": "acme", "kind": "vps", "region": "eu-west-1",
                "image": "debian-12", "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}})
        };
        // Batches against single calls.
        let (path, body) = match n % 3 {
            0 => ("/api/requests/batch", json!({"requests": [order(0), order(1), order(2)]})),
            _ => ("/api/requests", order(0)),
        };
        let answer = http.post(path, &body);
        if answer.status == 422 {
            // So many stand that the quota is used up; what is cancelled gives some back.
            assert_eq!(answer.json()["code"], "quota_exceeded");
            std::thread::sleep(Duration::from_millis(100));
            continue;
        }
        let answer = answer.is(202);
        let made = answer.get("items").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![answer.clone()]);
        asked.fetch_add(made.len(), Ordering::SeqCst);
        for (m, request) in made.iter().enumerate() {
            // Whatever state it is in by now: one of the two is refused, and that is an answer.
            if (n + m) % 2 == 0 {
                http.post(&format!("/api/requests/{}/cancel", text(request, "/id")), &json!({"reason": "test"}));
            }
        }
    }
}

/// What every reader must have seen of the truth.
fn judge(name: &str, seen: &[Seen], truth: &[Seen]) -> [usize; 3] {
    let ids: BTreeSet<&Seen> = seen.iter().collect();
    let lost = truth.iter().filter(|event| !ids.contains(event)).count();
    let repeated = seen.len() - ids.len();
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut reversed = 0;
    for event in seen {
        let former = last.insert(&event.subject, event.sequence).unwrap_or(0);
        reversed += usize::from(event.sequence != former + 1);
    }
    println!("{name}: {} events, {lost} lost, {repeated} repeated, {reversed} out of order", seen.len());
    [lost, repeated, reversed]
}

#[test]
fn h34_readers_lose_repeat_and_reverse_nothing_among_eight_writing_processes() {
    let seconds = std::env::var("PROVISOR_TEST_WRITERS_SECONDS").map_or(10, |s| s.parse().expect("a number of seconds"));
    let Some(stage) = Stage::set(WORKERS) else { return };
    stage.register("");
    sql(&stage.url, DAWDLE);
    let addresses: Vec<String> = (0..2).map(|n| stage.address(n)).collect();
    let client = |n: usize| Http::open(&format!("http://{}", addresses[n % 2])).with_token(TOKEN);
    let (done, asked, last) = (AtomicBool::new(false), AtomicUsize::new(0), std::sync::Mutex::new(None));
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut open, mut looks) = (0, 0);
    let read = std::thread::scope(|scope| {
        let (done, last, asked) = (&done, &last, &asked);
        let cursors: Vec<_> = [(0, 7), (1, 100), (0, 500)]
            .map(|(n, limit)| (format!("cursor, pages of {limit}"), client(n), limit))
            .into_iter()
            .map(|(name, http, limit)| (name, scope.spawn(move || by_cursor(&http, limit, done))))
            .collect();
        let streams: Vec<_> = [(0, usize::MAX), (1, usize::MAX), (1, 97)]
            .map(|(n, cut)| (format!("stream {n}{}", if cut < 1000 { ", cut off each 97" } else { "" }), n, cut))
            .into_iter()
            .map(|(name, n, cut)| {
                let address = addresses[n].clone();
                (name, scope.spawn(move || by_stream(&address, last, cut)))
            })
            .collect();
        let writers: Vec<_> = (0..CLIENTS)
            .map(|n| {
                let http = client(n);
                scope.spawn(move || write(&http, n, until, asked))
            })
            .collect();
        let under_way = "select count(*) from pg_stat_activity where xact_start is not null and backend_xid is not null \
            and datname = current_database()";
        while Instant::now() < until {
            open += sql(&stage.url, under_way)[0].parse::<usize>().unwrap();
            looks += 1;
            std::thread::sleep(Duration::from_millis(200));
        }
        for writer in writers {
            writer.join().unwrap();
        }
        sql(&stage.url, "drop trigger dawdle on event");
        let ended = |r: &Value| ["completed", "rolled_back"].contains(&text(r, "/state"));
        wait_up_to(LIMIT * 5, "all has ended", || stage.http(0).requests().iter().all(ended).then_some(()));
        let truth: Vec<Seen> = stage.http(1).events().iter().map(Seen::of).collect();
        *last.lock().unwrap() = truth.last().map(|event| event.id.clone());
        done.store(true, Ordering::SeqCst);
        let read: Vec<(String, Vec<Seen>)> =
            cursors.into_iter().chain(streams).map(|(name, reader)| (name, reader.join().unwrap())).collect();
        (truth, read)
    });
    let (truth, read) = read;
    println!(
        "{} events of {} requests in {seconds} s by {} processes; {:.1} transactions that write open at a time",
        truth.len(),
        asked.load(Ordering::SeqCst),
        WORKERS + 2,
        f64::from(u32::try_from(open).unwrap()) / f64::from(looks.max(1))
    );
    assert_eq!(judge("again from the beginning", &truth, &truth), [0, 0, 0]);
    assert!(truth.len() > 100 && open > 0, "{} events", truth.len());
    for (name, seen) in &read {
        assert_eq!(judge(name, seen, &truth), [0, 0, 0], "{name}");
        assert_eq!(seen, &truth, "{name}: all see the same order");
    }
}
