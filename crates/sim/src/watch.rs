//! What must hold after every commit, looked at after every commit.
//!
//! It reads only what changed: which requests, by a trigger on the database in memory, and which events, by the feed. So
//! it keeps a small picture of every request beside the store's own counters and compares the two. Rejected: reading
//! everything after each commit, which costs more than the run itself.

use std::collections::{BTreeMap, BTreeSet};

use provisor_core::event::EventKind;
use provisor_core::lifecycle::is_allowed;
use provisor_core::run::AttemptState;
use provisor_core::{AttemptId, RequestId, ResourceId, State, Timestamp};
use provisor_store::ops::log::{Entry, Feed};
use provisor_store::tx::{Stmt, both};
use provisor_store::{Mode, Op, OpError, Tx};
use serde::Deserialize;

use crate::node::Life;
use crate::property::Property;
use crate::stage::Stage;

const CHANGED: Stmt = both("select max(seq), id from temp.sim_changed where seq > ?1 group by id order by 1");
const ROW: Stmt = both(
    "select state, live, run, events, published, worker, generation, in_work, cpu, memory, storage, tenant, name, kind \
     from request where id = ?1",
);
const TENANTS: Stmt = both(
    "select id, used_cpu, used_memory, used_storage, used_vps + used_kubernetes_namespace + used_environment + used_managed, \
     in_work, max_concurrent, coalesce(json_extract(spec, '$.quota.cpu'), -1) from tenant",
);
const CLUSTERS: Stmt = both(
    "select id, reserved_cpu, reserved_memory, reserved_storage, reserved_slots, used_cpu, used_memory, used_storage, used_slots, \
     coalesce(json_extract(spec, '$.capacity.cpu'), -1) from cluster",
);
const TABLE: Stmt = both("create temp table sim_changed (seq integer primary key, id text not null)");
const ON_INSERT: Stmt =
    both("create temp trigger sim_insert after insert on main.request begin insert into sim_changed (id) values (new.id); end");
// Why these columns: a heartbeat moves only the end of a lease.
const ON_UPDATE: Stmt = both(
    "create temp trigger sim_update after update of state, run, worker, generation on main.request \
     begin insert into sim_changed (id) values (new.id); end",
);
const INTENDED: Stmt = both("select count(*) from resource where tag = ?1");

/// Sets the triggers.
pub(crate) struct Attach;

impl Op for Attach {
    type Out = ();
    const NAME: &'static str = "sim_attach";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<(), OpError> {
        for stmt in [&TABLE, &ON_INSERT, &ON_UPDATE] {
            tx.exec(stmt, &[]).await?;
        }
        Ok(())
    }
}

/// Whether a tag has a row in the ledger.
struct Intended(String);

impl Op for Intended {
    type Out = bool;
    const NAME: &'static str = "sim_intended";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<bool, OpError> {
        Ok(tx.row(&INTENDED, &[self.0.as_str().into()]).await?.map_or(Ok(0), |r| r.int(0))? > 0)
    }
}

/// What changed since the last look.
struct Look {
    seq: i64,
    position: i64,
}

struct Looked {
    seq: i64,
    rows: Vec<(RequestId, Picture)>,
    entries: Vec<Entry>,
    /// By tenant and cluster: what the counters say, and limits.
    tenants: Vec<(String, [i64; 5], [i64; 2])>,
    clusters: Vec<(String, [i64; 8], i64)>,
}

