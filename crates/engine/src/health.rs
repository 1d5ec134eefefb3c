//! The background probe of clusters (SPEC 5): each is tested on a timer, and placement skips what is not
//! online. One failed test does not change anything: two in a row do, one good one restores. What is not online is tested
//! three times as often, since people wait for it; and what waits on it is tried as soon as it is well ([`crate::recovery`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use provisor_core::breaker::State;
use provisor_core::cluster::{Health, HealthState};
use provisor_core::{ClusterId, Span};
use provisor_provider::Check;
use provisor_store::OpError;
use provisor_store::ops::clusters::{ClusterView, ListClusters, SetHealth, SetIdentity};
use provisor_store::ops::gate::Happened;
use provisor_store::ops::roles::{Role, Under};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::recovery::{Recoveries, Seen};

/// Failed tests in a row before a cluster counts as not online.
const FAILURES: u32 = 2;
/// So many looks at what is not online for one at everything.
const LOOKS: u32 = 3;
/// Longest time of one test.
const TEST_LIMIT: Duration = Duration::from_secs(20);

/// What is remembered from one round to the next.
#[derive(Default)]
struct Watch {
    /// Failed tests in a row.
    failures: BTreeMap<ClusterId, u32>,
    recoveries: Recoveries,
}

pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken, role: Option<Role>) {
    let mut watch = Watch::default();
    let mut look = 0;
    loop {
        if let Err(error) = engine.refresh_clusters().await {
            store_failed!(error, "the clusters could not be read");
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = watch.round(&engine, role.as_ref(), look == 0) => {}
        }
        // With everything online the looks in between are skipped.
        let looks = if watch.failures.values().any(|count| *count >= FAILURES) { 1 } else { LOOKS - look };
        look = (look + looks) % LOOKS;
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(engine.config.health_every.to_std() / LOOKS * looks) => {}
        }
    }
}

/// Notes who the backend is. While rows are open it cannot be another one than before (H4): a check that failed.
async fn note_identity(engine: &Engine, role: Option<&Role>, view: &ClusterView, identity: String) -> Option<Check> {
    let error = format!("the backend is {identity} by now, not {}", view.identity.as_deref().unwrap_or_default());
    let op = SetIdentity { id: view.id, identity };
    match engine.store.run(Under { role: role.cloned(), op }).await {
        Ok(()) => None,
        Err(OpError::InUse { .. }) => Some(Check { name: "identity".to_owned(), ok: false, latency_ms: 0, error: Some(error) }),
        Err(error) => {
            store_failed!(error, cluster = %view.spec.name, "its identity could not be noted");
            None
        }
    }
}

/// A cluster for which there is no work is tried by its test, else its breaker would stay open and keep all work away
/// (H27); credentials that are accepted again end its pause (H29).
async fn at_gate(engine: &Engine, view: &ClusterView, good: bool) {
    if good && view.gate.paused.is_some() {
        engine.guard.at_gate(view.id, Happened::Accepted).await;
    }
    if !view.gate.breaker.is_untried(engine.store.now()) {
        return;
    }
    let probe = engine.guard.at_gate(view.id, Happened::Probe(Span::seconds(1))).await;
    if probe.is_some_and(|p| p.changed) {
        engine.guard.at_gate(view.id, Happened::Probed { good }).await;
    }
}

impl Watch {
    /// Tests every cluster, or only what is not online, notes what is seen and wakes what waits.
    async fn round(&mut self, engine: &Engine, role: Option<&Role>, every: bool) {
        let Ok(mut clusters) = engine.store.run(ListClusters).await else { return };
        clusters.retain(|view| every || self.failures.get(&view.id).is_some_and(|count| *count >= FAILURES));
        let tests = clusters.iter().map(|view| test(engine, role, view));
        let mut seen = Vec::new();
        for (view, checks, took) in futures::future::join_all(tests).await.into_iter().flatten() {
            let good = self.note(engine, role, view, &checks, took).await;
            at_gate(engine, view, good).await;
            // What its gate holds back waits as well.
            let lets_through = view.gate.breaker.state == State::Closed && view.gate.paused.is_none();
            let was_well = view.health.state == HealthState::Online;
            seen.push(Seen { cluster: view.id, was_well, is_well: good && lets_through });
        }
        if every {
            self.failures.retain(|id, _| clusters.iter().any(|view| view.id == *id));
            self.recoveries.keep(&seen);
        } else {
            seen.retain(|one| one.is_well);
        }
        self.recoveries.round(engine, role, &seen).await;
    }

    /// Takes in one test. True: it is good.
    async fn note(&mut self, engine: &Engine, role: Option<&Role>, view: &ClusterView, checks: &[Check], took: Span) -> bool {
        let broken = checks.iter().find(|c| !c.ok);
        let error = broken.map(|c| format!("{}: {}", c.name, c.error.as_deref().unwrap_or("failed")));
        let bad = broken.is_some() || checks.is_empty();
        let count = self.failures.entry(view.id).or_insert(0);
        *count = if bad { count.saturating_add(1) } else { 0 };
        let seen = if !bad {
            HealthState::Online
        } else if checks.iter().any(|c| c.ok) {
            HealthState::Degraded
        } else {
            HealthState::Offline
        };
        let state = if bad && *count < FAILURES { view.health.state } else { seen };
        let health = Health {
            state,
            checked_at: Some(engine.store.now()),
            latency_ms: u64::try_from(took.0 / 1000).ok(),
            error: error.or_else(|| checks.is_empty().then(|| "no answer in time".to_owned())),
        };
        let op = SetHealth { id: view.id, health };
        if let Err(error) = engine.store.run(Under { role: role.cloned(), op }).await {
            store_failed!(error, cluster = %view.spec.name, "its health could not be noted");
        }
        !bad
    }
}

/// One test: the checks, of which there is none when no answer came, and how long it took.
async fn test<'v>(engine: &Engine, role: Option<&Role>, view: &'v ClusterView) -> Option<(&'v ClusterView, Vec<Check>, Span)> {
    let bound = engine.registry.get(view.id).ok()?;
    let began = engine.store.now();
    let checks = tokio::time::timeout(TEST_LIMIT, bound.provider.test()).await.ok();
    let identity = tokio::time::timeout(TEST_LIMIT, bound.identity()).await.ok().and_then(Result::ok);
    // What was bound before an edit says nothing of the cluster after it.
    let bound_as_listed = bound.version() == view.version;
    let stranger = match identity.filter(|now| bound_as_listed && view.identity.as_ref() != Some(now)) {
        Some(identity) => note_identity(engine, role, view, identity).await,
        None => None,
    };
    let checks = stranger.map(|check| vec![check]).or(checks).unwrap_or_default();
    Some((view, checks, engine.store.now().since(began)))
}
