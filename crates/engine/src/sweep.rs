//! The sweeper (SPEC 3.6, H2): each cluster's tagged inventory against the ledger, on a timer and on
//! demand. It reads the inventory first and the ledger after it, so that what is made meanwhile is known.
//!
//! By itself it releases only an object of its own installation whose row is closed, older than the
//! grace and seen in two sweeps. Unknown rows and foreign tags are reported only; an own tag without a row
//! stops all releases on that cluster (H41). A sweep that would release too much releases nothing. What it leaves
//! alone, an administrator may have released by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use provisor_core::id::Tag;
use provisor_core::mutant::{self, Mutant};
use provisor_core::run::RowState;
use provisor_core::workflow::Found;
use provisor_core::workflow::call::Held;
use provisor_core::{Class, ClusterId, Failure, ResourceId, Span, Timestamp};
use provisor_provider::Released;
use provisor_store::OpError;
use provisor_store::ops::balance::{Balance, NoteBalance};
use provisor_store::ops::clusters::{ClusterView, ListClusters};
use provisor_store::ops::drift::NoteDrift;
use provisor_store::ops::ledger::{MarkSeenClosed, OpenRows, RowSummary, RowsByTag};
use provisor_store::ops::quota::{Difference, QuotaProof};
use provisor_store::ops::reappeared::Reappeared;
use provisor_store::ops::roles::{Role, Under};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Engine;
use crate::crash::{self, Point};
use crate::registry::Bound;
use crate::restored::Unknown;

/// Pages of an inventory at most; more is a fault of the backend's paging.
const PAGES_AT_MOST: usize = 10_000;
/// Longest time of one call: a backend that does not answer must not stop the sweeps of the others.
const CALL_LIMIT: Span = Span::seconds(60);
/// So long a sweep waits for one object to go; what is not gone by then is seen by the next one.
const GONE_WITHIN: Span = Span::seconds(60);
/// So long an administrator waits for it, whose call must have an answer.
const TOLD_WITHIN: Span = Span::seconds(15);
/// How often the timer looks whether a cluster is due.
const TICK: Duration = Duration::from_secs(1);

/// One cluster's inventory against the ledger.
pub struct Inventory {
    cluster: String,
    at: Timestamp,
    owned: Vec<(ResourceId, Found)>,
    missing: Vec<RowSummary>,
    orphaned: Vec<(Option<RowSummary>, Found)>,
    released: Vec<String>,
    alarm: Option<String>,
    total: usize,
    balance: Balance,
}

pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken, role: Option<Role>) {
    let mut last: BTreeMap<ClusterId, Timestamp> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let Ok(clusters) = engine.store.run(ListClusters).await else { continue };
        // Once for all that are due: the proof reads every live request.
        let mut proof: Option<Vec<Difference>> = None;
        for view in clusters {
            let now = engine.store.now();
            // The first sweep comes one period after the start: a restart sweeps nothing in a hurry.
            let due = last.entry(view.id).or_insert(now).plus(view.spec.common().sweep_every);
            if due > now {
                continue;
            }
            last.insert(view.id, now);
            if proof.is_none() {
                match engine.store.run(QuotaProof).await {
                    Ok(differences) => proof = Some(differences),
                    Err(error) => store_failed!(error, "what attempts hold could not be read; this sweep proves no balance"),
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                swept = engine.sweep_cluster(&view, false, role.as_ref(), proof.as_deref()) => if let Err(error) = swept {
                    store_failed!(error, cluster = %view.spec.name, "the sweep failed");
                }
            }
        }
    }
}

impl Engine {
    /// A cluster's inventory against the ledger, as the API shows it.
    pub async fn inventory(&self, key: &str) -> Result<Value, OpError> {
        let view = self.cluster(key).await?;
        let mut inventory = self.compare(&view).await?;
        inventory.balance(&view, &self.store.run(QuotaProof).await?);
        Ok(inventory.to_json())
    }

    /// A sweep, now; with `dry_run` nothing is released or counted.
    pub async fn sweep(&self, key: &str, dry_run: bool) -> Result<Value, OpError> {
        let view = self.cluster(key).await?;
        let proof = self.store.run(QuotaProof).await?;
        Ok(self.sweep_cluster(&view, dry_run, None, Some(&proof)).await?.to_json())
    }

