//! The adapter against a small fake cloud for what a real one does not do on demand (lost answers, expired tokens,
//! strangers), and against a real OpenStack for everything else.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test says what went wrong by panicking, and why it was skipped on stderr"
)]

mod cloud;
mod double;
mod driver;
mod fake;
mod faults;
mod record;
mod recorded;
mod tls;
mod user;
