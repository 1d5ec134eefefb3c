//! Clusters: registered backends, with what they serve and the settings that every one has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::breaker;
use crate::check::{Flaw, Flaws, Object, integer_of, number_of, word_of};
use crate::deadline::Policy;
use crate::spec::{Kind, is_dns_label};
use crate::time::Span;
use crate::workflow::asks_the_service;

/// The type of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderType {
    /// OpenStack.
    Openstack,
    /// VMware vSphere.
    Vmware,
    /// Proxmox VE.
    Proxmox,
    /// Kubernetes.
    Kubernetes,
    /// OpenShift.
    Openshift,
    /// Argo CD.
    Argocd,
    /// The simulated cloud.
    Simulation,
    /// People.
    Manual,
}

/// All provider types with their names.
pub const PROVIDER_WORDS: [(&str, ProviderType); 8] = [
    ("openstack", ProviderType::Openstack),
    ("vmware", ProviderType::Vmware),
    ("proxmox", ProviderType::Proxmox),
    ("kubernetes", ProviderType::Kubernetes),
    ("openshift", ProviderType::Openshift),
    ("argocd", ProviderType::Argocd),
    ("simulation", ProviderType::Simulation),
    ("manual", ProviderType::Manual),
];

impl ProviderType {
    /// The name in the API.
    pub fn name(self) -> &'static str {
        PROVIDER_WORDS.iter().find(|(_, p)| *p == self).map_or("", |(n, _)| n)
    }

    /// The kind that it serves; a simulation serves those of what it simulates.
    pub fn serves(self) -> Option<Kind> {
        match self {
            Self::Openstack | Self::Vmware | Self::Proxmox => Some(Kind::Vps),
            Self::Kubernetes | Self::Openshift => Some(Kind::KubernetesNamespace),
            Self::Argocd => Some(Kind::Environment),
            Self::Manual => Some(Kind::Managed),
            Self::Simulation => None,
        }
    }
}

/// Our own limits of a cluster; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capacity {
    /// vCPU.
    pub cpu: Option<i64>,
    /// GiB.
    pub memory_gb: Option<i64>,
    /// GiB.
    pub storage_gb: Option<i64>,
    /// Number of attempts.
    pub slots: Option<i64>,
}

/// A cluster as a manifest describes it, without its credentials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterSpec {
    /// Unique; a label of DNS.
    pub name: String,
    /// The type of the backend.
    pub provider: ProviderType,
    /// What a simulation plays.
    #[serde(default)]
    pub simulates: Vec<ProviderType>,
    /// Where it is.
    pub region: String,
    /// The first choice in its region.
    #[serde(default)]
    pub default: bool,
    /// Whether new attempts are placed on it.
    pub provisioning_enabled: bool,
    /// Our limits.
    #[serde(default)]
    pub capacity: Capacity,
    /// Ask the backend for its capacity instead.
    #[serde(default)]
    pub discover: bool,
    /// The provider's own keys.
    #[serde(default)]
    pub endpoint: Map<String, Value>,
    /// Common and the provider's own keys.
    #[serde(default)]
    pub settings: Map<String, Value>,
}

impl ClusterSpec {
    /// Reads one cluster that stands at `pointer`; the credentials come apart, as they are encrypted.
    /// The provider's own keys of endpoint, credentials and settings are checked by its adapter.
    pub fn check(pointer: &str, value: &Value) -> Result<(Self, Option<Value>), Vec<Flaw>> {
        let mut flaws = Flaws::default();
        let mut o = Object::new(pointer, value, &mut flaws);
        let f = &mut flaws;
        let name = o.required_text("name", 63, f).unwrap_or_default();
        if !name.is_empty() && !is_dns_label(&name) {
            f.add(&o.at("name"), "format", &Value::from(name.clone()), "must be lower case letters, digits and hyphens");
        }
        let provider_value = o.required("provider", f);
        let provider = provider_value.and_then(|v| word_of(&o.at("provider"), v, &PROVIDER_WORDS, f));
        let simulates = simulates(&mut o, provider, f);
        let region = o.required_text("region", 63, f).unwrap_or_default();
        let default = o.boolean("default", f).unwrap_or(false);
        let provisioning_enabled = o.boolean("provisioning_enabled", f).unwrap_or(true);
        let (capacity, discover) = capacity(&mut o, f);
        let endpoint = map(&mut o, "endpoint", f);
        let settings = map(&mut o, "settings", f);
        Settings::check(&o.at("settings"), &settings, f);
        let credentials = o.raw("credentials").cloned();
        if credentials.as_ref().is_some_and(|c| !c.is_object()) {
            f.add(&o.at("credentials"), "type", &Value::Null, "must be an object");
        }
        o.finish(f);
        let provider = provider.unwrap_or(ProviderType::Manual);
        let spec =
            Self { name, provider, simulates, region, default, provisioning_enabled, capacity, discover, endpoint, settings };
        flaws.finish((spec, credentials))
    }

