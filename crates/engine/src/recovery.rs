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

/// What a round of tests saw of a cluster.
pub(crate) struct Seen {
    pub(crate) cluster: ClusterId,
    /// Before the round.
    pub(crate) was_well: bool,
    /// By its test, and its gate lets calls through.
    pub(crate) is_well: bool,
}

/// What is remembered of each cluster.
#[derive(Default)]
pub(crate) struct Recoveries(BTreeMap<ClusterId, Recovery>);

impl Recoveries {
    /// After a round of tests.
    pub(crate) async fn round(&mut self, engine: &Engine, role: Option<&Role>, seen: &[Seen]) {
        if let Err(error) = self.wake(engine, role, seen).await {
            store_failed!(error, "what waits on clusters could not be woken; its own pauses end anyhow");
        }
    }

    /// Forgets what is not among all that was tested.
    pub(crate) fn keep(&mut self, seen: &[Seen]) {
        self.0.retain(|id, _| seen.iter().any(|one| one.cluster == *id));
    }

    async fn wake(&mut self, engine: &Engine, role: Option<&Role>, seen: &[Seen]) -> Result<(), OpError> {
        let mut owing = engine.store.run(Owing).await?;
        for Seen { cluster, was_well, is_well } in seen {
            let recovery = self.0.entry(*cluster).or_insert_with(|| Recovery::new(*was_well));
            let named: Vec<RequestId> = match recovery.round(*is_well, &owing.remove(cluster).unwrap_or_default()) {
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
