//! What the requests of a world teach of how long things take: the shipping fold over the facts that core tells, as the
//! reader of the log does it (SPEC 3.3), in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::deadline::{Class, Key, ended};
use provisor_core::event::Event;
use provisor_core::known::Known;
use provisor_core::{Span, Timestamp};

/// What was taken in is known to everybody so much later, at most. A real reader takes two seconds.
const EVERY: Span = Span::seconds(300);

/// The classes, and what is known of them by now.
#[derive(Default)]
pub(super) struct Lessons {
    classes: BTreeMap<Key, Class>,
    changed: BTreeSet<Key>,
    told_at: Timestamp,
    known: Arc<Known>,
}

impl Lessons {
    pub(super) fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known)
    }

    /// Takes in what was told.
    pub(super) fn take_in(&mut self, events: &[Event], now: Timestamp) {
        for (key, lesson) in events.iter().filter_map(|e| ended(e.kind, e.step.as_deref(), &e.detail)) {
            for class in key.chain() {
                self.classes.entry(class.clone()).or_default().learn(&lesson, now);
                self.changed.insert(class);
            }
        }
        if now.since(self.told_at) >= EVERY {
            self.told_at = now;
            let changed = std::mem::take(&mut self.changed);
            let figures = changed.into_iter().filter_map(|key| self.classes.get(&key).map(|c| (key.clone(), c.figures())));
            Arc::make_mut(&mut Arc::make_mut(&mut self.known).deadlines).update(figures);
        }
    }
}
