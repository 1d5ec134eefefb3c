//! A store with tenants, clusters and a planner of a few lines, and hands that do a worker's part.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use provisor_core::chance::SplitMix;
use provisor_core::cluster::{ClusterSpec, Health, HealthState};
use provisor_core::event::Actor;
use provisor_core::id::{Id, Named};
use provisor_core::lifecycle::Step;
use provisor_core::run::{Command, ManualInput};
use provisor_core::spec::{Seal, Sealed};
use provisor_core::tenant::TenantSpec;
use provisor_core::workflow::plan::PLAN_VERSION;
use provisor_core::workflow::{Answer, Call, Made, Plan, Planned, Planner, Reply, Task};
use provisor_core::{Class, ClusterId, Failure, RequestId, Run, Span, Spec, State, Timestamp};
use provisor_store::clock::ManualClock;
use provisor_store::driver::postgres::Lanes;
use provisor_store::driver::{Driver, Faulty, Inline, Postgres, Sqlite};
use provisor_store::ops::admit::{Admit, Idempotency};
use provisor_store::ops::claim::{Batch, Claim, Claimed};
use provisor_store::ops::clusters::{ClusterView, CreateCluster, GetCluster, SetHealth};
use provisor_store::ops::command::Ask;
use provisor_store::ops::requests::{GetRequest, RequestView};
use provisor_store::ops::save::Context;
use provisor_store::ops::settle::{Settle, Settled};
use provisor_store::ops::tenants::{CreateTenant, GetTenant, TenantView};
use provisor_store::{OpError, Store};
use serde_json::{Value, json};

use super::tables::{self, Tables};
use crate::build::{Folder, START};

pub const LEASE: Span = Span::seconds(10);

/// Five operations for a server, four for a managed service; nobody knows the image `unknown`.
struct Plans;

impl Planner for Plans {
    fn plan(&self, _: ClusterId, spec: &Spec) -> Result<Plan, Failure> {
        if spec.image.as_deref() == Some("unknown") {
            return Err(Failure::new(Class::Permanent, "image_not_found", "there is no image unknown"));
        }
        let operations = match spec.kind {
            provisor_core::Kind::Managed => vec![
                Planned::new("reserve", Step::Allocate),
                Planned { awaits_input: true, ..Planned::new("await_input", Step::Configure) },
                Planned::new("mark_active", Step::Activate),
                Planned::new("probe_url", Step::Verify),
            ],
            _ => vec![
                Planned::new("create_volume", Step::Allocate).makes("volume"),
                Planned::new("create_server", Step::Allocate).makes("server").after(&["create_volume"]),
                Planned::new("create_rule", Step::Configure),
                Planned::new("wait_server", Step::Activate).recreate("create_server"),
                Planned::new("probe_tcp", Step::Verify),
            ],
        };
        Ok(Plan { version: PLAN_VERSION, operations })
    }

    fn plan_action(&self, _: ClusterId, action: &str, _: &Spec) -> Result<Plan, Failure> {
        let name = if action == "suspend" { "stop_server" } else { "start_server" };
        Ok(Plan { version: PLAN_VERSION, operations: vec![Planned::new(name, Step::Activate)] })
    }
}

struct NoSeal;
impl Seal for NoSeal {
    fn seal(&self, _: &str) -> Sealed {
        panic!("nothing to seal in these tests")
    }
}

/// Everything that a test of the pipeline needs.
pub struct Scene {
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub faults: Arc<Faulty>,
    pub context: Arc<Context>,
    ids: AtomicU64,
    // After the store, so that the store is closed first.
    _folder: Option<Folder>,
}

/// A lease that the test holds.
#[derive(Debug, Clone)]
pub struct Lease {
    pub id: RequestId,
    pub generation: i64,
    pub worker: String,
    pub calls: Vec<Call>,
}

impl Lease {
    pub fn of(worker: &str, claimed: Claimed) -> Self {
        Self { id: claimed.run.id, generation: claimed.generation, worker: worker.to_owned(), calls: claimed.calls }
    }
}

impl Scene {
    pub fn sqlite() -> Self {
        let (folder, clock) = (Folder::new(), ManualClock::new(START));
        let driver = Sqlite::open_with_clock(&folder.database(), clock.clock()).unwrap();
        Self::over(Arc::new(driver), clock, Some(folder))
    }

    pub fn inline() -> Self {
        let clock = ManualClock::new(START);
        let driver = Inline::in_memory(clock.clock()).unwrap();
        Self::over(Arc::new(driver), clock, None)
    }

    /// `None` on a machine without PostgreSQL.
    pub fn postgres() -> Option<Self> {
        Self::postgres_with(crate::postgres::FEW)
    }

    pub fn postgres_with(lanes: Lanes) -> Option<Self> {
        let clock = ManualClock::new(START);
        let driver = Postgres::open_with(&crate::postgres::database()?, lanes, Some(clock.clock())).unwrap();
        Some(Self::over(Arc::new(driver), clock, None))
    }

