//! A whole engine in one test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use provisor_core::chance::{Chance as _, SplitMix};
use provisor_core::cluster::{ClusterSpec, ProviderType};
use provisor_core::event::Actor;
use provisor_core::spec::{Seal, Sealed};
use provisor_core::tenant::TenantSpec;
use provisor_core::{RequestId, Run, Span, Spec, State};
use provisor_engine::{Config, Engine, Running};
use provisor_manual::ManualConnector;
use provisor_provider::Connector;
use provisor_store::ops::requests::GetRequest;
use provisor_store::ops::tenants::CreateTenant;
use provisor_store::vault::Vault;
use provisor_store::{OpError, Store};
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::toy::{Toys, World};

pub struct Test {
    pub engine: Arc<Engine>,
    pub running: Option<Running>,
    pub world: Arc<World>,
}

struct NoSeal;
impl Seal for NoSeal {
    fn seal(&self, _: &str) -> Sealed {
        panic!("nothing to seal in these tests")
    }
}

pub fn actor() -> Actor {
    Actor { kind: "token".into(), id: "test".into() }
}

pub async fn engine_over(store: Store, world: &Arc<World>) -> Arc<Engine> {
    engine_with(store, world, Config::default()).await.unwrap()
}

/// The same with settings of its own.
pub async fn engine_with(store: Store, world: &Arc<World>, config: Config) -> Result<Arc<Engine>, OpError> {
    // Why by name: two workers of one test must not make the same ids.
    static SEED: AtomicU64 = AtomicU64::new(1);
    let toys: Arc<dyn Connector> = Arc::new(Toys(Arc::clone(world)));
    let people: Arc<dyn Connector> = Arc::new(ManualConnector);
    let connectors = [(ProviderType::Simulation, toys), (ProviderType::Manual, people)].into_iter().collect();
    let seeds: Box<dyn Fn() -> u64 + Send + Sync> = if config.alone {
        let seed = AtomicU64::new(1);
        Box::new(move || seed.fetch_add(1, Ordering::Relaxed))
    } else {
        Box::new(|| SplitMix::new(SEED.fetch_add(1, Ordering::Relaxed)).next_u64())
    };
    Engine::new(store, Arc::new(Vault::ephemeral().unwrap()), connectors, config, seeds).await
}

impl Test {
    /// One tenant `acme`, and clusters `one`, `two` … of eight processors each; on SQLite.
    pub async fn start(clusters: &[&str], tenant: Value) -> Self {
        Self::start_on(Ground::Sqlite, clusters, tenant).await
    }

    /// The same on either database.
    pub async fn start_on(ground: Ground, clusters: &[&str], tenant: Value) -> Self {
        Self::start_over(ground.store().0, clusters, tenant).await
    }

    /// The same over a given store.
    pub async fn start_over(store: Store, clusters: &[&str], tenant: Value) -> Self {
        let world = Arc::new(World::default());
        let engine = engine_over(store, &world).await;
        let mut spec = json!({"name": "acme"});
        for (key, value) in tenant.as_object().unwrap() {
            spec[key] = value.clone();
        }
        let mut chance = provisor_core::chance::SplitMix::new(9);
        let id = provisor_core::TenantId::new(engine.store().now(), &mut chance);
        engine.store().run(CreateTenant { id, spec: TenantSpec::check("", &spec).unwrap() }).await.unwrap();
        let mut test = Self { engine, running: None, world };
        for name in clusters {
            test.register(name, json!({"simulates": "openstack"})).await;
        }
        test.running = Some(test.engine.start().await.unwrap());
        test
    }

    /// A further cluster of eight processors; `extra` says what it plays, and more.
    #[allow(clippy::needless_pass_by_value)] // so that a test can write `json!(…)`
    pub async fn register(&self, name: &str, extra: Value) {
        let mut cluster = json!({"name": name, "provider": "simulation", "region": "eu",
            "capacity": {"cpu": 8, "slots": 100},
            "settings": {"retry": {"initial_seconds": 1, "cap_seconds": 2}, "late_create_seconds": 60}});
        for (key, new) in extra.as_object().unwrap() {
            cluster[key] = new.clone();
        }
        let (spec, _) = ClusterSpec::check("", &cluster).unwrap();
        self.engine.register_cluster(spec, None).await.unwrap();
    }

    #[allow(clippy::needless_pass_by_value)] // so that a test can write `json!(…)`
    pub fn spec(name: &str, extra: Value) -> Spec {
        let mut value = json!({"name": name, "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12",
            "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}});
        for (key, new) in extra.as_object().unwrap() {
            value[key] = new.clone();
        }
        Self::spec_of(&value)
    }

    pub fn spec_of(value: &Value) -> Spec {
        Spec::check("", value, &NoSeal).unwrap()
    }

    pub async fn admit(&self, specs: Vec<Spec>) -> Vec<RequestId> {
        let pointers = (0..specs.len()).map(|i| format!("/requests/{i}")).collect();
        let views = self.engine.admit(specs, pointers, actor(), None).await.unwrap();
        views.iter().map(|v| v.run.id).collect()
    }

    pub async fn run_of(&self, id: RequestId) -> Run {
        self.engine.store().run(GetRequest { id, scope: None }).await.unwrap().unwrap().run
    }

    /// A crash, and another process on the same store.
    pub async fn crash_and_start(&mut self) {
        self.running = None;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        self.engine = engine_over(self.engine.store().clone(), &self.world).await;
        self.running = Some(self.engine.start().await.unwrap());
    }

    /// Waits, in virtual time, until a request is in a state.
    pub async fn until(&self, id: RequestId, states: &[State]) -> Run {
        let found = self.until_or_not(id, |run| states.contains(&run.state)).await;
        let told =
            |run: Run| panic!("{id} is still {} and waits for {:?}: {:#?}", run.state.name(), run.waiting, run.attempts.last());
        found.unwrap_or_else(told)
    }

    /// Looks at every commit of this process, and four times a second at first, for a thousand seconds.
    pub async fn until_or_not(&self, id: RequestId, holds: impl Fn(&Run) -> bool) -> Result<Run, Run> {
        let begin = self.engine.store().now();
        let (soon, end) = (begin.plus(Span::seconds(20)), begin.plus(Span::seconds(1000)));
        let mut log = self.engine.bell().follow();
        loop {
            log.mark_unchanged();
            let run = self.run_of(id).await;
            if holds(&run) {
                return Ok(run);
            }
            let now = self.engine.store().now();
            if now > end {
                return Err(run);
            }
            let pause = std::time::Duration::from_millis(if now < soon { 250 } else { 1000 });
            let _ = tokio::time::timeout(pause, log.changed()).await;
        }
    }
}
