//! How the log is written: one row for all that one transaction tells of one request, in the order in which it
//! happened. Readers take it apart again, so nobody outside sees rows.
//!
//! A row knows the version and the place of its last event, and how many they are; what an event has by its place in the
//! row is not stored: its version, its position, its sequence and its id, which are counted on from the row's. Its text has
//! a line for each event, and a line before them with what they share: who did it, the attempt that they are about, and the
//! request as published events show it, whose state follows from the changes of state that the events tell. Lines, so that who looks for one event in
//! a hundred does not read the ninety-nine.
//!
//! Why: a row and its indexes cost far more than what is in it, and a request that asks nobody tells ten things and
//! more in one transaction. Rejected: a row for each event (most of the database's work was that); ids in the row
//! (twenty random numbers say no more than one).

use provisor_core::event::{Actor, Event, EventKind};
use provisor_core::{AttemptId, EventId, Kind, RequestId, Run, State, Timestamp};
use serde::{Deserialize, Serialize};

use super::log::{Entry, EntryRequest};
use crate::op::OpError;
use crate::tx::{Stmt, each};
use crate::value::{Row, Val, to_json};

/// ?1 id of the first event, ?2 request, ?3 version of the last, ?4 how many, ?5 sequence of the last published, ?6
/// tenant, ?7 when, ?8 document. SQLite has one writer, so a row's place follows from the last one's; PostgreSQL's rows get
/// theirs from whoever reads next (see [`super::log`]).
pub(crate) const INSERT: Stmt = each(
    "insert into event (position, id, subject, version, count, sequence, tenant, at, body) \
     values (max(coalesce((select max(position) from event), 0), (select position from log_start)) + ?4, \
     ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    "insert into event (id, subject, version, count, sequence, tenant, at, body) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
);

/// What one transaction tells of one request.
pub(crate) struct Told<'a> {
    /// The request as it is after it.
    pub run: &'a Run,
    /// Its tenant's name, as the events show it for ever.
    pub tenant: &'a str,
    /// Its state before it.
    pub before: State,
    /// Its events before it.
    pub version: i64,
    /// The published ones of them.
    pub published: i64,
    /// When.
    pub at: Timestamp,
    /// What it tells; at least one event.
    pub events: Vec<Event>,
}

/// The first line: what the events share.
#[derive(Serialize, Deserialize)]
struct Shared {
    /// Only where one of them is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<Shown>,
    /// Where all were done by one; else each names its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<Actor>,
    /// Where all that are about an attempt are about one: its id is a fifth of such a row when each repeats it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    attempt: Option<AttemptId>,
    /// The places of those that are about no attempt, where the others are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    about_none: Vec<usize>,
}

impl Shared {
    /// Takes out of the events what they share.
    fn take_from(events: &mut [Event]) -> Self {
        let mut shared = Self { request: None, actor: None, attempt: None, about_none: Vec::new() };
        let first = events.first().and_then(|e| e.actor.clone());
        if let Some(actor) = first.filter(|first| events.iter().all(|e| e.actor.as_ref() == Some(first))) {
            for event in &mut *events {
                event.actor = None;
            }
            shared.actor = Some(actor);
        }
        let attempt = events.iter().find_map(|e| e.attempt);
        if attempt.is_some() && events.iter().all(|e| e.attempt.is_none() || e.attempt == attempt) {
            let places = events.iter().enumerate();
            shared.about_none = places.filter(|(_, e)| e.attempt.is_none()).map(|(place, _)| place).collect();
            for event in &mut *events {
                event.attempt = None;
            }
            shared.attempt = attempt;
        }
        shared
    }

    /// Gives it back to the event at a place.
    fn give_to(&self, event: &mut Event, place: usize) {
        if event.actor.is_none() {
            event.actor.clone_from(&self.actor);
        }
        if event.attempt.is_none() && !self.about_none.contains(&place) {
            event.attempt = self.attempt;
        }
    }
}

/// Where an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// In the log.
    pub position: i64,
    /// Among all of its request.
    pub version: i64,
    /// Among the published ones of its request.
    pub sequence: Option<i64>,
    /// What it tells.
    pub kind: EventKind,
}

/// The request as published events show it.
#[derive(Serialize, Deserialize)]
struct Shown {
    name: String,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    /// Before the first event.
    state: State,
}

/// The row's values for [`INSERT`], and the request's counts of events and of published ones after it.
pub(crate) fn values(mut told: Told<'_>, id: EventId) -> Result<(Vec<Val>, i64, i64), OpError> {
    let published = count(told.events.iter().filter(|e| e.kind.is_published()).count());
    let many = count(told.events.len());
    let spec = &told.run.spec;
    let mut shared = Shared::take_from(&mut told.events);
    shared.request = (published > 0).then(|| Shown {
        name: spec.name.clone(),
        kind: spec.kind,
        order_id: spec.order_id.clone(),
        state: told.before,
    });
    let mut body = to_json(&shared)?;
    for event in &told.events {
        body.push('\n');
        body.push_str(&to_json(event)?);
    }
    let (version, sequence) = (told.version + many, told.published + published);
    let row = vec![
        id.into(),
        told.run.id.into(),
        version.into(),
        many.into(),
        (published > 0).then_some(sequence).into(),
        told.tenant.into(),
        told.at.0.into(),
        body.into(),
    ];
    Ok((row, version, sequence))
}

/// The columns that [`entries`] reads, after the place of the row's last event.
macro_rules! columns {
    () => {
        "event.id, event.subject, event.version, event.count, event.sequence, event.tenant, event.at, event.body"
    };
}
pub(crate) use columns;

