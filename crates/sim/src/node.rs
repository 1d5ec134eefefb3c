//! One process of the installation: its life, its end by kill -9, its freezing, and the next one after it.
//!
//! A process is a whole engine with its own view of the database and of the clouds. Whatever it does crosses one of the
//! two, so that is where it is stopped: a dead process never crosses again and its engine is dropped; a frozen one
//! crosses when it wakes, with all that it held back. Rejected: aborting tasks at random polls, which tokio does not
//! offer by seed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use provisor_core::cluster::ProviderType;
use provisor_core::{Chance as _, Span};
use provisor_engine::{Config, Engine, Running};
use provisor_store::Store;
use provisor_store::vault::Vault;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::edge::cloud::Edges;
use crate::edge::store::Edge;
use crate::plan::{Moment, Trouble};
use crate::stage::{Stage, is_at};

/// Processes: the first one only answers the API, the last one is the follower, the others work.
pub(crate) const API: usize = 0;
/// Workers.
pub(crate) const WORKERS: std::ops::RangeInclusive<usize> = 1..=3;
/// The follower of the log.
pub(crate) const FOLLOWER: usize = 4;
/// After a failed start the next one is tried.
const START_AGAIN: Duration = Duration::from_millis(200);

/// One life of a process.
pub(crate) struct Life {
    pub(crate) node: usize,
    pub(crate) number: u32,
    dead: AtomicBool,
    died: Notify,
    frozen_until: Mutex<Option<Instant>>,
    down: Mutex<Duration>,
    engine: Mutex<Option<Arc<Engine>>>,
}

impl Life {
    pub(crate) fn new(node: usize, number: u32) -> Arc<Self> {
        Arc::new(Self {
            node,
            number,
            dead: AtomicBool::new(false),
            died: Notify::new(),
            frozen_until: Mutex::default(),
            down: Mutex::default(),
            engine: Mutex::default(),
        })
    }

    /// Its name in leases and logs.
    pub(crate) fn name(&self) -> String {
        format!("w{}-{}", self.node, self.number)
    }

    pub(crate) fn kill(&self, down: Duration) {
        *lock(&self.down) = down;
        if !self.dead.swap(true, Ordering::Relaxed) {
            self.died.notify_one();
        }
    }

    pub(crate) fn freeze(&self, span: Duration) {
        *lock(&self.frozen_until) = Some(Instant::now() + span);
    }

    /// Waits for its end; answers how long nobody takes its place.
    pub(crate) async fn end(&self) -> Duration {
        self.died.notified().await;
        *lock(&self.down)
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Its engine, while it has started.
    pub(crate) fn engine(&self) -> Option<Arc<Engine>> {
        lock(&self.engine).clone()
    }

    /// Goes on only while it lives and is awake.
    async fn awake(&self, stage: &Stage) {
        loop {
            if self.is_dead() {
                std::future::pending::<()>().await;
            }
            let until = *lock(&self.frozen_until);
            match until.filter(|at| *at > Instant::now() && !stage.is_calm()) {
                // Why in steps: calm wakes everybody.
                Some(at) => tokio::time::sleep_until(at.min(Instant::now() + Duration::from_millis(500))).await,
                None => return,
            }
        }
    }

    /// Comes to an operation, or back from it; may never go on.
    pub(crate) async fn cross(&self, stage: &Stage, before: bool, operation: &str, count: u32) {
        self.awake(stage).await;
        let here = |at: &Moment| is_at(at, before, operation, count);
        let fits = |t: &Trouble| match t {
            Trouble::Kill { node, at, .. } | Trouble::Freeze { node, at, .. } => *node == self.node && here(at),
            _ => false,
        };
        let Some(trouble) = stage.strike(fits) else { return };
        stage.concern(trouble.word(), operation, self);
        match trouble {
            Trouble::Kill { down_ms, .. } => self.kill(Duration::from_millis(*down_ms)),
            Trouble::Freeze { ms, .. } => self.freeze(Duration::from_millis(*ms)),
            _ => {}
        }
        self.awake(stage).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stage {
    /// A fault concerns the requests whose leases a process holds.
    pub(crate) fn concern(&self, fault: &str, operation: &str, life: &Life) {
        let mut inner = self.lock();
        let whom = inner.watch.held_by(&life.name());
        inner.coverage.struck(fault, operation, whom);
    }

    /// The present life of a process.
    pub(crate) fn life(&self, node: usize) -> Option<Arc<Life>> {
        self.lock().lives.get(&node).cloned()
    }

    /// Begins another life of a process.
    pub(crate) fn born(&self, node: usize) -> Arc<Life> {
        let mut inner = self.lock();
        let number = inner.lives.get(&node).map_or(1, |l| l.number + 1);
        let life = Life::new(node, number);
        inner.lives.insert(node, Arc::clone(&life));
        drop(inner);
        self.note(|| format!("{} starts", life.name()));
        life
    }
}

/// Keeps a process running: starts it, and another one after its end, for ever.
pub(crate) async fn keep(stage: Arc<Stage>, node: usize) {
    loop {
        let life = stage.born(node);
        tokio::select! {
            biased;
            () = life.died.notified() => {}
            () = live(&stage, &life) => {}
        }
        // Why here: the engine's tasks are dropped with what holds them, and their ends are part of the crash.
        *lock(&life.engine) = None;
        stage.note(|| format!("{} is dead", life.name()));
        let down = *lock(&life.down);
        let until = Instant::now() + down;
        while Instant::now() < until && !stage.is_calm() {
            tokio::time::sleep(down.min(Duration::from_millis(500))).await;
        }
    }
}

async fn live(stage: &Arc<Stage>, life: &Arc<Life>) {
    loop {
        if let Ok((engine, _running)) = start(stage, life).await {
            *lock(&life.engine) = Some(engine);
            return std::future::pending().await;
        }
        tokio::time::sleep(START_AGAIN).await;
    }
}

async fn start(stage: &Arc<Stage>, life: &Arc<Life>) -> Result<(Arc<Engine>, Running), provisor_store::OpError> {
    let store = Store::new(Arc::new(Edge::new(Arc::clone(stage), Arc::clone(life))));
    let connectors = [(ProviderType::Simulation, Arc::new(Edges::new(Arc::clone(stage), Arc::clone(life))) as Arc<_>)];
    let vault = Vault::ephemeral().map_err(|e| provisor_store::OpError::Corrupt(e.to_string()))?;
    let config = Config {
        worker: life.name(),
        lease: Span::millis(i64::try_from(stage.plan.lease_ms).unwrap_or(10_000)),
        alone: false,
        works: WORKERS.contains(&life.node),
        ..Config::default()
    };
    let chance = Mutex::new(stage.chance(&life.name(), 0));
    let seeds = Box::new(move || lock(&chance).next_u64());
    let engine = Engine::new(store, Arc::new(vault), connectors.into_iter().collect(), config, seeds).await?;
    let running = engine.start().await?;
    Ok((engine, running))
}
