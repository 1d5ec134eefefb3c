//! The floor: bare HTTP and durable rows, nothing else. What the machine allows for four durable steps.
//!
//! A call is six commits acknowledged one after the other: a row with its first event, then five guarded
//! updates with an event each. One writer folds whatever waits into one commit. There is no validation, no
//! login, no leases, no timers, no readers.

mod postgres;
mod sqlite;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::sync::{mpsc, oneshot};

use crate::options::Floor;
use crate::{Done, io};

/// Changes that may wait for the writer.
const QUEUE_LIMIT: usize = 4096;
/// Changes in one commit at most.
pub(crate) const GROUP_LIMIT: usize = 256;
/// States after the first.
const STATES: [&str; 5] = ["allocating", "configuring", "activating", "verifying", "completed"];

/// One change of one row, with its event.
pub(crate) struct Change {
    id: String,
    /// Of the row before it; 0 is the insert.
    version: i64,
    state: &'static str,
    body: String,
    done: oneshot::Sender<bool>,
}

/// Serves until it is ended.
pub(crate) fn run(floor: &Floor) -> Done {
    let (changes, queue) = mpsc::channel(QUEUE_LIMIT);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(io("a runtime"))?;
    if floor.postgres {
        runtime.block_on(async {
            postgres::start(&floor.at, queue).await?;
            serve(changes, &floor.listen_file).await
        })
    } else {
        // Its thread ends with the queue.
        drop(sqlite::start(&floor.at, queue)?);
        runtime.block_on(serve(changes, &floor.listen_file))
    }
}

async fn serve(changes: mpsc::Sender<Change>, file: &std::path::Path) -> Done {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.map_err(io("a listener"))?;
    let address = listener.local_addr().map_err(io("a listener"))?;
    std::fs::write(file, address.to_string()).map_err(io("the address"))?;
    let router = Router::new().route("/api/requests", post(one)).with_state(Arc::new(changes));
    axum::serve(listener, router).await.map_err(io("serving"))
}

static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);

async fn one(State(changes): State<Arc<mpsc::Sender<Change>>>, body: String) -> StatusCode {
    let id = format!("req_{:026}", COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
    for (version, state) in (0..).zip(std::iter::once("queued").chain(STATES)) {
        let (done, told) = oneshot::channel();
        let change = Change { id: id.clone(), version, state, body: body.clone(), done };
        if changes.send(change).await.is_err() || !told.await.unwrap_or(false) {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
    }
    StatusCode::ACCEPTED
}

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
