//! One run of a plan: the world is set up, lives through its troubles, comes to rest, is judged, emptied and judged again.
//!
//! tokio's current-thread runtime with its clock paused is the virtual time: nothing waits for the wall, and the same
//! plan gives the same run, byte for byte.

use std::sync::Arc;
use std::time::Duration;

use provisor_core::chance::SplitMix;
use provisor_core::cluster::ClusterSpec;
use provisor_core::tenant::TenantSpec;
use provisor_core::{ClusterId, TenantId};
use provisor_store::ops::clusters::{CreateCluster, Credentials, ListClusters, UpdateCluster};
use provisor_store::ops::tenants::CreateTenant;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::coverage::Coverage;
use crate::node::{API, WORKERS, keep};
use crate::plan::{Moment, Plan, Site, Tenant, Trouble};
use crate::property::{Breach, Property};
use crate::stage::Stage;
use crate::trace::Trace;
use crate::watch::Attach;
use crate::{ending, follower, orders};

/// After the last order or trouble everything that was begun by then may still go wrong for a while.
const TAIL_MS: u64 = 5_000;

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// What did not hold; empty is what is hoped for.
    pub breaches: Vec<Breach>,
    /// What happened, where it was kept.
    pub trace: Trace,
    /// What was tried.
    pub coverage: Coverage,
    /// How long it took in virtual time.
    pub virtual_ms: u64,
    /// Commits that were looked at.
    pub commits: u64,
    /// Events in the log.
    pub events: usize,
    /// Requests that were admitted.
    pub requests: usize,
}

/// Why a run could not take place.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// The runtime.
    #[error("the runtime could not be made: {0}")]
    Runtime(#[from] std::io::Error),
    /// The database.
    #[error("the database could not be made: {0}")]
    Open(#[from] provisor_store::OpenError),
    /// The plan asks for something that cannot be.
    #[error("the world could not be set up: {0}")]
    SetUp(String),
}

/// Runs a plan.
pub fn run(plan: &Plan, trace: Trace) -> Result<Report, SimError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    runtime.block_on(play(plan, trace))
}

async fn play(plan: &Plan, trace: Trace) -> Result<Report, SimError> {
    let stage = Stage::set(plan, trace)?;
    set_up(&stage).await?;
    let mut tasks = JoinSet::new();
    for node in std::iter::once(API).chain(WORKERS) {
        tasks.spawn(keep(Arc::clone(&stage), node));
    }
    tasks.spawn(follower::keep(Arc::clone(&stage)));
    for trouble in &plan.troubles {
        tasks.spawn(at_its_time(Arc::clone(&stage), trouble.clone()));
    }
    for index in 0..plan.orders.len() {
        tasks.spawn(orders::carry_out(Arc::clone(&stage), index));
    }
    stage.until_ms(plan.busy_until_ms() + TAIL_MS).await;
    stage.calm_down();
    ending::judge(&stage).await;
    drop(tasks);
    let virtual_ms = stage.now_ms();
    let mut inner = stage.lock();
    Ok(Report {
        breaches: std::mem::take(&mut inner.breaches),
        trace: std::mem::replace(&mut inner.trace, Trace::Off),
        coverage: std::mem::take(&mut inner.coverage),
        virtual_ms,
        commits: inner.watch.commits,
        events: inner.watch.log.len(),
        requests: inner.watch.requests.len(),
    })
}

/// Troubles that come by the clock.
async fn at_its_time(stage: Arc<Stage>, trouble: Trouble) {
    let at = match &trouble {
        Trouble::Kill { at: Moment::At(at), .. } | Trouble::Freeze { at: Moment::At(at), .. } => *at,
        Trouble::Clock { at_ms, .. } | Trouble::Sink { at_ms, .. } => *at_ms,
        _ => return,
    };
    stage.until_ms(at).await;
    let Some(trouble) = stage.strike(|t| *t == trouble) else { return };
    match trouble {
        Trouble::Kill { node, down_ms, .. } => {
            if let Some(life) = stage.life(*node) {
                stage.concern(trouble.word(), "any", &life);
                life.kill(Duration::from_millis(*down_ms));
            }
        }
        Trouble::Freeze { node, ms, .. } => {
            if let Some(life) = stage.life(*node) {
                stage.concern(trouble.word(), "any", &life);
                life.freeze(Duration::from_millis(*ms));
            }
        }
        Trouble::Clock { by_ms, .. } => {
            let way = if *by_ms > 0 { "forwards" } else { "back" };
            let mut inner = stage.lock();
            let whom = inner.watch.requests.iter().filter(|(_, p)| p.worker.is_some()).map(|(id, _)| *id).collect();
            inner.coverage.struck(trouble.word(), way, whom);
            drop(inner);
            stage.jump(*by_ms);
        }
        Trouble::Sink { .. } => stage.lock().coverage.struck(trouble.word(), "any", Vec::new()),
        _ => {}
    }
}

