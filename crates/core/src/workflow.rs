//! The pipeline as values: the plan of an attempt, what has happened to it, and what to do next.
//!
//! A provider gives the [`plan`]; [`Run::settle`](crate::Run::settle) writes an answer into it;
//! [`Run::advance`](crate::Run::advance) says which calls to make now and when to look again.

pub mod answer;
pub mod call;
pub mod plan;
pub mod retry;

pub use answer::{Answer, Found, Made, Reply};
pub use call::{Call, CallKey, Deadline, Task};
pub use plan::{OnRetry, Plan, Planned, Planner, asks_the_service};
