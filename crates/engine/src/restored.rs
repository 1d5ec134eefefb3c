//! What follows a restore or a promotion of the store (H41): a new epoch of the log, a look by tag for everything that
//! is open, and a list of what bears our tag and is in no ledger any more.

use provisor_store::OpError;
use provisor_store::ops::clusters::ListClusters;
use provisor_store::ops::restored::{RaiseEpoch, Reopen};
use std::sync::Arc;

use crate::Engine;

/// What was found after a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The epoch of the log from now on.
    pub epoch: i64,
    /// Requests that look for what they may have made.
    pub reopened: usize,
    /// Objects of this installation without a row: made after the backup, most likely.
    pub unknown: Vec<Unknown>,
    /// Clusters that could not be asked, and why.
    pub silent: Vec<(String, String)>,
}

/// An object that bears our tag and is in no ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unknown {
    /// Where it is.
    pub cluster: String,
    /// `server`, `volume` …
    pub kind: String,
    /// The backend's id.
    pub provider_id: String,
    /// Its tag.
    pub tag: String,
}

impl Engine {
    /// Takes the store into use again after a restore. It may be called again, and then begins a further epoch.
    pub async fn after_restore(&self) -> Result<Restored, OpError> {
        let epoch = self.store.run(RaiseEpoch).await?;
        let (mut after, mut reopened) = (None, 0);
        loop {
            let done = self.store.run(Reopen { after, context: Arc::clone(&self.context) }).await?;
            reopened += done.changed;
            after = done.next;
            if after.is_none() {
                break;
            }
        }
        let mut restored = Restored { epoch, reopened, unknown: Vec::new(), silent: Vec::new() };
        for view in self.store.run(ListClusters).await? {
            match self.unknown_on(&view).await {
                Ok(found) => restored.unknown.extend(found),
                Err(error) => restored.silent.push((view.spec.name.clone(), error.to_string())),
            }
        }
        Ok(restored)
    }
}