async fn set_up(stage: &Arc<Stage>) -> Result<(), SimError> {
    let failed = |e: &dyn std::fmt::Debug| SimError::SetUp(format!("{e:?}"));
    stage.store.run(Attach).await.map_err(|e| failed(&e))?;
    let mut chance: SplitMix = stage.chance("set up", 0);
    for tenant in &stage.plan.tenants {
        let id = TenantId::new(stage.store.now(), &mut chance);
        let spec = TenantSpec::check("", &of_tenant(tenant)).map_err(|e| failed(&e))?;
        stage.store.run(CreateTenant { id, spec }).await.map_err(|e| failed(&e))?;
    }
    for site in &stage.plan.clusters {
        let id = ClusterId::new(stage.store.now(), &mut chance);
        let (spec, _) = ClusterSpec::check("", &of_site(&stage.plan, site, true)).map_err(|e| failed(&e))?;
        stage.store.run(CreateCluster { id, spec, credentials: None }).await.map_err(|e| failed(&e))?;
    }
    Ok(())
}

fn of_tenant(tenant: &Tenant) -> Value {
    let mut value = json!({"name": tenant.name, "max_concurrent": tenant.max_concurrent});
    if let Some(cpu) = tenant.cpu {
        value["quota"] = json!({"cpu": cpu});
    }
    value
}

fn of_site(plan: &Plan, site: &Site, faulty: bool) -> Value {
    let faults: Vec<Value> = plan.troubles.iter().filter(|_| faulty).filter_map(of_fault).collect();
    json!({"name": site.name, "provider": "simulation", "simulates": site.plays, "region": "eu",
    "capacity": {"cpu": site.cpu, "memory_gb": 1000, "storage_gb": 1000, "slots": 200},
    "settings": {
        "seed": plan.seed >> 1, "listeners": false, "faults": faults,
        "latency": {"default": {"uniform_ms": [5, 250]}, "find": {"fixed_ms": 10}, "identity": {"fixed_ms": 1}},
        "retry": {"initial_seconds": 0.2, "cap_seconds": 1, "max_retries": 2},
        "deadlines": {"*": 4}, "probe": {"every_seconds": 1, "deadline_seconds": 6},
        "list_lag_seconds": 1, "late_create_seconds": 6, "orphan_grace_seconds": 4, "sweep_every_seconds": 3,
    }})
}

fn of_fault(trouble: &Trouble) -> Option<Value> {
    let Trouble::Cloud { operation, kind, request, calls, after_ms } = trouble else { return None };
    let mut fault = json!({"operation": operation, "kind": kind, "on_calls": calls});
    if let Some(name) = request {
        fault["request_name"] = json!(name);
    }
    if let Some(ms) = after_ms {
        fault["after_seconds"] = json!(std::time::Duration::from_millis(*ms).as_secs_f64());
    }
    Some(fault)
}

/// The clouds have no faults any more, and every cluster may be used. Asked more than once, as an edit that was under way
/// may come after it.
pub(crate) async fn heal(stage: &Arc<Stage>) {
    let Ok(views) = stage.store.run(ListClusters).await else { return };
    for view in views {
        let Some(site) = stage.plan.clusters.iter().find(|s| s.name == view.spec.name) else { continue };
        let healthy = ClusterSpec::check("", &of_site(&stage.plan, site, false));
        let Ok((spec, _)) = healthy else { continue };
        if spec == view.spec {
            continue;
        }
        let update = UpdateCluster { id: view.id, spec, credentials: Credentials::Keep, if_match: None, identity: None };
        if let Err(error) = stage.store.run(update).await {
            stage.breach(Property::Readable, format!("a cluster cannot be edited: {error}"));
        }
    }
}
