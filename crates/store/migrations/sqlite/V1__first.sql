-- Times are microseconds since 1970 by the store's clock (H40). Documents are JSON text.

create table meta (
    name  text primary key,
    value text not null
) strict;

create table tenant (
    id            text primary key,
    name          text not null unique,
    spec          text not null,
    version       integer not null,
    created_at    integer not null,
    draining      integer not null default 0,
    -- A copy of the specification's, for the claim; written wherever the specification is.
    max_concurrent integer not null,
    -- Whose turn it is: the longest ago first (H19).
    last_claimed  integer not null default 0,
    -- The sum of what live requests hold, kept by the one function that writes a request; `quota_proof`
    -- compares it with the sum itself. See docs/decisions/0004.
    used_cpu      integer not null default 0,
    used_memory   integer not null default 0,
    used_storage  integer not null default 0,
    used_vps                  integer not null default 0,
    used_kubernetes_namespace integer not null default 0,
    used_environment          integer not null default 0,
    used_managed              integer not null default 0,
    in_work       integer not null default 0
) strict;
create index tenant_turn on tenant (last_claimed);

create table cluster (
    id            text primary key,
    ordinal       integer not null unique,
    name          text not null unique,
    spec          text not null,
    credentials   text,
    version       integer not null,
    created_at    integer not null,
    -- A document: state, checked_at, latency_ms, error.
    health        text not null,
    identity      text,
    draining      integer not null default 0,
    -- Held by attempts: `reserved` while they work, `used` once they have won.
    reserved_cpu     integer not null default 0,
    reserved_memory  integer not null default 0,
    reserved_storage integer not null default 0,
    reserved_slots   integer not null default 0,
    used_cpu         integer not null default 0,
    used_memory      integer not null default 0,
    used_storage     integer not null default 0,
    used_slots       integer not null default 0
) strict;

create table request (
    id           text primary key,
    -- No foreign key: what a deleted tenant once asked for stays (H26).
    tenant       text not null,
    name         text not null,
    kind         text not null,
    state        text not null,
    live         integer not null,
    region       text,
    order_id     text,
    run          text not null,
    version      integer not null,
    -- Counts every event of the request, and the published ones (H35).
    events       integer not null default 0,
    published    integer not null default 0,
    -- When somebody should look at it next; the end of the lease while it is leased.
    due_at       integer not null,
    worker       text,
    -- The fencing token: every write of a worker carries it.
    generation   integer not null default 0,
    -- A command came while a worker held it.
    attention    integer not null default 0,
    cpu integer not null, memory integer not null, storage integer not null,
    in_work      integer not null default 0,
    -- Since when it has waited in the queue for room on a cluster, while it does (H16).
    no_room_since integer,
    -- When its time in the queue is over, where it has one (H16).
    queue_until   integer,
    created_at   integer not null,
    updated_at   integer not null
) strict;

create unique index request_name on request (tenant, name) where live = 1;
-- Holds the leases, too.
create index request_due on request (due_at, worker) where state <> 'queued' and due_at < 9223372036854775807;
create index request_queue on request (tenant, due_at, id) where state = 'queued';
create index request_queue_until on request (state, queue_until) where queue_until is not null;
create index request_no_room on request (no_room_since) where no_room_since is not null;
-- With the kind, for the numbers of /metrics.
create index request_state on request (state, id, kind);
create index request_tenant on request (tenant, id);
create index request_tenant_state on request (tenant, state, id);
create index request_kind on request (kind, id);
create index request_by_name on request (name, id);

create table label (
    request text not null references request (id),
    name    text not null,
    value   text not null,
    primary key (name, value, request)
) strict, without rowid;

create table dependency (
    request      text not null references request (id),
    prerequisite text not null references request (id),
    primary key (request, prerequisite)
) strict, without rowid;
create index dependency_prerequisite on dependency (prerequisite);

create table resource (
    id          text primary key,
    request     text not null references request (id),
    attempt     text not null,
    cluster     text not null,
    kind        text not null,
    name        text not null,
    tag         text not null,
    provider_id text,
    state       text not null,
    in_doubt    integer not null,
    open        integer not null,
    created_at  integer not null,
    released_at integer,
    -- Sweeps that have seen its object although the row is closed (H2), and how often it came back.
    seen_closed integer not null default 0
) strict;
create index resource_cluster on resource (cluster, id) where open = 1;
create index resource_request on resource (request);
create index resource_tag on resource (tag);
create index resource_open on resource (state) where open = 1;

-- A row holds all events that one transaction appended to one request (`log_row.rs`).
create table event (
    -- The place of its last event; they are counted without a gap.
    position integer primary key,
    -- That of the first event; the others follow. Random: nothing looks for it, so it has no index.
    id       text not null,
    subject  text not null,
    -- The last event's, counted over the request.
    version  integer not null,
    -- How many.
    count    integer not null,
    -- The last published one's, where there is one.
    sequence integer,
    -- The tenant's name, as the events show it for ever.
    tenant   text not null,
    at       integer not null,
    body     text not null,
    unique (subject, version)
) strict;
create index event_tenant on event (tenant, position) where sequence is not null;

-- The log goes on behind this position, where its epoch begins (H41).
create table log_start (
    one      integer primary key check (one = 1),
    position integer not null
) strict;
insert into log_start (one, position) values (1, 0);

create table reader (
    name     text primary key,
    position integer not null
) strict;

create table idempotency (
    scope       text not null,
    route       text not null,
    key         text not null,
    fingerprint text not null,
    requests    text not null,
    created_at  integer not null,
    primary key (scope, route, key)
) strict;

create table token (
    id         text primary key,
    name       text not null,
    hash       text not null unique,
    role       text not null,
    tenant     text,
    created_at integer not null,
    expires_at integer,
    revoked_at integer
) strict;
