//! What every test needs: clusters, specifications, and one service driven by hand.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use provisor_core::chance::SplitMix;
use provisor_core::cluster::ClusterSpec;
use provisor_core::event::Endpoint;
use provisor_core::id::Tag;
use provisor_core::spec::{Seal, Sealed};
use provisor_core::workflow::Made;
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::plan::Planned;
use provisor_core::{AttemptId, ClusterId, Failure, RequestId, ResourceId, Spec, Timestamp};
use provisor_provider::{Binding, Connector, Open, Progress, Provider, Released, Secret};
use provisor_simulation::{Clock, Simulation};
use serde_json::{Value, json};

pub const INSTALLATION: &str = "testbench";
const EPOCH: i64 = 1_795_000_000_000_000;

/// Time that stands still with tokio's.
pub fn clock() -> Clock {
    let start = tokio::time::Instant::now();
    Arc::new(move || Timestamp(EPOCH + i64::try_from(start.elapsed().as_micros()).unwrap()))
}

/// A folder of its own for each test.
pub fn folder(name: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}-{count}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

pub fn cluster(name: &str, simulates: &str, settings: Value) -> ClusterSpec {
    let value = json!({"name": name, "provider": "simulation", "simulates": simulates, "region": "eu", "settings": settings});
    ClusterSpec::check("", &value).unwrap().0
}

struct Nothing;

impl Open for Nothing {
    fn open(&self, _: &Sealed) -> Result<String, Failure> {
        Ok(String::new())
    }
}

impl Seal for Nothing {
    fn seal(&self, _: &str) -> Sealed {
        Sealed { key: String::new(), sealed: String::new(), fingerprint: String::new() }
    }
}

pub fn connect(simulation: &Simulation, spec: &ClusterSpec) -> Arc<dyn Provider> {
    let id = ClusterId::new(Timestamp(1), &mut SplitMix::new(1));
    let binding =
        Binding { id, spec: spec.clone(), credentials: Secret::default(), open: Arc::new(Nothing), probe_allow: Vec::new() };
    simulation.connect(binding).unwrap()
}

pub fn spec_of(kind: &str) -> Value {
    match kind {
        "vps" => json!({
            "name": "db", "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12",
            "size": {"cpu": 2, "memory_gb": 4, "storage_gb": 40}, "ports": [22, 80, 443, 5432],
        }),
        "kubernetes_namespace" => json!({
            "name": "team-a", "tenant": "acme", "kind": kind, "region": "eu",
            "size": {"cpu": 2, "memory_gb": 4, "storage_gb": 40},
        }),
        "environment" => json!({
            "name": "pr-42", "tenant": "acme", "kind": kind, "region": "eu",
            "source": {"repository": "https://git.example/shop.git", "branch": "pr-42"},
        }),
        _ => json!({"name": "licence", "tenant": "acme", "kind": "managed", "product": "erp"}),
    }
}

pub fn spec(value: &Value) -> Spec {
    Spec::check("", value, &Nothing).unwrap()
}

/// Which kind each type serves.
pub const TYPES: [(&str, &str); 7] = [
    ("openstack", "vps"),
    ("vmware", "vps"),
    ("proxmox", "vps"),
    ("kubernetes", "kubernetes_namespace"),
    ("openshift", "kubernetes_namespace"),
    ("argocd", "environment"),
    ("manual", "managed"),
];

#[derive(Debug, Clone)]
pub struct Row {
    pub kind: String,
    pub tag: Tag,
    pub made: Made,
}

/// One service, driven as far as a test wants.
pub struct Service {
    pub provider: Arc<dyn Provider>,
    pub spec: Spec,
    pub request: RequestId,
    pub attempt: AttemptId,
    pub rows: Vec<Row>,
    pub resources: BTreeMap<String, String>,
    pub facts: BTreeMap<String, String>,
    pub endpoints: Vec<Endpoint>,
    chance: SplitMix,
}

impl Service {
    pub fn new(provider: Arc<dyn Provider>, spec: Spec, seed: u64) -> Self {
        let mut chance = SplitMix::new(seed);
        let request = RequestId::new(Timestamp(EPOCH), &mut chance);
        let attempt = AttemptId::new(Timestamp(EPOCH), &mut chance);
        let (rows, resources, facts) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self { provider, spec, request, attempt, rows, resources, facts, endpoints: Vec::new(), chance }
    }

    pub fn plan(&self) -> Vec<Planned> {
        self.provider.plan(&self.spec).unwrap().operations
    }

