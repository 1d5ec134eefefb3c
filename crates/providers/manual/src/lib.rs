//! Kind `managed` on provider `manual`: nothing is called. The request pauses for the access details
//! (SPEC 3.8), and what was given is probed where the request asks for it.
//!
//! Nothing is made at a backend, so there is nothing in the ledger, nothing to find and nothing to release.

use std::sync::Arc;

use async_trait::async_trait;
use provisor_core::check::{Flaw, Flaws};
use provisor_core::cluster::{COMMON_SETTINGS, Capacity, ClusterSpec};
use provisor_core::event::Endpoint;
use provisor_core::lifecycle::Step;
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::plan::PLAN_VERSION;
use provisor_core::workflow::{Found, Made, Plan, Planned};
use provisor_core::{Class, Failure, Spec};
use provisor_provider::probe::{self, Guard};
use provisor_provider::{Action, Binding, Check, Connector, Metrics, Page, Progress, Provider, Released};
use serde_json::Value;

/// Settings besides those that every cluster has.
const SETTINGS: [&str; 1] = ["reminder_after_seconds"];

/// Makes providers of type `manual`.
pub struct ManualConnector;

impl Connector for ManualConnector {
    fn check(&self, pointer: &str, spec: &ClusterSpec, credentials: Option<&Value>) -> Vec<Flaw> {
        let mut flaws = Flaws::default();
        for (key, value) in &spec.endpoint {
            flaws.add(&format!("{pointer}/endpoint/{key}"), "unknown_key", value, "a manual cluster has no endpoint");
        }
        if credentials.is_some_and(|c| !c.is_null()) {
            flaws.add(&format!("{pointer}/credentials"), "unknown_key", &Value::Null, "a manual cluster has no credentials");
        }
        for (key, value) in &spec.settings {
            let at = format!("{pointer}/settings/{key}");
            if key == "reminder_after_seconds" {
                provisor_core::check::number_of(&at, value, 1.0, 1e8, &mut flaws);
            } else if !COMMON_SETTINGS.contains(&key.as_str()) {
                let known: Vec<&str> = COMMON_SETTINGS.iter().chain(&SETTINGS).copied().collect();
                let hint = provisor_core::check::nearest(key, &known).map_or(String::new(), |n| format!("; did you mean `{n}`?"));
                flaws.add(&at, "unknown_key", value, format!("`{key}` is not a known key{hint}"));
            }
        }
        flaws.0
    }

    fn connect(&self, binding: Binding) -> Result<Arc<dyn Provider>, Failure> {
        let guard = Guard { allow: binding.probe_allow, open: false };
        Ok(Arc::new(Manual { identity: format!("manual:{}", binding.id), guard }))
    }
}

struct Manual {
    identity: String,
    guard: Guard,
}

#[async_trait]
impl Provider for Manual {
    fn plan(&self, _: &Spec) -> Result<Plan, Failure> {
        let input = Planned { awaits_input: true, ..Planned::new("await_input", Step::Configure) };
        let operations = vec![
            Planned::new("reserve", Step::Allocate),
            input,
            Planned::new("mark_active", Step::Activate),
            Planned::new("probe_url", Step::Verify).within(300),
        ];
        Ok(Plan { version: PLAN_VERSION, operations })
    }

    fn plan_action(&self, action: Action, _: &Spec) -> Result<Plan, Failure> {
        let name = if action == Action::Suspend { "mark_suspended" } else { "mark_active" };
        // H17: only the vendor can do it, and only a person sees that it is done.
        let confirm = Planned { awaits_input: true, ..Planned::new("await_confirmation", Step::Activate) };
        let done = Planned::new(name, Step::Activate).after(&["await_confirmation"]);
        Ok(Plan { version: PLAN_VERSION, operations: vec![confirm, done] })
    }

    async fn identity(&self) -> Result<String, Failure> {
        Ok(self.identity.clone())
    }

    async fn perform(&self, work: &Work) -> Result<Progress, Failure> {
        if let ("probe_url", Some(wish)) = (work.operation.as_str(), work.spec.probes.as_ref().and_then(|p| p.http.as_ref())) {
            let url = web(&work.endpoints)
                .ok_or_else(|| Failure::new(Class::Transient, "no_endpoint", "no http or https endpoint was given to probe"))?;
            probe::http(&self.guard, &format!("{}{}", url.trim_end_matches('/'), wish.path), (wish.expect_from, wish.expect_to))
                .await?;
        }
        Ok(Progress::Done(Made::default()))
    }

    async fn find(&self, _: &str, _: &str, _: &str) -> Result<Vec<Found>, Failure> {
        Ok(Vec::new())
    }

    async fn release(&self, _: &Held) -> Result<Released, Failure> {
        Ok(Released::Gone)
    }

    async fn list_owned(&self, _: &str, _: Option<String>) -> Result<Page, Failure> {
        Ok(Page { items: Vec::new(), next: None })
    }

    async fn test(&self) -> Vec<Check> {
        vec![Check { name: "people".to_owned(), ok: true, latency_ms: 0, error: None }]
    }

    async fn capacity(&self) -> Result<Option<Capacity>, Failure> {
        Ok(None)
    }

    async fn metrics(&self, _: &Work) -> Result<Metrics, Failure> {
        let why = "a managed service is not measured by Provisor".to_owned();
        let names = ["cpu_percent", "memory_used_gb", "disk_used_gb", "network_rx_bytes", "network_tx_bytes"];
        Ok(Metrics { unavailable: names.map(|n| (n.to_owned(), why.clone())).into(), ..Metrics::default() })
    }
}

fn web(endpoints: &[Endpoint]) -> Option<&str> {
    endpoints.iter().map(|e| e.url.as_str()).find(|u| u.starts_with("http://") || u.starts_with("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_that_mean_nothing_are_refused_with_the_nearest() {
        let value = json!({"name": "desk", "provider": "manual", "region": "eu", "endpoint": {"url": "x"},
            "settings": {"reminder_after_second": 5}});
        let (spec, _) = ClusterSpec::check("", &value).expect("good");
        let flaws = ManualConnector.check("", &spec, None);
        assert_eq!(flaws.len(), 2);
        assert!(flaws.iter().any(|f| f.message.contains("`reminder_after_seconds`")));
    }
}