/// The part of a request's document that is looked at.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Slim {
    pub(crate) winner: Option<AttemptId>,
    #[serde(default)]
    pub(crate) attempts: Vec<SlimAttempt>,
    #[serde(default)]
    pub(crate) ledger: Vec<SlimRow>,
    #[serde(default)]
    pub(crate) depends_on: Vec<RequestId>,
    pub(crate) action: Option<SlimAction>,
    pub(crate) waiting: Option<SlimWaiting>,
    pub(crate) confirmation: Option<SlimConfirmation>,
    pub(crate) health: Option<SlimHealth>,
    pub(crate) outcome: Option<provisor_core::lifecycle::Outcome>,
    pub(crate) retry_of: Option<RequestId>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SlimAttempt {
    pub(crate) id: AttemptId,
    pub(crate) cluster: provisor_core::ClusterId,
    pub(crate) cluster_name: String,
    pub(crate) state: AttemptState,
    pub(crate) released_at: Option<Timestamp>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SlimRow {
    pub(crate) id: ResourceId,
    pub(crate) attempt: AttemptId,
    pub(crate) kind: String,
    pub(crate) tag: String,
    pub(crate) provider_id: Option<String>,
    pub(crate) send_by: Timestamp,
    pub(crate) state: provisor_core::run::RowState,
    #[serde(default)]
    pub(crate) in_doubt: bool,
    #[serde(default)]
    pub(crate) unwanted: bool,
}

impl SlimRow {
    pub(crate) fn is_open(&self) -> bool {
        self.state != provisor_core::run::RowState::Released
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SlimAction {
    pub(crate) status: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SlimConfirmation {
    #[serde(default)]
    given: Option<serde::de::IgnoredAny>,
}

impl Slim {
    /// Whether a person is asked for something.
    pub(crate) fn asks_person(&self) -> bool {
        let waits = self.waiting.as_ref().is_some_and(|w| w.reason == "manual_input");
        waits || self.confirmation.as_ref().is_some_and(|c| c.given.is_none())
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SlimWaiting {
    pub(crate) reason: String,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct SlimHealth {
    pub(crate) state: String,
}

/// A request as it was after the last commit.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) tenant: String,
    pub(crate) state: State,
    pub(crate) live: bool,
    pub(crate) worker: Option<String>,
    generation: i64,
    events: i64,
    published: i64,
    in_work: bool,
    needs: [i64; 3],
    pub(crate) run: Slim,
}

/// What the events of a request have told.
#[derive(Debug, Default)]
struct Fold {
    state: Option<State>,
    events: i64,
    published: i64,
    at: Timestamp,
    once: BTreeSet<&'static str>,
    ended: bool,
}

impl Op for Look {
    type Out = Looked;
    const NAME: &'static str = "sim_look";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Looked, OpError> {
        let mut looked =
            Looked { seq: self.seq, rows: Vec::new(), entries: Vec::new(), tenants: Vec::new(), clusters: Vec::new() };
        for changed in tx.rows(&CHANGED, &[self.seq.into()]).await? {
            looked.seq = looked.seq.max(changed.int(0)?);
            let id: RequestId = changed.id(1)?;
            if let Some(row) = tx.row(&ROW, &[id.into()]).await? {
                looked.rows.push((id, picture(&row)?));
            }
        }
        if looked.rows.is_empty() {
            return Ok(looked);
        }
        looked.entries = Feed { after: self.position, limit: 1000, ..Feed::default() }.run(tx).await?.entries;
        for row in tx.rows(&TENANTS, &[]).await? {
            looked.tenants.push((row.text(0)?.to_owned(), ints(&row, 1)?, ints(&row, 6)?));
        }
        for row in tx.rows(&CLUSTERS, &[]).await? {
            looked.clusters.push((row.text(0)?.to_owned(), ints(&row, 1)?, row.int(9)?));
        }
        Ok(looked)
    }
}

fn ints<const N: usize>(row: &provisor_store::value::Row, from: usize) -> Result<[i64; N], OpError> {
    let mut all = [0; N];
    for (i, place) in all.iter_mut().enumerate() {
        *place = row.int(from + i)?;
    }
    Ok(all)
}

fn picture(row: &provisor_store::value::Row) -> Result<Picture, OpError> {
    let state = row.text(0)?;
    Ok(Picture {
        state: State::parse(state).ok_or_else(|| OpError::Corrupt(format!("state {state}")))?,
        live: row.int(1)? != 0,
        run: row.json(2)?,
        events: row.int(3)?,
        published: row.int(4)?,
        worker: row.opt_text(5)?.map(str::to_owned),
        generation: row.int(6)?,
        in_work: row.int(7)? != 0,
        needs: ints(row, 8)?,
        tenant: row.text(11)?.to_owned(),
        name: row.text(12)?.to_owned(),
        kind: row.text(13)?.to_owned(),
    })
}

/// The picture of everything, and what is wrong with it.
#[derive(Default)]
pub(crate) struct Watch {
    seq: i64,
    pub(crate) position: i64,
    pub(crate) requests: BTreeMap<RequestId, Picture>,
    folds: BTreeMap<RequestId, Fold>,
    /// Every event of the log, by position.
    pub(crate) log: Vec<(i64, RequestId)>,
    by_tag: BTreeMap<String, RequestId>,
    pub(crate) commits: u64,
}

type Wrong = Vec<(Property, String)>;

impl Watch {
    /// Requests whose leases a worker holds.
    pub(crate) fn held_by(&self, worker: &str) -> Vec<RequestId> {
        self.requests.iter().filter(|(_, p)| p.worker.as_deref() == Some(worker)).map(|(id, _)| *id).collect()
    }

    pub(crate) fn name_of(&self, id: RequestId) -> Option<String> {
        self.requests.get(&id).map(|p| p.name.clone())
    }

    pub(crate) fn request_of(&self, tag: &str) -> Option<RequestId> {
        self.by_tag.get(tag).copied()
    }

    fn take(&mut self, operation: &str, life: &Life, looked: &Looked) -> Wrong {
        let mut wrong = Wrong::new();
        self.seq = looked.seq;
        self.commits += 1;
        for (id, now) in &looked.rows {
            if let Some(before) = self.requests.get(id) {
                fence(operation, life, *id, before, now, &mut wrong);
                if before.run.winner.is_some() && before.run.winner != now.run.winner {
                    wrong.push((Property::OneWinner, format!("{id}: {:?} then {:?}", before.run.winner, now.run.winner)));
                }
            }
        }
        for (id, now) in &looked.rows {
            self.by_tag.extend(now.run.ledger.iter().map(|r| (r.tag.clone(), *id)));
            self.requests.insert(*id, now.clone());
        }
        for entry in &looked.entries {
            self.position = entry.position;
            self.log.push((entry.position, entry.subject));
            self.fold(entry, &mut wrong);
        }
        for (id, now) in &looked.rows {
            let fold = self.folds.entry(*id).or_default();
            if fold.state != Some(now.state) {
                wrong.push((Property::Fold, format!("{id} is {}, its events say {:?}", now.state.name(), fold.state)));
            }
            if (fold.events, fold.published) != (now.events, now.published) {
                let (row, log) = ((now.events, now.published), (fold.events, fold.published));
                wrong.push((Property::Fold, format!("{id} counts {row:?} events and published ones, the log has {log:?}")));
            }
        }
        self.compare(looked, &mut wrong);
        wrong
    }

    fn fold(&mut self, entry: &Entry, wrong: &mut Wrong) {
        let id = entry.subject;
        let picture = self.requests.get(&id);
        let fold = self.folds.entry(id).or_default();
        if entry.version != fold.events + 1 {
            wrong.push((Property::Gapless, format!("{id}: event {} comes after {}", entry.version, fold.events)));
        }
        fold.events = entry.version;
        if let Some(sequence) = entry.sequence {
            if sequence != fold.published + 1 {
                wrong.push((Property::Gapless, format!("{id}: published {sequence} comes after {}", fold.published)));
            }
            fold.published = sequence;
        }
        if entry.at < fold.at {
            wrong.push((Property::Forwards, format!("{id}: {} is at {:?}, after {:?}", entry.kind.name(), entry.at, fold.at)));
        }
        fold.at = entry.at;
        if fold.ended && !may_come_late(entry.kind) {
            wrong.push((Property::Once, format!("{id}: {} after its end", entry.kind.name())));
        }
        if let Some(to) = entry.body.to_state {
            if entry.body.from_state != fold.state || !is_allowed(fold.state, to) {
                let how = format!("{id}: {:?}, told as {:?}, becomes {to:?}", fold.state, entry.body.from_state);
                wrong.push((Property::Table, how));
            }
            let begins = fold.state == Some(State::Queued) && to == State::Allocating;
            fold.state = Some(to);
            fold.ended |= to == State::RolledBack;
            if begins {
                let prerequisites = picture.map(|p| p.run.depends_on.clone()).unwrap_or_default();
                // As they were before this commit or are after it: both are of the same moment for the claim.
                let open = prerequisites.iter().find(|p| self.requests.get(p).is_none_or(|p| p.state != State::Completed));
                if let Some(open) = open {
                    wrong.push((Property::Prerequisites, format!("{id} begins before {open} is completed")));
                }
            }
        }
        let fold = self.folds.entry(id).or_default();
        let once = [EventKind::Completed, EventKind::Failed, EventKind::RolledBack, EventKind::Deprovisioned];
        if once.contains(&entry.kind) && !fold.once.insert(entry.kind.name()) {
            wrong.push((Property::Once, format!("{id}: {} a second time", entry.kind.name())));
        }
        let has_winner = self.requests.get(&id).is_some_and(|p| p.run.winner.is_some());
        if !entry.body.endpoints.is_empty() && !has_winner {
            wrong.push((Property::Endpoints, format!("{id}: {} tells {:?}", entry.kind.name(), entry.body.endpoints)));
        }
    }

    /// The store's counters against the sums of the pictures.
    fn compare(&self, looked: &Looked, wrong: &mut Wrong) {
        for (tenant, counted, [most, cpu]) in &looked.tenants {
            let mut held = [0; 5];
            for p in self.requests.values().filter(|p| p.live && p.tenant == *tenant) {
                let more = [p.needs[0], p.needs[1], p.needs[2], 1, i64::from(p.in_work)];
                held.iter_mut().zip(more).for_each(|(sum, n)| *sum += n);
            }
            if held != *counted {
                wrong.push((Property::Usage, format!("{tenant}: counted {counted:?}, held {held:?}")));
            }
            // H19: what comes back from manual input may bring it above.
            let managed = self.requests.values().any(|p| p.tenant == *tenant && p.kind == "managed");
            if (*cpu >= 0 && held[0] > *cpu) || (held[4] > *most && !managed) {
                wrong.push((Property::Limits, format!("{tenant}: holds {held:?} of {cpu} processors and {most} in work")));
            }
        }
        let mut sums: BTreeMap<String, [i64; 8]> = BTreeMap::new();
        for picture in self.requests.values() {
            for attempt in picture.run.attempts.iter().filter(|a| a.released_at.is_none()) {
                let sum = sums.entry(attempt.cluster.to_string()).or_default();
                let [cpu, memory, storage] = picture.needs;
                let more = [cpu, memory, storage, 1];
                let from = if attempt.state == AttemptState::Won { 4 } else { 0 };
                sum.iter_mut().skip(from).zip(more).for_each(|(sum, n)| *sum += n);
            }
        }
        for (cluster, counted, cpu) in &looked.clusters {
            let held = sums.get(cluster).copied().unwrap_or_default();
            if held != *counted {
                wrong.push((Property::Usage, format!("{cluster}: counted {counted:?}, held {held:?}")));
            }
            if *cpu >= 0 && held[0] + held[4] > *cpu {
                wrong.push((Property::Limits, format!("{cluster}: holds {held:?} of {cpu} processors")));
            }
        }
    }
}

fn may_come_late(kind: EventKind) -> bool {
    use EventKind::{ResourceReappeared, ResourceReleased, RetriedAs, WrittenOff};
    matches!(kind, ResourceReappeared | ResourceReleased | RetriedAs | WrittenOff)
}

/// Only its holder settles a request, and no generation goes back.
fn fence(operation: &str, life: &Life, id: RequestId, before: &Picture, now: &Picture, wrong: &mut Wrong) {
    // What waits for the settled request in the queue is told of its end in the same transaction (H24).
    let is_told = before.worker.is_none() && before.state == State::Queued;
    if operation == "settle"
        && !is_told
        && (before.worker.as_deref() != Some(life.name().as_str()) || before.generation != now.generation)
    {
        let how = format!("{} settles {id}, which {:?} holds as {}", life.name(), before.worker, before.generation);
        wrong.push((Property::Fence, how));
    }
    if now.generation < before.generation {
        wrong.push((Property::Fence, format!("{id}: generation {} after {}", now.generation, before.generation)));
    }
}

impl Stage {
    /// Looks at what a commit changed.
    pub(crate) async fn look(&self, operation: &str, life: &Life) {
        let look = {
            let inner = self.lock();
            Look { seq: inner.watch.seq, position: inner.watch.position }
        };
        match self.store.run(look).await {
            Ok(looked) => {
                self.tell(&looked);
                let wrong = self.lock().watch.take(operation, life, &looked);
                for (property, what) in wrong {
                    self.breach(property, format!("{what} (by {operation} of {})", life.name()));
                }
            }
            Err(error) => self.breach(Property::Readable, format!("after {operation}: {error}")),
        }
    }

    fn tell(&self, looked: &Looked) {
        for entry in &looked.entries {
            self.note(|| {
                let to = entry.body.to_state.map_or("", State::name);
                let error = entry.body.error.as_ref().map_or("", |e| e.code.as_str());
                format!("  event {} {} {} {to} {error}", entry.subject, entry.version, entry.kind.name())
            });
        }
    }

    /// Before something is told to be made, its row is there.
    pub(crate) async fn intended(&self, tag: &provisor_core::id::Tag, operation: &str) {
        match self.store.run(Intended(tag.as_str().to_owned())).await {
            Ok(true) => {}
            other => self.breach(Property::LedgerFirst, format!("{operation} is sent with {} and {other:?}", tag.as_str())),
        }
        let by = {
            let inner = self.lock();
            let request = inner.watch.by_tag.get(tag.as_str()).and_then(|id| inner.watch.requests.get(id));
            request.and_then(|p| p.run.ledger.iter().find(|r| r.tag == tag.as_str()).map(|r| r.send_by))
        };
        let now = self.store.now();
        if by.is_some_and(|by| now > by) {
            self.breach(Property::SendBy, format!("{operation} is sent at {now:?}, it had to be by {by:?}"));
        }
    }
}