    pub fn planned(&self, name: &str) -> Planned {
        self.plan().into_iter().find(|o| o.name == name).unwrap()
    }

    /// The work of an operation; of a create with a row of its own.
    pub fn work(&mut self, planned: &Planned) -> Work {
        let mut work = Work {
            operation: planned.name.clone(),
            item: planned.item.clone(),
            spec: self.spec.clone(),
            request: self.request,
            attempt: Some(self.attempt),
            tag: None,
            name: self.spec.name.clone(),
            provider_id: None,
            resources: self.resources.clone(),
            facts: self.facts.clone(),
            endpoints: self.endpoints.clone(),
            try_number: 1,
        };
        if planned.makes.is_some() {
            let id = ResourceId::new(Timestamp(EPOCH), &mut self.chance);
            work.tag = Some(Tag::new(INSTALLATION, id));
            work.name = format!("{}-{}", self.spec.name, id.letters());
        }
        work
    }

    pub fn learn(&mut self, planned: &Planned, work: &Work, made: Made) {
        self.facts.extend(made.facts.clone());
        if !made.endpoints.is_empty() {
            self.endpoints.clone_from(&made.endpoints);
        }
        if let (Some(kind), Some(id)) = (&planned.makes, &made.provider_id) {
            self.resources.insert(kind.clone(), id.clone());
            let row = Row { kind: kind.clone(), tag: work.tag.clone().unwrap(), made };
            self.rows.push(row);
        }
    }

    /// Performs one operation to its end.
    pub async fn perform(&mut self, planned: &Planned) -> Result<(), Failure> {
        let mut work = self.work(planned);
        loop {
            match self.provider.perform(&work).await? {
                Progress::Done(made) => {
                    self.learn(planned, &work, made);
                    return Ok(());
                }
                Progress::Running { made, look_again, .. } => {
                    work.provider_id = made.provider_id.or(work.provider_id);
                    tokio::time::sleep(look_again.map_or(Duration::from_millis(20), provisor_core::Span::to_std)).await;
                }
            }
        }
    }

    /// Performs the plan up to and with the operation of that name, or all of it.
    pub async fn up_to(&mut self, last: Option<&str>) -> Result<(), Failure> {
        for planned in self.plan() {
            if !planned.awaits_input {
                self.perform(&planned).await?;
            }
            if last == Some(planned.name.as_str()) {
                break;
            }
        }
        Ok(())
    }

    pub fn held(&self, row: &Row) -> Held {
        Held {
            kind: row.kind.clone(),
            tag: row.tag.clone(),
            provider_id: row.made.provider_id.clone().unwrap(),
            uid: row.made.uid.clone(),
            identity: None,
            resources: self.resources.clone(),
            facts: self.facts.clone(),
        }
    }

    pub fn row(&self, kind: &str) -> Row {
        self.rows.iter().find(|r| r.kind == kind).unwrap().clone()
    }

    pub async fn release(&self, kind: &str) -> Result<Released, Failure> {
        self.provider.release(&self.held(&self.row(kind))).await
    }

    pub async fn release_all(&self) {
        for row in self.rows.iter().rev() {
            let end = tokio::time::Instant::now() + Duration::from_mins(1);
            while self.provider.release(&self.held(row)).await.unwrap() != Released::Gone {
                assert!(tokio::time::Instant::now() < end, "{row:?} is not released");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// A cloud that forgets, with one cluster and a service that nothing was done for yet.
pub fn quiet(simulates: &str, settings: Value) -> (Arc<Simulation>, Service) {
    let simulation = Simulation::in_memory(clock());
    let service = service(&simulation, simulates, settings, 1);
    (simulation, service)
}

/// A service on cluster `c`, whose settings are set with it.
pub fn service(simulation: &Simulation, simulates: &str, mut settings: Value, seed: u64) -> Service {
    for (key, value) in [("listeners", json!(false)), ("time_scale", json!(0))] {
        if settings.get(key).is_none() {
            settings[key] = value;
        }
    }
    let kind = TYPES.iter().find(|(t, _)| *t == simulates).unwrap().1;
    let provider = connect(simulation, &cluster("c", simulates, settings));
    Service::new(provider, spec(&spec_of(kind)), seed)
}

/// Resources of a kind in the inventory of cluster `c`.
pub fn resources(simulation: &Simulation, kind: &str, live: bool) -> Vec<Value> {
    let inventory = simulation.inventory("c", live).unwrap();
    inventory["resources"].as_array().unwrap().iter().filter(|r| r["kind"] == kind).cloned().collect()
}
