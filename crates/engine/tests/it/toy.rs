//! A backend of a few lines for the engine's own tests: what it does next is scripted by operation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use provisor_core::check::Flaw;
use provisor_core::cluster::{Capacity, ClusterSpec};
use provisor_core::event::Endpoint;
use provisor_core::lifecycle::Step;
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::plan::PLAN_VERSION;
use provisor_core::workflow::{Found, Made, Plan, Planned};
use provisor_core::{Class, Failure, Span, Spec};
use provisor_provider::{Action, Binding, Check, Connector, Metrics, Page, Progress, Provider, Released};

/// What an operation does at its next call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Next {
    /// Fails with a class.
    Fail(Class),
    /// Is done, but the answer never comes.
    LoseReply,
    /// Never answers and does nothing.
    Hang,
    /// Goes on after so many seconds.
    Slow(u64),
    /// Makes something that turns out to be of no use.
    Spoil,
}

/// What is wrong with a whole cluster for now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Trouble {
    /// Nothing of it answers.
    Away,
    /// It answers, and what it is told to do fails: no test sees that.
    Deaf,
}

/// What all clusters of a test share.
#[derive(Default)]
pub struct World {
    pub script: Mutex<BTreeMap<(String, String), VecDeque<Next>>>,
    /// (cluster, id) → (kind, tag).
    pub objects: Mutex<BTreeMap<(String, String), (String, String)>>,
    pub created: Mutex<u32>,
    /// Cluster → the backend behind it, where it is not its own.
    pub behind: Mutex<BTreeMap<String, String>>,
    /// Operations that make something and say no more than that it is under way.
    pub silent: Mutex<Vec<String>>,
    /// What turned out to be of no use.
    pub spoilt: Mutex<Vec<String>>,
    pub trouble: Mutex<BTreeMap<String, Trouble>>,
    /// Every call that was sent, by name.
    pub calls: Mutex<Vec<String>>,
}

impl World {
    pub fn script(&self, cluster: &str, operation: &str, next: &[Next]) {
        self.script.lock().unwrap().insert((cluster.into(), operation.into()), next.iter().copied().collect());
    }

    /// The backend that a cluster reaches.
    pub fn backend(&self, cluster: &str) -> String {
        self.behind.lock().unwrap().get(cluster).cloned().unwrap_or_else(|| cluster.to_owned())
    }

    pub fn count(&self, operation: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|c| *c == operation).count()
    }

    pub fn live(&self) -> Vec<String> {
        self.objects.lock().unwrap().values().map(|(k, _)| k.clone()).collect()
    }
}

pub struct Toys(pub Arc<World>);

impl Connector for Toys {
    fn check(&self, _: &str, _: &ClusterSpec, _: Option<&serde_json::Value>) -> Vec<Flaw> {
        Vec::new()
    }
    fn connect(&self, binding: Binding) -> Result<Arc<dyn Provider>, Failure> {
        Ok(Arc::new(Toy { world: Arc::clone(&self.0), cluster: binding.spec.name }))
    }
}

struct Toy {
    world: Arc<World>,
    cluster: String,
}

