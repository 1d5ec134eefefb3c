//! What must hold at the first look, while creates in doubt are still watched (H6) and lost attempts cleaned up (H8).
//!
//! A request completes although a create of an attempt that lost is in doubt: its row closes only once nothing can arrive
//! any more, and until then it holds its attempt's capacity. So "nothing is open" comes late by decision, not by a fault.
//! But what is open meanwhile is known exactly, and so is what it holds. Rejected: a minute's grace and no more, under
//! which a row that is never looked at again for 59 seconds passes.

use serde_json::Value;

use super::checks::{Breach, Seen, Told, plays, size, stands, text};
use super::load::roles;

/// What is judged, as it is told.
pub(super) const SENTENCE: &str =
    "what is still open is of an attempt that lost, in doubt or on its way out, and holds its own capacity only";

/// States of a row that is not over, other than that of what is kept.
const ON_ITS_WAY: [&str; 3] = ["intended", "releasing", "owed"];

/// Every breach at one look.
pub(super) fn breaches(seen: &Seen) -> Vec<Breach> {
    let mut told = Told::default();
    for request in &seen.requests {
        rows(seen, request, &mut told);
    }
    for cluster in &seen.clusters {
        capacity(seen, cluster, &mut told);
    }
    told.under(SENTENCE).collect()
}

/// The winner keeps one of each role; of others something may be on its way, but nothing is kept.
fn rows(seen: &Seen, request: &Value, told: &mut Told) {
    let (own, others): (Vec<&Value>, Vec<&Value>) =
        seen.open_rows(request).partition(|r| r.get("attempt") == request.get("winner"));
    if !stands(request) {
        for row in own.iter().chain(&others).filter(|_| text(request, "state") == "rolled_back") {
            told.of(request, format!("rolled back, but open: {row}"));
        }
        return;
    }
    let mut kinds: Vec<&str> = own.iter().filter(|r| text(r, "state") == "created").map(|r| text(r, "kind")).collect();
    kinds.sort_unstable();
    if plays(request).is_none_or(|p| kinds != roles(p)) {
        told.of(request, format!("its winner keeps {kinds:?}"));
    }
    for row in others.iter().filter(|r| !ON_ITS_WAY.contains(&text(r, "state"))) {
        told.of(request, format!("keeps what an attempt that lost has made: {row}"));
    }
}

/// Used is what winners hold, reserved what attempts that lost still have open (H8).
fn capacity(seen: &Seen, cluster: &Value, told: &mut Told) {
    let name = text(cluster, "name");
    for dimension in ["cpu", "memory_gb", "storage_gb", "slots"] {
        let (mut used, mut reserved) = (0, 0);
        for request in &seen.requests {
            let size = if dimension == "slots" { 1 } else { size(request, dimension) };
            let attempts = request.get("attempts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for attempt in attempts.iter().filter(|a| text(a, "cluster") == name) {
                let open = seen.open_rows(request).any(|r| r.get("attempt") == attempt.get("id"));
                if attempt.get("id") == request.get("winner") {
                    used += if stands(request) { size } else { 0 };
                } else {
                    reserved += if open { size } else { 0 };
                }
            }
        }
        let room = cluster.pointer(&format!("/capacity/{dimension}")).unwrap_or(&Value::Null);
        let number = |key: &str| room.get(key).and_then(Value::as_i64);
        if (number("used"), number("reserved")) != (Some(used), Some(reserved)) {
            told.all(format!("{name}: winners hold {used} {dimension}, lost attempts {reserved}, the cluster says {room}"));
        }
    }
}
