//! What only one of several processes does at a time: a background task runs where its role is held.
//!
//! The lease is counted from before the last good heartbeat was sent (H40): a process that was frozen beyond it stops
//! its task before it looks at anything, and what it had begun is fenced by the store.

use std::sync::Arc;
use std::time::Duration;

use provisor_core::Span;
use provisor_store::ops::roles::{HoldRole, LeaveRole, Role};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Engine;

/// The sweeper (SPEC 3.6).
pub(crate) const SWEEPER: &str = "sweeper";
/// The watch over clusters (SPEC 5).
pub(crate) const HEALTH: &str = "health";

/// The reader that learns deadlines (SPEC 3.3).
pub(crate) const LEARNER: &str = "learner";

/// Runs a task until stopped, wherever the role is held meanwhile. The one process on a store needs no role.
pub(crate) async fn run<T, F>(engine: Arc<Engine>, stop: CancellationToken, name: &'static str, task: T)
where
    T: Fn(Arc<Engine>, CancellationToken, Option<Role>) -> F + Send,
    F: Future<Output = ()> + Send,
{
    if engine.config.alone {
        return task(engine, stop, None).await;
    }
    let pause = Span(engine.config.lease.0 / 3).to_std();
    while !stop.is_cancelled() {
        let asked = Instant::now();
        let Some(role) = hold(&engine, name).await else {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
            continue;
        };
        info!(role = name, generation = role.generation, "held by this process");
        tokio::select! {
            biased;
            () = keep(&engine, &role, asked) => warn!(role = name, "lost to another process"),
            () = task(Arc::clone(&engine), stop.child_token(), Some(role.clone())) => {}
        }
        if stop.is_cancelled() {
            let left = engine.store.run(LeaveRole(role)).await;
            left.unwrap_or_else(|error| store_failed!(error, "a role could not be given back; its lease runs out"));
        }
    }
}

async fn hold(engine: &Engine, name: &'static str) -> Option<Role> {
    let asked = HoldRole { name, holder: engine.config.worker.clone(), lease: engine.config.lease };
    match engine.store.run(asked).await {
        Ok(held) => held,
        Err(error) => {
            store_failed!(error, role = name, "a role could not be asked for; it is tried again");
            None
        }
    }
}

/// Extends the lease; ends when it is lost, or may be by now.
async fn keep(engine: &Engine, role: &Role, since: Instant) {
    let lease = engine.config.lease.to_std();
    let every = lease / 3;
    let mut sure_until = since + lease;
    loop {
        tokio::time::sleep(every).await;
        let asked = Instant::now();
        if asked >= sure_until {
            return;
        }
        let left = sure_until.saturating_duration_since(asked).max(Duration::from_millis(1));
        let holding = HoldRole { name: role.name, holder: engine.config.worker.clone(), lease: engine.config.lease };
        match tokio::time::timeout(left, engine.store.run(holding)).await {
            Ok(Ok(Some(held))) if held == *role => sure_until = asked + lease,
            // Perhaps the store is away for a moment; until the lease's end it is ours.
            Ok(Err(error)) => store_failed!(error, role = role.name, "a role could not be kept; it is tried again"),
            Ok(Ok(_)) | Err(_) => return,
        }
    }
}
