//! The HTTP API: routes, authentication, problem documents, live streams, OpenAPI.
//!
//! A handler takes its input apart ([`input`]), asks the store or the [`Backend`], and shows what came back
//! ([`show`]). Errors are [`Problem`]s, written in one place ([`outer`]). A route and its line of the OpenAPI
//! document are one attribute.

use std::sync::Arc;

use provisor_store::Store;
use tokio::sync::{Semaphore, watch};

pub mod auth;
pub mod backend;
mod chance;
mod engine;
mod input;
mod metrics;
mod outer;
pub mod problem;
mod router;
mod routes;
pub mod show;
mod sse;
mod tail;

pub use backend::Backend;
pub use engine::{EngineBackend, SimInventory};
pub use input::BODY_LIMIT_BYTES;
pub use problem::Problem;
pub use router::{openapi, router};

/// Streams open at once.
pub const STREAM_LIMIT: usize = 256;

/// What every handler has.
#[derive(Clone)]
pub struct App {
    backend: Arc<dyn Backend>,
    tokens: Arc<auth::Tokens>,
    streams: Arc<Semaphore>,
    tail: Arc<tail::Tail>,
    closing: watch::Receiver<bool>,
}

impl App {
    /// An application over an engine. When `closing` turns true, live streams end, so that a graceful
    /// shutdown does not wait for their readers.
    pub fn new(backend: Arc<dyn Backend>, closing: watch::Receiver<bool>) -> Self {
        let streams = Arc::new(Semaphore::new(STREAM_LIMIT));
        Self { backend, tokens: Arc::default(), streams, tail: Arc::default(), closing }
    }

    pub(crate) fn store(&self) -> &Store {
        self.backend.store()
    }
}
