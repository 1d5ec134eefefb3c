//! Stores, ids and rows for tests.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use provisor_core::chance::SplitMix;
use provisor_core::cluster::{ClusterSpec, Settings};
use provisor_core::event::{Event, EventKind};
use provisor_core::id::{Id, Named, Tag};
use provisor_core::run::RowState;
use provisor_core::tenant::TenantSpec;
use provisor_core::{AttemptId, ClusterId, EventId, RequestId, ResourceId, Run, State, TenantId, Timestamp};
use provisor_store::clock::ManualClock;
use provisor_store::ops::clusters::{ClusterView, CreateCluster};
use provisor_store::ops::tenants::{CreateTenant, TenantView};
use provisor_store::tx::{Stmt, both, each};
use provisor_store::value::{Val, to_json};
use provisor_store::{Mode, Op, OpError, Store, Tx};
use serde_json::{Value, json};

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("provisor-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn database(&self) -> PathBuf {
        self.0.join("provisor.db")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A store with fresh ids.
pub struct World {
    pub store: Store,
    chance: Mutex<SplitMix>,
    millis: AtomicU64,
    // After the store, so that the store is closed first.
    _folder: Option<Folder>,
}

pub const START: Timestamp = Timestamp(1_795_000_000_000_000);

impl World {
    pub fn sqlite() -> Self {
        let folder = Folder::new();
        let store = Store::open_sqlite(&folder.database()).unwrap();
        Self::over(store, Some(folder))
    }

    pub fn inline() -> Self {
        Self::over(Store::in_memory(ManualClock::new(START).clock()).unwrap(), None)
    }

    /// `None` on a machine without PostgreSQL.
    pub fn postgres() -> Option<Self> {
        Some(Self::over(crate::postgres::store()?, None))
    }

    pub fn over(store: Store, folder: Option<Folder>) -> Self {
        Self { store, chance: Mutex::new(SplitMix::new(1)), millis: AtomicU64::new(1), _folder: folder }
    }

    /// A fresh id, later than all before it.
    pub fn id<K: Named>(&self) -> Id<K> {
        let millis = i64::try_from(self.millis.fetch_add(1, Ordering::Relaxed)).unwrap();
        Id::new(Timestamp(START.0 + millis * 1000), &mut *self.chance.lock().unwrap())
    }

    pub async fn tenant(&self, name: &str) -> TenantView {
        self.store.run(CreateTenant { id: self.id(), spec: tenant_spec(name) }).await.unwrap()
    }

    pub async fn cluster(&self, name: &str) -> ClusterView {
        let create = CreateCluster { id: self.id(), spec: cluster_spec(name), credentials: None };
        self.store.run(create).await.unwrap()
    }

    /// A stored request in a state.
    pub async fn request(&self, tenant: &TenantView, name: &str, state: State) -> Run {
        let run = run(self.id(), tenant.id, &tenant.spec.name, name, state);
        self.insert(run.clone()).await;
        run
    }

    pub async fn insert(&self, run: Run) {
        self.store.run(InsertRequest { run }).await.unwrap();
    }

    /// A stored ledger row of a request.
    pub async fn row(&self, request: RequestId, cluster: ClusterId, state: RowState) -> (ResourceId, Tag) {
        let id: ResourceId = self.id();
        let tag = Tag::new("testtest", id);
        let attempt: AttemptId = self.id();
        self.store.run(InsertRow { id, request, attempt, cluster, tag: tag.clone(), state }).await.unwrap();
        (id, tag)
    }

    /// An event in the log; answers its id.
    pub async fn event(&self, run: &Run, version: i64, sequence: Option<i64>, kind: EventKind) -> EventId {
        self.events(run, version, sequence, &[kind]).await
    }

    /// Several that one transaction tells: the version of the last, the sequence of the last published. Answers the id of
    /// the first.
    pub async fn events(&self, run: &Run, version: i64, sequence: Option<i64>, kinds: &[EventKind]) -> EventId {
        let id = self.id();
        self.store.run(InsertEvents { id, run: run.clone(), version, sequence, kinds: kinds.to_vec() }).await.unwrap();
        id
    }
}

pub fn tenant_spec(name: &str) -> TenantSpec {
    let value = json!({"name": name, "quota": {"cpu": 100, "requests": {"vps": 10}}});
    TenantSpec::check("", &value).unwrap()
}

pub fn cluster_spec(name: &str) -> ClusterSpec {
    let value = json!({
        "name": name, "provider": "openstack", "region": "eu-west-1",
        "capacity": {"cpu": 64, "memory_gb": 256, "storage_gb": 4000, "slots": 100},
        "endpoint": {"auth_url": "https://cloud.example/identity", "ca_file": "ca.pem"},
    });
    ClusterSpec::check("", &value).unwrap().0
}

/// A request for a vps of 2 cpu, 4 GiB and 40 GiB.
pub fn run(id: RequestId, tenant: TenantId, tenant_name: &str, name: &str, state: State) -> Run {
    let value = json!({
        "version": 1, "id": id, "tenant": tenant,
        "spec": {
            "name": name, "tenant": tenant_name, "kind": "vps", "region": "eu-west-1",
            "size": {"cpu": 2, "memory_gb": 4, "storage_gb": 40},
            "provider": null, "cluster": null, "image": "debian-12", "user_data": null, "probes": null,
            "strategy": {"type": "failover", "max_attempts": 3}, "order_id": "ord-1", "notify_email": null,
            "source": null, "ttl_seconds": null, "product": null, "queue_timeout_seconds": null,
        },
        "regions": ["eu-west-1"], "state": state, "outcome": null, "wanted": "running", "action": null, "health": null,
        "attempts": [], "winner": null, "ledger": [], "waiting": null, "waits": [], "error": null, "depends_on": [],
        "retry_of": null, "retried_as": null, "created_at": START, "provisioning_started_at": null, "ready_at": null,
        "termination_started_at": null, "terminated_at": null,
        "progress": {"at": START, "downtime": 0.0, "not_before": START},
    });
    serde_json::from_value(value).unwrap()
}

/// Adds an attempt that holds its cluster.
pub fn with_attempt(mut run: Run, id: AttemptId, cluster: ClusterId, state: &str) -> Run {
    let value = json!({
        "id": id, "number": 1, "role": "first", "cluster": cluster, "cluster_name": "c", "provider": "openstack",
        "region": "eu-west-1", "identity": null, "settings": Settings::default(), "state": state, "steps": [],
        "operations": [], "facts": {}, "endpoints": [], "error": null, "replaced_by": null, "started_at": START,
        "finished_at": null, "released_at": null,
    });
    run.attempts.push(serde_json::from_value(value).unwrap());
    run
}

/// Puts a row of `request` (and its labels) there by hand, with its tenant's counters.
struct InsertRequest {
    run: Run,
}

const REQUEST: Stmt = both(
    "insert into request (id, tenant, name, kind, state, live, region, order_id, run, version, events, published, due_at, cpu, memory,
     storage, in_work, created_at, updated_at)
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 1, 0, 0, 9223372036854775807, ?10, ?11, ?12, ?13, ?14, ?14)",
);
const LABEL: Stmt = both("insert into label (request, name, value) values (?1, ?2, ?3)");
const HOLD: Stmt = both(
    "update tenant set used_cpu = used_cpu + ?2, used_memory = used_memory + ?3, used_storage = used_storage + ?4,
     used_vps = used_vps + 1, in_work = in_work + ?5 where id = ?1",
);

