//! Tenants: who asks and pays.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::{Flaw, Flaws, Object, text_of};
use crate::quota::Limits;
use crate::spec::{Kind, Strategy, is_dns_label};

/// A tenant as a manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantSpec {
    /// Unique; a label of DNS.
    pub name: String,
    /// Limits.
    #[serde(default)]
    pub quota: Limits,
    /// Requests in work at once (SPEC 6.2).
    pub max_concurrent: u32,
    /// How its requests are tried that do not say so themselves; else the server's setting holds (SPEC 3.4).
    #[serde(default)]
    pub strategy: Option<Strategy>,
    /// Who is let into the tenant's namespaces.
    #[serde(default)]
    pub subjects: Vec<String>,
}

/// Requests of one tenant in work at once, where the tenant says nothing (SPEC 6.2).
pub const DEFAULT_MAX_CONCURRENT: u64 = 5;

impl TenantSpec {
    /// Reads one tenant that stands at `pointer`.
    pub fn check(pointer: &str, value: &Value) -> Result<Self, Vec<Flaw>> {
        let mut flaws = Flaws::default();
        let mut o = Object::new(pointer, value, &mut flaws);
        let f = &mut flaws;
        let name = o.required_text("name", 63, f).unwrap_or_default();
        if !name.is_empty() && !is_dns_label(&name) {
            f.add(&o.at("name"), "format", &Value::from(name.clone()), "must be lower case letters, digits and hyphens");
        }
        let quota = o.raw("quota").map_or_else(Limits::default, |v| limits(&o.at("quota"), v, f));
        let max = o.integer("max_concurrent", 1, 10_000, f).unwrap_or(DEFAULT_MAX_CONCURRENT);
        let strategy = o.raw("strategy").filter(|v| !v.is_null()).map(|v| Strategy::check(&o.at("strategy"), v, f));
        let subjects = o.list("subjects", 100, f, |p, v, f| text_of(p, v, 255, f));
        o.finish(f);
        let max_concurrent = u32::try_from(max).unwrap_or(u32::MAX);
        flaws.finish(Self { name, quota, max_concurrent, strategy, subjects })
    }
}

fn limits(pointer: &str, value: &Value, flaws: &mut Flaws) -> Limits {
    const MAX: u64 = 1 << 50;
    let mut o = Object::new(pointer, value, flaws);
    let mut amount = |o: &mut Object<'_>, key| o.integer(key, 0, MAX, flaws).and_then(|n| i64::try_from(n).ok());
    let (cpu, memory_gb, storage_gb) = (amount(&mut o, "cpu"), amount(&mut o, "memory_gb"), amount(&mut o, "storage_gb"));
    let mut requests = std::collections::BTreeMap::new();
    if let Some(value) = o.raw("requests") {
        let mut counts = Object::new(&o.at("requests"), value, flaws);
        for (name, kind) in Kind::ALL {
            if let Some(n) = counts.integer(name, 0, MAX, flaws) {
                requests.insert(kind, i64::try_from(n).unwrap_or(i64::MAX));
            }
        }
        counts.finish(flaws);
    }
    o.finish(flaws);
    Limits { cpu, memory_gb, storage_gb, requests }
}