    /// Releases one object that bears our tag and that no open row of the ledger explains, because an administrator says
    /// so (H2): whatever its age, whether a row is known, and while the sweeps themselves stand still.
    pub async fn release_orphan(&self, key: &str, provider_id: &str, by: &str) -> Result<Value, OpError> {
        let view = self.cluster(key).await?;
        let mut inventory = self.compare(&view).await?;
        let orphan = inventory.orphaned.iter().find(|(_, found)| found.provider_id == provider_id).cloned();
        let (row, found) = orphan.ok_or(OpError::NotFound("orphaned object"))?;
        warn!(cluster = %view.spec.name, provider_id, kind = found.kind, tag = found.tag, by, "an orphan is released because an administrator said so");
        self.release(None, &view, row.as_ref(), &found, TOLD_WITHIN).await?;
        inventory.released.push(found.provider_id);
        inventory.balance(&view, &self.store.run(QuotaProof).await?);
        Ok(inventory.to_json())
    }

    async fn sweep_cluster(
        &self,
        view: &ClusterView,
        dry_run: bool,
        role: Option<&Role>,
        proof: Option<&[Difference]>,
    ) -> Result<Inventory, OpError> {
        let mut inventory = self.compare(view).await?;
        if !dry_run {
            self.note_drift(role, view, &inventory).await?;
        }
        let settings = view.spec.common();
        let closed: Vec<ResourceId> = inventory.orphaned.iter().filter_map(|(row, _)| row.as_ref().map(|r| r.id)).collect();
        let mut seen: BTreeMap<ResourceId, i64> =
            inventory.orphaned.iter().filter_map(|(row, _)| row.as_ref().map(|r| (r.id, r.seen_closed + 1))).collect();
        if !dry_run && !closed.is_empty() {
            seen = self.mark(role, closed, Vec::new()).await?.into_iter().collect();
        }
        if !dry_run {
            self.forget_unseen(role, view.id, seen.keys().copied().collect()).await?;
        }
        let now = self.store.now();
        let grace = settings.orphan_grace;
        let may_go = |row: &RowSummary, found: &Found| {
            let since = row.released_at.unwrap_or(row.created_at);
            let old = found.age_seconds.map_or(now.since(since) >= grace, |age| {
                Span::seconds(i64::try_from(age).unwrap_or(i64::MAX / 2_000_000)) >= grace
            });
            old && row.state == RowState::Released && seen.get(&row.id).is_some_and(|n| *n >= 2)
        };
        let unknown = inventory.orphaned.iter().any(|(row, _)| row.is_none());
        let wanted: Vec<(RowSummary, Found)> = inventory
            .orphaned
            .iter()
            .filter_map(|(row, found)| row.as_ref().filter(|r| may_go(r, found)).map(|r| (r.clone(), found.clone())))
            .collect();
        let limit = 5.max(inventory.total / 50);
        if unknown && !wanted.is_empty() {
            inventory.alarm = Some("an own tag without a ledger row was found, as after a restore; nothing is released here: see `provisor admin after-restore`".to_owned());
        } else if wanted.len() > limit {
            inventory.alarm = Some(format!("{} objects would be released, more than {limit}; nothing is released", wanted.len()));
        } else if !dry_run && !mutant::on(Mutant::NoSweep) {
            for (row, found) in wanted {
                if let Err(error) = self.release(role, view, Some(&row), &found, GONE_WITHIN).await {
                    store_failed!(error, resource = %row.id, "an orphan could not be released; the next sweep tries again");
                    continue;
                }
                inventory.released.push(found.provider_id);
            }
        }
        if let Some(alarm) = &inventory.alarm {
            warn!(cluster = %view.spec.name, alarm, "the sweep stopped itself");
        }
        // Without the proof nothing is known of the capacity, and nothing is said.
        let Some(proof) = proof else { return Ok(inventory) };
        inventory.balance(view, proof);
        if !inventory.balance.capacity.is_empty() {
            warn!(cluster = %view.spec.name, differences = ?inventory.balance.capacity, "ALARM: its capacity is not what attempts hold");
        }
        if !dry_run {
            let op = NoteBalance { id: view.id, balance: inventory.balance.clone() };
            self.store.run(Under { role: role.cloned(), op }).await?;
        }
        Ok(inventory)
    }

    /// What should be there and is not (H15). Only of services that stand: what is being made or taken back says itself
    /// how it stands.
    async fn note_drift(&self, role: Option<&Role>, view: &ClusterView, inventory: &Inventory) -> Result<(), OpError> {
        let stands = |r: &&RowSummary| r.request_state.is_standing();
        let missing = inventory.missing.iter().filter(stands).map(|r| r.id).collect();
        let op = NoteDrift { cluster: view.id, missing, context: Arc::clone(&self.context) };
        for request in self.store.run(Under { role: role.cloned(), op }).await? {
            warn!(cluster = %view.spec.name, %request, "the service is not as it was left");
        }
        Ok(())
    }

