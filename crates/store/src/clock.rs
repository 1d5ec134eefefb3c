//! The store's clock (H40): lease ends, due times and event times all come from it.
//!
//! On SQLite it is the wall time at opening plus the monotonic time since, so that a corrected system
//! clock neither ends leases early nor dates an event before its cause. Rejected: asking the system's
//! wall clock each time, which can go back. On PostgreSQL it is the server's, the same for all processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use provisor_core::{Span, Timestamp};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Wall time now plus the monotonic time since; begins no earlier than `floor`, the last time that the
/// store has seen.
#[allow(clippy::disallowed_methods)] // This is the port that time comes from.
pub fn wall(floor: Timestamp) -> Clock {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros);
    let (start, opened) = (Timestamp(wall.max(floor.0)), Instant::now());
    Arc::new(move || start.plus(Span(micros(opened.elapsed()))))
}

/// The time of a tokio runtime, which stands still or jumps in tests with a paused clock: `start` now and
/// the runtime's time since.
pub fn of_runtime(start: Timestamp) -> Clock {
    let opened = tokio::time::Instant::now();
    Arc::new(move || start.plus(Span(micros(opened.elapsed()))))
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// A clock that is moved by hand.
#[derive(Debug, Default)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: Timestamp) -> Arc<Self> {
        Arc::new(Self(AtomicI64::new(start.0)))
    }

    /// Moves it on.
    pub fn advance(&self, span: Span) {
        self.0.fetch_add(span.0, Ordering::SeqCst);
    }

    /// Where it stands.
    pub fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }

    /// As the store takes it.
    pub fn clock(self: &Arc<Self>) -> Clock {
        let this = Arc::clone(self);
        Arc::new(move || this.now())
    }
}

/// A server's clock between two looks at it: what it said last, and the monotonic time since. Never goes
/// back. A clock that the caller gives takes the place of the server's.
pub(crate) struct Carried {
    opened: Instant,
    /// The server's time less ours, in microseconds; `UNSEEN` before the first look.
    ahead: AtomicI64,
    /// Our time at the last look.
    looked: AtomicI64,
    last: AtomicI64,
    given: Option<Clock>,
}

/// So long after a look the server's clock is carried on without another one.
const FRESH: i64 = 1_000_000;
const UNSEEN: i64 = i64::MIN;
/// A clock that jumps by more than this is told of (H40).
const SKEW_TOLD: i64 = 2_000_000;

#[allow(clippy::disallowed_methods)] // This is the port that time comes from.
impl Carried {
    pub(crate) fn new(given: Option<Clock>) -> Self {
        Self {
            opened: Instant::now(),
            ahead: AtomicI64::new(UNSEEN),
            looked: AtomicI64::new(UNSEEN),
            last: AtomicI64::new(i64::MIN),
            given,
        }
    }

    /// Whether the last look was a moment ago.
    pub(crate) fn is_fresh(&self) -> bool {
        let looked = self.looked.load(Ordering::SeqCst);
        looked != UNSEEN && self.elapsed().saturating_sub(looked) < FRESH
    }

    /// Our own monotonic time, for [`Carried::note`].
    pub(crate) fn elapsed(&self) -> i64 {
        micros(self.opened.elapsed())
    }

    /// Takes in what the server has just told, asked at `sent`; answers the time for its transaction.
    pub(crate) fn note(&self, told: Timestamp, sent: i64) -> Timestamp {
        self.looked.store(self.elapsed(), Ordering::SeqCst);
        let ahead = told.0.saturating_sub(i64::midpoint(sent, self.elapsed()));
        let before = self.ahead.swap(ahead, Ordering::SeqCst);
        if before != UNSEEN && ahead.abs_diff(before) > SKEW_TOLD.unsigned_abs() {
            tracing::warn!(jump_microseconds = ahead.saturating_sub(before), "the database server's clock has jumped");
        }
        self.forwards(self.given.as_ref().map_or(told.0, |clock| clock().0))
    }

    pub(crate) fn now(&self) -> Timestamp {
        let carried = || self.elapsed().saturating_add(self.ahead.load(Ordering::SeqCst));
        self.forwards(self.given.as_ref().map_or_else(carried, |clock| clock().0))
    }

    fn forwards(&self, now: i64) -> Timestamp {
        Timestamp(self.last.fetch_max(now, Ordering::SeqCst).max(now))
    }
}

/// A clock that never goes back, whatever its source does.
pub(crate) struct Forwards {
    source: Clock,
    last: AtomicI64,
}

impl Forwards {
    pub(crate) fn new(source: Clock) -> Self {
        Self { source, last: AtomicI64::new(i64::MIN) }
    }

    pub(crate) fn now(&self) -> Timestamp {
        let now = (self.source)().0;
        Timestamp(self.last.fetch_max(now, Ordering::SeqCst).max(now))
    }
}
