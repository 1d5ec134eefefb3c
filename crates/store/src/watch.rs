//! Whether the database can be used, told once when it ends and once when it comes back.
//!
//! A full disk or a server that is away fails every operation of every part at once. Each says so to its caller and
//! tries again; the log has one line that says what and where, and one when it is over. On a full disk small writes
//! still find room now and then, so it is over only when nothing has failed for a while. Rejected: a line of each part
//! for each try, thousands a minute that all say the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use provisor_core::{Span, Timestamp};

use crate::op::{Mode, OpError};

/// An outage is over when nothing has failed for so long.
const QUIET: Span = Span::seconds(5);

struct Down {
    writing: bool,
    since: Timestamp,
    last: Timestamp,
    refused: u64,
}

/// What is known of one database.
pub(crate) struct Watch {
    place: String,
    /// Before a server serves, whoever starts it is told why it cannot.
    tells: AtomicBool,
    /// Whether `down` is something, so that the usual case takes no lock.
    is_down: AtomicBool,
    down: Mutex<Option<Down>>,
}

impl Watch {
    pub(crate) fn of(place: String) -> Self {
        Self { place, tells: AtomicBool::new(false), is_down: AtomicBool::new(false), down: Mutex::new(None) }
    }

    pub(crate) fn tell(&self) {
        self.tells.store(true, Ordering::Relaxed);
    }

    /// Takes in how an operation ended.
    pub(crate) fn note<T>(&self, mode: Mode, answer: &Result<T, OpError>, now: Timestamp) {
        let outage = answer.as_ref().err().filter(|e| e.is_outage());
        if outage.is_none() && !self.is_down.load(Ordering::Relaxed) || !self.tells.load(Ordering::Relaxed) {
            return;
        }
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        let writing = mode == Mode::Write;
        match (outage, down.as_mut()) {
            (Some(_), Some(down)) => {
                down.refused = down.refused.saturating_add(1);
                down.last = now;
                down.writing |= writing;
            }
            (Some(error), None) => {
                let what = if writing { "written to" } else { "read" };
                tracing::error!(database = %self.place, %error, "the database cannot be {what}; it is tried again until it can");
                *down = Some(Down { writing, since: now, last: now, refused: 1 });
                self.is_down.store(true, Ordering::Relaxed);
            }
            // On a full disk reads go on: they prove nothing about writes.
            (None, Some(over)) if (writing || !over.writing) && now.since(over.last) >= QUIET => {
                let seconds = over.last.since(over.since).0 / 1_000_000;
                tracing::info!(database = %self.place, seconds, refused = over.refused, "the database can be used again");
                *down = None;
                self.is_down.store(false, Ordering::Relaxed);
            }
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_outage_is_over_when_writes_have_gone_well_for_a_while() {
        let watch = Watch::of("here".to_owned());
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        let full = || Err::<(), _>(OpError::Database("full".to_owned()));
        let refused = || watch.down.lock().unwrap().as_ref().map(|d| d.refused);
        watch.note(Mode::Write, &full(), at(1));
        assert_eq!(refused(), None, "nobody is told while it starts");
        watch.tell();
        watch.note(Mode::Write, &Err::<(), _>(OpError::Fenced), at(1));
        assert_eq!(refused(), None, "a refusal is an answer");
        watch.note(Mode::Read, &full(), at(1));
        watch.note(Mode::Read, &Ok(()), at(6));
        assert_eq!(refused(), None);
        watch.note(Mode::Write, &full(), at(10));
        watch.note(Mode::Write, &Ok(()), at(11));
        watch.note(Mode::Write, &full(), at(12));
        watch.note(Mode::Write, &Ok(()), at(16));
        assert_eq!(refused(), Some(2), "a small write found room");
        watch.note(Mode::Read, &Ok(()), at(20));
        assert_eq!(refused(), Some(2), "reads prove nothing about writes");
        watch.note(Mode::Write, &Err::<(), _>(OpError::Fenced), at(20));
        assert_eq!(refused(), None);
    }
}
