//! One installation over a simulated cloud that outlives its crashes, as the store does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use provisor_core::cluster::{ClusterSpec, ProviderType};
use provisor_core::run::{Command, Row};
use provisor_core::tenant::TenantSpec;
use provisor_core::workflow::{Plan, Planner as _};
use provisor_core::{RequestId, Run, Span, State, TenantId};
use provisor_engine::crash::Trap;
use provisor_engine::{Config, Engine, Running};
use provisor_simulation::Simulation;
use provisor_store::Store;
use provisor_store::ops::learn::AllLearned;
use provisor_store::ops::quota::QuotaProof;
use provisor_store::ops::requests::{GetRequest, ListRequests};
use provisor_store::ops::tenants::CreateTenant;
use provisor_store::vault::Vault;
use serde_json::{Value, json};

use crate::ground::Ground;
use crate::world::{Test, actor};

/// A tenant, a simulated cluster, and an engine at work.
pub(crate) struct House {
    pub(crate) store: Store,
    cloud: Arc<Simulation>,
    engine: Arc<Engine>,
    running: Option<Running>,
    provider: &'static str,
    what: String,
}

async fn engine(store: &Store, cloud: &Arc<Simulation>) -> Arc<Engine> {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let connectors = [(ProviderType::Simulation, Arc::clone(cloud) as Arc<_>)].into_iter().collect();
    let seeds = Box::new(|| SEED.fetch_add(1, Ordering::Relaxed));
    Engine::new(store.clone(), Arc::new(Vault::ephemeral().unwrap()), connectors, Config::default(), seeds).await.unwrap()
}

impl House {
    /// With one cluster that plays `provider`; `more` beside its usual settings. `what` is tried in it.
    pub(crate) async fn open(ground: Ground, provider: &'static str, more: Value, what: String) -> Self {
        let (store, clock) = ground.store();
        let cloud = Simulation::in_memory(clock);
        let engine = engine(&store, &cloud).await;
        let mut chance = provisor_core::chance::SplitMix::new(9);
        let id = TenantId::new(store.now(), &mut chance);
        let tenant = TenantSpec::check("", &json!({"name": "acme"})).unwrap();
        store.run(CreateTenant { id, spec: tenant }).await.unwrap();
        let mut settings = json!({"seed": 7, "listeners": false, "late_create_seconds": 20, "orphan_grace_seconds": 5,
            "latency": {"default": {"fixed_ms": 50}}, "retry": {"initial_seconds": 0.1, "cap_seconds": 0.5}});
        settings.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let cluster = json!({"name": "one", "provider": "simulation", "simulates": provider, "region": "eu", "settings": settings,
            "capacity": {"cpu": 64, "memory_gb": 64, "storage_gb": 64, "slots": 64}});
        engine.register_cluster(ClusterSpec::check("", &cluster).unwrap().0, None).await.unwrap();
        let running = Some(engine.start().await.unwrap());
        Self { store, cloud, engine, running, provider, what }
    }

    fn spec(&self) -> provisor_core::Spec {
        let size = json!({"cpu": 1, "memory_gb": 1, "storage_gb": 1});
        let mut value = match self.provider {
            "kubernetes" => json!({"kind": "kubernetes_namespace", "size": size}),
            "argocd" => json!({"kind": "environment", "source": {"repository": "https://git.example/shop.git", "branch": "main",
                "commit_sha": "0a1b2c3d", "path": "deploy"}}),
            _ => json!({"kind": "vps", "size": size, "image": "debian-12", "ports": [22, 80, 443, 5432]}),
        };
        for (key, new) in [("name", "db"), ("tenant", "acme"), ("region", "eu")] {
            value[key] = new.into();
        }
        value["strategy"] = json!({"type": "single"});
        Test::spec_of(&value)
    }

    /// The plans of an attempt, of suspend and of reactivate.
    pub(crate) async fn plans(&self) -> [Plan; 3] {
        let cluster = self.engine.cluster("one").await.unwrap().id;
        let (registry, spec) = (self.engine.registry(), self.spec());
        let action = |name| registry.plan_action(cluster, name, &spec).unwrap();
        [registry.plan(cluster, &spec).unwrap(), action("suspend"), action("reactivate")]
    }

    pub(crate) async fn admit(&self) -> RequestId {
        let views = self.engine.admit(vec![self.spec()], vec![String::new()], actor(), None).await.unwrap();
        views[0].run.id
    }

    /// The one that was admitted though nobody was told.
    pub(crate) async fn only(&self) -> RequestId {
        let page = self.store.run(ListRequests { limit: 2, ..Default::default() }).await.unwrap();
        assert_eq!(page.items.len(), 1, "{}", self.what);
        page.items[0].run.id
    }

    pub(crate) async fn run_of(&self, id: RequestId) -> Run {
        self.store.run(GetRequest { id, scope: None }).await.unwrap().unwrap().run
    }

