//! The store's tests: every operation on both SQLite drivers and on PostgreSQL, and what is special to each driver.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

mod build;
mod drivers;
mod million;
mod opening;
mod ops;
mod pipeline;
mod postgres;
mod prepare;
mod stored;
mod vault;