    /// The kinds that it can serve.
    pub fn kinds(&self) -> Vec<Kind> {
        self.plays().iter().filter_map(|p| p.serves()).collect()
    }

    /// The provider types that it stands for: its own, or those that it simulates.
    pub fn plays(&self) -> Vec<ProviderType> {
        if self.provider == ProviderType::Simulation { self.simulates.clone() } else { vec![self.provider] }
    }

    /// The settings that every cluster has, with their defaults.
    pub fn common(&self) -> Settings {
        Settings::of(&self.settings)
    }
}

fn simulates(o: &mut Object<'_>, provider: Option<ProviderType>, flaws: &mut Flaws) -> Vec<ProviderType> {
    let pointer = o.at("simulates");
    let simulation = provider == Some(ProviderType::Simulation);
    let Some(value) = o.raw("simulates") else {
        if simulation {
            flaws.add(&pointer, "required", &Value::Null, "a simulation must say what it simulates");
        }
        return Vec::new();
    };
    if !simulation && provider.is_some() {
        flaws.add(&pointer, "unknown_key", value, "only a simulation simulates");
    }
    let words: Vec<_> = PROVIDER_WORDS.into_iter().filter(|(_, p)| *p != ProviderType::Simulation).collect();
    match value.as_array() {
        Some(items) if items.is_empty() => {
            flaws.add(&pointer, "min", value, "at least one");
            Vec::new()
        }
        Some(items) => {
            items.iter().enumerate().filter_map(|(i, v)| word_of(&format!("{pointer}/{i}"), v, &words, flaws)).collect()
        }
        None => word_of(&pointer, value, &words, flaws).into_iter().collect(),
    }
}

fn capacity(o: &mut Object<'_>, flaws: &mut Flaws) -> (Capacity, bool) {
    const MAX: u64 = 1 << 50;
    let Some(value) = o.raw("capacity") else { return (Capacity::default(), false) };
    if value.as_str() == Some("discover") {
        return (Capacity::default(), true);
    }
    let mut c = Object::new(&o.at("capacity"), value, flaws);
    let mut amount = |key| c.integer(key, 0, MAX, flaws).and_then(|n| i64::try_from(n).ok());
    let found =
        Capacity { cpu: amount("cpu"), memory_gb: amount("memory_gb"), storage_gb: amount("storage_gb"), slots: amount("slots") };
    c.finish(flaws);
    (found, false)
}

fn map(o: &mut Object<'_>, key: &'static str, flaws: &mut Flaws) -> Map<String, Value> {
    let Some(value) = o.raw(key) else { return Map::new() };
    if let Some(map) = value.as_object() {
        return map.clone();
    }
    flaws.add(&o.at(key), "type", value, "must be an object");
    Map::new()
}

/// The keys of `settings` that every cluster has (API.md, Settings that every cluster has).
pub const COMMON_SETTINGS: [&str; 12] = [
    "retry",
    "deadlines",
    "learned_deadlines",
    "list_lag_seconds",
    "late_create_seconds",
    "orphan_grace_seconds",
    "probe",
    "hedge_after_seconds",
    "extra_launch_budget_percent",
    "breaker",
    "max_in_flight",
    "sweep_every_seconds",
];

