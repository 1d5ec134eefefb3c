//! `simcloud`: the simulated cloud as a process of its own, which outlives Provisor.

use std::path::PathBuf;

use crate::cli::Global;
use crate::config::load::Source;
use crate::config::schema::DATA_DIR;
use crate::fail::Fail;
use crate::serve::Signals;

/// Its folder where none is named: not the server's, which has a cloud of its own.
const DEFAULT_FOLDER: &str = "provisor-simcloud";

/// `simcloud`.
pub(crate) async fn run(global: &Global, listen: &str) -> Result<(), Fail> {
    let config = crate::serve::configuration(global, None)?;
    let settings = config.settings();
    crate::telemetry::start(settings.log_format, &settings.log_level);
    let named = config.source(DATA_DIR) != Some(&Source::Default);
    let data = if named { settings.data_dir } else { PathBuf::from(DEFAULT_FOLDER) };
    let mut signals = Signals::catch()?;
    let shutdown = async move {
        let name = signals.next().await;
        tracing::info!(signal = name, "shutting down");
    };
    crate::wiring::simcloud(listen, &data, shutdown).await
}
