//! `serve`: everything in one process, until a signal says otherwise; `api` and `worker` are its two halves.
//!
//! The first SIGTERM or SIGINT stops taking new work and waits for what is in flight; the second ends the
//! process at once.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cli::Global;
use crate::config::{Config, Settings};
use crate::fail::{Exit, Fail};
use crate::session::LISTEN_FILE;
use crate::wiring::{self, Role, Server};

/// The signals that end a process politely.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From here on signals are caught.
    pub(crate) fn catch() -> Result<Self, Fail> {
        let failed = |e: std::io::Error| Fail::Usage(format!("signals cannot be caught: {e}"));
        Ok(Self {
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
        })
    }

    /// The next one, by name.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// The configuration of a server.
pub(crate) fn configuration(global: &Global, listen: Option<&str>) -> Result<Config, Fail> {
    let asked = global.asked(listen).map_err(Fail::Usage)?;
    Config::load(&asked).map_err(Fail::Config)
}

/// Starts everything that the role is about and says where it is.
pub(crate) async fn start(settings: &Settings, role: Role) -> Result<Server, Fail> {
    let server = wiring::start(settings, role).await?;
    let Some(address) = server.address else {
        tracing::info!(database = %settings.database, "working");
        return Ok(server);
    };
    let file = settings.data_dir.join(LISTEN_FILE);
    write_whole(&file, &address.to_string()).map_err(|e| Fail::of_io(&format!("{} cannot be written", file.display()), &e))?;
    tracing::info!(%address, data = %settings.data_dir.display(), database = %settings.database, "serving");
    Ok(server)
}

/// A reader sees the whole file or none.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let part = path.with_extension("part");
    std::fs::write(&part, text)?;
    std::fs::rename(part, path)
}

/// Ends a server politely; a further signal ends the process at once.
pub(crate) async fn stop(server: Server, settings: &Settings, signals: &mut Signals) {
    // Why first: a client that looks now should not be sent to a server that goes.
    if server.address.is_some()
        && let Err(error) = std::fs::remove_file(settings.data_dir.join(LISTEN_FILE))
    {
        tracing::debug!(%error, "the file with the address could not be removed");
    }
    tokio::select! {
        biased;
        name = signals.next() => {
            tracing::warn!(signal = name, "second signal: ending at once; what was in flight is resumed at the next start");
            std::process::exit(Exit::Failed as i32);
        }
        () = server.stop() => {}
    }
    tracing::info!("ended");
}

/// `serve`, `api` and `worker`.
pub(crate) async fn run(global: &Global, listen: Option<&str>, role: Role) -> Result<(), Fail> {
    let config = configuration(global, listen)?;
    let settings = config.settings();
    crate::telemetry::start(settings.log_format, &settings.log_level);
    for name in &config.foreign {
        tracing::warn!(variable = name, "taken for a Kubernetes service link and not used");
    }
    let mut signals = Signals::catch()?;
    let mut server = start(&settings, role).await?;
    tokio::select! {
        biased;
        name = signals.next() => tracing::info!(signal = name, "shutting down"),
        why = server.failed() => {
            stop(server, &settings, &mut signals).await;
            return Err(Fail::Ended(why));
        }
    }
    stop(server, &settings, &mut signals).await;
    Ok(())
}
