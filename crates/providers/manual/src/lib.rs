//! Kind `managed` on provider `manual`: nothing is called. The request pauses for the access details
//! (SPEC 3.8), and what was given is probed where the request asks for it.
//!
//! Where the details of a product are always the same, `settings.inputs` gives them once, with the cluster:
//! a request of that product does not pause.
//!
//! Nothing is made at a backend, so there is nothing in the ledger, nothing to find and nothing to release.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use provisor_core::check::{Flaw, Flaws, Object};
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
const SETTINGS: [&str; 2] = ["reminder_after_seconds", "inputs"];
/// Products whose access details are given beforehand, at most.
const PRODUCTS_AT_MOST: usize = 1000;
/// Endpoints of one product, as of one manual input.
const ENDPOINTS_AT_MOST: usize = 50;

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
            } else if key == "inputs" {
                inputs(&at, value, &mut flaws);
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
        // They were checked when the cluster was registered.
        let given = binding.spec.settings.get("inputs").map(|v| inputs("/settings/inputs", v, &mut Flaws::default()));
        Ok(Arc::new(Manual { identity: format!("manual:{}", binding.id), guard, inputs: given.unwrap_or_default() }))
    }
}

/// Reads the endpoints of each product.
fn inputs(pointer: &str, value: &Value, flaws: &mut Flaws) -> BTreeMap<String, Vec<Endpoint>> {
    let mut given = BTreeMap::new();
    if value.is_null() {
        return given;
    }
    let Some(products) = value.as_object() else {
        flaws.add(pointer, "type", value, "must be an object of products");
        return given;
    };
    if products.len() > PRODUCTS_AT_MOST {
        let message = format!("at most {PRODUCTS_AT_MOST} products");
        flaws.add(pointer, "max", &Value::from(products.len()), message);
        return given;
    }
    for (product, input) in products {
        let at = format!("{pointer}/{}", product.replace('~', "~0").replace('/', "~1"));
        let mut o = Object::new(&at, input, flaws);
        let is_list = o.required("endpoints", flaws).is_some_and(Value::is_array);
        let before = flaws.0.len();
        let endpoints = o.list("endpoints", ENDPOINTS_AT_MOST, flaws, Endpoint::check);
        if is_list && endpoints.is_empty() && flaws.0.len() == before {
            flaws.add(&o.at("endpoints"), "min", &Value::Null, "at least one endpoint");
        }
        o.finish(flaws);
        given.insert(product.clone(), endpoints);
    }
    given
}

struct Manual {
    identity: String,
    guard: Guard,
    /// What was given beforehand, by product.
    inputs: BTreeMap<String, Vec<Endpoint>>,
}

impl Manual {
    fn given(&self, spec: &Spec) -> Option<&Vec<Endpoint>> {
        self.inputs.get(spec.product.as_deref()?)
    }
}

#[async_trait]
impl Provider for Manual {
    fn plan(&self, spec: &Spec) -> Result<Plan, Failure> {
        let input = Planned { awaits_input: self.given(spec).is_none(), ..Planned::new("await_input", Step::Configure) };
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

    fn answer(&self, operation: &str, spec: &Spec) -> Option<Made> {
        match operation {
            "reserve" | "mark_active" | "mark_suspended" => Some(Made::default()),
            "await_input" => self.given(spec).map(|endpoints| Made { endpoints: endpoints.clone(), ..Made::default() }),
            "probe_url" if spec.probes.as_ref().is_none_or(|p| p.http.is_none()) => Some(Made::default()),
            _ => None,
        }
    }

    async fn identity(&self) -> Result<String, Failure> {
        Ok(self.identity.clone())
    }

    async fn perform(&self, work: &Work) -> Result<Progress, Failure> {
        if work.operation == "await_input" {
            // Where it is given there is no call; a change of the cluster has taken it away since it was planned.
            let text = "the cluster's settings.inputs does not name this product any more";
            return Err(Failure::new(Class::Transient, "no_input", text));
        }
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

    fn cluster(inputs: &Value) -> ClusterSpec {
        let value = json!({"name": "desk", "provider": "manual", "region": "eu", "settings": {"inputs": inputs}});
        ClusterSpec::check("", &value).expect("good").0
    }

    #[test]
    fn inputs_are_checked_each_fault_with_its_pointer() {
        let good = cluster(&json!({"erp": {"endpoints": [{"name": "web", "url": "https://erp.example"}]}}));
        assert_eq!(ManualConnector.check("", &good, None), []);
        let bad = cluster(&json!({
            "a/b": {"endpoints": [{"name": "web", "url": "nowhere"}, {"url": "https://x.example", "user": "x"}]},
            "none": {"endpoints": []},
            "word": "https://x.example",
            "empty": {"endpoint": []},
        }));
        let flaws = ManualConnector.check("/clusters/0", &bad, None);
        let mut found: Vec<(&str, &str)> = flaws.iter().map(|f| (f.pointer.as_str(), f.rule.as_str())).collect();
        found.sort_unstable();
        let at = "/clusters/0/settings/inputs";
        let expected = [
            (format!("{at}/a~1b/endpoints/0/url"), "format"),
            (format!("{at}/a~1b/endpoints/1/name"), "required"),
            (format!("{at}/a~1b/endpoints/1/user"), "unknown_key"),
            (format!("{at}/empty/endpoint"), "unknown_key"),
            (format!("{at}/empty/endpoints"), "required"),
            (format!("{at}/none/endpoints"), "min"),
            (format!("{at}/word"), "type"),
        ];
        let expected: Vec<(&str, &str)> = expected.iter().map(|(p, r)| (p.as_str(), *r)).collect();
        assert_eq!(found, expected);
        let list = ManualConnector.check("", &cluster(&json!([])), None);
        assert_eq!(list.first().map(|f| f.pointer.as_str()), Some("/settings/inputs"));
    }
}
