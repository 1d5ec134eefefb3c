//! `simcloud`: the simulated cloud as a process of its own, which outlives Provisor.

use crate::cli::Global;
use crate::fail::Fail;

/// `simcloud`.
pub(crate) async fn run(global: &Global, listen: &str) -> Result<(), Fail> {
    let config = crate::serve::configuration(global, None)?;
    let settings = config.settings();
    crate::telemetry::start(settings.log_format, &settings.log_level);
    crate::wiring::simcloud(listen, &settings.data_dir).await
}
