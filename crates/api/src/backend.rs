//! What the API needs of the engine, as a trait, so that its routes can be tried without workers.
//!
//! Reads go straight to the store; this is for what needs connectors, planners or the bell. One
//! implementation ships: the engine's. Rejected: the engine's type in every handler, which would have made
//! a test of a status code start workers.

use std::sync::Arc;

use async_trait::async_trait;
use provisor_core::cluster::ClusterSpec;
use provisor_core::event::Actor;
use provisor_core::run::Command;
use provisor_core::spec::Seal;
use provisor_core::{RequestId, Spec, Timestamp};
use provisor_engine::control::TestReport;
use provisor_provider::{Check, Metrics};
use provisor_store::ops::admit::Idempotency;
use provisor_store::ops::clusters::ClusterView;
use provisor_store::ops::requests::RequestView;
use provisor_store::{OpError, Store};
use provisor_wire::Plan;
use serde_json::Value;
use tokio::sync::watch;

/// Seals texts from any thread.
pub type Sealer = Arc<dyn Seal + Send + Sync>;

/// The engine as the API sees it.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The store.
    fn store(&self) -> &Store;

    /// The installation's id, for events.
    fn installation(&self) -> &str;

    /// Seals secrets of specifications and inputs.
    fn seal(&self) -> Sealer;

    /// Admits requests, all or none. `batch` says how pointers into the input begin: `/requests/0`, or
    /// nothing.
    async fn admit(
        &self,
        items: Vec<Spec>,
        actor: Actor,
        idempotency: Option<Idempotency>,
        batch: bool,
    ) -> Result<Vec<RequestView>, OpError>;

    /// What would become of them, for each.
    async fn dry_run(&self, items: Vec<Spec>, actor: Actor, batch: bool) -> Result<Vec<Plan>, OpError>;

    /// Asks something of a request.
    async fn command(&self, id: RequestId, command: Command, actor: Actor) -> Result<RequestView, OpError>;

    /// Asks for the same again, after it was rolled back.
    async fn retry(&self, id: RequestId, order_id: Option<String>, actor: Actor) -> Result<RequestView, OpError>;

    /// Probes a service now.
    async fn check_status(&self, id: RequestId) -> Result<Vec<Check>, OpError>;

    /// What a service uses now, and when that was asked.
    async fn metrics(&self, id: RequestId) -> Result<(Metrics, Timestamp), OpError>;

    /// Registers a cluster; its connector has checked it first.
    async fn register_cluster(&self, spec: ClusterSpec, credentials: Option<Value>) -> Result<ClusterView, OpError>;

    /// Changes a cluster. Without `credentials` they stay as they are; `null` removes them.
    async fn update_cluster(
        &self,
        key: &str,
        spec: ClusterSpec,
        credentials: Option<Value>,
        if_match: Option<i64>,
    ) -> Result<ClusterView, OpError>;

    /// Forgets a cluster that nothing stands on.
    async fn remove_cluster(&self, key: &str, if_match: Option<i64>) -> Result<(), OpError>;

    /// Tests a cluster's connectivity now.
    async fn test_cluster(&self, key: &str) -> Result<TestReport, OpError>;

    /// A cluster's inventory beside the ledger, in the API's shape.
    async fn inventory(&self, key: &str) -> Result<Value, OpError>;

    /// The same, and releases what nobody owns, within the rules of H2.
    async fn sweep(&self, key: &str, dry_run: bool) -> Result<Value, OpError>;

    /// Releases one object of ours that nobody owns, whatever its age, because `by` says so (H2).
    async fn release_orphan(&self, key: &str, provider_id: &str, by: &str) -> Result<Value, OpError>;

    /// What a simulated cluster inside this process really holds.
    async fn sim_inventory(&self, cluster: &str, live: bool) -> Option<Value>;

    /// Changes after each commit of this process, so that followers of the log look again.
    fn follow_log(&self) -> watch::Receiver<u64>;
}
