//! The API in one process: the real routes over the real engine (its workers not started) and a store in
//! memory. One binary for all, so that a test's edit links once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

mod access;
mod clusters;
mod events;
mod over_the_wire;
mod requests;
mod tenants;
mod world;