impl Toy {
    /// True: go on. A scripted hang never returns.
    async fn next(&self, operation: &str) -> Result<bool, Failure> {
        self.world.calls.lock().unwrap().push(operation.to_owned());
        let trouble = self.trouble();
        if trouble == Some(Trouble::Away)
            || (trouble.is_some() && !["identity", "find", "list_owned", "test"].contains(&operation))
        {
            return Err(Failure::new(Class::Transient, "unreachable", "nobody answers"));
        }
        match self.take(operation) {
            None | Some(Next::Spoil) => Ok(true),
            Some(Next::Fail(class)) => {
                let code = if class == Class::Auth { "credentials_refused" } else { "scripted" };
                Err(Failure::new(class, code, format!("{operation} was told to fail")))
            }
            Some(Next::LoseReply) => Ok(false),
            Some(Next::Hang) => std::future::pending().await,
            Some(Next::Slow(seconds)) => {
                tokio::time::sleep(std::time::Duration::from_secs(seconds)).await;
                Ok(true)
            }
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        self.world.trouble.lock().unwrap().get(&self.cluster).copied()
    }

    /// What comes next for an operation; it stays next until it is taken.
    fn scripted(&self, operation: &str) -> Option<Next> {
        let key = (self.cluster.clone(), operation.to_owned());
        self.world.script.lock().unwrap().get(&key)?.front().copied()
    }

    fn take(&self, operation: &str) -> Option<Next> {
        let key = (self.cluster.clone(), operation.to_owned());
        self.world.script.lock().unwrap().get_mut(&key)?.pop_front()
    }
}

#[async_trait]
impl Provider for Toy {
    fn plan(&self, _: &Spec) -> Result<Plan, Failure> {
        let operations = vec![
            Planned::new("create_volume", Step::Allocate).makes("volume"),
            Planned::new("create_server", Step::Allocate).makes("server").after(&["create_volume"]),
            Planned::new("create_rule", Step::Configure),
            Planned::new("wait_server", Step::Activate).recreate("create_server"),
            Planned::new("probe_tcp", Step::Verify),
        ];
        Ok(Plan { version: PLAN_VERSION, operations })
    }
    fn plan_action(&self, action: Action, _: &Spec) -> Result<Plan, Failure> {
        let name = if action == Action::Suspend { "stop_server" } else { "start_server" };
        Ok(Plan { version: PLAN_VERSION, operations: vec![Planned::new(name, Step::Activate)] })
    }
    async fn identity(&self) -> Result<String, Failure> {
        self.next("identity").await?;
        Ok(format!("toy-{}", self.world.backend(&self.cluster)))
    }
    async fn perform(&self, work: &Work) -> Result<Progress, Failure> {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        let spoils = self.scripted(&work.operation) == Some(Next::Spoil);
        let answers = self.next(&work.operation).await?;
        if work.provider_id.as_ref().is_some_and(|id| self.world.spoilt.lock().unwrap().contains(id)) {
            return Err(Failure::new(Class::Transient, "spoiled", "it is there and of no use").spoiled());
        }
        let mut made = Made::default();
        if let (Some(tag), None) = (&work.tag, &work.provider_id) {
            let mut created = self.world.created.lock().unwrap();
            *created += 1;
            let id = format!("{}-{created}", work.operation);
            let kind = work.operation.trim_start_matches("create_").to_owned();
            self.world.objects.lock().unwrap().insert((self.world.backend(&self.cluster), id.clone()), (kind, tag.to_string()));
            made.provider_id = Some(id);
        }
        if spoils {
            self.world.spoilt.lock().unwrap().extend(made.provider_id.clone());
            return Ok(Progress::Running { made, seen: "building".into(), look_again: None });
        }
        if self.world.silent.lock().unwrap().contains(&work.operation) {
            return Ok(Progress::Running { made: Made::default(), seen: "accepted".into(), look_again: None });
        }
        if !answers {
            std::future::pending::<()>().await;
        }
        if work.operation == "create_rule" {
            made.endpoints.push(Endpoint { name: "tcp".into(), url: "tcp://127.0.0.1:1".into() });
        }
        Ok(Progress::Done(made))
    }
    async fn find(&self, _: &str, tag: &str, _: &str) -> Result<Vec<Found>, Failure> {
        self.next("find").await?;
        let (objects, backend) = (self.world.objects.lock().unwrap(), self.world.backend(&self.cluster));
        let mine = objects.iter().filter(|((c, _), (_, t))| *c == backend && t == tag);
        Ok(mine
            .map(|((_, id), (kind, tag))| Found {
                kind: kind.clone(),
                provider_id: id.clone(),
                uid: None,
                tag: tag.clone(),
                age_seconds: None,
                spoiled: false,
            })
            .collect())
    }
    async fn release(&self, held: &Held) -> Result<Released, Failure> {
        self.next(&format!("delete_{}", held.kind)).await?;
        let key = (self.world.backend(&self.cluster), held.provider_id.clone());
        let mut objects = self.world.objects.lock().unwrap();
        if objects.get(&key).is_some_and(|(_, tag)| *tag != held.tag.to_string()) {
            return Ok(Released::Replaced);
        }
        if objects.remove(&key).is_some() {
            return Ok(Released::Running { seen: "deleting".into(), look_again: Some(Span::millis(10)) });
        }
        Ok(Released::Gone)
    }
    async fn list_owned(&self, prefix: &str, _: Option<String>) -> Result<Page, Failure> {
        self.next("list_owned").await?;
        let (objects, backend) = (self.world.objects.lock().unwrap(), self.world.backend(&self.cluster));
        let mine = objects.iter().filter(|((c, _), (_, t))| *c == backend && t.starts_with(prefix));
        let items = mine.map(|((_, id), (kind, tag))| Found {
            kind: kind.clone(),
            provider_id: id.clone(),
            uid: None,
            tag: tag.clone(),
            age_seconds: None,
            spoiled: false,
        });
        Ok(Page { items: items.collect(), next: None })
    }
    async fn test(&self) -> Vec<Check> {
        let failed = self.next("test").await.err();
        vec![Check { name: "reachable".into(), ok: failed.is_none(), latency_ms: 0, error: failed.map(|f| f.message) }]
    }
    async fn capacity(&self) -> Result<Option<Capacity>, Failure> {
        Ok(None)
    }
    async fn metrics(&self, _: &Work) -> Result<Metrics, Failure> {
        Ok(Metrics::default())
    }
}
