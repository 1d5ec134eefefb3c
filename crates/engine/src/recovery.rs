//! What waits on a cluster is tried as soon as the cluster is well again: the watch tells
//! [`provisor_core::recovery`] what it saw of each cluster, and brings forward what that names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::recovery::{Recovery, Wake};
use provisor_core::{ClusterId, RequestId};
use provisor_store::OpError;
use provisor_store::ops::roles::{Role, Under};
use provisor_store::ops::wake::{self, Owing, WAKE_AT_MOST, WaitingOn};
use tracing::info;

use crate::Engine;

/// What is remembered of each cluster.
#[derive(Default)]
pub(crate) struct Recoveries(BTreeMap<ClusterId, Recovery>);

impl Recoveries {
    /// After a round of tests: for each cluster whether it was well before that round, and whether it is now.
    pub(crate) async fn round(&mut self, engine: &Engine, role: Option<&Role>, seen: &[(ClusterId, bool, bool)]) {
        if let Err(error) = self.wake(engine, role, seen).await {
            store_failed!(error, "what waits on clusters could not be woken; its own pauses end anyhow");
        }
    }

    /// Forgets what is not among all that was tested.
    pub(crate) fn keep(&mut self, seen: &[(ClusterId, bool, bool)]) {
        self.0.retain(|id, _| seen.iter().any(|(cluster, ..)| cluster == id));
    }

    async fn wake(&mut self, engine: &Engine, role: Option<&Role>, seen: &[(ClusterId, bool, bool)]) -> Result<(), OpError> {
        let mut owing = engine.store.run(Owing).await?;
        for (cluster, was_well, well) in seen {
            let recovery = self.0.entry(*cluster).or_insert_with(|| Recovery::new(*was_well));
            let named: Vec<RequestId> = match recovery.round(*well, &owing.remove(cluster).unwrap_or_default()) {
                Wake::Nothing => continue,
                Wake::These(scouts) => scouts.into_iter().collect(),
                Wake::All => engine.store.run(WaitingOn { cluster: *cluster }).await?,
            };
            let mut woken = BTreeSet::new();
            for requests in named.chunks(WAKE_AT_MOST) {
                let context = Arc::clone(&engine.context);
                let op = wake::Wake { cluster: *cluster, requests: requests.to_vec(), before: woken.len(), context };
                woken.extend(engine.store.run(Under { role: role.cloned(), op }).await?);
            }
            if woken.is_empty() {
                continue;
            }
            info!(cluster = %cluster, requests = woken.len(), "what waits on it is tried now");
            for id in woken {
                engine.bell.poke(id);
            }
        }
        Ok(())
    }
}