/// Settings that every cluster has, with defaults filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Back-off of retries (SPEC 3.2).
    pub retry: Retry,
    /// Deadlines by operation; `*` for all.
    pub deadlines: BTreeMap<String, Span>,
    /// Whether deadlines are learned, and no shorter than what (SPEC 3.3).
    #[serde(default, skip_serializing_if = "is_default")]
    pub learned: Policy,
    /// How long a list may lag behind (H5).
    pub list_lag: Span,
    /// How late a create may still appear (H6).
    pub late_create: Span,
    /// How old an orphan must be before the sweeper may release it (H2).
    pub orphan_grace: Span,
    /// Pause before the first probe.
    pub probe_first_after: Span,
    /// Pause between probes.
    pub probe_every: Span,
    /// Deadline of a probe operation.
    pub probe_deadline: Span,
    /// Pause between sweeps.
    pub sweep_every: Span,
    /// An attempt is slow that is longer in a step than this, until durations are recorded (SPEC 3.4, hedge).
    #[serde(default = "hedge_after")]
    pub hedge_after: Span,
    /// What each first attempt adds to the budget of extra launches, in percent of one (H31).
    #[serde(default = "extra_launch_budget_percent")]
    pub extra_launch_budget_percent: f64,
    /// When its circuit breaker opens (H27).
    #[serde(default, skip_serializing_if = "is_default")]
    pub breaker: breaker::Policy,
    /// Calls in flight at most, over all workers; `None` is no limit (H28).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<u32>,
}

fn hedge_after() -> Span {
    Span::seconds(120)
}

fn extra_launch_budget_percent() -> f64 {
    5.0
}

/// What is as usual is not written: settings stand in each attempt's document.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Back-off of retries: `initial`, times `factor` each time, never above `cap`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// First pause.
    pub initial: Span,
    /// Growth.
    pub factor: f64,
    /// Longest pause.
    pub cap: Span,
    /// Retries of one operation; never below 2.
    pub max_retries: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry: Retry { initial: Span::seconds(5), factor: 2.0, cap: Span::seconds(300), max_retries: 3 },
            deadlines: BTreeMap::new(),
            learned: Policy::default(),
            list_lag: Span::seconds(5),
            late_create: Span::seconds(120),
            orphan_grace: Span::seconds(900),
            probe_first_after: Span::ZERO,
            probe_every: Span::seconds(10),
            probe_deadline: Span::seconds(300),
            sweep_every: Span::seconds(300),
            hedge_after: hedge_after(),
            extra_launch_budget_percent: extra_launch_budget_percent(),
            breaker: breaker::Policy::default(),
            max_in_flight: None,
        }
    }
}

impl Settings {
    /// Nothing is set otherwise. Documents leave them out then, so the defaults are part of their form (see `crate::run`).
    pub(crate) fn are_usual(&self) -> bool {
        *self == Self::default()
    }

    fn check(pointer: &str, settings: &Map<String, Value>, flaws: &mut Flaws) {
        let seconds = |key: &str, min: f64, flaws: &mut Flaws| {
            if let Some(value) = settings.get(key).filter(|v| !v.is_null()) {
                number_of(&format!("{pointer}/{key}"), value, min, 1e8, flaws);
            }
        };
        for key in ["list_lag_seconds", "late_create_seconds", "orphan_grace_seconds"] {
            seconds(key, 0.0, flaws);
        }
        seconds("sweep_every_seconds", 0.1, flaws);
        seconds("hedge_after_seconds", 0.01, flaws);
        if let Some(value) = settings.get("retry") {
            let mut o = Object::new(&format!("{pointer}/retry"), value, flaws);
            o.number("initial_seconds", 0.0, 3600.0, flaws);
            o.number("factor", 1.0, 100.0, flaws);
            o.number("cap_seconds", 0.0, 86_400.0, flaws);
            o.integer("max_retries", 2, 100, flaws);
            o.finish(flaws);
        }
        if let Some(value) = settings.get("probe") {
            let mut o = Object::new(&format!("{pointer}/probe"), value, flaws);
            o.number("first_after_seconds", 0.0, 3600.0, flaws);
            o.number("every_seconds", 0.01, 3600.0, flaws);
            o.number("deadline_seconds", 0.01, 86_400.0, flaws);
            o.finish(flaws);
        }
        if let Some(value) = settings.get("deadlines") {
            let at = format!("{pointer}/deadlines");
            match value.as_object() {
                None => flaws.add(&at, "type", value, "must be an object of operation to seconds"),
                Some(map) => {
                    for (operation, v) in map {
                        number_of(&format!("{at}/{operation}"), v, 0.01, 86_400.0, flaws);
                    }
                }
            }
        }
        if let Some(value) = settings.get("extra_launch_budget_percent").filter(|v| !v.is_null()) {
            number_of(&format!("{pointer}/extra_launch_budget_percent"), value, 0.0, 100.0, flaws);
        }
        if let Some(value) = settings.get("learned_deadlines") {
            let mut o = Object::new(&format!("{pointer}/learned_deadlines"), value, flaws);
            o.boolean("enabled", flaws);
            o.number("floor_seconds", 0.01, 86_400.0, flaws);
            o.finish(flaws);
        }
        if let Some(value) = settings.get("breaker") {
            let mut o = Object::new(&format!("{pointer}/breaker"), value, flaws);
            o.integer("failures", 1, 1_000_000, flaws);
            o.number("window_seconds", 0.1, 86_400.0, flaws);
            o.number("open_seconds", 0.1, 86_400.0, flaws);
            o.finish(flaws);
        }
        if let Some(value) = settings.get("max_in_flight").filter(|v| !v.is_null()) {
            // Two, as one is for what takes something back.
            integer_of(&format!("{pointer}/max_in_flight"), value, 2, 100_000, flaws);
        }
    }

