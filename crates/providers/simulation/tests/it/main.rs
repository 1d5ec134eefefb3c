//! The simulated cloud from outside: by its connector, its front and its listeners.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]
// Why: settings are written where they are used, as values.
#![allow(clippy::needless_pass_by_value)]

mod bench;
mod conformance;
mod faults;
mod front;
mod listeners;
mod memory;
mod plays;
