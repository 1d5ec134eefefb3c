//! Every crash point at every operation of every simulated provider, each ending with a clean slate.
//!
//! The operations are those that the plans name; the crash is the drop of the whole engine while the task that
//! came to the point stands there. The simulated cloud outlives it, and so does the store. A case whose point
//! is not reached is a failure: what is never tried proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use provisor_core::cluster::ClusterSpec;
use provisor_core::cluster::ProviderType;
use provisor_core::run::Command;
use provisor_core::tenant::TenantSpec;
use provisor_core::workflow::{Plan, Planner as _};
use provisor_core::{RequestId, Run, State, TenantId, Timestamp};
use provisor_engine::crash::{Point, Trap, set};
use provisor_engine::{Config, Engine, Running};
use provisor_simulation::Simulation;
use provisor_store::Store;
use provisor_store::ops::quota::QuotaProof;
use provisor_store::ops::requests::GetRequest;
use provisor_store::ops::tenants::CreateTenant;
use provisor_store::vault::Vault;
use serde_json::{Value, json};

use crate::world::{Test, actor};

const EPOCH: i64 = 1_795_000_000_000_000;
/// What is simulated, with the kind that it serves.
const PROVIDERS: [&str; 5] = ["openstack", "vmware", "proxmox", "kubernetes", "argocd"];
/// Points in the life of a single call.
const OF_CALLS: [Point; 5] = [Point::AfterIntent, Point::AfterCall, Point::BeforeSettle, Point::AfterSettle, Point::WithinWait];

/// One installation over a simulated cloud that outlives it.
struct House {
    store: Store,
    cloud: Arc<Simulation>,
    engine: Arc<Engine>,
    running: Option<Running>,
    provider: &'static str,
}

async fn engine(store: &Store, cloud: &Arc<Simulation>) -> Arc<Engine> {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let connectors = [(ProviderType::Simulation, Arc::clone(cloud) as Arc<_>)].into_iter().collect();
    let seeds = Box::new(|| SEED.fetch_add(1, Ordering::Relaxed));
    Engine::new(store.clone(), Arc::new(Vault::ephemeral().unwrap()), connectors, Config::default(), seeds).await.unwrap()
}

impl House {
    /// With one cluster that plays `provider`; `more` beside its usual settings.
    async fn open(provider: &'static str, more: Value) -> Self {
        let clock = provisor_store::clock::of_runtime(Timestamp(EPOCH));
        let store = Store::in_memory(Arc::clone(&clock)).unwrap();
        let cloud = Simulation::in_memory(clock);
        let engine = engine(&store, &cloud).await;
        let mut chance = provisor_core::chance::SplitMix::new(9);
        let id = TenantId::new(store.now(), &mut chance);
        let tenant = TenantSpec::check("", &json!({"name": "acme"})).unwrap();
        store.run(CreateTenant { id, spec: tenant }).await.unwrap();
        let mut settings = json!({"seed": 7, "listeners": false, "late_create_seconds": 20, "orphan_grace_seconds": 5,
            "latency": {"default": {"fixed_ms": 50}}, "retry": {"initial_seconds": 0.1, "cap_seconds": 0.5}});
        for (key, value) in more.as_object().unwrap() {
            settings[key] = value.clone();
        }
        let cluster = json!({"name": "one", "provider": "simulation", "simulates": provider, "region": "eu", "settings": settings,
            "capacity": {"cpu": 64, "memory_gb": 64, "storage_gb": 64, "slots": 64}});
        engine.register_cluster(ClusterSpec::check("", &cluster).unwrap().0, None).await.unwrap();
        let running = Some(engine.start().await.unwrap());
        Self { store, cloud, engine, running, provider }
    }

    fn spec(&self) -> provisor_core::Spec {
        let size = json!({"cpu": 1, "memory_gb": 1, "storage_gb": 1});
        let more = match self.provider {
            "kubernetes" => json!({"kind": "kubernetes_namespace", "size": size}),
            "argocd" => json!({"kind": "environment", "source": {"repository": "https://git.example/shop.git", "branch": "main",
                "commit_sha": "0a1b2c3d", "path": "deploy"}}),
            _ => json!({"kind": "vps", "size": size, "image": "debian-12", "ports": [22, 80, 443, 5432]}),
        };
        let mut value = json!({"name": "db", "tenant": "acme", "region": "eu", "strategy": {"type": "single"}});
        for (key, new) in more.as_object().unwrap() {
            value[key] = new.clone();
        }
        Test::spec_of(&value)
    }

