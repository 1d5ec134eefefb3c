//! Making a failing plan smaller: orders and troubles are left out as long as the same property fails.
//!
//! Halves first, then quarters, down to one by one, until nothing more can go (Zeller's delta debugging, without its
//! complements: what is left out is tried again in smaller pieces). Rejected: shrinking the numbers in what is left,
//! which makes a plan prettier and not easier to understand.

use crate::plan::{Plan, Wish};
use crate::property::Property;
use crate::trace::Trace;
use crate::world::{SimError, run};

/// Runs that a shrink makes at most.
const RUNS: usize = 600;

/// The smallest plan found that still breaks the property, and how many runs that took.
pub fn shrink(plan: &Plan, property: Property) -> Result<(Plan, usize), SimError> {
    let mut best = plan.clone();
    let mut runs = 0;
    loop {
        let before = size(&best);
        let troubles = best.troubles.len();
        cut(&mut best, troubles, property, &mut runs, |p, from, to| drop(p.troubles.drain(from..to)))?;
        let orders = best.orders.len();
        cut(&mut best, orders, property, &mut runs, |p, from, to| drop(p.orders.drain(from..to)))?;
        batches(&mut best, property, &mut runs)?;
        if size(&best) == before || runs >= RUNS {
            return Ok((best, runs));
        }
    }
}

fn size(plan: &Plan) -> usize {
    plan.troubles.len() + plan.orders.len() + plan.asks().count()
}

/// Tries to leave out pieces of a list of `length` things.
fn cut(
    best: &mut Plan,
    mut length: usize,
    property: Property,
    runs: &mut usize,
    leave_out: impl Fn(&mut Plan, usize, usize),
) -> Result<(), SimError> {
    let mut piece = length.div_ceil(2).max(1);
    while length > 0 && *runs < RUNS {
        let mut from = 0;
        while from < length && *runs < RUNS {
            let to = (from + piece).min(length);
            let mut smaller = best.clone();
            leave_out(&mut smaller, from, to);
            *runs += 1;
            if fails(&smaller, property)? {
                *best = smaller;
                length -= to - from;
            } else {
                from = to;
            }
        }
        if piece == 1 {
            return Ok(());
        }
        piece = piece.div_ceil(2);
    }
    Ok(())
}

/// Takes single requests out of batches.
fn batches(best: &mut Plan, property: Property, runs: &mut usize) -> Result<(), SimError> {
    let mut order = 0;
    while order < best.orders.len() {
        let mut ask = 0;
        while let Some(Wish::Admit(asks)) = best.orders.get(order).map(|o| &o.wish)
            && asks.len() > 1
            && ask < asks.len()
            && *runs < RUNS
        {
            let mut smaller = best.clone();
            if let Some(Wish::Admit(asks)) = smaller.orders.get_mut(order).map(|o| &mut o.wish) {
                asks.remove(ask);
            }
            *runs += 1;
            if fails(&smaller, property)? { *best = smaller } else { ask += 1 }
        }
        order += 1;
    }
    Ok(())
}

fn fails(plan: &Plan, property: Property) -> Result<bool, SimError> {
    Ok(run(plan, Trace::Off)?.breaches.iter().any(|b| b.property == property))
}
