//! What the engine knows of clusters at the moment of a decision: learned from the log, kept fresh beside the work.
//!
//! It is an argument of decisions like the time, and like it a little older than now. Nothing rests on its freshness:
//! with nothing known every decision is that of a first day.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::breaker::{Gate, Held};
use crate::deadline::Deadlines;
use crate::id::{ClusterId, TenantId};
use crate::time::Timestamp;

/// What is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// How long things take. Shared apart: gates change with every wave of calls, and what is learned is long.
    pub deadlines: Arc<Deadlines>,
    /// What holds calls back, by cluster; one that is missing holds nothing back.
    pub gates: BTreeMap<ClusterId, Gate>,
}

impl Known {
    /// Whether a tenant's calls to a cluster are held back now.
    pub fn holds(&self, cluster: ClusterId, tenant: TenantId, urgent: bool, now: Timestamp) -> Option<Held> {
        self.gates.get(&cluster)?.holds(tenant, urgent, now)
    }
}
