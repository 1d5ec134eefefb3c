-- Who does what only one process may do at a time: the sweeper, the watch over clusters. Held by a lease; each
-- new holder has a higher generation, which its writes carry.
create table role (
    name       text collate "C" primary key,
    holder     text collate "C" not null,
    generation bigint not null,
    until      bigint not null
);
