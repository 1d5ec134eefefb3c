-- What holds a cluster's calls back, as documents: its circuit breaker (H27), and that its credentials are refused (H29).
alter table cluster add column breaker text;
alter table cluster add column paused text;

-- The workers that are alive, in the order of their names: each has its part of a cluster's calls in flight (H28).
create table process (
    name  text primary key,
    since integer not null,
    until integer not null
) strict;
