//! Which cluster takes a request (SPEC 5): type, region, health, capacity, default first, order of
//! registration. Every rejection has its reason.

use crate::cluster::{Capacity, ClusterSpec, Health, HealthState};
use crate::id::ClusterId;
use crate::quota::Amounts;
use crate::spec::Spec;

/// A cluster as placement sees it. `taken` is what attempts hold, reserved or used.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its id.
    pub id: ClusterId,
    /// Its description.
    pub spec: ClusterSpec,
    /// Its health.
    pub health: Health,
    /// Held by attempts.
    pub taken: Amounts,
    /// Number of attempts that hold something.
    pub taken_slots: i64,
    /// It takes nothing new (H26).
    pub draining: bool,
    /// Why its breaker or a pause keeps new work away from it, while one does (H27, H29).
    pub closed: Option<String>,
}

/// The result of placement.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Choice {
    /// The cluster, where there is one.
    pub cluster: Option<ClusterId>,
    /// Another could take it as well.
    pub others: bool,
    /// Every other cluster's name with the reason why not.
    pub rejected: Vec<(String, String)>,
    /// At least one cluster was rejected only for its load or its health: waiting may help.
    pub may_wait: bool,
}

/// Why a cluster can never take a request, whatever its health, load or switch (H16).
fn never(candidate: &Candidate, spec: &Spec, regions: &[String]) -> Option<String> {
    let c = &candidate.spec;
    if !c.kinds().contains(&spec.kind) {
        return Some(format!("serves no {}", spec.kind.name()));
    }
    if let Some(pinned) = spec.cluster.as_ref().filter(|p| **p != c.name) {
        return Some(format!("the request is pinned to {pinned}"));
    }
    let plays = |p: &String| c.provider.name() == p || c.plays().iter().any(|played| played.name() == p);
    if let Some(provider) = spec.provider.as_ref().filter(|p| !plays(p)) {
        return Some(format!("is {}, not {provider}", c.provider.name()));
    }
    if !regions.is_empty() && !regions.contains(&c.region) {
        return Some(format!("is in region {}", c.region));
    }
    shortage(&c.capacity, spec.needs(), Amounts::default(), 0).map(|s| format!("too small: {s}"))
}

/// Why a cluster cannot take it now.
fn not_now(candidate: &Candidate, spec: &Spec) -> Option<String> {
    if candidate.draining {
        return Some("is draining".to_owned());
    }
    if !candidate.spec.provisioning_enabled {
        return Some("provisioning is switched off".to_owned());
    }
    if let Some(reason) = &candidate.closed {
        return Some(reason.clone());
    }
    match candidate.health.state {
        HealthState::Online => {}
        HealthState::Degraded => return Some("is degraded".to_owned()),
        HealthState::Offline => return Some("is offline".to_owned()),
    }
    shortage(&candidate.spec.capacity, spec.needs(), candidate.taken, candidate.taken_slots).map(|s| format!("no room: {s}"))
}

/// The first dimension that is short.
fn shortage(limit: &Capacity, needs: Amounts, taken: Amounts, slots: i64) -> Option<String> {
    let dimensions = [
        ("cpu", limit.cpu, needs.cpu, taken.cpu),
        ("memory_gb", limit.memory_gb, needs.memory_gb, taken.memory_gb),
        ("storage_gb", limit.storage_gb, needs.storage_gb, taken.storage_gb),
        ("slots", limit.slots, 1, slots),
    ];
    let short = dimensions.into_iter().find(|(_, limit, needs, taken)| limit.is_some_and(|l| taken.saturating_add(*needs) > l));
    short.map(|(name, limit, needs, taken)| {
        format!("{name} {needs} asked, {} of {} left", limit.unwrap_or(0) - taken, limit.unwrap_or(0))
    })
}

/// Chooses a cluster. `candidates` stand in order of registration; `avoid` are clusters that already
/// failed this request.
pub fn choose(candidates: &[Candidate], spec: &Spec, regions: &[String], avoid: &[ClusterId]) -> Choice {
    let mut choice = Choice::default();
    let mut fits: Vec<(usize, bool, usize)> = Vec::new();
    for (ordinal, candidate) in candidates.iter().enumerate() {
        let reason = if let Some(reason) = never(candidate, spec, regions) {
            reason
        } else if avoid.contains(&candidate.id) {
            "an attempt already failed there".to_owned()
        } else if let Some(reason) = not_now(candidate, spec) {
            choice.may_wait = true;
            reason
        } else {
            let rank = regions.iter().position(|r| *r == candidate.spec.region).unwrap_or(0);
            fits.push((rank, !candidate.spec.default, ordinal));
            continue;
        };
        choice.rejected.push((candidate.spec.name.clone(), reason));
    }
    fits.sort_unstable();
    choice.others = fits.len() > 1;
    choice.cluster = fits.first().and_then(|(_, _, ordinal)| candidates.get(*ordinal)).map(|c| c.id);
    choice
}
