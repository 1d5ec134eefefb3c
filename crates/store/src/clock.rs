//! The store's clock (H40): lease ends, due times and event times all come from it.
//!
//! On SQLite it is the wall time at opening plus the monotonic time since, so that a corrected system
//! clock neither ends leases early nor dates an event before its cause. Rejected: asking the system's
//! wall clock each time, which can go back.

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
