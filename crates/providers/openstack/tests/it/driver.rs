//! What the engine does with a provider, in its shortest form: walk a plan, walk back.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use provisor_core::chance::SplitMix;
use provisor_core::cluster::ClusterSpec;
use provisor_core::event::Endpoint;
use provisor_core::id::{ClusterId, RequestId, ResourceId, Tag};
use provisor_core::spec::{Seal, Sealed};
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::plan::Planned;
use provisor_core::workflow::{Made, Plan};
use provisor_core::{Failure, Spec, Timestamp};
use provisor_openstack::OpenstackConnector;
use provisor_provider::{Binding, Cidr, Connector, Open, Progress, Provider, Released, Secret};
use serde_json::{Value, json};

/// The text is its own cipher.
pub(crate) struct Glass;

impl Seal for Glass {
    fn seal(&self, clear: &str) -> Sealed {
        Sealed { key: "k".into(), sealed: clear.into(), fingerprint: "f".into() }
    }
}

impl Open for Glass {
    fn open(&self, sealed: &Sealed) -> Result<String, Failure> {
        Ok(sealed.sealed.clone())
    }
}

pub(crate) fn connect(endpoint: &Value, credentials: &Value, settings: &Value) -> Arc<dyn Provider> {
    let entry = json!({"name": "os", "provider": "openstack", "region": "eu", "endpoint": endpoint,
        "settings": settings, "credentials": credentials});
    let (spec, _) = ClusterSpec::check("", &entry).expect("a good cluster");
    let flaws = OpenstackConnector.check("", &spec, Some(credentials));
    assert!(flaws.is_empty(), "{flaws:?}");
    let binding = Binding {
        id: ClusterId::new(Timestamp(1), &mut SplitMix::new(1)),
        spec,
        credentials: Secret::new(credentials.clone()),
        open: Arc::new(Glass),
        probe_allow: vec![Cidr::parse("127.0.0.0/8").expect("range")],
    };
    OpenstackConnector.connect(binding).expect("a provider")
}

pub(crate) fn spec(change: &Value) -> Spec {
    let mut value = json!({"name": "web", "tenant": "acme", "kind": "vps", "region": "eu",
        "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}, "image": "debian-12", "ports": [22, 80, 443]});
    for (key, new) in change.as_object().expect("an object") {
        value[key] = new.clone();
    }
    Spec::check("", &value, &Glass).expect("a good request")
}

/// One thing that was made.
pub(crate) struct Row {
    pub(crate) kind: String,
    pub(crate) tag: Tag,
    pub(crate) name: String,
    pub(crate) id: String,
}

/// One attempt at a request.
pub(crate) struct Attempt {
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) spec: Spec,
    pub(crate) installation: String,
    pub(crate) request: RequestId,
    pub(crate) facts: BTreeMap<String, String>,
    pub(crate) resources: BTreeMap<String, String>,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) rows: Vec<Row>,
    pub(crate) tries: u32,
    chance: SplitMix,
}

/// A number that no other test of this run, and no run before, has used.
pub(crate) fn fresh() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Attempt {
    pub(crate) fn new(provider: Arc<dyn Provider>, spec: Spec) -> Self {
        let seed = fresh();
        let mut chance = SplitMix::new(seed);
        let request = RequestId::new(Timestamp(1), &mut chance);
        let installation = format!("t{:x}", seed & 0xffff_ffff);
        Self {
            provider,
            spec,
            installation,
            request,
            facts: BTreeMap::new(),
            resources: BTreeMap::new(),
            endpoints: Vec::new(),
            rows: Vec::new(),
            tries: 1,
            chance,
        }
    }

    pub(crate) fn work(&mut self, planned: &Planned) -> Work {
        let row = ResourceId::new(Timestamp(2), &mut self.chance);
        Work {
            operation: planned.name.clone(),
            item: planned.item.clone(),
            spec: self.spec.clone(),
            request: self.request,
            attempt: None,
            tag: planned.makes.as_ref().map(|_| Tag::new(&self.installation, row)),
            name: format!("web-{}", &row.letters()[16..]),
            provider_id: None,
            resources: self.resources.clone(),
            facts: self.facts.clone(),
            endpoints: Vec::new(),
            try_number: self.tries,
        }
    }

    fn learn(&mut self, work: &mut Work, made: Made) {
        self.facts.extend(made.facts);
        work.facts.clone_from(&self.facts);
        self.endpoints.extend(made.endpoints);
        if made.provider_id.is_some() {
            work.provider_id = made.provider_id;
        }
    }

    /// Performs one operation to its end.
    pub(crate) async fn perform(&mut self, planned: &Planned) -> Result<(), Failure> {
        let mut work = self.work(planned);
        let result = loop {
            match self.provider.perform(&work).await {
                Ok(Progress::Done(made)) => {
                    self.learn(&mut work, made);
                    break Ok(());
                }
                Ok(Progress::Running { made, .. }) => {
                    self.learn(&mut work, made);
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(failure) => break Err(failure),
            }
        };
        if let (Some(kind), Some(id), Some(tag)) = (&planned.makes, work.provider_id, work.tag) {
            self.resources.insert(kind.clone(), id.clone());
            self.rows.push(Row { kind: kind.clone(), tag, name: work.name, id });
        }
        result
    }

    /// All operations in plan order, which fits their `after`.
    pub(crate) async fn run(&mut self, plan: &Plan) -> Result<(), (String, Failure)> {
        for planned in &plan.operations {
            let limit = Duration::from_mins(1);
            let Ok(result) = tokio::time::timeout(limit, self.perform(planned)).await else {
                panic!("{} did not end within {limit:?}", planned.name)
            };
            result.map_err(|failure| (planned.name.clone(), failure))?;
        }
        Ok(())
    }

    /// Takes on what was found.
    pub(crate) fn adopt(&mut self, kind: &str, tag: Tag, name: String, id: &str) {
        self.resources.insert(kind.to_owned(), id.to_owned());
        self.rows.push(Row { kind: kind.to_owned(), tag, name, id: id.to_owned() });
    }

    pub(crate) fn held(&self, row: &Row) -> Held {
        Held {
            kind: row.kind.clone(),
            tag: row.tag.clone(),
            provider_id: row.id.clone(),
            uid: None,
            identity: None,
            resources: self.resources.clone(),
            facts: self.facts.clone(),
        }
    }

    /// Releases one row and waits for the end.
    pub(crate) async fn release(&self, row: &Row) -> Result<Released, Failure> {
        let held = self.held(row);
        let gone = async {
            loop {
                match self.provider.release(&held).await? {
                    Released::Running { .. } => tokio::time::sleep(Duration::from_millis(300)).await,
                    end => break Ok(end),
                }
            }
        };
        tokio::time::timeout(Duration::from_mins(1), gone).await.expect("released within a minute")
    }

    /// Releases everything, the last made first.
    pub(crate) async fn undo(&mut self) {
        while let Some(row) = self.rows.pop() {
            let end = self.release(&row).await;
            assert_eq!(end, Ok(Released::Gone), "{} {}", row.kind, row.id);
        }
    }

    /// Everything that the backend shows of this installation.
    pub(crate) async fn owned(&self) -> Vec<(String, String)> {
        let prefix = Tag::prefix(&self.installation);
        let mut all = Vec::new();
        let mut from = None;
        loop {
            let page = self.provider.list_owned(&prefix, from).await.expect("a page");
            all.extend(page.items.into_iter().map(|found| (found.kind, found.provider_id)));
            from = page.next;
            if from.is_none() {
                all.sort();
                return all;
            }
        }
    }
}
