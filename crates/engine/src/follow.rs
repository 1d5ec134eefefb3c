//! Keeping up with other processes on the same store: clusters that they register or change, and the account of
//! Provisor's downtime.
//!
//! The store is asked; a wake-up only shortens the wait. Rejected: asking in every operation, which costs a statement
//! each time for what changes a few times a day.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use provisor_store::OpError;
use provisor_store::ops::clusters::ClustersStamp;
use provisor_store::ops::heartbeat::Downtime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::Engine;

/// How often a process looks by itself.
const EVERY: Duration = Duration::from_secs(1);
/// Not more often than this, however often it is asked to.
const AT_MOST: Duration = Duration::from_millis(50);

/// What was seen last, and when it was looked for.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<Look>);

#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    stamp: Option<(i64, i64, i64)>,
}

pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    loop {
        if let Err(error) = engine.keep_up().await {
            store_failed!(error, "the clusters could not be read; they are looked at again");
        }
        if let Err(error) = engine.guard.follow().await {
            store_failed!(error, "the gates of the clusters could not be read; they are looked at again");
        }
        if engine.config.learns
            && let Err(error) = engine.follow_learning().await
        {
            store_failed!(error, "what was learned could not be read; it is looked at again");
        }
        if let Err(error) = engine.store.run(Downtime { context: Arc::clone(&engine.context) }).await {
            store_failed!(error, "the account of downtime could not be read; it is looked at again");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

impl Engine {
    /// Binds what other processes have registered or changed since the last look.
    pub(crate) async fn keep_up(&self) -> Result<(), OpError> {
        if self.config.alone {
            return Ok(());
        }
        let lock = || self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let mut seen = lock();
            if seen.at.is_some_and(|at| at.elapsed() < AT_MOST) {
                return Ok(());
            }
            seen.at = Some(Instant::now());
        }
        let stamp = self.store.run(ClustersStamp).await?;
        if lock().stamp == Some(stamp) {
            return Ok(());
        }
        self.refresh_clusters().await?;
        lock().stamp = Some(stamp);
        Ok(())
    }
}
