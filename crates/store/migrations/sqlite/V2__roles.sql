-- Who does what only one process may do at a time: the sweeper, the watch over clusters. Held by a lease; each
-- new holder has a higher generation, which its writes carry.
create table role (
    name       text primary key,
    holder     text not null,
    generation integer not null,
    until      integer not null
) strict;