    /// What bears our tag at a cluster and is in no ledger (H41).
    pub(crate) async fn unknown_on(&self, view: &ClusterView) -> Result<Vec<Unknown>, OpError> {
        let inventory = self.compare(view).await?;
        let unknown = |found: Found| Unknown {
            cluster: view.spec.name.clone(),
            kind: found.kind,
            provider_id: found.provider_id,
            tag: found.tag,
        };
        Ok(inventory.orphaned.into_iter().filter(|(row, _)| row.is_none()).map(|(_, found)| unknown(found)).collect())
    }

    async fn mark(
        &self,
        role: Option<&Role>,
        seen: Vec<ResourceId>,
        unseen: Vec<ResourceId>,
    ) -> Result<Vec<(ResourceId, i64)>, OpError> {
        self.store.run(Under { role: role.cloned(), op: MarkSeenClosed { seen, unseen } }).await
    }

    /// Two sweeps in a row must see an orphan: what the sweep before saw and this one did not begins anew.
    async fn forget_unseen(&self, role: Option<&Role>, cluster: ClusterId, seen: BTreeSet<ResourceId>) -> Result<(), OpError> {
        let before = self.swept.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster, seen.clone());
        let unseen: Vec<ResourceId> = before.unwrap_or_default().difference(&seen).copied().collect();
        if unseen.is_empty() { Ok(()) } else { self.mark(role, Vec::new(), unseen).await.map(drop) }
    }

    /// Releases what no open row explains, and waits until it is gone.
    async fn release(
        &self,
        role: Option<&Role>,
        view: &ClusterView,
        row: Option<&RowSummary>,
        found: &Found,
        patience: Span,
    ) -> Result<(), OpError> {
        let bound = self.registry.get(view.id).map_err(unreachable_backend)?;
        let limit = call_limit(view, &format!("delete_{}", found.kind)).min(patience.to_std());
        let held = Held {
            kind: found.kind.clone(),
            tag: Tag(found.tag.clone()),
            provider_id: found.provider_id.clone(),
            uid: found.uid.clone(),
            identity: None,
            resources: BTreeMap::new(),
            facts: BTreeMap::new(),
        };
        crash::at(Point::BeforeSweepRelease, || found.kind.as_str().into()).await;
        // The return of what was released is told before it is released again (H6).
        if let Some(row) = row.filter(|row| row.state == RowState::Released) {
            let op = Reappeared { row: row.id, provider_id: found.provider_id.clone(), context: Arc::clone(&self.context) };
            self.store.run(Under { role: role.cloned(), op }).await?;
        }
        crash::at(Point::WithinSweep, || found.kind.as_str().into()).await;
        let until = self.store.now().plus(patience);
        loop {
            let asked = tokio::time::timeout(limit, bound.provider.release(&held)).await;
            match asked.map_err(silent).and_then(|answer| answer).map_err(unreachable_backend)? {
                Released::Gone => {
                    crash::at(Point::AfterSweepRelease, || found.kind.as_str().into()).await;
                    info!(cluster = %view.spec.name, provider_id = %found.provider_id, "an orphan was released");
                    // What comes back once more is seen twice once more.
                    let unseen = row.map(|row| row.id).into_iter().collect();
                    return self.mark(role, Vec::new(), unseen).await.map(drop);
                }
                Released::Replaced => return Err(OpError::NotFound("orphaned object")),
                Released::Running { look_again, seen } => {
                    let left = until.since(self.store.now());
                    if left <= Span::ZERO {
                        let text = format!("{} {} was told to go and is still there: {seen}", found.kind, found.provider_id);
                        return Err(unreachable_backend(Failure::new(Class::Transient, "still_there", text)));
                    }
                    tokio::time::sleep(look_again.unwrap_or(Span::seconds(2)).min(left).to_std()).await;
                }
            }
        }
    }

    async fn compare(&self, view: &ClusterView) -> Result<Inventory, OpError> {
        let bound = self.registry.get(view.id).map_err(unreachable_backend)?;
        let found = self.list_all(view, &bound).await.map_err(unreachable_backend)?;
        let at = self.store.now();
        let rows = self.rows_of(&found).await?;
        let mut inventory = Inventory {
            cluster: view.spec.name.clone(),
            at,
            owned: Vec::new(),
            missing: Vec::new(),
            orphaned: Vec::new(),
            released: Vec::new(),
            alarm: None,
            total: found.len(),
            balance: Balance::default(),
        };
        for object in found {
            let mut of_tag = rows.iter().filter(|r| r.tag == object.tag && r.cluster == view.id).peekable();
            let first = of_tag.peek().map(|r| (*r).clone());
            let open =
                of_tag.find(|r| r.open && (r.provider_id.is_none() || r.provider_id.as_ref() == Some(&object.provider_id)));
            match open {
                Some(row) => inventory.owned.push((row.id, object)),
                None => inventory.orphaned.push((first, object)),
            }
        }
        let present: BTreeSet<&str> = inventory.owned.iter().map(|(_, f)| f.provider_id.as_str()).collect();
        let mut after = None;
        loop {
            let page = self.store.run(OpenRows { cluster: view.id, after, limit: 1000 }).await?;
            after = page.last().map(|r| r.id);
            let there = |r: &RowSummary| r.provider_id.as_deref().is_some_and(|p| present.contains(p));
            // What was made after the inventory was read is not missing.
            let lag = Span::seconds(10);
            let missing = page.iter().filter(|r| r.state == RowState::Created && !there(r) && r.created_at.plus(lag) < at);
            inventory.missing.extend(missing.cloned());
            if page.len() < 1000 {
                return Ok(inventory);
            }
        }
    }

    async fn list_all(&self, view: &ClusterView, bound: &Bound) -> Result<Vec<Found>, Failure> {
        let limit = call_limit(view, "list_owned");
        let identity = tokio::time::timeout(limit, bound.identity()).await.map_err(silent)??;
        // H4: what another backend lacks is not missing, and what it has is not ours.
        if let Some(known) = view.identity.as_ref().filter(|known| **known != identity) {
            let text = format!("the backend is {identity} by now, not {known}");
            return Err(Failure::new(Class::Auth, "identity_changed", text));
        }
        let prefix = Tag::prefix(self.installation());
        let (mut all, mut from) = (Vec::new(), None);
        for _ in 0..PAGES_AT_MOST {
            let page = tokio::time::timeout(limit, bound.provider.list_owned(&prefix, from)).await.map_err(silent)??;
            all.extend(page.items);
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(all),
            }
        }
        Err(Failure::new(Class::Permanent, "inventory_endless", "the backend's inventory does not end"))
    }

    async fn rows_of(&self, found: &[Found]) -> Result<Vec<RowSummary>, OpError> {
        let mut rows = Vec::new();
        for chunk in found.chunks(500) {
            let tags: BTreeSet<String> = chunk.iter().map(|f| f.tag.clone()).collect();
            rows.extend(self.store.run(RowsByTag { tags: tags.into_iter().collect() }).await?);
        }
        Ok(rows)
    }
}

