//! The engine over a scripted backend and the simulated cloud, on both databases, on virtual time.
#![allow(
    clippy::disallowed_methods,
    clippy::large_stack_arrays,
    clippy::print_stderr,
    reason = "tests wait for a real PostgreSQL on threads of their own, script long rows of failures, and say what they skip"
)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs, unreachable_pub)]

mod admission;
mod balance;
mod crash;
mod ground;
mod guard;
mod hard;
mod learn;
mod lives;
mod pipeline;
mod recovery;
mod review;
#[path = "../../../store/tests/it/postgres/server.rs"]
mod server;
mod steps;
mod strategies;
mod toy;
mod world;
