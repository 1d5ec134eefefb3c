//! The operations: one use case a file, with its SQL.
//!
//! Every statement is a constant and stands in its file's `STATEMENTS`, so that one test can prepare all of
//! them and look at how each would be run.

use crate::tx::Stmt;

pub mod admit;
pub mod balance;
pub mod claim;
pub mod clusters;
pub mod command;
pub mod drift;
pub mod gate;
pub mod heartbeat;
pub mod learn;
pub mod ledger;
pub mod log;
pub(crate) mod log_row;
pub mod meta;
pub(crate) mod place;
pub mod processes;
pub mod quota;
pub mod readers;
pub mod reappeared;
pub mod requests;
pub mod restored;
pub mod roles;
pub mod save;
pub mod settle;
pub mod stats;
pub mod tenants;
pub mod tokens;
pub mod wake;
pub(crate) mod writes;

/// The statements of each file, for the tests that prepare and explain them.
pub const ALL_STATEMENTS: &[(&str, &[&Stmt])] = &[
    ("balance", balance::STATEMENTS),
    ("clusters", clusters::STATEMENTS),
    ("ledger", ledger::STATEMENTS),
    ("log", log::STATEMENTS),
    ("meta", meta::STATEMENTS),
    ("quota", quota::STATEMENTS),
    ("readers", readers::STATEMENTS),
    ("requests", requests::STATEMENTS),
    ("restored", restored::STATEMENTS),
    ("roles", roles::STATEMENTS),
    ("stats", stats::STATEMENTS),
    ("tenants", tenants::STATEMENTS),
    ("tokens", tokens::STATEMENTS),
    ("admit", admit::STATEMENTS),
    ("admit facts", admit::FACTS),
    ("claim", claim::STATEMENTS),
    ("command", command::STATEMENTS),
    ("drift", drift::STATEMENTS),
    ("gate", gate::STATEMENTS),
    ("heartbeat", heartbeat::STATEMENTS),
    ("learn", learn::STATEMENTS),
    ("place", place::STATEMENTS),
    ("processes", processes::STATEMENTS),
    ("reappeared", reappeared::STATEMENTS),
    ("save", save::STATEMENTS),
    ("wake", wake::STATEMENTS),
    ("writes", writes::STATEMENTS),
];
