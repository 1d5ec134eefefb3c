//! The settings of a simulated cluster: how it behaves, as data (API.md, Simulation provider).
//!
//! One reader serves both sides: the connector asks it for faults of an input, the cloud for the values. What it
//! cannot read it leaves at its default, because an input that was accepted once must go on working.
//!
//! Beside the keys of API.md: `listeners` (false: the cloud judges probes itself and opens no socket), `offline` (true:
//! nothing answers), `total` (what the backend says it has room for), `images` (as of what it plays; not looked at),
//! and in a fault `after_seconds` (how late a late success is, when something vanishes, how stale a list is).

use std::collections::BTreeMap;

use provisor_core::Span;
use provisor_core::check::{Flaws, Object, integer_of, number_of, word_of};
use provisor_core::cluster::{COMMON_SETTINGS, Capacity};
use provisor_core::lifecycle::Step;
use serde_json::{Map, Value};

use crate::latency::{self, Model};
use crate::roll::fits;

/// What can go wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FaultKind {
    /// Fails before it does anything; may work again.
    Transient,
    /// Fails and will go on failing.
    Permanent,
    /// Asked to slow down.
    Throttled,
    /// Credentials refused.
    Auth,
    /// No room.
    Capacity,
    /// Never answers, does nothing.
    Hang,
    /// Done, but the answer never comes.
    LostReply,
    /// Done only after the deadline.
    LateSuccess,
    /// A delete that does not work this time.
    DeleteFails,
    /// A list or a look that shows the past.
    StaleList,
    /// Gone some time after it was made.
    Vanish,
}

/// The words for faults.
pub(crate) const FAULTS: [(&str, FaultKind); 11] = [
    ("transient", FaultKind::Transient),
    ("permanent", FaultKind::Permanent),
    ("throttled", FaultKind::Throttled),
    ("auth", FaultKind::Auth),
    ("capacity", FaultKind::Capacity),
    ("hang", FaultKind::Hang),
    ("lost_reply", FaultKind::LostReply),
    ("late_success", FaultKind::LateSuccess),
    ("delete_fails", FaultKind::DeleteFails),
    ("stale_list", FaultKind::StaleList),
    ("vanish", FaultKind::Vanish),
];

impl FaultKind {
    /// The word in settings and in the call counters.
    pub(crate) fn name(self) -> &'static str {
        FAULTS.iter().find(|(_, k)| *k == self).map_or("", |(n, _)| n)
    }
}

/// When a fault strikes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum When {
    /// By chance, at every call.
    Probability(f64),
    /// At these calls, counted from 1 since the fault was set.
    OnCalls(Vec<u64>),
}

/// One rule of what goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fault {
    /// Which operations; `*` stands for anything.
    pub(crate) operation: String,
    /// What happens.
    pub(crate) kind: FaultKind,
    /// When.
    pub(crate) when: When,
    /// Only for requests of this tenant.
    pub(crate) tenant: Option<String>,
    /// Only for requests of this name.
    pub(crate) request_name: Option<String>,
    /// Instead of the usual delay of this kind.
    pub(crate) after: Option<Span>,
    /// Names the rule, so that its count of calls survives a restart and an edit of others.
    pub(crate) key: String,
}

/// How a simulated cluster behaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Settings {
    /// The same seed, the same behaviour.
    pub(crate) seed: u64,
    /// Per step, the chance that all its operations go well.
    pub(crate) success: BTreeMap<Step, f64>,
    /// Factor of every latency.
    pub(crate) time_scale: f64,
    /// By operation, `*` allowed.
    pub(crate) latency: BTreeMap<String, Model>,
    /// In order; the first that strikes counts.
    pub(crate) faults: Vec<Fault>,
    /// Whether services answer on sockets.
    pub(crate) listeners: bool,
    /// Nothing answers.
    pub(crate) offline: bool,
    /// What the backend says it has room for.
    pub(crate) total: Capacity,
}

/// What a cluster has room for where `total` does not say.
const TOTAL: Capacity = Capacity { cpu: Some(1024), memory_gb: Some(4096), storage_gb: Some(100_000), slots: Some(1000) };

impl Settings {
    /// Reads the settings that stand at `pointer`; faults of the input are noted.
    pub(crate) fn read(pointer: &str, settings: &Map<String, Value>, flaws: &mut Flaws) -> Self {
        let value = Value::Object(settings.clone());
        let mut o = Object::new(pointer, &value, flaws);
        for key in COMMON_SETTINGS {
            o.raw(key);
        }
        o.texts("images", 1000, flaws);
        let found = Self {
            seed: o.integer("seed", 0, u64::MAX, flaws).unwrap_or(0),
            success: o.raw("success_rate").map_or_else(BTreeMap::new, |v| success(&o.at("success_rate"), v, flaws)),
            time_scale: o.number("time_scale", 0.0, 1e6, flaws).unwrap_or(1.0),
            latency: o.raw("latency").map_or_else(BTreeMap::new, |v| latencies(&o.at("latency"), v, flaws)),
            faults: numbered(o.list("faults", 200, flaws, fault)),
            listeners: o.boolean("listeners", flaws).unwrap_or(true),
            offline: o.boolean("offline", flaws).unwrap_or(false),
            total: o.raw("total").map_or(TOTAL, |v| total(&o.at("total"), v, flaws)),
        };
        o.finish(flaws);
        found
    }

    /// The model of an operation: its own, else the longest pattern that fits, else `default`.
    pub(crate) fn model(&self, operation: &str) -> &Model {
        let own = self.latency.get(operation);
        let pattern = || {
            let all = self.latency.iter().filter(|(p, _)| p.contains('*') && fits(p, operation));
            all.max_by_key(|(p, _)| p.len()).map(|(_, m)| m)
        };
        own.or_else(pattern).or_else(|| self.latency.get("default")).unwrap_or(&latency::DEFAULT)
    }
}

