//! The engine as the API's backend.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use provisor_core::cluster::ClusterSpec;
use provisor_core::event::Actor;
use provisor_core::lifecycle::Step;
use provisor_core::quota::Dimension;
use provisor_core::run::Command;
use provisor_core::{RequestId, Spec, Timestamp};
use provisor_engine::Engine;
use provisor_engine::control::TestReport;
use provisor_provider::{Check, Metrics};
use provisor_store::ops::admit::{Dry, Idempotency, Prospect};
use provisor_store::ops::clusters::ClusterView;
use provisor_store::ops::requests::RequestView;
use provisor_store::{OpError, Store};
use provisor_wire::Plan;
use provisor_wire::plan::{Expected, PlannedStep, PlannedUse, Rejected};
use serde_json::Value;
use tokio::sync::watch;

use crate::backend::{Backend, Sealer};

/// Answers what a simulated cluster of this process really holds: its name, and whether only what lives.
pub type SimInventory = Box<dyn Fn(&str, bool) -> Option<Value> + Send + Sync>;

/// An engine behind the API.
pub struct EngineBackend {
    engine: Arc<Engine>,
    sim: SimInventory,
}

impl EngineBackend {
    /// Wraps an engine; `sim` looks into the simulated cloud inside the process.
    pub fn new(engine: Arc<Engine>, sim: SimInventory) -> Self {
        Self { engine, sim }
    }
}

/// Where each item stands in the input.
fn pointers(count: usize, batch: bool) -> Vec<String> {
    (0..count).map(|i| if batch { format!("/requests/{i}") } else { String::new() }).collect()
}

#[async_trait]
impl Backend for EngineBackend {
    fn store(&self) -> &Store {
        self.engine.store()
    }

    fn installation(&self) -> &str {
        self.engine.installation()
    }

    fn seal(&self) -> Sealer {
        Arc::clone(self.engine.vault()) as Sealer
    }

    async fn admit(
        &self,
        items: Vec<Spec>,
        actor: Actor,
        idempotency: Option<Idempotency>,
        batch: bool,
    ) -> Result<Vec<RequestView>, OpError> {
        let pointers = pointers(items.len(), batch);
        self.engine.admit(items, pointers, actor, idempotency).await
    }

    async fn dry_run(&self, items: Vec<Spec>, actor: Actor, batch: bool) -> Result<Vec<Plan>, OpError> {
        let pointers = pointers(items.len(), batch);
        let Dry { items, order } = self.engine.dry_run(items, pointers, actor).await?;
        Ok(items.into_iter().map(|prospect| plan(prospect, &order)).collect())
    }

    async fn command(&self, id: RequestId, command: Command, actor: Actor) -> Result<RequestView, OpError> {
        self.engine.command(id, command, actor).await
    }

    async fn retry(&self, id: RequestId, order_id: Option<String>, actor: Actor) -> Result<RequestView, OpError> {
        self.engine.retry(id, order_id, actor).await
    }

    async fn check_status(&self, id: RequestId) -> Result<Vec<Check>, OpError> {
        self.engine.check_status(id).await
    }

    async fn metrics(&self, id: RequestId) -> Result<(Metrics, Timestamp), OpError> {
        self.engine.metrics(id).await
    }

    async fn register_cluster(&self, spec: ClusterSpec, credentials: Option<Value>) -> Result<ClusterView, OpError> {
        self.engine.register_cluster(spec, credentials).await
    }

    async fn update_cluster(
        &self,
        key: &str,
        spec: ClusterSpec,
        credentials: Option<Value>,
        if_match: Option<i64>,
    ) -> Result<ClusterView, OpError> {
        self.engine.update_cluster(key, spec, credentials, if_match).await
    }

    async fn remove_cluster(&self, key: &str, if_match: Option<i64>) -> Result<(), OpError> {
        self.engine.remove_cluster(key, if_match).await
    }

    async fn test_cluster(&self, key: &str) -> Result<TestReport, OpError> {
        self.engine.test_cluster(key).await
    }

    async fn inventory(&self, key: &str) -> Result<Value, OpError> {
        self.engine.inventory(key).await
    }

    async fn sweep(&self, key: &str, dry_run: bool) -> Result<Value, OpError> {
        self.engine.sweep(key, dry_run).await
    }

    async fn release_orphan(&self, key: &str, provider_id: &str, by: &str) -> Result<Value, OpError> {
        self.engine.release_orphan(key, provider_id, by).await
    }

    async fn sim_inventory(&self, cluster: &str, live: bool) -> Option<Value> {
        (self.sim)(cluster, live)
    }

    fn follow_log(&self) -> watch::Receiver<u64> {
        self.engine.bell().follow()
    }
}

/// The plan of one prospect, with the order of its whole batch.
fn plan(prospect: Prospect, order: &[String]) -> Plan {
    let quota: Vec<PlannedUse> = prospect.quota.iter().map(planned_use).collect();
    let rejected = prospect.choice.rejected.into_iter().map(|(cluster, reason)| Rejected { cluster, reason });
    Plan {
        valid: quota.iter().all(|d| d.ok),
        errors: Vec::new(),
        quota,
        rule: Value::Null,
        order: order.to_vec(),
        cluster: prospect.cluster,
        rejected: rejected.collect(),
        steps: prospect.plan.map_or_else(Vec::new, |plan| steps(&plan)),
        expected_seconds: Expected::default(),
    }
}

fn planned_use(d: &Dimension) -> PlannedUse {
    PlannedUse { name: d.name.clone(), limit: d.limit, used: d.used, requested: d.requested, ok: d.fits() }
}

/// The operations by step; of several with the same name one.
fn steps(plan: &provisor_core::workflow::Plan) -> Vec<PlannedStep> {
    let mut names: BTreeMap<Step, Vec<String>> = BTreeMap::new();
    for operation in &plan.operations {
        let of_step = names.entry(operation.step).or_default();
        if !of_step.contains(&operation.name) {
            of_step.push(operation.name.clone());
        }
    }
    let shown = |step: Step| PlannedStep { name: step.name().to_owned(), operations: names.remove(&step).unwrap_or_default() };
    Step::ALL.into_iter().map(shown).collect()
}
