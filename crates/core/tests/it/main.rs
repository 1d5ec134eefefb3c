//! Tests of the domain through its public interface: text scenarios, properties, coverage of the table of
//! transitions. One binary, so that they are linked once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod bench;
mod coverage;
mod held;
mod learned;
mod plans;
mod properties;
mod pure;
mod rollback;
mod scenarios;
mod show;
mod world;
