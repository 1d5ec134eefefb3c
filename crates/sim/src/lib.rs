//! The deterministic simulator: the engine and the SQL that ship, on virtual time, under faults by seed.
//!
//! A [`plan::Plan`] says who asks for what and what goes wrong; [`draw::plan`] makes one from a seed; [`world::run`] plays
//! it and answers with what did not hold ([`property::Property`]). Three workers, a process that only answers the API and
//! a follower of the log are whole processes on one database, each with its own way to it and to the simulated clouds.
//! Nothing of ours is replaced by a double: the edges are the ports that the product has anyway.
//!
//! Rejected (docs/simulator.md): a runtime of our own, patched dependencies, a model of the engine.

// Why: it writes into JSON objects that it has just made, by their keys; that cannot be out of bounds.
#![allow(clippy::indexing_slicing)]

mod chance;
mod coverage;
pub mod draw;
mod edge;
mod ending;
mod follower;
mod node;
mod orders;
pub mod plan;
pub mod property;
pub mod shrink;
mod stage;
mod trace;
mod watch;
pub mod world;

pub use coverage::Coverage;
pub use trace::Trace;
