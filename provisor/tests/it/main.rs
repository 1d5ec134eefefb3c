//! The real binary as a user runs it: processes, files, exit codes.
#![allow(clippy::disallowed_methods)] // Real processes take real time.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod apply;
mod disk;
mod failover;
mod house;
mod lifecycle;
mod managed;
mod openstack;
mod outside;
mod postgres;
mod process;
mod processes;
mod quickstart;
mod race;
mod recovery;
mod refusals;
mod restore;
mod timeline;
mod writers;
