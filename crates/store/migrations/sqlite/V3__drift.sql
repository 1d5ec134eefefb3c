-- Sweeps in a row that have missed the object of an open row (H15).
alter table resource add column missed integer not null default 0;
create index resource_missed on resource (cluster, id) where missed > 0;
