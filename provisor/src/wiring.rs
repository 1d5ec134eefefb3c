//! The only place that knows all concrete types: it opens the store, starts the engine and serves the API.

use std::net::SocketAddr;

use crate::config::Settings;
use crate::fail::Fail;

/// A running server.
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Waits until a part of it has failed; in words.
    pub(crate) async fn failed(&mut self) -> String {
        std::future::pending().await
    }

    /// Ends it politely.
    pub(crate) async fn stop(self) {}
}

/// Starts everything.
pub(crate) async fn start(_settings: &Settings) -> Result<Server, Fail> {
    Err(Fail::Usage("not wired yet".to_owned()))
}

/// Serves the simulated cloud until a signal.
pub(crate) async fn simcloud(_listen: &str, _data: &std::path::Path) -> Result<(), Fail> {
    Err(Fail::Usage("not wired yet".to_owned()))
}