    pub fn over(driver: Arc<dyn Driver>, clock: Arc<ManualClock>, folder: Option<Folder>) -> Self {
        let faults = Arc::new(Faulty::new(driver, 1));
        let seed = AtomicU64::new(1);
        let context = Context {
            installation: "testtest".to_owned(),
            planner: Arc::new(Plans),
            lease: LEASE,
            stuck_after: Span::seconds(1800),
            strategy: provisor_core::spec::Strategy::default(),
            downtime: AtomicI64::new(0),
            known: std::sync::RwLock::default(),
            seeds: Box::new(move || seed.fetch_add(1, Ordering::Relaxed)),
        };
        let store = Store::new(Arc::clone(&faults) as Arc<dyn Driver>);
        Self { store, clock, faults, context: Arc::new(context), ids: AtomicU64::new(1_000_000), _folder: folder }
    }

    /// With one tenant `acme` and one cluster `one` of eight processors.
    pub async fn with_one_of_each(self) -> Self {
        self.tenant("acme", json!({})).await;
        self.cluster("one", json!({})).await;
        self
    }

    pub fn id<K: Named>(&self) -> Id<K> {
        Id::new(self.store.now(), &mut SplitMix::new(self.ids.fetch_add(1, Ordering::Relaxed)))
    }

    pub async fn tenant(&self, name: &str, extra: Value) -> TenantView {
        let spec = TenantSpec::check("", &merged(json!({"name": name}), extra)).unwrap();
        self.store.run(CreateTenant { id: self.id(), spec }).await.unwrap()
    }

    pub async fn tenant_now(&self, name: &str) -> TenantView {
        self.store.run(GetTenant { key: name.to_owned() }).await.unwrap().unwrap()
    }

    pub async fn cluster(&self, name: &str, extra: Value) -> ClusterView {
        let create = CreateCluster { id: self.id(), spec: cluster_spec(name, extra), credentials: None };
        self.store.run(create).await.unwrap()
    }

    pub async fn cluster_now(&self, name: &str) -> ClusterView {
        self.store.run(GetCluster { key: name.to_owned() }).await.unwrap().unwrap()
    }

    pub async fn health(&self, id: ClusterId, state: HealthState) {
        let health = Health { state, ..Health::default() };
        self.store.run(SetHealth { id, health }).await.unwrap();
    }

    /// An admission of several with the pointers of a batch.
    pub fn admission(&self, items: Vec<Spec>, key: Option<Idempotency>) -> Admit {
        let pointers = (0..items.len()).map(|i| format!("/requests/{i}")).collect();
        Admit { items, pointers, actor: actor(), idempotency: key, retry_of: None, context: Arc::clone(&self.context) }
    }

    pub async fn try_admit(&self, items: Vec<Spec>) -> Result<Vec<RequestView>, OpError> {
        self.store.run(self.admission(items, None)).await
    }

    /// Admits one server; `extra` changes its specification.
    pub async fn admit(&self, name: &str, extra: Value) -> RequestId {
        self.try_admit(vec![spec(name, extra)]).await.unwrap()[0].run.id
    }

    pub async fn view(&self, id: RequestId) -> RequestView {
        self.store.run(GetRequest { id, scope: None }).await.unwrap().unwrap()
    }

    pub async fn run_of(&self, id: RequestId) -> Run {
        self.view(id).await.run
    }

    pub async fn ask(&self, id: RequestId, command: Command) -> Result<RequestView, OpError> {
        self.store.run(Ask { id, scope: None, command, actor: actor(), context: Arc::clone(&self.context) }).await
    }

    pub async fn claim(&self, worker: &str, limit: usize) -> Batch {
        self.store.run(self.claiming(worker, limit)).await.unwrap()
    }

    pub fn claiming(&self, worker: &str, limit: usize) -> Claim {
        Claim { worker: worker.to_owned(), limit, context: Arc::clone(&self.context) }
    }

    /// Claims exactly one request.
    pub async fn take(&self, worker: &str) -> Lease {
        let mut claimed = self.claim(worker, 1).await.claimed;
        assert_eq!(claimed.len(), 1, "nothing to claim");
        Lease::of(worker, claimed.remove(0))
    }

    pub fn settling(&self, lease: &Lease, answers: Vec<Answer>) -> Settle {
        Settle {
            id: lease.id,
            generation: lease.generation,
            worker: lease.worker.clone(),
            answers,
            in_flight: false,
            closing: false,
            identities: Vec::new(),
            context: Arc::clone(&self.context),
        }
    }

    pub async fn settle(&self, lease: &Lease, answers: Vec<Answer>) -> Result<Settled, OpError> {
        self.store.run(self.settling(lease, answers)).await
    }

