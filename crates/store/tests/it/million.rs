//! How each statement would be run with a million requests in the store: no large table is read through.
//!
//! Minutes each, so they are run by hand: `cargo test -p provisor-store million -- --ignored`.

use provisor_store::Store;
use rusqlite::Connection;

use crate::build::Folder;
use crate::prepare::{faults_on_postgres, faults_on_sqlite};

const REQUESTS: u32 = 1_000_000;

/// One in a hundred is queued and one in a hundred in work; of the rest a third is over. Every request has a row of the
/// ledger, an event and a label; one in ten waits for another, and one in two came with an idempotency key.
const FILL: &str = "
insert into tenant (id, name, spec, version, created_at, max_concurrent)
    select 'ten_' || n, 'tenant-' || n, '{}', 1, 0, 5 from {series} where n <= 1000;
insert into cluster (id, ordinal, name, spec, version, created_at, health)
    select 'clu_' || n, n, 'cluster-' || n, '{}', 1, 0, '{}' from {series} where n <= 20;
insert into request (id, tenant, name, kind, state, live, region, order_id, run, version, events, published, due_at, worker,
    generation, cpu, memory, storage, in_work, no_room_since, queue_until, created_at, updated_at)
    select 'req_' || {padded}, 'ten_' || (1 + n % 1000), 'name-' || n, case when n % 7 = 0 then 'managed' else 'vps' end,
    case when n % 100 = 0 then 'queued' when n % 100 = 1 then 'allocating' when n % 3 = 0 then 'rolled_back' else 'completed' end,
    case when n % 100 > 1 and n % 3 = 0 then 0 else 1 end, 'region-' || (n % 5), 'order-' || n, '{\"document\": \"of a request\"}',
    3, 3, 3, case when n % 100 < 2 then n else 9223372036854775807 end, case when n % 100 = 1 then 'worker-' || (n % 7) end,
    1, 1, 1, 1, case when n % 100 = 1 then 1 else 0 end, case when n % 1000 = 0 then n end, case when n % 1000 = 0 then n end, n, n
    from {series};
insert into label (request, name, value) select 'req_' || {padded}, 'role', 'role-' || (n % 100) from {series};
insert into dependency (request, prerequisite)
    select 'req_' || {padded}, 'req_' || {padded_next} from {series} where n % 10 = 0 and n < 1000000;
insert into resource (id, request, attempt, cluster, kind, name, tag, provider_id, state, in_doubt, open, created_at)
    select 'res_' || {padded}, 'req_' || {padded}, 'att_' || n, 'clu_' || (1 + n % 20), 'server', 'server-' || n, 'tag-' || n, 'id-' || n,
    case when n % 3 = 0 then 'released' else 'created' end, 0, case when n % 3 = 0 then 0 else 1 end, n from {series};
insert into event (id, subject, version, count, sequence, tenant, at, body)
    select 'evt_' || {padded}, 'req_' || {padded}, 1, 1, 1, 'tenant-' || (1 + n % 1000), n, '{}' from {series};
insert into idempotency (scope, route, key, fingerprint, requests, created_at)
    select 'ten_' || (1 + n % 1000), 'POST /api/requests', 'key-' || n, 'print', '[]', n from {series} where n % 2 = 0;
";

fn fill(series: &str, padded: &str, padded_next: &str) -> String {
    FILL.replace("{series}", series).replace("{padded}", padded).replace("{padded_next}", padded_next)
}

#[test]
#[ignore = "takes minutes"]
fn a_million_requests_on_postgres() {
    let Some(url) = crate::postgres::database() else { return };
    drop(Store::open_postgres(&url).unwrap());
    let series = format!("generate_series(1, {REQUESTS}) as s(n)");
    let text = fill(&series, "lpad(n::text, 10, '0')", "lpad((n + 1)::text, 10, '0')");
    let feed = "insert into feed (place, position, tenant) select position, position, tenant from event;
        update feed_state set head = (select max(place) from feed), horizon = pg_snapshot_xmin(pg_current_snapshot());";
    crate::postgres::sql(&url, &format!("set synchronous_commit = off; {text} {feed}"));
    // As the server does by itself after a while.
    crate::postgres::sql(&url, "vacuum analyze");
    let faults = faults_on_postgres(&url, true);
    let count = crate::postgres::sql(&url, "select count(*) from request");
    crate::postgres::sql(&url, "truncate feed, event, idempotency, resource, label, dependency, request");
    assert_eq!(count, [REQUESTS.to_string()]);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
#[ignore = "takes minutes"]
fn a_million_requests_on_sqlite() {
    let folder = Folder::new();
    drop(Store::open_sqlite(&folder.database()).unwrap());
    let connection = Connection::open(folder.database()).unwrap();
    let series =
        format!("(with recursive s (n) as (select 1 union all select n + 1 from s where n < {REQUESTS}) select n from s) as s");
    let text = fill(&series, "printf('%010d', n)", "printf('%010d', n + 1)");
    connection.execute_batch(&format!("pragma synchronous = off; begin; {text} commit;")).unwrap();
    let faults = faults_on_sqlite(&connection);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // The same where somebody has had the planner count the rows.
    connection.execute_batch("analyze").unwrap();
    let faults = faults_on_sqlite(&connection);
    assert!(faults.is_empty(), "counted: {}", faults.join("\n"));
}