impl Op for InsertRequest {
    type Out = ();
    const NAME: &'static str = "insert_request";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        let (run, now, needs) = (&self.run, tx.now().await?, self.run.spec.needs());
        let values = [
            run.id.into(),
            run.tenant.into(),
            run.spec.name.as_str().into(),
            run.spec.kind.name().into(),
            run.state.name().into(),
            run.holds_quota().into(),
            run.spec.region.clone().into(),
            run.spec.order_id.clone().into(),
            to_json(run)?.into(),
            needs.cpu.into(),
            needs.memory_gb.into(),
            needs.storage_gb.into(),
            run.is_in_work().into(),
            now.0.into(),
        ];
        tx.exec(&REQUEST, &values).await?;
        for (name, value) in &run.spec.labels {
            tx.exec(&LABEL, &[run.id.into(), name.as_str().into(), value.as_str().into()]).await?;
        }
        if run.holds_quota() {
            let values: [Val; 5] =
                [run.tenant.into(), needs.cpu.into(), needs.memory_gb.into(), needs.storage_gb.into(), run.is_in_work().into()];
            tx.exec(&HOLD, &values).await?;
        }
        Ok(())
    }
}

struct InsertRow {
    id: ResourceId,
    request: RequestId,
    attempt: AttemptId,
    cluster: ClusterId,
    tag: Tag,
    state: RowState,
}

const RESOURCE: Stmt = both(
    "insert into resource (id, request, attempt, cluster, kind, name, tag, provider_id, state, in_doubt, open, created_at)
     values (?1, ?2, ?3, ?4, 'server', 'db', ?5, 'srv-1', ?6, 0, ?7, ?8)",
);

impl Op for InsertRow {
    type Out = ();
    const NAME: &'static str = "insert_row";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        let now = tx.now().await?;
        let values = [
            self.id.into(),
            self.request.into(),
            self.attempt.into(),
            self.cluster.into(),
            self.tag.as_str().into(),
            self.state.name().into(),
            (self.state != RowState::Released).into(),
            now.0.into(),
        ];
        tx.exec(&RESOURCE, &values).await.map(drop)
    }
}

