//! What must hold of the tables at any time, whatever was done before.

use std::collections::{BTreeMap, BTreeSet};

use provisor_core::lifecycle::is_allowed;
use provisor_core::run::Row as LedgerRow;
use provisor_core::{ClusterId, RequestId, Run, State, Timestamp};
use provisor_store::ops::clusters::ListClusters;
use provisor_store::ops::log::{Entry, Feed};
use provisor_store::ops::quota::{QuotaOf, QuotaProof};
use provisor_store::ops::tenants::ListTenants;
use provisor_store::tx::{Stmt, both};
use provisor_store::value::{Row, Val};
use provisor_store::{Mode, Op, OpError, Store, Tx};

const REQUESTS: Stmt = both(
    "select id, run, state, live, events, published, due_at, worker, in_work, cpu, memory, storage, no_room_since from request order by id",
);
const ROWS_OF_LOG: Stmt = both("select subject, version, count from event order by position");
const RESOURCES: Stmt = both(
    "select id, request, attempt, cluster, kind, name, tag, provider_id, state, in_doubt, open, created_at, released_at \
     from resource order by id",
);

struct Read(&'static Stmt);

impl Op for Read {
    type Out = Vec<Row>;
    const NAME: &'static str = "read";
    const MODE: Mode = Mode::Read;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<Vec<Row>, OpError> {
        tx.rows(self.0, &[]).await
    }
}

/// A request's events folded: how many, how many of them published, the state they lead to, the last time.
#[derive(Default)]
struct Fold {
    events: i64,
    published: i64,
    state: Option<State>,
    at: i64,
}

/// Checks everything.
pub async fn check(store: &Store) {
    let folds = log(&whole_log(store).await);
    rows_of_log(&store.run(Read(&ROWS_OF_LOG)).await.unwrap());
    let runs = requests(&store.run(Read(&REQUESTS)).await.unwrap(), &folds);
    resources(&store.run(Read(&RESOURCES)).await.unwrap(), &runs);
    holdings(store, &runs).await;
}

/// The log as followers get it, in pages of a size that ends within rows.
async fn whole_log(store: &Store) -> Vec<Entry> {
    let mut all = Vec::new();
    let mut feed = Feed { limit: 7, ..Feed::default() };
    loop {
        let page = store.run(feed.clone()).await.unwrap();
        all.extend(page.entries);
        feed.after = page.next;
        if page.at_head {
            return all;
        }
    }
}

fn log(entries: &[Entry]) -> BTreeMap<RequestId, Fold> {
    let mut folds: BTreeMap<RequestId, Fold> = BTreeMap::new();
    let mut last = 0;
    for entry in entries {
        let (subject, kind) = (entry.subject, entry.kind);
        let fold = folds.entry(subject).or_default();
        fold.events += 1;
        assert_eq!(entry.version, fold.events, "versions of {subject} have no gap");
        assert!(entry.position > last, "positions rise");
        last = entry.position;
        if kind.is_published() {
            fold.published += 1;
        }
        let sequence = kind.is_published().then_some(fold.published);
        assert_eq!(entry.sequence, sequence, "sequences of {subject} count the published alone");
        assert_eq!(entry.body.kind, kind);
        if let Some(to) = entry.body.to_state {
            assert_eq!(entry.body.from_state, fold.state, "{} of {subject}", kind.name());
            assert!(is_allowed(fold.state, to), "{:?} to {to:?}", fold.state);
            fold.state = Some(to);
        }
        let shown = entry.request.as_ref().map(|r| r.state);
        assert_eq!(shown, fold.state.filter(|_| kind.is_published()), "{} of {subject}", kind.name());
        assert!(entry.at.0 >= fold.at, "an event of {subject} is earlier than the one before (H40)");
        fold.at = entry.at.0;
    }
    let ids: BTreeSet<_> = entries.iter().map(|e| e.id).collect();
    assert_eq!(ids.len(), entries.len(), "each event has an id of its own");
    folds
}

/// What a row says of itself is what is in it, also where it is not read.
fn rows_of_log(rows: &[Row]) {
    let mut versions: BTreeMap<RequestId, i64> = BTreeMap::new();
    for row in rows {
        let subject: RequestId = row.id(0).unwrap();
        let version = versions.entry(subject).or_default();
        assert!(row.int(2).unwrap() > 0, "no row is empty");
        assert_eq!(row.int(1).unwrap(), *version + row.int(2).unwrap(), "rows of {subject} have no gap");
        *version = row.int(1).unwrap();
    }
}

fn requests(rows: &[Row], folds: &BTreeMap<RequestId, Fold>) -> BTreeMap<RequestId, Run> {
    let mut runs = BTreeMap::new();
    for row in rows {
        let (id, run): (RequestId, Run) = (row.id(0).unwrap(), row.json(1).unwrap());
        let fold = folds.get(&id).unwrap_or_else(|| panic!("{id} has no events"));
        assert_eq!(run.id, id);
        assert_eq!(row.text(2).unwrap(), run.state.name());
        assert_eq!(fold.state, Some(run.state), "the log of {id} leads to its state");
        assert_eq!((row.int(4).unwrap(), row.int(5).unwrap()), (fold.events, fold.published), "{id}");
        assert_eq!(row.int(3).unwrap() != 0, !run.state.is_terminal());
        assert_eq!(row.int(8).unwrap() != 0, run.is_in_work());
        let needs = run.spec.needs();
        assert_eq!((row.int(9), row.int(10), row.int(11)), (Ok(needs.cpu), Ok(needs.memory_gb), Ok(needs.storage_gb)));
        let room = run.waiting.as_ref().filter(|w| run.state == State::Queued && w.reason == "capacity").map(|w| w.since.0);
        assert_eq!(row.opt_int(12).unwrap(), room, "{id} waits for {:?}", run.waiting);
        if row.opt_text(7).unwrap().is_some() {
            assert_ne!(run.state, State::Queued, "a queued request is never leased");
        } else if run.state.is_terminal() {
            assert_eq!(row.int(6).unwrap(), Timestamp::NEVER.0, "{id} is over and never due");
        }
        runs.insert(id, run);
    }
    runs
}

fn values(request: RequestId, row: &LedgerRow) -> Vec<Val> {
    vec![
        row.id.into(),
        request.into(),
        row.attempt.into(),
        row.cluster.into(),
        row.kind.as_str().into(),
        row.name.as_str().into(),
        row.tag.as_str().into(),
        row.provider_id.clone().into(),
        row.state.name().into(),
        row.in_doubt.into(),
        (!row.is_closed()).into(),
        row.created_at.0.into(),
        row.released_at.map(|t| t.0).into(),
    ]
}

fn resources(rows: &[Row], runs: &BTreeMap<RequestId, Run>) {
    let found: BTreeMap<String, &Row> = rows.iter().map(|r| (r.text(0).unwrap().to_owned(), r)).collect();
    let mut count = 0;
    for (id, run) in runs {
        for row in &run.ledger {
            count += 1;
            let projected = found.get(&row.id.to_string()).unwrap_or_else(|| panic!("{} of {id} is not projected", row.id));
            assert_eq!(projected.0, values(*id, row), "a ledger row of {id}");
        }
        let open = |state: &State| *state == State::RolledBack && run.ledger.iter().any(|r| !r.is_closed());
        assert!(!open(&run.state), "{id} is rolled back with open rows");
    }
    assert_eq!(rows.len(), count, "no rows but those of the documents");
}

/// Counters are sums; nothing is above its limit.
async fn holdings(store: &Store, runs: &BTreeMap<RequestId, Run>) {
    assert_eq!(store.run(QuotaProof).await.unwrap(), [], "counters are the sums");
    for tenant in store.run(ListTenants { after: None, limit: 500, scope: None }).await.unwrap() {
        for dimension in store.run(QuotaOf { tenant: tenant.spec.name.clone() }).await.unwrap() {
            assert!(dimension.used >= 0 && dimension.limit.is_none_or(|l| dimension.used <= l), "{dimension:?}");
        }
        let of_tenant = || runs.values().filter(|r| r.tenant == tenant.id && r.is_in_work());
        let by_hand = of_tenant().filter(|r| r.spec.kind == provisor_core::Kind::Managed).count();
        let limit = tenant.spec.max_concurrent as usize + by_hand;
        assert!(of_tenant().count() <= limit, "{} has {} in work", tenant.spec.name, of_tenant().count());
    }
    for cluster in store.run(ListClusters).await.unwrap() {
        within(runs, cluster.id, &cluster.spec.name, cluster.spec.capacity.cpu, |r| r.spec.needs().cpu);
        within(runs, cluster.id, &cluster.spec.name, cluster.spec.capacity.memory_gb, |r| r.spec.needs().memory_gb);
        within(runs, cluster.id, &cluster.spec.name, cluster.spec.capacity.storage_gb, |r| r.spec.needs().storage_gb);
        within(runs, cluster.id, &cluster.spec.name, cluster.spec.capacity.slots, |_| 1);
    }
}

fn within(runs: &BTreeMap<RequestId, Run>, id: ClusterId, name: &str, limit: Option<i64>, of: impl Fn(&Run) -> i64) {
    let held: i64 = runs.values().flat_map(|r| r.holding().filter(|a| a.cluster == id).map(|_| of(r))).sum();
    assert!(limit.is_none_or(|l| held <= l), "{name} holds {held} of {limit:?}");
}

/// Each way in which the tables could lie is seen; otherwise a check that holds says nothing.
#[tokio::test]
async fn every_lie_is_seen() {
    use super::scene::Scene;
    static LIES: &[Stmt] = &[
        both("update tenant set used_cpu = used_cpu + 1"),
        both("update tenant set in_work = 1"),
        both("update cluster set used_slots = used_slots - 1"),
        both("update cluster set reserved_memory = 1"),
        both("update cluster set spec = replace(spec, '\"cpu\":8', '\"cpu\":1'), used_cpu = used_cpu"),
        both("update request set state = 'suspended' where state = 'completed'"),
        both("update request set events = events + 1"),
        both("update request set published = published - 1"),
        both("update request set live = 0 where state = 'completed'"),
        both("update request set in_work = 1 where state = 'completed'"),
        both("update request set no_room_since = 5"),
        both("update request set due_at = 5 where state = 'rolled_back'"),
        both("update request set run = replace(run, '\"state\":\"completed\"', '\"state\":\"verifying\"')"),
        both("update resource set state = 'owed'"),
        both("update resource set open = 0"),
        both("update resource set provider_id = null"),
        both("delete from resource where kind = 'server'"),
        both("delete from event where version <> count"),
        both("delete from event where version = (select max(version) from event e where e.subject = event.subject)"),
        both("update event set sequence = sequence + 1 where version > 3"),
        both("update event set version = version + 1000 where version > 3"),
        both("update event set count = count - 1 where count > 1"),
        both("update event set at = 0 where version <> count"),
        both("update event set id = (select min(id) from event)"),
        both("update event set body = replace(body, '\"to_state\":\"configuring\"', '\"to_state\":\"completed\"')"),
        both("update event set body = replace(body, '\"state\":\"allocating\"', '\"state\":\"queued\"')"),
    ];
    for lie in LIES {
        let scene = Scene::inline().with_one_of_each().await;
        let over = scene.admit("over", serde_json::json!({})).await;
        scene.ask(over, provisor_core::run::Command::Cancel { reason: None }).await.unwrap();
        scene.completed("db", super::scene::cpus(2)).await;
        scene.check().await;
        scene.store.run(super::tables::Sql(lie, vec![])).await.unwrap();
        let seen = tokio::spawn(async move { scene.check().await }).await;
        assert!(seen.is_err_and(|e| e.is_panic()), "not seen: {}", lie.text);
    }
}
