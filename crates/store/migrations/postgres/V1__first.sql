-- The same as for SQLite but for the types, the log's order, and texts that sort by their bytes.
-- Times are microseconds since 1970 by the store's clock (H40). Documents are JSON text.

create table meta (
    name  text collate "C" primary key,
    value text collate "C" not null
);

create table tenant (
    id            text collate "C" primary key,
    name          text collate "C" not null unique,
    spec          text collate "C" not null,
    version       bigint not null,
    created_at    bigint not null,
    draining      bigint not null default 0,
    -- A copy of the specification's, for the claim; written wherever the specification is.
    max_concurrent bigint not null,
    -- Whose turn it is: the longest ago first (H19).
    last_claimed  bigint not null default 0,
    -- The sum of what live requests hold, kept by the one function that writes a request; `quota_proof`
    -- compares it with the sum itself. See docs/decisions/0004.
    used_cpu      bigint not null default 0,
    used_memory   bigint not null default 0,
    used_storage  bigint not null default 0,
    used_vps                  bigint not null default 0,
    used_kubernetes_namespace bigint not null default 0,
    used_environment          bigint not null default 0,
    used_managed              bigint not null default 0,
    in_work       bigint not null default 0
);
create index tenant_turn on tenant (last_claimed);
-- Few rows, whose sums change all the time: with room on the page a change leaves the indexes alone.
alter table tenant set (fillfactor = 50);

create table cluster (
    id            text collate "C" primary key,
    ordinal       bigint not null unique,
    name          text collate "C" not null unique,
    spec          text collate "C" not null,
    credentials   text collate "C",
    version       bigint not null,
    created_at    bigint not null,
    -- A document: state, checked_at, latency_ms, error.
    health        text collate "C" not null,
    identity      text collate "C",
    draining      bigint not null default 0,
    -- Held by attempts: `reserved` while they work, `used` once they have won.
    reserved_cpu     bigint not null default 0,
    reserved_memory  bigint not null default 0,
    reserved_storage bigint not null default 0,
    reserved_slots   bigint not null default 0,
    used_cpu         bigint not null default 0,
    used_memory      bigint not null default 0,
    used_storage     bigint not null default 0,
    used_slots       bigint not null default 0
);
alter table cluster set (fillfactor = 50);

create table request (
    id           text collate "C" primary key,
    -- No foreign key: what a deleted tenant once asked for stays (H26).
    tenant       text collate "C" not null,
    name         text collate "C" not null,
    kind         text collate "C" not null,
    state        text collate "C" not null,
    live         bigint not null,
    region       text collate "C",
    order_id     text collate "C",
    run          text collate "C" not null,
    version      bigint not null,
    -- Counts every event of the request, and the published ones (H35).
    events       bigint not null default 0,
    published    bigint not null default 0,
    -- When somebody should look at it next; the end of the lease while it is leased.
    due_at       bigint not null,
    worker       text collate "C",
    -- The fencing token: every write of a worker carries it.
    generation   bigint not null default 0,
    -- A command came while a worker held it.
    attention    bigint not null default 0,
    cpu bigint not null, memory bigint not null, storage bigint not null,
    in_work      bigint not null default 0,
    -- Since when it has waited in the queue for room on a cluster, while it does (H16).
    no_room_since bigint,
    -- When its time in the queue is over, where it has one (H16).
    queue_until   bigint,
    created_at   bigint not null,
    updated_at   bigint not null
);

-- The document is rewritten at each change: squeezing it every time costs more than the room it takes, and up to a page
-- it stays in its row.
alter table request alter column run set storage external;
alter table request set (toast_tuple_target = 8160);

create unique index request_name on request (tenant, name) where live = 1;
-- Holds the leases, too.
create index request_due on request (due_at, worker) where state <> 'queued' and due_at < 9223372036854775807;
create index request_queue on request (tenant, due_at, id) where state = 'queued';
create index request_queue_until on request (state, queue_until) where queue_until is not null;
create index request_no_room on request (no_room_since) where no_room_since is not null;
create index request_state on request (state, id);
create index request_tenant on request (tenant, id);
create index request_tenant_state on request (tenant, state, id);
create index request_kind on request (kind, id);
create index request_by_name on request (name, id);
-- For the numbers of /metrics alone: without ids it stays small, which SQLite would not keep it.
create index request_census on request (state, kind);

create table label (
    request text collate "C" not null references request (id),
    name    text collate "C" not null,
    value   text collate "C" not null,
    primary key (name, value, request)
);

create table dependency (
    request      text collate "C" not null references request (id),
    prerequisite text collate "C" not null references request (id),
    primary key (request, prerequisite)
);
create index dependency_prerequisite on dependency (prerequisite);

create table resource (
    id          text collate "C" primary key,
    request     text collate "C" not null references request (id),
    attempt     text collate "C" not null,
    cluster     text collate "C" not null,
    kind        text collate "C" not null,
    name        text collate "C" not null,
    tag         text collate "C" not null,
    provider_id text collate "C",
    state       text collate "C" not null,
    in_doubt    bigint not null,
    open        bigint not null,
    created_at  bigint not null,
    released_at bigint,
    -- Sweeps that have seen its object although the row is closed (H2), and how often it came back.
    seen_closed bigint not null default 0
);
create index resource_cluster on resource (cluster, id) where open = 1;
create index resource_request on resource (request);
create index resource_tag on resource (tag);
create index resource_open on resource (state) where open = 1;

-- A row holds all events that one transaction appended to one request (`log_row.rs`).
create table event (
    -- The order of insertion, which is the order of a request's versions, as they are written under its
    -- row's lock (an identity hands out one number at a time). Not the order of commits: see `feed`.
    position bigint generated by default as identity primary key,
    -- Whose transaction wrote it: what may still be to come is not older than the oldest one under way.
    tx       xid8 not null default pg_current_xact_id(),
    -- That of the first event; the others follow. Random: nothing looks for it, so it has no index.
    id       text collate "C" not null,
    subject  text collate "C" not null,
    -- The last event's, counted over the request.
    version  bigint not null,
    -- How many.
    count    bigint not null,
    -- The last published one's, where there is one.
    sequence bigint,
    -- The tenant's name, as the events show it for ever.
    tenant   text collate "C" not null,
    at       bigint not null,
    body     text collate "C" not null,
    unique (subject, version)
);
create index event_tx on event (tx);

-- The order in which followers get the log: each row gets its place once, by whoever reads the log next
-- after its commit (H34; docs/decisions/0009).
create table feed (
    -- The place of its last event; they are counted without a gap.
    place    bigint primary key,
    position bigint not null unique,
    tenant   text collate "C" not null
);
create index feed_tenant on feed (tenant, place);

create table feed_state (
    one     bigint primary key check (one = 1),
    -- The last place.
    head    bigint not null,
    -- Every event of an older transaction has its place.
    horizon xid8 not null
);
insert into feed_state (one, head, horizon) values (1, 0, '0');

create table reader (
    name     text collate "C" primary key,
    position bigint not null
);

create table idempotency (
    scope       text collate "C" not null,
    route       text collate "C" not null,
    key         text collate "C" not null,
    fingerprint text collate "C" not null,
    requests    text collate "C" not null,
    created_at  bigint not null,
    primary key (scope, route, key)
);

create table token (
    id         text collate "C" primary key,
    name       text collate "C" not null,
    hash       text collate "C" not null unique,
    role       text collate "C" not null,
    tenant     text collate "C",
    created_at bigint not null,
    expires_at bigint,
    revoked_at bigint
);
