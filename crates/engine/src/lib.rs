//! The thin shell that waits, so that core can decide.
//!
//! A [`worker`] claims due work under a lease, makes the [`call`]s that core asks for, and settles the
//! answers under the lease's generation. Beside it run the background tasks: [`health`] of clusters and
//! the [`sweep`]er. [`control`] is what the API asks for. Nothing here decides what a rule in core can.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::event::Actor;
use provisor_core::spec::Strategy;
use provisor_core::{ClusterId, ResourceId, Span};
use provisor_provider::{Cidr, Open};
use provisor_store::ops::save::Context;
use provisor_store::vault::Vault;
use provisor_store::{OpError, Store};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A warning about an operation of the store that failed. That the database cannot be used is told by the store, once;
/// a line of each part for each try would bury it.
macro_rules! store_failed {
    ($error:ident, $($told:tt)+) => {
        if $error.is_outage() {
            tracing::debug!(error = %$error, $($told)+)
        } else {
            tracing::warn!(error = %$error, $($told)+)
        }
    };
}

pub mod bell;
pub mod call;
pub mod control;
pub mod crash;
mod follow;
mod guard;
pub mod health;
mod learn;
mod recovery;
pub mod registry;
pub mod restored;
mod roles;
pub mod sweep;
pub mod worker;

pub use bell::Bell;
pub use registry::{Connectors, Registry};

/// Settings of the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this worker in leases and logs.
    pub worker: String,
    /// Requests in work at once in this process.
    pub concurrency: usize,
    /// Length of a lease.
    pub lease: Span,
    /// How long a shutdown waits for what is in flight.
    pub shutdown: Span,
    /// Stuck limit (SPEC 3.7).
    pub stuck_after: Span,
    /// How requests are tried that do not say so themselves, of tenants that do not either (SPEC 3.4).
    pub strategy: Strategy,
    /// Pause between health probes of a cluster.
    pub health_every: Span,
    /// Addresses that probes may reach besides public and private ranges.
    pub probe_allow: Vec<Cidr>,
    /// This process is the only one on the store: leases that it finds at its start are of the dead.
    pub alone: bool,
    /// Deadlines are learned (SPEC 3.3).
    pub learns: bool,
    /// It claims work and runs the background tasks; one that does not only answers the API.
    pub works: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            worker: "worker".to_owned(),
            concurrency: 256,
            lease: Span::seconds(10),
            shutdown: Span::seconds(30),
            stuck_after: Span::seconds(1800),
            strategy: Strategy::default(),
            health_every: Span::seconds(15),
            probe_allow: Vec::new(),
            alone: true,
            learns: true,
            works: true,
        }
    }
}

/// Everything that the parts of the engine share.
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) context: Arc<Context>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) vault: Arc<Vault>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) config: Config,
    /// The closed rows whose objects the last sweep of each cluster has seen.
    pub(crate) swept: std::sync::Mutex<BTreeMap<ClusterId, BTreeSet<ResourceId>>>,
    /// What of other processes was seen last.
    pub(crate) seen: follow::Seen,
    /// How far what others have learned is known here.
    pub(crate) learned: std::sync::atomic::AtomicI64,
    /// What every call to a cluster passes.
    pub(crate) guard: Arc<guard::Guard>,
}

/// A running engine, to be stopped. Dropped, it ends as in a crash: at once, leases and all left behind.
pub struct Running {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    shutdown: Span,
}

struct Opener(Arc<Vault>);

impl Open for Opener {
    fn open(&self, sealed: &provisor_core::spec::Sealed) -> Result<String, provisor_core::Failure> {
        let wrong = |e: provisor_store::vault::VaultError| {
            provisor_core::Failure::new(provisor_core::Class::Permanent, "not_decryptable", e.to_string())
        };
        self.0.open(sealed).map_err(wrong)
    }
}

impl Engine {
    /// An engine over a store; nothing runs yet. `seeds` gives fresh random numbers for jitter and ids.
    pub async fn new(
        store: Store,
        vault: Arc<Vault>,
        connectors: Connectors,
        config: Config,
        seeds: Box<dyn Fn() -> u64 + Send + Sync>,
    ) -> Result<Arc<Self>, OpError> {
        let mut chance = provisor_core::chance::SplitMix::new(seeds());
        let installation = store.run(provisor_store::ops::meta::InstallationId::new(&mut chance)).await?;
        let opener = Arc::new(Opener(Arc::clone(&vault)));
        let registry = Arc::new(Registry::new(connectors, opener, config.probe_allow.clone()));
        let context = Arc::new(Context {
            installation,
            planner: Arc::clone(&registry) as Arc<dyn provisor_core::workflow::Planner>,
            lease: config.lease,
            stuck_after: config.stuck_after,
            strategy: config.strategy,
            downtime: std::sync::atomic::AtomicI64::new(0),
            known: std::sync::RwLock::default(),
            seeds,
        });
        let guard = Arc::new(guard::Guard::new(store.clone(), Arc::clone(&context), config.alone));
        let engine = Arc::new(Self {
            store,
            context,
            registry,
            vault,
            bell: Arc::new(Bell::default()),
            config,
            swept: std::sync::Mutex::default(),
            seen: follow::Seen::default(),
            learned: std::sync::atomic::AtomicI64::new(-1),
            guard,
        });
        engine.refresh_clusters().await?;
        engine.guard.follow().await?;
        if engine.config.learns {
            engine.follow_learning().await?;
        }
        Ok(engine)
    }

    /// Starts worker, heartbeat, health and sweeper; in a process that only answers the API none of them.
    pub async fn start(self: &Arc<Self>) -> Result<Running, OpError> {
        if self.config.alone && self.config.works {
            self.store.run(provisor_store::ops::heartbeat::FreeAll).await?;
        }
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        if !self.config.alone {
            tasks.spawn(follow::run(Arc::clone(self), stop.clone()));
        }
        if self.config.works {
            tasks.spawn(worker::run(Arc::clone(self), stop.clone()));
            tasks.spawn(guard::run(Arc::clone(self), stop.clone()));
            tasks.spawn(roles::run(Arc::clone(self), stop.clone(), roles::HEALTH, health::run));
            tasks.spawn(roles::run(Arc::clone(self), stop.clone(), roles::SWEEPER, sweep::run));
            if self.config.learns {
                tasks.spawn(roles::run(Arc::clone(self), stop.clone(), roles::LEARNER, learn::run));
            }
        }
        Ok(Running { stop, tasks, shutdown: self.config.shutdown })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The providers of the registered clusters.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The vault.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// Woken at every commit of this process.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// The installation's name in tags.
    pub fn installation(&self) -> &str {
        &self.context.installation
    }

    /// The worker as an actor.
    pub fn actor(&self) -> Actor {
        Actor::worker(&self.config.worker)
    }
}

impl Running {
    /// Claims nothing more, waits for what is in flight, gives leases back (SPEC 6.4). Answers whether
    /// everything ended in time; what did not is resumed by another worker when its lease runs out.
    pub async fn shutdown(mut self) -> bool {
        self.stop.cancel();
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::time::timeout(self.shutdown.to_std(), all).await.is_ok()
    }
}