    /// Answers every call well until nothing is under way.
    pub async fn drive(&self, mut lease: Lease) -> Run {
        loop {
            let answers = lease.calls.iter().map(good).collect();
            let settled = self.settle(&lease, answers).await.unwrap();
            if settled.released {
                return settled.run;
            }
            lease.calls = settled.calls;
        }
    }

    /// Claims and drives everything until a request is in a state; time goes on when nothing is due, and a person
    /// confirms what is asked (H17).
    pub async fn until(&self, id: RequestId, state: State) -> Run {
        for _ in 0..2000 {
            let run = self.run_of(id).await;
            if run.state == state {
                return run;
            }
            if run.confirmation.as_ref().is_some_and(|c| c.given.is_none()) {
                let yes = ManualInput { endpoints: Vec::new(), credentials: None };
                self.ask(id, Command::ManualInput(yes)).await.unwrap();
                continue;
            }
            let batch = self.claim("hands", 64).await;
            let (busy, due) = (batch.busy, batch.next_due);
            for claimed in batch.claimed {
                self.drive(Lease::of("hands", claimed)).await;
            }
            if !busy {
                assert_ne!(due, Timestamp::NEVER, "{} waits for nothing: {:?}", run.state.name(), run.waiting);
                self.clock.advance(due.since(self.store.now()).max(Span(1)));
            }
        }
        panic!("{:#?}", self.run_of(id).await);
    }

    /// A completed server.
    pub async fn completed(&self, name: &str, extra: Value) -> RequestId {
        let id = self.admit(name, extra).await;
        self.until(id, State::Completed).await;
        id
    }

    /// Everything that is stored.
    pub async fn tables(&self) -> Tables {
        tables::read(&self.store).await
    }

    /// All that must hold of the tables at any time.
    pub async fn check(&self) {
        super::truth::check(&self.store).await;
    }

    /// Does something that must be refused, and proves that nothing of it is stored.
    pub async fn refused<T>(&self, what: impl Future<Output = Result<T, OpError>>) -> OpError {
        let before = self.tables().await;
        let Err(error) = what.await else { panic!("it was not refused") };
        tables::assert_same(&before, &self.tables().await);
        error
    }
}

pub fn actor() -> Actor {
    Actor { kind: "token".to_owned(), id: "test".to_owned() }
}

pub fn cluster_spec(name: &str, extra: Value) -> ClusterSpec {
    let value = json!({
        "name": name, "provider": "simulation", "simulates": ["openstack", "manual"], "region": "eu",
        "capacity": {"cpu": 8, "memory_gb": 64, "storage_gb": 1000, "slots": 100},
        "settings": {"retry": {"initial_seconds": 1, "cap_seconds": 2, "max_retries": 2}, "late_create_seconds": 30, "list_lag_seconds": 1},
    });
    ClusterSpec::check("", &merged(value, extra)).unwrap().0
}

/// A server of one processor for tenant `acme` in region `eu`.
pub fn spec(name: &str, extra: Value) -> Spec {
    let value = json!({"name": name, "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12",
        "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}});
    Spec::check("", &merged(value, extra), &NoSeal).unwrap()
}

pub fn managed(name: &str) -> Spec {
    let value = json!({"name": name, "tenant": "acme", "kind": "managed", "product": "erp"});
    Spec::check("", &value, &NoSeal).unwrap()
}

pub fn cpus(n: u32) -> Value {
    json!({"size": {"cpu": n, "memory_gb": 1, "storage_gb": 1}})
}

#[allow(clippy::needless_pass_by_value, reason = "called with what `json!` makes")]
pub fn merged(mut value: Value, extra: Value) -> Value {
    for (key, new) in extra.as_object().unwrap() {
        value[key] = new.clone();
    }
    value
}

pub fn done() -> Reply {
    Reply::Done(Made::default())
}

pub fn made(provider_id: &str) -> Made {
    Made { provider_id: Some(provider_id.to_owned()), ..Made::default() }
}

/// The good answer to a call.
pub fn good(call: &Call) -> Answer {
    let reply = match &call.task {
        Task::Perform(work) => match &work.tag {
            Some(tag) => Reply::Done(made(&format!("{}-{tag}", work.operation))),
            None => done(),
        },
        Task::Find { .. } => Reply::Looked(Vec::new()),
        Task::Release(_) => Reply::Gone { replaced: false },
    };
    Answer { key: call.key.clone(), reply }
}

pub fn failed(call: &Call, class: Class) -> Answer {
    Answer { key: call.key.clone(), reply: Reply::Failed(Failure::new(class, "scripted", "told to fail")) }
}

/// The name of what a call does.
pub fn name(call: &Call) -> String {
    match &call.task {
        Task::Perform(work) => work.operation.clone(),
        Task::Find { kind, .. } => format!("find_{kind}"),
        Task::Release(held) => format!("delete_{}", held.kind),
    }
}

pub fn names(calls: &[Call]) -> Vec<String> {
    calls.iter().map(name).collect()
}