    fn of(settings: &Map<String, Value>) -> Self {
        let d = Self::default();
        let span = |value: Option<&Value>, default: Span| value.and_then(Value::as_f64).map_or(default, Span::from_seconds_f64);
        let part = |name: &str, key: &str| settings.get(name).and_then(|v| v.get(key));
        let retries = part("retry", "max_retries").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let deadlines = settings
            .get("deadlines")
            .and_then(Value::as_object)
            .map(|m| m.iter().filter_map(|(k, v)| Some((k.clone(), Span::from_seconds_f64(v.as_f64()?)))).collect());
        Self {
            retry: Retry {
                initial: span(part("retry", "initial_seconds"), d.retry.initial),
                factor: part("retry", "factor").and_then(Value::as_f64).unwrap_or(d.retry.factor),
                cap: span(part("retry", "cap_seconds"), d.retry.cap),
                max_retries: retries.unwrap_or(d.retry.max_retries).max(2),
            },
            deadlines: deadlines.unwrap_or_default(),
            learned: Policy {
                enabled: part("learned_deadlines", "enabled").and_then(Value::as_bool).unwrap_or(d.learned.enabled),
                floor: span(part("learned_deadlines", "floor_seconds"), d.learned.floor),
            },
            list_lag: span(settings.get("list_lag_seconds"), d.list_lag),
            late_create: span(settings.get("late_create_seconds"), d.late_create),
            orphan_grace: span(settings.get("orphan_grace_seconds"), d.orphan_grace),
            probe_first_after: span(part("probe", "first_after_seconds"), d.probe_first_after),
            probe_every: span(part("probe", "every_seconds"), d.probe_every),
            probe_deadline: span(part("probe", "deadline_seconds"), d.probe_deadline),
            sweep_every: span(settings.get("sweep_every_seconds"), d.sweep_every),
            hedge_after: span(settings.get("hedge_after_seconds"), d.hedge_after),
            extra_launch_budget_percent: settings
                .get("extra_launch_budget_percent")
                .and_then(Value::as_f64)
                .unwrap_or(d.extra_launch_budget_percent),
            breaker: breaker::Policy {
                failures: part("breaker", "failures").and_then(Value::as_u64).unwrap_or(d.breaker.failures),
                window: span(part("breaker", "window_seconds"), d.breaker.window),
                open: span(part("breaker", "open_seconds"), d.breaker.open),
            },
            max_in_flight: settings.get("max_in_flight").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()),
        }
    }

    /// The deadline of an operation and where it comes from: the most exact setting wins (SPEC 3.1).
    pub fn deadline(&self, operation: &str, default: Span) -> (Span, &'static str) {
        if let Some(exact) = self.deadlines.get(operation) {
            return (*exact, "cluster");
        }
        if let Some(all) = self.deadlines.get("*") {
            return (*all, "cluster");
        }
        if asks_the_service(operation) && self.probe_deadline != Self::default().probe_deadline {
            return (self.probe_deadline, "cluster");
        }
        (default, "default")
    }
}

/// What the background probe last saw of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// It answers, and everything that it needs is there.
    Online,
    /// It answers, but something that it needs is missing.
    Degraded,
    /// It does not answer.
    Offline,
}

/// A cluster's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The verdict.
    pub state: HealthState,
    /// When it was last asked.
    pub checked_at: Option<crate::time::Timestamp>,
    /// How long the answer took.
    pub latency_ms: Option<u64>,
    /// What failed, where something did.
    #[serde(default)]
    pub error: Option<String>,
}

impl Default for Health {
    /// Before the first probe a cluster counts as online: a wrong one fails its first attempt fast.
    fn default() -> Self {
        Self { state: HealthState::Online, checked_at: None, latency_ms: None, error: None }
    }
}
