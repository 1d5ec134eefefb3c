//! The engine over the in-memory store and a scripted backend, on virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

mod admission;
mod crash;
mod lives;
mod pipeline;
mod recovery;
mod review;
mod steps;
mod strategies;
mod sweep;
mod toy;
mod world;
