//! What must hold: after every step, and at every end.

use provisor_core::event::{Event, EventKind};
use provisor_core::lifecycle::{Outcome, is_allowed};
use provisor_core::run::AttemptState;
use provisor_core::workflow::{Call, CallKey, Task};
use provisor_core::{State, Timestamp, budget};

use super::world::{ROOM, World, creates};

/// A property, with its sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Property {
    /// See [`Property::sentence`], as for all.
    Transitions,
    /// One winner.
    OneWinner,
    /// Endpoints and billing.
    Completion,
    /// H5.
    NothingTwice,
    /// One call for a row.
    OneCall,
    /// Capacity.
    Room,
    /// At the end of one that completed.
    CompletedOwns,
    /// At the end of one that did not.
    NothingLeft,
    /// At every end.
    NothingHeld,
    /// Every state has a way on.
    NoDeadEnd,
    /// Every state has a way to an end.
    EndsAlways,
}

impl Property {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Transitions,
        Self::OneWinner,
        Self::Completion,
        Self::NothingTwice,
        Self::OneCall,
        Self::Room,
        Self::CompletedOwns,
        Self::NothingLeft,
        Self::NothingHeld,
        Self::NoDeadEnd,
        Self::EndsAlways,
    ];

    /// What it says.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Transitions => "every change of state is in the table, and begins where the last one ended",
            Self::OneWinner => "at most one attempt wins, and none once the request is cancelled or failed (H7)",
            Self::Completion => "endpoints and service.activated appear once, with provisioning.completed (H33)",
            Self::NothingTwice => "nothing is made anew while what an earlier try made in time is there (H5)",
            Self::OneCall => "one worker never has two calls under way for one row",
            Self::Room => "a cluster's room is what its unreleased attempts leave, and its budget stays within its bounds (H31)",
            Self::CompletedOwns => {
                "a completed request owns exactly one live object for each role of its winner, and nothing else lives (H6)"
            }
            Self::NothingLeft => "nothing lives of a request that was rolled back",
            Self::NothingHeld => "at an end no lease is held, nothing is due, and no row waits to be released",
            Self::NoDeadEnd => "every state that is no end has a way on",
            Self::EndsAlways => "from every state an end can be reached",
        }
    }
}

/// Checks one step: the facts and the calls that came of it, and the state after it.
pub(super) fn step(before: &World, after: &World, events: &[Event], calls: &[Call]) -> Result<(), (Property, String)> {
    transitions(before, events)?;
    winner(before, after)?;
    completion(after, events)?;
    for call in calls {
        nothing_twice(after, call)?;
    }
    one_call(after)?;
    room(after)
}

fn transitions(before: &World, events: &[Event]) -> Result<(), (Property, String)> {
    let mut state = before.row.run.state;
    for event in events {
        let Some(to) = event.to_state else { continue };
        if event.from_state != Some(state) || !is_allowed(event.from_state, to) {
            return Err((Property::Transitions, format!("{:?} to {to:?} from {state:?}", event.from_state)));
        }
        state = to;
    }
    Ok(())
}

fn winner(before: &World, after: &World) -> Result<(), (Property, String)> {
    let (old, new) = (&before.row.run, &after.row.run);
    let won = new.attempts.iter().filter(|a| a.state == AttemptState::Won).count();
    let late = old.winner.is_none() && new.winner.is_some() && !(old.state.is_working() || old.state == State::Queued);
    let changed = old.winner.is_some() && old.winner != new.winner;
    if won > 1 || late || changed || (new.winner.is_some() != (won == 1)) {
        return Err((Property::OneWinner, format!("{won} won; state before {:?}", old.state)));
    }
    Ok(())
}

fn completion(after: &World, events: &[Event]) -> Result<(), (Property, String)> {
    let count = |kind| events.iter().filter(|e| e.kind == kind).count();
    let (activated, completed) = (count(EventKind::ServiceActivated), count(EventKind::Completed));
    let shows = |e: &&Event| !e.endpoints.is_empty() && !matches!(e.kind, EventKind::ServiceActivated | EventKind::Completed);
    if activated != completed || activated > 1 || events.iter().any(|e| shows(&e)) {
        return Err((Property::Completion, format!("{activated} activated, {completed} completed")));
    }
    if after.row.run.winner.is_none() && !after.row.run.endpoints().is_empty() {
        return Err((Property::Completion, "endpoints without a winner".to_owned()));
    }
    Ok(())
}

