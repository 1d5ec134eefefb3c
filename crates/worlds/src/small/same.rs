//! When two states are the same: what decides the future is equal, times taken from now, ids by their place.
//!
//! The document is taken as a whole and a list of what is only history is left out, so that a new field of it counts from
//! its first day. Rejected: a list of what counts, which would silently join states that differ in what was added later.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use provisor_core::Timestamp;
use provisor_core::workflow::{Call, CallKey};
use serde_json::Value;

use super::world::World;

/// What is only history, or the same in all states of a world.
const HISTORY: [&str; 22] = [
    "spec",
    "settings",
    "created_at",
    "provisioning_started_at",
    "ready_at",
    "termination_started_at",
    "terminated_at",
    "started_at",
    "finished_at",
    "released_at",
    "waits",
    "since",
    "at",
    "message",
    "calls",
    "name",
    "tag",
    "uid",
    "owed_since",
    "call_limit",
    "release_deadline",
    "downtime",
];
/// Moments that only matter while they are to come.
const TO_COME: [&str; 3] = ["next_at", "not_before", "throttled_until"];
/// Lists of tries: the last one counts, and whether it is open.
const TRIES: [&str; 2] = ["tries", "releases"];
/// Fencing tokens: the present one, or an earlier one.
const TOKENS: [&str; 2] = ["generation", "busy"];

/// The state's digest: two hashes of the same text, so that chance does not join what differs.
pub(super) fn digest(world: &World) -> (u64, u64) {
    let text = text(world);
    let hash = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        (salt, &text).hash(&mut hasher);
        hasher.finish()
    };
    (hash(1), hash(2))
}

/// Writes what counts.
struct Writer {
    out: String,
    ids: BTreeMap<String, usize>,
    now: Timestamp,
    generation: i64,
}

fn text(world: &World) -> String {
    let mut w =
        Writer { out: String::with_capacity(4096), ids: BTreeMap::new(), now: world.now, generation: world.row.generation };
    let document = serde_json::to_value(&world.row.run).unwrap_or_default();
    w.value("", &document, false);
    let row = &world.row;
    let due = row.due.max(world.now);
    w.put(format_args!("|{:?} {} {}", row.worker, w.ahead(due), row.attention));
    for hold in &world.holds {
        let told = hold.as_ref().map(|h| (row.generation - h.generation, w.ahead(h.wake_at.max(world.now)), h.frozen));
        w.put(format_args!("|{told:?}"));
    }
    let mut lines: Vec<String> = Vec::new();
    for flight in &world.flights {
        let (limit, call) = (w.ahead(flight.limit.max(world.now)), w.call(world, &flight.call));
        lines.push(format!("f{} {limit} {} {call}", flight.worker, flight.silent));
    }
    for coming in &world.coming {
        let (until, call) = (w.ahead(coming.until), w.call(world, &coming.call));
        lines.push(format!("c{until} {call}"));
    }
    for object in &world.objects {
        let age = world.now.since(object.since).min(super::world::settings().list_lag);
        lines.push(format!("o{} {} {}", place_of(world, &object.tag), object.kind, age.0));
    }
    lines.sort_unstable();
    w.out.push_str(&lines.join("|"));
    for place in &world.places {
        w.put(format_args!("|{} {}", place.room, place.budget));
    }
    w.put(format_args!("|{}", world.faults));
    w.out
}

/// A row by its tag: its place in the ledger.
fn place_of(world: &World, tag: &str) -> usize {
    world.row.run.ledger.iter().position(|r| r.tag.as_str() == tag).unwrap_or(usize::MAX)
}

impl Writer {
    fn put(&mut self, what: std::fmt::Arguments<'_>) {
        let done = self.out.write_fmt(what);
        debug_assert!(done.is_ok(), "a text takes any line");
    }

    fn ahead(&self, at: Timestamp) -> i64 {
        if at == Timestamp::NEVER { i64::MAX } else { at.0.saturating_sub(self.now.0) }
    }

    fn id(&mut self, text: &str) -> usize {
        let next = self.ids.len();
        *self.ids.entry(text.to_owned()).or_insert(next)
    }

    /// Where its answer belongs, and whether it still is the latest call there.
    fn call(&self, world: &World, call: &Call) -> String {
        let run = &world.row.run;
        let row = |id| run.ledger.iter().position(|r| r.id == id).unwrap_or(usize::MAX);
        let send_by = call.send_by.map(|at| self.ahead(at));
        match &call.key {
            CallKey::Operation { attempt, operation, number } => {
                let place = run.attempts.iter().position(|a| a.id == *attempt).unwrap_or(usize::MAX);
                let found = run.attempts.get(place).and_then(|a| a.operations.get(*operation));
                let latest = found.is_some_and(|o| o.calls == *number);
                let made = if let provisor_core::workflow::Task::Perform(work) = &call.task { work.tag.as_ref() } else { None };
                let made = made.map(|t| place_of(world, t.as_str()));
                format!("p{place} {operation} {latest} {made:?} {send_by:?}")
            }
            CallKey::Action { operation, .. } => format!("a{operation}"),
            CallKey::Look { row: id, number } => {
                let place = row(*id);
                format!("l{place} {}", run.ledger.get(place).is_some_and(|r| r.calls == *number))
            }
            CallKey::Release { row: id, number } => {
                let place = row(*id);
                format!("r{place} {}", run.ledger.get(place).is_some_and(|r| r.calls == *number))
            }
        }
    }

    /// `closed`: the value is a row of the ledger of which nothing more is to be done.
    fn value(&mut self, key: &str, value: &Value, closed: bool) {
        match value {
            Value::Object(map) => {
                let closed = map.get("state").and_then(Value::as_str) == Some("released");
                self.out.push('{');
                for (key, value) in map
                    .iter()
                    .filter(|(k, _)| !HISTORY.contains(&k.as_str()) || (k.as_str() == "name" && map.contains_key("step")))
                {
                    self.out.push_str(key);
                    self.out.push(':');
                    self.value(key, value, closed);
                    self.out.push(',');
                }
                self.out.push('}');
            }
            Value::Array(list) if TRIES.contains(&key) => self.tries(list),
            Value::Array(list) => {
                for item in list {
                    self.value(key, item, false);
                    self.out.push(';');
                }
            }
            Value::String(text) => self.text(key, text, closed),
            Value::Number(number) if TOKENS.contains(&key) => {
                let present = number.as_i64() == Some(self.generation);
                self.put(format_args!("{present}"));
            }
            other => self.put(format_args!("{other}")),
        }
    }

    fn tries(&mut self, list: &[Value]) {
        let open = list.last().is_some_and(|t| t.get("finished_at").is_none_or(Value::is_null));
        let began = list.last().and_then(|t| t.get("started_at")).and_then(Value::as_str).and_then(Timestamp::parse);
        let began = began.filter(|_| open).map(|at| self.ahead(at));
        let code = list.last().and_then(|t| t.get("error")).and_then(|e| e.get("code")).cloned();
        self.put(format_args!("{} {open} {began:?} {code:?}", list.len().min(2)));
    }

    fn text(&mut self, key: &str, text: &str, closed: bool) {
        if let Some(at) = Timestamp::parse(text) {
            // What is over asks for nothing any more.
            let ahead = match () {
                () if closed => 0,
                () if TO_COME.contains(&key) => self.ahead(at.max(self.now)),
                () => self.ahead(at),
            };
            self.put(format_args!("{ahead}"));
        } else if text.contains('_') && text.len() > 20 || key == "provider_id" {
            let id = self.id(text);
            self.put(format_args!("#{id}"));
        } else {
            self.out.push_str(text);
        }
    }
}