    /// The plans of an attempt, of suspend and of reactivate.
    async fn plans(&self) -> [Plan; 3] {
        let cluster = self.engine.cluster("one").await.unwrap().id;
        let (registry, spec) = (self.engine.registry(), self.spec());
        let action = |name| registry.plan_action(cluster, name, &spec).unwrap();
        [registry.plan(cluster, &spec).unwrap(), action("suspend"), action("reactivate")]
    }

    async fn admit(&self) -> RequestId {
        let views = self.engine.admit(vec![self.spec()], vec![String::new()], actor(), None).await.unwrap();
        views[0].run.id
    }

    async fn run_of(&self, id: RequestId) -> Run {
        self.store.run(GetRequest { id, scope: None }).await.unwrap().unwrap().run
    }

    async fn until(&self, id: RequestId, what: &str, holds: impl Fn(&Run) -> bool) -> Run {
        for _ in 0..20_000 {
            let run = self.run_of(id).await;
            if holds(&run) {
                return run;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let run = self.run_of(id).await;
        panic!("{what}: {} waits for {:?}: {:#?} {:#?}", run.state.name(), run.waiting, run.attempts.last(), run.ledger);
    }

    async fn ends(&self, id: RequestId, state: State, what: &str) -> Run {
        let idle = |r: &Run| r.action.as_ref().is_none_or(|a| a.status != "running");
        self.until(id, what, |r| r.state == state && idle(r)).await
    }

    /// What may still come late is watched until it cannot, and released (H6).
    async fn settles(&self, id: RequestId, what: &str) -> Run {
        self.until(id, what, |r| r.ledger.iter().all(|r| r.is_closed() || !r.unwanted)).await
    }

    async fn ask(&self, id: RequestId, command: Command) {
        self.engine.command(id, command, actor()).await.unwrap();
    }

    /// Waits for the trap, drops everything that runs, and starts again.
    async fn crash(&mut self, trap: &Trap, what: &str) {
        tokio::time::timeout(Duration::from_mins(10), trap.sprung()).await.unwrap_or_else(|_| panic!("{what} was never reached"));
        self.again().await;
    }

    async fn again(&mut self) {
        self.running = None;
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.engine = engine(&self.store, &self.cloud).await;
        self.running = Some(self.engine.start().await.unwrap());
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
    async fn assert_one_of_each(&self, run: &Run, what: &str) {
        let [plan, ..] = self.plans().await;
        let mut roles: Vec<String> = plan.operations.iter().filter_map(|o| o.makes.clone()).collect();
        roles.sort();
        assert_eq!(self.made(), (roles, false), "{what}");
        let open = run.ledger.iter().filter(|r| !r.is_closed());
        assert!(open.into_iter().all(|r| !r.unwanted && r.provider_id.is_some()), "{what}: {:#?}", run.ledger);
        assert!(self.store.run(QuotaProof).await.unwrap().is_empty(), "{what}");
    }

    async fn assert_nothing(&self, run: &Run, what: &str) {
        assert_eq!(self.made(), (Vec::new(), false), "{what}");
        assert!(run.ledger.iter().all(provisor_core::run::Row::is_closed), "{what}: {:#?}", run.ledger);
        assert!(self.store.run(QuotaProof).await.unwrap().is_empty(), "{what}");
    }
}

fn names(plan: &Plan) -> BTreeSet<String> {
    plan.operations.iter().filter(|o| !o.awaits_input).map(|o| o.name.clone()).collect()
}

fn deletes(plan: &Plan) -> BTreeSet<String> {
    plan.operations.iter().filter_map(|o| o.makes.as_ref()).map(|kind| format!("delete_{kind}")).collect()
}

/// Whether an operation is waited for, so that there is something within the wait: tried by running without a crash.
async fn waited_for(provider: &'static str) -> BTreeSet<String> {
    let house = House::open(provider, json!({})).await;
    let mut waited = BTreeSet::new();
    let [attempt, suspend, reactivate] = house.plans().await;
    let all = [names(&attempt), names(&suspend), names(&reactivate), deletes(&attempt)];
    for name in all.iter().flatten().collect::<BTreeSet<_>>() {
        let house = House::open(provider, json!({})).await;
        let trap = set(Point::WithinWait, name, 1);
        let life = async {
            let id = house.admit().await;
            house.ends(id, State::Completed, name).await;
            house.ask(id, Command::Suspend { reason: None }).await;
            house.ends(id, State::Suspended, name).await;
            house.ask(id, Command::Reactivate { reason: None }).await;
            house.ends(id, State::Completed, name).await;
            house.ask(id, Command::Deprovision { reason: None, force: false }).await;
            house.ends(id, State::RolledBack, name).await;
        };
        tokio::select! {
            () = trap.sprung() => { waited.insert(name.clone()); }
            () = life => {}
        }
    }
    set(Point::AfterAdmit, "none", 1);
    waited
}

/// Cases of one provider: each point of each operation that has it.
async fn cases(provider: &'static str, of: fn(&[Plan; 3]) -> (&Plan, BTreeSet<String>)) -> Vec<(Point, String)> {
    let plans = House::open(provider, json!({})).await.plans().await;
    let waited = waited_for(provider).await;
    let (plan, operations) = of(&plans);
    let claimed = operations.iter().filter(|o| is_first(plan, o)).map(|o| (Point::AfterClaim, o.clone()));
    let of_calls = operations.iter().flat_map(|o| OF_CALLS.map(|p| (p, o.clone())));
    of_calls.filter(|(p, o)| *p != Point::WithinWait || waited.contains(o)).chain(claimed).collect()
}

/// Begun by the claim itself: everything else begins in a settlement.
fn is_first(plan: &Plan, operation: &str) -> bool {
    plan.operations.iter().any(|o| o.name == operation && o.after.is_empty() && o.step == plan.operations[0].step)
}

#[tokio::test(start_paused = true)]
async fn every_point_of_every_operation_of_an_attempt() {
    let mut tried = 0;
    for provider in PROVIDERS {
        for (point, operation) in cases(provider, |[attempt, ..]| (attempt, names(attempt))).await {
            let what = format!("{provider} {} {operation}", point.name());
            let mut house = House::open(provider, json!({})).await;
            let trap = set(point, &operation, 1);
            let id = house.admit().await;
            house.crash(&trap, &what).await;
            house.ends(id, State::Completed, &what).await;
            let run = house.settles(id, &what).await;
            house.assert_one_of_each(&run, &what).await;
            tried += 1;
        }
    }
    eprintln!("{tried} cases");
}

#[tokio::test(start_paused = true)]
async fn every_point_of_every_release() {
    let mut tried = 0;
    for provider in PROVIDERS {
        for (point, operation) in cases(provider, |[attempt, ..]| (attempt, deletes(attempt))).await {
            let what = format!("{provider} {} {operation}", point.name());
            let mut house = House::open(provider, json!({})).await;
            let id = house.admit().await;
            house.ends(id, State::Completed, &what).await;
            let trap = set(point, &operation, 1);
            house.ask(id, Command::Deprovision { reason: None, force: false }).await;
            house.crash(&trap, &what).await;
            let run = house.ends(id, State::RolledBack, &what).await;
            house.assert_nothing(&run, &what).await;
            tried += 1;
        }
    }
    eprintln!("{tried} cases");
}

/// A failure at every operation, so that the roll-back begins at each step of the way, and a crash within it.
#[tokio::test(start_paused = true)]
async fn every_failed_operation_with_a_crash_in_its_rollback() {
    let mut tried = 0;
    for provider in PROVIDERS {
        let [plan, ..] = House::open(provider, json!({})).await.plans().await;
        for operation in names(&plan) {
            let faults = json!([{"operation": operation, "kind": "permanent"}]);
            for delete in deletes(&plan) {
                for point in [Point::AfterIntent, Point::AfterCall, Point::AfterSettle] {
                    let what = format!("{provider} {operation} fails, {} {delete}", point.name());
                    let mut house = House::open(provider, json!({"faults": faults})).await;
                    let trap = set(point, &delete, 1);
                    let id = house.admit().await;
                    // What was not made is not released either.
                    tokio::select! {
                        biased;
                        () = trap.sprung() => { house.again().await; tried += 1; }
                        _ = house.ends(id, State::RolledBack, &what) => {}
                    }
                    let run = house.ends(id, State::RolledBack, &what).await;
                    house.assert_nothing(&run, &what).await;
                }
            }
        }
    }
    assert!(tried > 100, "{tried}");
    eprintln!("{tried} cases");
}

#[tokio::test(start_paused = true)]
async fn every_point_of_every_action() {
    let mut tried = 0;
    for provider in PROVIDERS {
        for (point, operation) in cases(provider, |[_, suspend, _]| (suspend, names(suspend))).await {
            let what = format!("{provider} suspend {} {operation}", point.name());
            let mut house = House::open(provider, json!({})).await;
            let id = house.admit().await;
            house.ends(id, State::Completed, &what).await;
            let trap = set(point, &operation, 1);
            house.ask(id, Command::Suspend { reason: None }).await;
            house.crash(&trap, &what).await;
            let run = house.ends(id, State::Suspended, &what).await;
            house.assert_one_of_each(&run, &what).await;
            tried += 1;
        }
        for (point, operation) in cases(provider, |[_, _, reactivate]| (reactivate, names(reactivate))).await {
            let what = format!("{provider} reactivate {} {operation}", point.name());
            let mut house = House::open(provider, json!({})).await;
            let id = house.admit().await;
            house.ends(id, State::Completed, &what).await;
            house.ask(id, Command::Suspend { reason: None }).await;
            house.ends(id, State::Suspended, &what).await;
            let trap = set(point, &operation, 1);
            house.ask(id, Command::Reactivate { reason: None }).await;
            house.crash(&trap, &what).await;
            let run = house.ends(id, State::Completed, &what).await;
            house.assert_one_of_each(&run, &what).await;
            tried += 1;
        }
    }
    eprintln!("{tried} cases");
}

/// The answer of each create is lost, and the process ends while it is looked for.
#[tokio::test(start_paused = true)]
async fn h5_every_point_of_the_look_for_every_create_in_doubt() {
    let mut tried = 0;
    for provider in PROVIDERS {
        let [plan, ..] = House::open(provider, json!({})).await.plans().await;
        for maker in plan.operations.iter().filter(|o| o.makes.is_some()) {
            for kind in ["lost_reply", "late_success", "hang"] {
                for point in [Point::AfterIntent, Point::AfterCall, Point::BeforeSettle, Point::AfterSettle] {
                    let what = format!("{provider} {kind} of {}, {} find", maker.name, point.name());
                    let faults = json!([{"operation": maker.name, "kind": kind, "on_calls": [1]}]);
                    let mut house = House::open(provider, json!({"faults": faults, "deadlines": {"*": 10}})).await;
                    let trap = set(point, "find", 1);
                    let id = house.admit().await;
                    house.crash(&trap, &what).await;
                    house.ends(id, State::Completed, &what).await;
                    let run = house.settles(id, &what).await;
                    house.assert_one_of_each(&run, &what).await;
                    tried += 1;
                }
            }
        }
    }
    eprintln!("{tried} cases");
}

/// Nobody is told of an admission or a command, and it is done all the same.
#[tokio::test(start_paused = true)]
async fn what_is_admitted_or_asked_for_is_done_though_nobody_was_told() {
    for provider in PROVIDERS {
        let mut house = House::open(provider, json!({})).await;
        let trap = set(Point::AfterAdmit, "", 1);
        tokio::select! {
            biased;
            () = trap.sprung() => {}
            _ = house.admit() => panic!("it was told"),
        }
        house.again().await;
        let page = house.store.run(provisor_store::ops::requests::ListRequests { limit: 1, ..Default::default() }).await.unwrap();
        let id = page.items[0].run.id;
        house.ends(id, State::Completed, provider).await;
        for (command, state) in [
            (Command::Suspend { reason: None }, State::Suspended),
            (Command::Reactivate { reason: None }, State::Completed),
            (Command::Deprovision { reason: None, force: false }, State::RolledBack),
        ] {
            let trap = set(Point::AfterCommand, "", 1);
            tokio::select! {
                biased;
                () = trap.sprung() => {}
                () = house.ask(id, command) => panic!("it was told"),
            }
            house.again().await;
            house.ends(id, state, provider).await;
        }
        let run = house.run_of(id).await;
        house.assert_nothing(&run, provider).await;
    }
}

/// What comes after its row was closed is released by the sweeper (H6), wherever it stops.
#[tokio::test(start_paused = true)]
async fn h6_every_point_of_a_sweep_for_every_kind() {
    let mut tried = BTreeMap::new();
    for provider in PROVIDERS {
        let [plan, ..] = House::open(provider, json!({})).await.plans().await;
        for maker in plan.operations.iter().filter(|o| o.makes.is_some()) {
            for point in [Point::BeforeSweepRelease, Point::WithinSweep, Point::AfterSweepRelease] {
                let what = format!("{provider} {} {}", point.name(), maker.name);
                let fault = json!({"operation": maker.name, "kind": "late_success", "on_calls": [1], "after_seconds": 120});
                let settings =
                    json!({"faults": [fault], "deadlines": {"*": 10}, "late_create_seconds": 30, "sweep_every_seconds": 5});
                let mut house = House::open(provider, settings).await;
                let kind = maker.makes.clone().unwrap();
                let trap = set(point, &kind, 1);
                let id = house.admit().await;
                house.ends(id, State::Completed, &what).await;
                house.crash(&trap, &what).await;
                tokio::time::sleep(Duration::from_mins(1)).await;
                let run = house.run_of(id).await;
                house.assert_one_of_each(&run, &what).await;
                *tried.entry(kind).or_insert(0) += 1;
            }
        }
    }
    eprintln!("{tried:?}");
}
