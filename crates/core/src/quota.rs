//! Amounts, limits and the refusal that names each dimension (SPEC 4.3).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::Kind;

/// What a request takes of processors, memory and storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Amounts {
    /// vCPU.
    pub cpu: i64,
    /// GiB.
    pub memory_gb: i64,
    /// GiB.
    pub storage_gb: i64,
}

impl Amounts {
    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu),
            memory_gb: self.memory_gb.saturating_add(other.memory_gb),
            storage_gb: self.storage_gb.saturating_add(other.storage_gb),
        }
    }

    /// The negative, for giving back.
    #[must_use]
    pub fn negated(self) -> Self {
        Self { cpu: -self.cpu, memory_gb: -self.memory_gb, storage_gb: -self.storage_gb }
    }
}

/// A tenant's limits; `None` is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// vCPU.
    pub cpu: Option<i64>,
    /// GiB.
    pub memory_gb: Option<i64>,
    /// GiB.
    pub storage_gb: Option<i64>,
    /// Number of requests by kind.
    #[serde(default)]
    pub requests: BTreeMap<Kind, i64>,
}

/// What a tenant's live requests hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Processors, memory, storage.
    pub amounts: Amounts,
    /// Number of live requests by kind.
    pub requests: BTreeMap<Kind, i64>,
}

impl Usage {
    /// Adds one request's holding, or several of one kind.
    pub fn add(&mut self, kind: Kind, amounts: Amounts, count: i64) {
        self.amounts = self.amounts.plus(amounts);
        *self.requests.entry(kind).or_insert(0) += count;
    }
}

/// One dimension of a quota against what is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimension {
    /// `cpu`, `memory_gb`, `storage_gb`, `requests.vps` …
    pub name: String,
    /// The limit, `null` for none.
    pub limit: Option<i64>,
    /// In use now.
    pub used: i64,
    /// Asked for.
    pub requested: i64,
}

impl Dimension {
    /// Whether what is asked fits.
    pub fn fits(&self) -> bool {
        // Why `requested == 0`: a limit lowered below usage refuses only what would use more (H18).
        self.requested == 0 || self.limit.is_none_or(|l| self.used.saturating_add(self.requested) <= l)
    }
}

/// Every dimension with limit, used and asked, in a fixed order.
pub fn dimensions(limits: &Limits, used: &Usage, asked: &Usage) -> Vec<Dimension> {
    let amount = |name: &str, limit, used, requested| Dimension { name: name.to_owned(), limit, used, requested };
    let mut all = vec![
        amount("cpu", limits.cpu, used.amounts.cpu, asked.amounts.cpu),
        amount("memory_gb", limits.memory_gb, used.amounts.memory_gb, asked.amounts.memory_gb),
        amount("storage_gb", limits.storage_gb, used.amounts.storage_gb, asked.amounts.storage_gb),
    ];
    for (name, kind) in Kind::ALL {
        let of = |u: &Usage| u.requests.get(&kind).copied().unwrap_or(0);
        let limit = limits.requests.get(&kind).copied();
        all.push(amount(&format!("requests.{name}"), limit, of(used), of(asked)));
    }
    all
}

/// The dimensions that do not fit; empty when the request may be admitted.
pub fn exceeded(limits: &Limits, used: &Usage, asked: &Usage) -> Vec<Dimension> {
    dimensions(limits, used, asked).into_iter().filter(|d| !d.fits()).collect()
}
