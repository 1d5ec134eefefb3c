//! Drives a system: so many clients, each with one request in the air, from sending it to having seen that
//! it is completed.
//!
//! Provisor tells completions on one stream of events that all clients share, as a real caller would have
//! them. A floor answers the call when the last of its commits is durable: it has no readers.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::client::{Connection, Events};
use crate::machine::{self, Usage};
use crate::options::Options;
use crate::system::System;
use crate::{BenchError, Done, world};

/// Not measured: connections, caches, the first pages of the database.
const WARM_UP: Duration = Duration::from_secs(1);
/// A request that takes longer is an error.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

/// What one measurement brought, or several of the same together.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    /// In milliseconds; one of each completed request.
    pub(crate) latencies_ms: Vec<f64>,
    /// CPU time of the system in the measured window.
    pub(crate) cpu_ms: f64,
    /// CPU time of its database's server.
    pub(crate) database_cpu_ms: f64,
    /// Flushes of the data's disk by whomever, in the measured window.
    pub(crate) device_flushes: Option<u64>,
    /// CPU time that other work took meanwhile.
    pub(crate) others_ms: f64,
}

impl Measured {
    /// Takes in a further round.
    pub(crate) fn add(&mut self, round: Self) {
        self.device_flushes = if self.seconds == 0.0 {
            round.device_flushes
        } else {
            self.device_flushes.zip(round.device_flushes).map(|(a, b)| a + b)
        };
        self.seconds += round.seconds;
        self.latencies_ms.extend(round.latencies_ms);
        self.cpu_ms += round.cpu_ms;
        self.database_cpu_ms += round.database_cpu_ms;
        self.others_ms += round.others_ms;
    }
}

/// Who waits for which request.
#[derive(Default)]
struct Waiting {
    by_id: BTreeMap<String, oneshot::Sender<()>>,
    /// Told before the answer of the call came.
    early: BTreeMap<String, ()>,
}

type Board = Rc<RefCell<Waiting>>;

#[derive(Deserialize)]
struct Told {
    subject: String,
}

#[derive(Deserialize)]
struct Accepted {
    id: String,
}

struct Shared {
    address: SocketAddr,
    token: String,
    vps: bool,
    floor: bool,
    board: Board,
    latencies: Rc<RefCell<Vec<f64>>>,
    counter: Rc<RefCell<u64>>,
    from: Instant,
    until: Instant,
}

/// Runs one level of concurrency.
pub(crate) async fn measure(system: &mut System, concurrency: usize, options: &Options) -> Done<Measured> {
    let local = tokio::task::LocalSet::new();
    local.run_until(drive(system, concurrency, options)).await
}

async fn drive(system: &mut System, concurrency: usize, options: &Options) -> Done<Measured> {
    let from = Instant::now() + WARM_UP;
    let shared = Rc::new(Shared {
        address: system.address,
        token: system.token.clone(),
        vps: system.name.is_vps(),
        floor: system.name.is_floor(),
        board: Board::default(),
        latencies: Rc::default(),
        counter: Rc::clone(&system.counter),
        from,
        until: from + options.length,
    });
    let mut clients = JoinSet::new();
    let follower = if shared.floor {
        None
    } else {
        let stream = Connection::open(shared.address, &shared.token).await?;
        let events = stream.follow("/api/events/stream?type=provisioning.completed").await?;
        Some(tokio::task::spawn_local(follow(events, Rc::clone(&shared.board))))
    };
    for _ in 0..concurrency {
        clients.spawn_local(client(Rc::clone(&shared)));
    }
    tokio::time::sleep_until(shared.from.into()).await;
    let before = Usage::now(system)?;
    tokio::time::sleep_until(shared.until.into()).await;
    let after = Usage::now(system)?;
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|e| BenchError::Wrong(e.to_string()))??;
    }
    if let Some(follower) = follower {
        follower.abort();
    }
    Ok(machine::measured(&before, &after, shared.latencies.take()))
}

async fn client(shared: Rc<Shared>) -> Done {
    let mut connection = Connection::open(shared.address, &shared.token).await?;
    while Instant::now() < shared.until {
        let n = {
            let mut counter = shared.counter.borrow_mut();
            *counter += 1;
            *counter
        };
        let begin = Instant::now();
        let one = one(&mut connection, &shared, n);
        tokio::time::timeout(REQUEST_LIMIT, one).await.map_err(|_| BenchError::Wrong(format!("request {n} does not end")))??;
        let end = Instant::now();
        if end >= shared.from && end < shared.until {
            shared.latencies.borrow_mut().push((end - begin).as_secs_f64() * 1000.0);
        }
    }
    Ok(())
}

/// One request, to its completion.
async fn one(connection: &mut Connection, shared: &Shared, n: u64) -> Done {
    let body = world::request(n, shared.vps);
    let answer = connection.call("POST", "/api/requests", &body).await?;
    if answer.status != 202 {
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        return Err(BenchError::Wrong(format!("a request was answered {}: {text}", answer.status)));
    }
    if shared.floor {
        return Ok(());
    }
    let accepted: Accepted = serde_json::from_slice(&answer.body).map_err(|e| BenchError::Wrong(e.to_string()))?;
    let told = {
        let mut board = shared.board.borrow_mut();
        if board.early.remove(&accepted.id).is_some() {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        board.by_id.insert(accepted.id, tell);
        told
    };
    told.await.map_err(|_| BenchError::Wrong("the stream of events ended".to_owned()))
}

/// Passes on each completion to whom it concerns.
async fn follow(mut events: Events, board: Board) {
    while let Ok(data) = events.next().await {
        let Ok(told) = serde_json::from_str::<Told>(&data) else { continue };
        let mut board = board.borrow_mut();
        match board.by_id.remove(&told.subject) {
            Some(waiting) => drop(waiting.send(())),
            None => drop(board.early.insert(told.subject, ())),
        }
    }
    // Whoever waits sees that nobody tells any more.
    board.borrow_mut().by_id.clear();
}