/// Takes a row apart: those of its events that are wanted, oldest first.
pub(crate) fn entries(row: &Row, wanted: impl Fn(&Standing) -> bool) -> Result<Vec<Entry>, OpError> {
    let lines = Lines::of(row)?;
    // Read where it is needed: of most rows nothing is wanted where few kinds are.
    let mut taken: Option<Taken<'_>> = None;
    for (index, standing) in lines.standings(row)?.into_iter().enumerate().filter(|(_, s)| wanted(s)) {
        let taken = match &mut taken {
            Some(taken) => taken,
            none => none.insert(Taken::of(row, &lines)?),
        };
        taken.add(standing, index)?;
    }
    Ok(taken.map_or_else(Vec::new, |t| t.entries))
}

/// A row with where its events stand, which are read when they are asked for.
#[derive(Debug)]
pub struct LogRow {
    row: Row,
    subject: RequestId,
    standings: Vec<Standing>,
}

impl LogRow {
    pub(crate) fn of(row: Row) -> Result<Self, OpError> {
        let standings = Lines::of(&row)?.standings(&row)?;
        Ok(Self { subject: row.id(2)?, row, standings })
    }

    /// The request that it is about.
    pub fn subject(&self) -> RequestId {
        self.subject
    }

    /// Its events, oldest first.
    pub fn standings(&self) -> &[Standing] {
        &self.standings
    }

    /// The position of its last event.
    pub fn position(&self) -> i64 {
        self.standings.last().map_or(0, |s| s.position)
    }

    /// One of its events.
    pub fn entry(&self, standing: &Standing) -> Result<Entry, OpError> {
        let found = entries(&self.row, |s| s == standing)?;
        found.into_iter().next().ok_or(OpError::NotFound("event"))
    }
}

/// The text of a row: what its events share, and each event with its kind.
struct Lines<'a> {
    shared: &'a str,
    events: Vec<(EventKind, &'a str)>,
}

impl<'a> Lines<'a> {
    fn of(row: &'a Row) -> Result<Self, OpError> {
        let mut lines = row.text(8)?.lines();
        let shared = lines.next().unwrap_or_default();
        Ok(Self { shared, events: lines.map(|line| Ok((kind_of(line)?, line))).collect::<Result<_, OpError>>()? })
    }

    fn standings(&self, row: &Row) -> Result<Vec<Standing>, OpError> {
        let many = count(self.events.len());
        if many != row.int(4)? {
            return Err(OpError::Corrupt(format!("{many} events of {} in a row of {}", row.text(2)?, row.int(4)?)));
        }
        let published = count(self.events.iter().filter(|(kind, _)| kind.is_published()).count());
        let (mut position, mut version) = (row.int(0)? - many, row.int(3)? - many);
        let mut sequence = row.opt_int(5)?.unwrap_or(0) - published;
        let standing = |(kind, _): &(EventKind, &str)| {
            position += 1;
            version += 1;
            sequence += i64::from(kind.is_published());
            Standing { position, version, sequence: kind.is_published().then_some(sequence), kind: *kind }
        };
        Ok(self.events.iter().map(standing).collect())
    }
}

/// The kind of the event in a line, which begins with it, without reading the line.
fn kind_of(line: &str) -> Result<EventKind, OpError> {
    let name = line.strip_prefix("{\"kind\":\"").and_then(|rest| rest.split('"').next());
    name.and_then(EventKind::parse).ok_or_else(|| OpError::Corrupt("a line of the log begins with no kind of event".to_owned()))
}

/// What is taken of a row.
struct Taken<'a> {
    lines: &'a Lines<'a>,
    /// Lines that the state is known of.
    told: usize,
    state: Option<State>,
    shared: Shared,
    id: EventId,
    subject: RequestId,
    tenant: String,
    at: Timestamp,
    entries: Vec<Entry>,
}

/// As much of an event as the request's state takes.
#[derive(Deserialize)]
struct Change {
    to_state: Option<State>,
}

impl<'a> Taken<'a> {
    fn of(row: &Row, lines: &'a Lines<'a>) -> Result<Self, OpError> {
        let (id, subject, tenant) = (row.id(1)?, row.id(2)?, row.text(6)?.to_owned());
        let shared: Shared = read(lines.shared)?;
        let state = shared.request.as_ref().map(|r| r.state);
        Ok(Self { lines, told: 0, state, shared, id, subject, tenant, at: Timestamp(row.int(7)?), entries: Vec::new() })
    }

    fn add(&mut self, standing: Standing, index: usize) -> Result<(), OpError> {
        for (_, line) in self.lines.events.iter().take(index).skip(self.told).filter(|(_, line)| line.contains("\"to_state\":")) {
            self.state = read::<Change>(line)?.to_state.or(self.state);
        }
        let mut body: Event = read(self.lines.events.get(index).map_or("", |(_, line)| line))?;
        self.state = body.to_state.or(self.state);
        self.told = index + 1;
        self.shared.give_to(&mut body, index);
        let Standing { position, version, sequence, kind } = standing;
        let shown = self.shared.request.as_ref().zip(self.state).filter(|_| sequence.is_some());
        let request = shown.map(|(shown, state)| EntryRequest {
            name: shown.name.clone(),
            kind: shown.kind,
            state,
            order_id: shown.order_id.clone(),
        });
        let id = self.id.following(u64::try_from(index).unwrap_or(u64::MAX));
        let (subject, tenant, at) = (self.subject, self.tenant.clone(), self.at);
        self.entries.push(Entry { position, id, subject, version, sequence, kind, tenant, at, body, request });
        Ok(())
    }
}

fn read<'a, T: Deserialize<'a>>(line: &'a str) -> Result<T, OpError> {
    serde_json::from_str(line).map_err(|e| OpError::Corrupt(e.to_string()))
}

fn count(many: usize) -> i64 {
    i64::try_from(many).unwrap_or(i64::MAX)
}