struct InsertEvents {
    id: EventId,
    run: Run,
    /// Of the last.
    version: i64,
    /// Of the last published.
    sequence: Option<i64>,
    kinds: Vec<EventKind>,
}

pub const EVENTS: Stmt = each(
    "insert into event (position, id, subject, version, count, sequence, tenant, at, body) \
     values (max(coalesce((select max(position) from event), 0), (select position from log_start)) + ?4, \
     ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    "insert into event (id, subject, version, count, sequence, tenant, at, body) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
);

/// The text of a row of the log.
pub fn rows_text(shared: &Value, events: &[Event]) -> String {
    events.iter().fold(shared.to_string(), |text, event| format!("{text}\n{}", serde_json::to_string(event).unwrap()))
}

impl Op for InsertEvents {
    type Out = ();
    const NAME: &'static str = "insert_events";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        let now = tx.now().await?;
        let events: Vec<Event> = self.kinds.iter().map(|kind| Event::new(*kind)).collect();
        let mut shared = json!({});
        if self.sequence.is_some() {
            let spec = &self.run.spec;
            shared["request"] = json!({"name": spec.name, "kind": spec.kind, "state": self.run.state, "order_id": spec.order_id});
        }
        let values = [
            self.id.into(),
            self.run.id.into(),
            self.version.into(),
            i64::try_from(events.len()).unwrap().into(),
            self.sequence.into(),
            self.run.spec.tenant.as_str().into(),
            now.0.into(),
            rows_text(&shared, &events).into(),
        ];
        tx.exec(&EVENTS, &values).await.map(drop)
    }
}

/// Sets a text in `meta` and then does as told; for tests of the drivers.
pub struct Put {
    pub name: String,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Succeed,
    Refuse,
    Panic,
    /// Waits for something that is no transaction.
    Wait,
    /// Breaks a foreign key that is checked only at the commit.
    SpoilCommit,
}

const META: Stmt = both("insert into meta (name, value) values (?1, 'here') on conflict (name) do nothing");
const DEFER: Stmt = both("pragma defer_foreign_keys = on");
const ORPHAN: Stmt = both("insert into label (request, name, value) values ('req_none', 'a', 'b')");

impl Op for Put {
    type Out = String;
    const NAME: &'static str = "put";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<String, OpError> {
        tx.exec(&META, &[self.name.as_str().into()]).await?;
        match self.then {
            Then::Succeed => {}
            Then::Refuse => return Err(OpError::NotFound("anything")),
            Then::Panic => panic!("on purpose"),
            Then::Wait => std::future::pending().await,
            Then::SpoilCommit => {
                tx.rows(&DEFER, &[]).await?;
                tx.exec(&ORPHAN, &[]).await?;
            }
        }
        Ok(self.name.clone())
    }
}

/// Sets a text in `meta`, together with its like; answers how many were done as one.
pub struct Joining {
    pub name: String,
    pub then: Then,
}

impl Op for Joining {
    type Out = usize;
    const NAME: &'static str = "joining";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<usize, OpError> {
        Put { name: self.name.clone(), then: self.then }.run(tx).await.map(|_| 1)
    }

    fn joins(&self) -> bool {
        true
    }

    /// One that is to be refused is refused before anything is written; whatever else goes wrong is met in the middle.
    async fn run_joined(all: &[&Self], tx: &mut Tx<'_>) -> Result<Vec<Result<usize, OpError>>, OpError> {
        let mut answers = Vec::with_capacity(all.len());
        for one in all {
            answers.push(match one.then {
                Then::Refuse => Err(OpError::NotFound("anything")),
                _ => one.run(tx).await.map(|_| Ok(all.len()))?,
            });
        }
        Ok(answers)
    }
}

/// An operation that is as slow as the test wants: it tells that it has begun, and ends when it is let.
#[derive(Clone)]
pub struct Gate {
    begun: Arc<tokio::sync::Notify>,
    open: Arc<std::sync::Barrier>,
}

/// The writer, held by a [`Gate`] in a commit of its own.
pub struct HeldWriter {
    gate: Gate,
    task: tokio::task::JoinHandle<Result<(), OpError>>,
}

impl HeldWriter {
    pub async fn hold(store: &Store) -> Self {
        let gate = Gate { begun: Arc::new(tokio::sync::Notify::new()), open: Arc::new(std::sync::Barrier::new(2)) };
        let (store, op) = (store.clone(), gate.clone());
        let task = tokio::spawn(async move { store.run(op).await });
        gate.begun.notified().await;
        Self { gate, task }
    }

    pub async fn let_go(self) {
        self.gate.open.wait();
        self.task.await.unwrap().unwrap();
    }
}

impl Op for Gate {
    type Out = ();
    const NAME: &'static str = "gate";
    const MODE: Mode = Mode::Write;
    async fn run(&self, _: &mut Tx<'_>) -> Result<(), OpError> {
        self.begun.notify_one();
        self.open.wait();
        Ok(())
    }
}
