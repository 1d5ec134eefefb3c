//! The public request and response types, and the small typed HTTP client.
//!
//! These are the shapes of the contract: the API writes them, the command line and the tests read them.
//! The crate knows no other crate of the house, so that what clients see cannot change by a change inside.
//! Every key is always there, with `null` for what is not known. Ids, states and names are texts here: a
//! client must be able to read what a newer server says. Rejected: sharing the types of the core, which
//! would make each of its fields a promise.

pub mod client;
pub mod cluster;
pub mod event;
pub mod parts;
pub mod plan;
pub mod problem;
pub mod request;
pub mod tenant;
pub mod timeline;

pub use client::{Client, ClientError};
pub use cluster::{Check, Cluster, Inventory, TestReport};
pub use event::CloudEvent;
pub use parts::{Endpoint, Failure, Items, Page, ServiceStatus};
pub use plan::Plan;
pub use problem::{Fault, Problem};
pub use request::{Attempt, CheckStatus, Metrics, Request, Resource, Step};
pub use tenant::{Quota, Tenant};
pub use timeline::Timeline;

#[cfg(test)]
mod tests;
