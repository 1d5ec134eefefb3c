-- The budget of extra launches of each cluster, in millionths of a launch (H31); it starts full.
alter table cluster add column extra_launches bigint not null default 10000000;
