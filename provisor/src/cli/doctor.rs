//! `doctor`: looks at one thing after another that must be right, and says what is not.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::Global;
use crate::config::Config;
use crate::fail::Fail;
use crate::output::{Colour, Out, Table, inline};
use crate::session::Session;

/// Longest wait for the server.
const LIMIT: Duration = Duration::from_secs(10);

struct Finding {
    name: &'static str,
    error: Option<String>,
    detail: String,
}

impl Finding {
    fn new(name: &'static str, result: Result<String, String>) -> Self {
        match result {
            Ok(detail) => Self { name, error: None, detail },
            Err(error) => Self { name, error: Some(error), detail: String::new() },
        }
    }
}

/// Runs all checks.
pub(crate) async fn run(global: &Global) -> Result<(), Fail> {
    let out = Out::new(global.output, global.quiet);
    let asked = global.asked(None).map_err(Fail::Usage)?;
    let mut findings = Vec::new();
    match Config::load(&asked) {
        Ok(config) => {
            findings.push(Finding::new("configuration", Ok("valid".to_owned())));
            findings.push(Finding::new("data folder", writable(&config.data_dir())));
        }
        Err(faults) => {
            let text: Vec<String> = faults.iter().map(ToString::to_string).collect();
            findings.push(Finding::new("configuration", Err(text.join("; "))));
        }
    }
    findings.extend(server(global).await);
    let shown: Vec<Value> =
        findings.iter().map(|f| json!({"name": f.name, "ok": f.error.is_none(), "detail": f.detail, "error": f.error})).collect();
    out.value(&json!({"checks": shown}), || table(out, &shown))?;
    match findings.iter().find(|f| f.error.is_some()) {
        None => Ok(()),
        Some(Finding { name: "configuration" | "data folder", .. }) => Err(Fail::Usage("not everything is well".to_owned())),
        Some(Finding { name: "server", .. }) => Err(Fail::Unreachable("the server does not answer".to_owned())),
        Some(_) => Err(Fail::Ended("not everything is well".to_owned())),
    }
}

fn table(out: Out, checks: &[Value]) -> String {
    let mut table = Table::new(&["check", "result", "detail"]);
    for check in checks {
        let field = |key: &str| check.get(key).map(inline).unwrap_or_default();
        let ok = check.get("ok").and_then(Value::as_bool).unwrap_or(false);
        let result = if ok { out.state("ok") } else { out.paint(Colour::Red, "failed") };
        table.row(vec![field("name"), result, field("detail") + &field("error")]);
    }
    table.render()
}

/// A file can be made in the folder, or the folder where it is missing.
fn writable(folder: &Path) -> Result<String, String> {
    let shown = folder.display();
    if !folder.exists() {
        return Ok(format!("{shown} does not exist yet"));
    }
    let probe = folder.join(format!(".doctor-{}", std::process::id()));
    std::fs::write(&probe, b"x").map_err(|e| format!("{shown} cannot be written: {e}"))?;
    std::fs::remove_file(&probe).map_err(|e| format!("{shown}: {e}"))?;
    Ok(format!("{shown} can be written"))
}

async fn server(global: &Global) -> Vec<Finding> {
    let session = match Session::open(global) {
        Ok(session) => session,
        Err(error) => return vec![Finding::new("server", Err(error.text()))],
    };
    let begin = Instant::now();
    let base = session.client.base().to_owned();
    let live = match tokio::time::timeout(LIMIT, session.client.ready()).await {
        Ok(Ok(status)) => Ok(format!("{base} is ready after {} ms, version {}", begin.elapsed().as_millis(), status.version)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("{base} did not answer within {} s", LIMIT.as_secs())),
    };
    let reachable = live.is_ok();
    let mut findings = vec![Finding::new("server", live)];
    if reachable {
        let token = session.client.clusters(None).await;
        let result = token.map(|p| format!("accepted; {} clusters seen", p.items.len())).map_err(|e| e.to_string());
        findings.push(Finding::new("token", result));
    }
    findings
}
