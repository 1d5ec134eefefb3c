-- Whether ledger, inventory and capacity agree, as the last sweep has found: a document (SPEC 3.6).
alter table cluster add column balance text;