    /// Looks at every commit of this process, and each second.
    async fn until(&self, id: RequestId, holds: impl Fn(&Run) -> bool) -> Run {
        let end = self.store.now().plus(Span::seconds(1000));
        let mut log = self.engine.bell().follow();
        loop {
            log.mark_unchanged();
            let run = self.run_of(id).await;
            if holds(&run) {
                return run;
            }
            if self.store.now() > end {
                let (state, last) = (run.state.name(), run.attempts.last());
                panic!("{}: {state} waits for {:?}: {last:#?} {:#?}", self.what, run.waiting, run.ledger);
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), log.changed()).await;
        }
    }

    /// It ends in this state, with no action at work.
    pub(crate) async fn ends(&self, id: RequestId, state: State) -> Run {
        let idle = |r: &Run| r.action.as_ref().is_none_or(|a| a.status != "running");
        self.until(id, |r| r.state == state && idle(r)).await
    }

    /// A service that stands; what may still come late is watched until it cannot, and released (H6).
    pub(crate) async fn stands(&self, id: RequestId, state: State) {
        self.ends(id, state).await;
        let run = self.until(id, |r| r.ledger.iter().all(|r| r.is_closed() || !r.unwanted)).await;
        self.assert_one_of_each(&run).await;
    }

    /// It ends with nothing left.
    pub(crate) async fn ends_with_nothing(&self, id: RequestId) {
        let run = self.ends(id, State::RolledBack).await;
        assert_eq!(self.made(), (Vec::new(), false), "{}", self.what);
        assert!(run.ledger.iter().all(Row::is_closed), "{}: {:#?}", self.what, run.ledger);
        assert!(self.store.run(QuotaProof).await.unwrap().is_empty(), "{}", self.what);
    }

    pub(crate) async fn ask(&self, id: RequestId, command: Command) {
        self.engine.command(id, command, actor()).await.unwrap();
    }

    /// Waits for the trap, drops everything that runs, and starts again.
    pub(crate) async fn crash(&mut self, trap: &Trap) {
        let sprung = tokio::time::timeout(Duration::from_mins(10), trap.sprung()).await;
        sprung.unwrap_or_else(|_| panic!("{} was never reached", self.what));
        self.again().await;
    }

    /// Drops everything that runs, and starts again.
    pub(crate) async fn again(&mut self) {
        self.running = None;
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.engine = engine(&self.store, &self.cloud).await;
        self.running = Some(self.engine.start().await.unwrap());
    }

    /// The operation is learned of so many times, in its own class and in each above it: no more and no less.
    pub(crate) async fn has_learned(&self, operation: &str, times: u64) {
        let end = self.store.now().plus(Span::seconds(300));
        loop {
            let all = self.store.run(AllLearned).await.unwrap();
            let finished: Vec<u64> = all.iter().filter(|(k, _)| k.operation == operation).map(|(_, f)| f.finished).collect();
            if !finished.is_empty() && finished.iter().all(|f| *f == times) {
                return;
            }
            let what = &self.what;
            assert!(self.store.now() < end && finished.iter().all(|f| *f <= times), "{what}: {operation} {finished:?}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What the cloud has: kinds of what is live, and whether anything was made twice.
    fn made(&self) -> (Vec<String>, bool) {
        let inventory = self.cloud.inventory("one", false).unwrap();
        let all = inventory["resources"].as_array().unwrap();
        let live = all.iter().filter(|r| r["gone_at"].is_null()).map(|r| r["kind"].as_str().unwrap().to_owned());
        let mut live: Vec<String> = live.collect();
        live.sort();
        (live, all.iter().any(|r| r["created_count"] != json!(1)))
    }

    /// One live resource for each role that the plan makes.
    pub(crate) async fn assert_one_of_each(&self, run: &Run) {
        let what = &self.what;
        let [plan, ..] = self.plans().await;
        let mut roles: Vec<String> = plan.operations.iter().filter_map(|o| o.makes.clone()).collect();
        roles.sort();
        assert_eq!(self.made(), (roles, false), "{what}");
        let mut open = run.ledger.iter().filter(|r| !r.is_closed());
        assert!(open.all(|r| !r.unwanted && r.provider_id.is_some()), "{what}: {:#?}", run.ledger);
        assert!(self.store.run(QuotaProof).await.unwrap().is_empty(), "{what}");
    }
}

/// The operations of a plan that are called.
pub(crate) fn names(plan: &Plan) -> BTreeSet<String> {
    plan.operations.iter().filter(|o| !o.awaits_input).map(|o| o.name.clone()).collect()
}

/// The releases of what a plan makes.
pub(crate) fn deletes(plan: &Plan) -> BTreeSet<String> {
    plan.operations.iter().filter_map(|o| o.makes.as_ref()).map(|kind| format!("delete_{kind}")).collect()
}