fn nothing_twice(world: &World, call: &Call) -> Result<(), (Property, String)> {
    let (true, Task::Perform(work)) = (creates(call), &call.task) else { return Ok(()) };
    let tag = work.tag.as_ref().map(ToString::to_string).unwrap_or_default();
    let earlier = world
        .row
        .run
        .ledger
        .iter()
        .filter(|r| Some(r.attempt) == work.attempt && r.operation == work.operation && r.tag.as_str() != tag);
    for row in earlier {
        let in_time = row.send_by.plus(row.call_limit);
        if world.objects.iter().any(|o| o.tag == row.tag.as_str() && o.since <= in_time) {
            return Err((Property::NothingTwice, format!("{} is made anew beside {}", work.operation, row.name)));
        }
    }
    Ok(())
}

fn one_call(world: &World) -> Result<(), (Property, String)> {
    let mut seen = std::collections::BTreeSet::new();
    for flight in &world.flights {
        let row = match &flight.call.key {
            CallKey::Look { row, .. } | CallKey::Release { row, .. } => Some(*row),
            CallKey::Operation { .. } | CallKey::Action { .. } => {
                let Task::Perform(work) = &flight.call.task else { continue };
                let tag = work.tag.as_ref().map(|t| t.as_str().to_owned());
                world.row.run.ledger.iter().find(|r| Some(r.tag.as_str()) == tag.as_deref()).map(|r| r.id)
            }
        };
        // A row that is closed or given up by now is another one's affair.
        let open = row.filter(|id| world.row.run.ledger.iter().any(|r| r.id == *id && !r.is_closed()));
        if let Some(id) = open
            && !seen.insert((flight.worker, id))
        {
            return Err((Property::OneCall, format!("two calls for {id}")));
        }
    }
    Ok(())
}

fn room(world: &World) -> Result<(), (Property, String)> {
    for place in &world.places {
        let held = world.row.run.attempts.iter().filter(|a| a.cluster == place.id && a.released_at.is_none()).count();
        if place.room as usize + held != ROOM as usize || !(0..=budget::FULL).contains(&place.budget) {
            return Err((Property::Room, format!("{} has room {} with {held} attempts", place.name, place.room)));
        }
    }
    Ok(())
}

/// Whether this is an end: nothing will happen any more unless somebody asks for something.
pub(super) fn is_end(world: &World) -> bool {
    let rests = matches!(world.row.run.state, State::Completed | State::RolledBack);
    rests && world.flights.is_empty() && world.coming.is_empty() && world.row.due == Timestamp::NEVER
}

/// Checks an end.
pub(super) fn end(world: &World) -> Result<(), (Property, String)> {
    let run = &world.row.run;
    let open: Vec<_> = run.ledger.iter().filter(|r| !r.is_closed()).collect();
    let mut live: Vec<&str> = world.objects.iter().map(|o| o.tag.as_str()).collect();
    live.sort_unstable();
    if run.state == State::RolledBack {
        if !live.is_empty() || run.outcome == Some(Outcome::Completed) {
            return Err((Property::NothingLeft, format!("left: {live:?}")));
        }
    } else {
        let mut owned: Vec<&str> = open.iter().filter(|r| Some(r.attempt) == run.winner).map(|r| r.tag.as_str()).collect();
        owned.sort_unstable();
        let winner = run.attempts.iter().find(|a| Some(a.id) == run.winner);
        let roles: std::collections::BTreeSet<_> =
            winner.iter().flat_map(|a| &a.operations).filter(|o| o.planned.makes.is_some()).map(|o| &o.planned.name).collect();
        if live != owned || owned.len() != roles.len() {
            return Err((Property::CompletedOwns, format!("lives: {live:?}, owned: {owned:?}, roles: {}", roles.len())));
        }
    }
    let unreleased = open.iter().any(|r| r.unwanted || r.busy.is_some() || r.in_doubt);
    if world.row.worker.is_some() || unreleased || (run.state == State::RolledBack && !open.is_empty()) {
        return Err((Property::NothingHeld, format!("held by {:?}, open rows {}", world.row.worker, open.len())));
    }
    Ok(())
}
