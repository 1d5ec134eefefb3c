//! What was tried: fault × operation × outcome, so that a cell without a case is seen.
//!
//! The outcome is that of the requests that a fault concerned: of whose call it struck, or of those that the struck
//! process held. A fault that concerned none has the outcome `nobody`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use provisor_core::RequestId;

/// Counts of cells, over any number of runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// How often, by fault, operation and outcome.
    pub cells: BTreeMap<(String, String, String), u64>,
    /// What struck whom, until the outcomes are known.
    pending: Vec<(String, String, Vec<RequestId>)>,
}

impl Coverage {
    pub(crate) fn struck(&mut self, fault: &str, operation: &str, whom: Vec<RequestId>) {
        self.pending.push((fault.to_owned(), operation.to_owned(), whom));
    }

    /// The outcomes are known.
    pub(crate) fn settle(&mut self, outcome: impl Fn(RequestId) -> String) {
        for (fault, operation, whom) in std::mem::take(&mut self.pending) {
            let mut outcomes: BTreeSet<String> = whom.into_iter().map(&outcome).collect();
            if outcomes.is_empty() {
                outcomes.insert("nobody".to_owned());
            }
            for outcome in outcomes {
                *self.cells.entry((fault.clone(), operation.clone(), outcome)).or_default() += 1;
            }
        }
    }

    /// Adds what another run tried.
    pub fn add(&mut self, other: &Self) {
        for (cell, n) in &other.cells {
            *self.cells.entry(cell.clone()).or_default() += n;
        }
    }
}

/// Outcomes in the order of the table's columns.
const OUTCOMES: [&str; 9] =
    ["completed", "suspended", "failed", "cancelled", "dependency failed", "deprovisioned", "queued", "nobody", "unknown"];

impl Coverage {
    /// The faults and operations that were tried together.
    pub fn rows(&self) -> BTreeSet<(String, String)> {
        self.cells.keys().map(|(fault, operation, _)| (fault.clone(), operation.clone())).collect()
    }

    /// The table: a row for each fault and operation, a column for each outcome.
    pub fn table(&self) -> String {
        let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, u64>> = BTreeMap::new();
        for ((fault, operation, outcome), n) in &self.cells {
            *rows.entry((fault, operation)).or_default().entry(outcome).or_default() += n;
        }
        let mut text = format!("{:<24}{:<24}", "fault", "operation");
        for outcome in OUTCOMES {
            let _ = write!(text, "{outcome:>18}");
        }
        text.push('\n');
        for ((fault, operation), counts) in rows {
            let _ = write!(text, "{fault:<24}{operation:<24}");
            for outcome in OUTCOMES {
                let _ = write!(text, "{:>18}", counts.get(outcome).copied().unwrap_or(0));
            }
            text.push('\n');
        }
        text
    }
}
