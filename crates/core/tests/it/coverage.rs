//! Every edge of the table of transitions is taken by some scenario, or it is said why it cannot be.

use std::collections::BTreeSet;

use provisor_core::State::{self, PendingApproval, Queued, RollingBack};
use provisor_core::lifecycle::EDGES;

/// Edges that this version cannot take, and why.
const NOT_YET: [(Option<State>, State, &str); 3] = [
    (None, PendingApproval, "there are no approval rules yet"),
    (Some(PendingApproval), Queued, "there are no approval rules yet"),
    (Some(PendingApproval), RollingBack, "there are no approval rules yet"),
];

#[test]
fn every_edge_of_the_table_is_taken() {
    let taken = crate::scenarios::edges();
    let excused: BTreeSet<_> = NOT_YET.iter().map(|(from, to, _)| (*from, *to)).collect();
    let all: BTreeSet<_> = EDGES.iter().map(|e| (e.from, e.to)).collect();
    let missing: Vec<_> = all.difference(&taken).filter(|e| !excused.contains(e)).collect();
    assert!(missing.is_empty(), "no scenario takes {missing:?}");
    let stale: Vec<_> = excused.iter().filter(|e| taken.contains(e) || !all.contains(e)).collect();
    assert!(stale.is_empty(), "excused, but taken or no edge any more: {stale:?}");
}
