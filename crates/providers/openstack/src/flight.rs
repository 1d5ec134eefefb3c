//! A value that many callers need and one fetches.
//!
//! Whoever comes while it is being fetched waits for that one, and shares its failure too: behind a Keystone that
//! does not answer, fifty callers would otherwise each wait out the limit in turn. Rejected: a task that renews ahead
//! of time, which would need an owner, an end, and a clock to be tested with.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::client::CallError;

/// A value fetched by one caller for all.
pub(crate) struct Flight<T>(Mutex<Slot<T>>);

struct Slot<T> {
    value: Option<Arc<T>>,
    /// How the last fetch failed, and when that was known.
    failed: Option<(Instant, CallError)>,
}

impl<T> Default for Flight<T> {
    fn default() -> Self {
        Self(Mutex::new(Slot { value: None, failed: None }))
    }
}

impl<T> Flight<T> {
    /// What is there now, good or not.
    pub(crate) async fn present(&self) -> Option<Arc<T>> {
        self.0.lock().await.value.clone()
    }

    /// What is there, where it is good; else what `fetch` brings.
    pub(crate) async fn get(
        &self,
        good: impl Fn(&Arc<T>) -> bool,
        fetch: impl Future<Output = Result<T, CallError>>,
    ) -> Result<Arc<T>, CallError> {
        let asked_at = Instant::now();
        let mut slot = self.0.lock().await;
        if let Some(value) = slot.value.as_ref().filter(|value| good(value)) {
            return Ok(Arc::clone(value));
        }
        if let Some((_, error)) = slot.failed.as_ref().filter(|(at, _)| *at > asked_at) {
            return Err(error.clone());
        }
        slot.value = None;
        match fetch.await {
            Ok(value) => {
                let value = Arc::new(value);
                slot.value = Some(Arc::clone(&value));
                Ok(value)
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }
}
