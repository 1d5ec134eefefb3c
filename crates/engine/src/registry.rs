//! The providers of the registered clusters: made from what the store says, kept until it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use provisor_core::cluster::{ClusterSpec, ProviderType, Settings};
use provisor_core::workflow::{Made, Plan, Planner};
use provisor_core::{Class, ClusterId, Failure, Spec};
use provisor_provider::{Action, Binding, Cidr, Connector, Open, Provider, Secret};

/// The connectors of this build, by provider type.
pub type Connectors = BTreeMap<ProviderType, Arc<dyn Connector>>;

/// One cluster's provider, with what was learned of it.
pub struct Bound {
    /// The provider.
    pub provider: Arc<dyn Provider>,
    /// Its description.
    pub spec: ClusterSpec,
    common: Settings,
    version: i64,
    identity: Mutex<Option<String>>,
}

impl Bound {
    /// The settings that every cluster has.
    pub fn common(&self) -> &Settings {
        &self.common
    }

    /// The version of the cluster that it was made from.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Who the backend is, where it was asked.
    pub fn known_identity(&self) -> Option<String> {
        self.identity.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who the backend is (H4), asked once.
    pub async fn identity(&self) -> Result<String, Failure> {
        if let Some(known) = self.known_identity() {
            return Ok(known);
        }
        let identity = self.provider.identity().await?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity.clone());
        Ok(identity)
    }
}

/// All bound clusters of this process.
pub struct Registry {
    connectors: Connectors,
    open: Arc<dyn Open>,
    probe_allow: Vec<Cidr>,
    bound: RwLock<BTreeMap<ClusterId, Result<Arc<Bound>, Failure>>>,
}

impl Registry {
    /// An empty registry.
    pub fn new(connectors: Connectors, open: Arc<dyn Open>, probe_allow: Vec<Cidr>) -> Self {
        Self { connectors, open, probe_allow, bound: RwLock::new(BTreeMap::new()) }
    }

    /// The connector of a provider type; one that this build lacks is refused by name.
    pub fn connector(&self, provider: ProviderType) -> Result<&Arc<dyn Connector>, Failure> {
        self.connectors.get(&provider).ok_or_else(|| {
            let offered: Vec<&str> = self.connectors.keys().map(|p| p.name()).collect();
            let text = format!("provider {} is not offered by this version; it offers {}", provider.name(), offered.join(", "));
            Failure::new(Class::Permanent, "provider_not_offered", text)
        })
    }

    /// A provider of a cluster as it is described, kept by nobody.
    pub fn connect(
        &self,
        id: ClusterId,
        spec: &ClusterSpec,
        credentials: serde_json::Value,
    ) -> Result<Arc<dyn Provider>, Failure> {
        let binding = Binding {
            id,
            spec: spec.clone(),
            credentials: Secret::new(credentials),
            open: Arc::clone(&self.open),
            probe_allow: self.probe_allow.clone(),
        };
        self.connector(spec.provider).and_then(|c| c.connect(binding))
    }

    /// Binds a cluster, or binds it anew when its version is newer. An older one, as a list that was read a moment
    /// ago may hold, changes nothing.
    pub fn bind(&self, id: ClusterId, version: i64, spec: &ClusterSpec, credentials: serde_json::Value) {
        let current = self.read().get(&id).is_some_and(|b| b.as_ref().is_ok_and(|b| b.version >= version));
        if current {
            return;
        }
        let made = self.connect(id, spec, credentials);
        let common = spec.common();
        let bound =
            made.map(|provider| Arc::new(Bound { provider, spec: spec.clone(), common, version, identity: Mutex::new(None) }));
        self.bound.write().unwrap_or_else(PoisonError::into_inner).insert(id, bound);
    }

    /// The clusters that are bound now.
    pub fn ids(&self) -> BTreeSet<ClusterId> {
        self.read().keys().copied().collect()
    }

    /// Whether any of them limits its calls in flight (H28).
    pub(crate) fn limits_calls(&self) -> bool {
        self.read().values().any(|b| b.as_ref().is_ok_and(|b| b.common.max_in_flight.is_some()))
    }

    /// Forgets clusters that are gone.
    pub fn forget(&self, gone: &BTreeSet<ClusterId>) {
        self.bound.write().unwrap_or_else(PoisonError::into_inner).retain(|id, _| !gone.contains(id));
    }

    /// The provider of a cluster.
    pub fn get(&self, id: ClusterId) -> Result<Arc<Bound>, Failure> {
        let unknown =
            || Failure::new(Class::Transient, "cluster_unknown", format!("cluster {id} is not known to this process yet"));
        self.read().get(&id).cloned().unwrap_or_else(|| Err(unknown()))
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<ClusterId, Result<Arc<Bound>, Failure>>> {
        self.bound.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Planner for Registry {
    fn plan(&self, cluster: ClusterId, spec: &Spec) -> Result<Plan, Failure> {
        self.get(cluster)?.provider.plan(spec)
    }

    fn plan_action(&self, cluster: ClusterId, action: &str, spec: &Spec) -> Result<Plan, Failure> {
        let action = if action == "suspend" { Action::Suspend } else { Action::Reactivate };
        self.get(cluster)?.provider.plan_action(action, spec)
    }

    fn answer(&self, cluster: ClusterId, operation: &str, spec: &Spec) -> Option<Made> {
        self.get(cluster).ok()?.provider.answer(operation, spec)
    }
}
