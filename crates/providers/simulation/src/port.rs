//! What is asked of a simulated cloud and what it answers: the same values inside the process and over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use async_trait::async_trait;
use provisor_core::cluster::{Capacity, ProviderType, Settings as Common};
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::{Found, Made};
use provisor_core::{AttemptId, Failure, RequestId, Span};
use provisor_provider::{Check, Metrics};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ports;

/// Where the simulated cloud is reached.
#[async_trait]
pub(crate) trait CloudPort: Send + Sync {
    /// Asks something of a cluster. A hanging cloud never answers: the caller has the deadline.
    async fn call(&self, cluster: &str, ask: Ask) -> Result<Reply, Failure>;
}

/// A question.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub(crate) enum Ask {
    /// This cluster is there and behaves so.
    Register(Registration),
    /// Who it is.
    Identity,
    /// Perform an operation.
    Perform(Box<Order>),
    /// What carries a tag.
    Find {
        /// Kind of resource.
        kind: String,
        /// Its tag.
        tag: String,
    },
    /// Delete one resource.
    Release(Box<Deletion>),
    /// A page of what carries tags that begin so.
    List {
        /// The beginning.
        prefix: String,
        /// After this tag.
        from: Option<String>,
    },
    /// Does it work.
    Test,
    /// How much room it has.
    Capacity,
    /// What a service uses.
    Metrics {
        /// Any of its resources.
        resources: BTreeMap<String, String>,
    },
}

/// How a cluster is registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Registration {
    /// What it plays.
    pub(crate) plays: Vec<ProviderType>,
    /// Its settings as given.
    pub(crate) settings: Map<String, Value>,
    /// Those that every cluster has, with defaults.
    pub(crate) common: Common,
}

/// One operation, as the cloud needs to know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) plays: ProviderType,
    pub(crate) operation: String,
    pub(crate) item: Option<String>,
    pub(crate) request: RequestId,
    pub(crate) attempt: Option<AttemptId>,
    pub(crate) tenant: String,
    pub(crate) request_name: String,
    pub(crate) tag: Option<String>,
    pub(crate) name: String,
    pub(crate) provider_id: Option<String>,
    pub(crate) resources: BTreeMap<String, String>,
    pub(crate) try_number: u32,
    pub(crate) ports: Vec<(u16, ports::Way)>,
    pub(crate) memory_gb: u32,
}

impl Order {
    /// What `work` says, to a cloud that plays `plays`.
    pub(crate) fn of(plays: ProviderType, work: &Work) -> Self {
        Self {
            plays,
            operation: work.operation.clone(),
            item: work.item.clone(),
            request: work.request,
            attempt: work.attempt,
            tenant: work.spec.tenant.clone(),
            request_name: work.spec.name.clone(),
            tag: work.tag.as_ref().map(|t| t.as_str().to_owned()),
            name: work.name.clone(),
            provider_id: work.provider_id.clone(),
            resources: work.resources.clone(),
            try_number: work.try_number,
            ports: ports::asked(&work.spec),
            memory_gb: work.spec.size.map_or(1, |s| s.memory_gb),
        }
    }
}

/// A resource that is to go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Deletion {
    pub(crate) kind: String,
    pub(crate) tag: String,
    pub(crate) provider_id: String,
    pub(crate) uid: Option<String>,
    pub(crate) identity: Option<String>,
}

impl Deletion {
    /// What `held` says.
    pub(crate) fn of(held: &Held) -> Self {
        Self {
            kind: held.kind.clone(),
            tag: held.tag.as_str().to_owned(),
            provider_id: held.provider_id.clone(),
            uid: held.uid.clone(),
            identity: held.identity.clone(),
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply")]
pub(crate) enum Reply {
    /// Who it is.
    Identity {
        /// Stable and random.
        identity: String,
    },
    /// Done.
    Done {
        /// What was made or learned.
        made: Made,
    },
    /// Under way.
    Running {
        /// What is known by now.
        made: Made,
        /// How it stands.
        seen: String,
        /// When it is worth looking again, where that is known.
        look_again: Option<Span>,
    },
    /// The key is taken by this object.
    Exists {
        /// It.
        found: Found,
        /// Whether it is being deleted.
        leaving: bool,
    },
    /// The service should answer there; `None`: the cloud says that it does.
    Answering {
        /// A real listener.
        address: Option<SocketAddr>,
    },
    /// What was looked for.
    Page {
        /// The objects.
        items: Vec<Found>,
        /// Where the next page begins.
        next: Option<String>,
    },
    /// Confirmed absent.
    Gone,
    /// A stranger stands there.
    Replaced,
    /// The deletion is under way.
    Leaving {
        /// How it stands.
        seen: String,
        /// When it is worth looking again, where that is known.
        look_again: Option<Span>,
    },
    /// The checks of a test.
    Checks {
        /// Name, whether it is good, milliseconds, what failed.
        checks: Vec<(String, bool, u64, Option<String>)>,
    },
    /// Room.
    Capacity {
        /// In all.
        total: Capacity,
    },
    /// Use.
    Metrics(Figures),
}

/// What a service uses, as it travels.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) cpu_percent: Option<f64>,
    pub(crate) memory_used_gb: Option<f64>,
    pub(crate) disk_used_gb: Option<f64>,
    pub(crate) network_rx_bytes: Option<u64>,
    pub(crate) network_tx_bytes: Option<u64>,
    pub(crate) unavailable: BTreeMap<String, String>,
}

impl From<Figures> for Metrics {
    fn from(f: Figures) -> Self {
        Self {
            cpu_percent: f.cpu_percent,
            memory_used_gb: f.memory_used_gb,
            disk_used_gb: f.disk_used_gb,
            network_rx_bytes: f.network_rx_bytes,
            network_tx_bytes: f.network_tx_bytes,
            unavailable: f.unavailable,
        }
    }
}

/// One check of a test, from its four parts.
pub(crate) fn check((name, ok, latency_ms, error): (String, bool, u64, Option<String>)) -> Check {
    Check { name, ok, latency_ms, error }
}
