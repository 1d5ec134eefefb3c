//! Wake-ups inside one process. A ring only shortens a wait: the poll of the store is the truth.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use provisor_core::RequestId;
use tokio::sync::{Notify, watch};

/// Rings for due work, for requests that are held, and for whoever follows the log.
#[derive(Debug)]
pub struct Bell {
    work: Notify,
    held: Mutex<BTreeMap<RequestId, Arc<Notify>>>,
    log: watch::Sender<u64>,
}

impl Default for Bell {
    fn default() -> Self {
        Self { work: Notify::new(), held: Mutex::new(BTreeMap::new()), log: watch::Sender::new(0) }
    }
}

impl Bell {
    /// There may be due work.
    pub fn ring(&self) {
        self.work.notify_one();
        self.log_moved();
    }

    /// There will be due work in a moment.
    pub(crate) fn claim_soon(&self) {
        self.work.notify_one();
    }

    /// The log may have grown.
    pub fn log_moved(&self) {
        self.log.send_modify(|n| *n = n.wrapping_add(1));
    }

    /// Follows the log: the value changes after each commit of this process.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.log.subscribe()
    }

    /// Something came for a request: its holder looks at once, else a worker claims it.
    pub fn poke(&self, id: RequestId) {
        let held = self.lock().get(&id).cloned();
        match held {
            Some(holder) => holder.notify_one(),
            None => self.work.notify_one(),
        }
        self.log_moved();
    }

    pub(crate) async fn rung(&self) {
        self.work.notified().await;
    }

    pub(crate) fn hold(&self, id: RequestId) -> Arc<Notify> {
        let notify = Arc::new(Notify::new());
        self.lock().insert(id, Arc::clone(&notify));
        notify
    }

    pub(crate) fn let_go(&self, id: RequestId) {
        self.lock().remove(&id);
        // Why: a poke may have come between the last look and now.
        self.work.notify_one();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RequestId, Arc<Notify>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