/// A number is the chance of the whole attempt, so each of the four steps gets its fourth root.
fn success(pointer: &str, value: &Value, flaws: &mut Flaws) -> BTreeMap<Step, f64> {
    if value.is_object() {
        let mut o = Object::new(pointer, value, flaws);
        let rates = Step::ALL.iter().filter_map(|s| Some((*s, o.number(s.name(), 0.0, 1.0, flaws)?))).collect();
        o.finish(flaws);
        return rates;
    }
    let Some(rate) = number_of(pointer, value, 0.0, 1.0, flaws) else { return BTreeMap::new() };
    Step::ALL.iter().map(|s| (*s, rate.powf(0.25))).collect()
}

fn latencies(pointer: &str, value: &Value, flaws: &mut Flaws) -> BTreeMap<String, Model> {
    let Some(map) = value.as_object() else {
        flaws.add(pointer, "type", value, "must be an object of operation to latency");
        return BTreeMap::new();
    };
    let models = map.iter().filter_map(|(k, v)| Some((k.clone(), Model::read(&format!("{pointer}/{k}"), v, flaws)?)));
    models.collect()
}

fn total(pointer: &str, value: &Value, flaws: &mut Flaws) -> Capacity {
    let mut o = Object::new(pointer, value, flaws);
    let mut amount = |key| o.integer(key, 0, 1 << 50, flaws).and_then(|n| i64::try_from(n).ok());
    let found =
        Capacity { cpu: amount("cpu"), memory_gb: amount("memory_gb"), storage_gb: amount("storage_gb"), slots: amount("slots") };
    o.finish(flaws);
    found
}

fn fault(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Fault> {
    let mut o = Object::new(pointer, value, flaws);
    let operation = o.required_text("operation", 100, flaws);
    let kind_value = o.required("kind", flaws);
    let kind = kind_value.and_then(|v| word_of(&o.at("kind"), v, &FAULTS, flaws));
    let probability = o.number("probability", 0.0, 1.0, flaws);
    let on_calls = o.raw("on_calls").map(|_| o.list("on_calls", 10_000, flaws, |p, v, f| integer_of(p, v, 1, u64::MAX, f)));
    if probability.is_some() && on_calls.is_some() {
        flaws.add(pointer, "unique", &Value::Null, "give probability or on_calls, not both");
    }
    let (tenant, request_name) = (o.text("tenant", 255, flaws), o.text("request_name", 255, flaws));
    let after = o.number("after_seconds", 0.0, 86_400.0, flaws).map(Span::from_seconds_f64);
    o.finish(flaws);
    let when = on_calls.map_or(When::Probability(probability.unwrap_or(1.0)), When::OnCalls);
    Some(Fault { operation: operation?, kind: kind?, when, tenant, request_name, after, key: value.to_string() })
}

/// Two rules that say the same are counted apart.
fn numbered(mut faults: Vec<Fault>) -> Vec<Fault> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for fault in &mut faults {
        let count = seen.entry(fault.key.clone()).or_default();
        *count += 1;
        if *count > 1 {
            fault.key = format!("{} #{count}", fault.key);
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value) -> (Settings, Vec<String>) {
        let mut flaws = Flaws::default();
        let map = value.as_object().cloned().unwrap_or_default();
        let settings = Settings::read("/s", &map, &mut flaws);
        (settings, flaws.0.into_iter().map(|f| format!("{} {}", f.pointer, f.rule)).collect())
    }

    #[test]
    fn all_keys_of_the_contract_are_read() {
        let (settings, flaws) = read(&json!({
            "seed": 7, "success_rate": {"allocate": 0.5}, "time_scale": 0.01, "retry": {"initial_seconds": 1},
            "latency": {"default": {"fixed_ms": 5}, "create_*": {"fixed_ms": 6}, "create_server": {"fixed_ms": 7}},
            "faults": [
                {"operation": "create_*", "kind": "lost_reply", "on_calls": [1, 3], "tenant": "acme"},
                {"operation": "*", "kind": "hang", "probability": 0.1, "request_name": "db"},
                {"operation": "*", "kind": "hang", "probability": 0.1, "request_name": "db"},
            ],
        }));
        assert_eq!(flaws, Vec::<String>::new());
        assert_eq!(settings.success.get(&Step::Allocate), Some(&0.5));
        assert_eq!(settings.model("create_server"), &Model::Fixed(7.0));
        assert_eq!(settings.model("create_port"), &Model::Fixed(6.0));
        assert_eq!(settings.model("find"), &Model::Fixed(5.0));
        assert_eq!(settings.faults.len(), 3);
        assert_ne!(settings.faults.get(1).map(|f| &f.key), settings.faults.get(2).map(|f| &f.key));
    }

    #[test]
    fn each_fault_of_the_input_is_found_with_its_pointer() {
        let (_, flaws) = read(&json!({
            "sed": 1, "seed": -1, "success_rate": 2, "time_scale": "x", "latency": {"find": {"fixed_ms": "x"}},
            "faults": [
                {"operation": "*", "kind": "explode"},
                {"kind": "hang", "probability": 1.5},
                {"operation": "*", "kind": "hang", "on_calls": [0], "probability": 1},
            ],
        }));
        let expected = [
            "/s/seed min",
            "/s/success_rate max",
            "/s/time_scale type",
            "/s/latency/find/fixed_ms type",
            "/s/faults/0/kind enum",
            "/s/faults/1/operation required",
            "/s/faults/1/probability max",
            "/s/faults/2/on_calls/0 min",
            "/s/faults/2 unique",
            "/s/sed unknown_key",
        ];
        assert_eq!(flaws, expected);
    }
}