/// Longest time of one call on a cluster: its settings may make it shorter.
fn call_limit(view: &ClusterView, operation: &str) -> Duration {
    view.spec.common().deadline(operation, CALL_LIMIT).0.min(CALL_LIMIT).to_std()
}

fn silent(_: tokio::time::error::Elapsed) -> Failure {
    Failure::new(Class::Transient, "backend_silent", "the backend did not answer in time")
}

fn unreachable_backend(failure: Failure) -> OpError {
    OpError::Backend { code: failure.code, message: failure.message }
}

impl Inventory {
    /// Whether ledger, inventory and capacity agree by now.
    fn balance(&mut self, view: &ClusterView, proof: &[Difference]) {
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let id = view.id.to_string();
        self.balance = Balance {
            at: self.at,
            owned: count(self.owned.len()),
            unexplained: count(self.orphaned.len().saturating_sub(self.released.len())),
            missing: count(self.missing.len()),
            capacity: proof.iter().filter(|d| d.subject == id).cloned().collect(),
        };
    }

    fn to_json(&self) -> Value {
        let owned = |(row, f): &(ResourceId, Found)| json!({"resource": row, "provider_id": f.provider_id, "kind": f.kind});
        let uneven = |d: &Difference| json!({"dimension": d.dimension, "counted": d.counted, "held": d.held});
        let missing = |r: &RowSummary| json!({"resource": r.id, "provider_id": r.provider_id, "kind": r.kind});
        let orphaned = |(_, f): &(Option<RowSummary>, Found)| json!({"provider_id": f.provider_id, "kind": f.kind, "tag": f.tag, "age_seconds": f.age_seconds});
        json!({
            "cluster": self.cluster, "at": self.at,
            "owned": self.owned.iter().map(owned).collect::<Vec<_>>(),
            "missing": self.missing.iter().map(missing).collect::<Vec<_>>(),
            "orphaned": self.orphaned.iter().map(orphaned).collect::<Vec<_>>(),
            "released": self.released,
            "alarm": self.alarm,
            "balance": {
                "even": self.balance.is_even(), "unexplained": self.balance.unexplained, "missing": self.balance.missing,
                "capacity": self.balance.capacity.iter().map(uneven).collect::<Vec<_>>(),
            },
        })
    }
}
