//! Named points where a test may stop the process as kill -9 would, to see what a restart makes of it.
//!
//! Compiled in only with the feature `crash-points`; without it a point is nothing at all. With it, a process
//! that has `PROVISOR_CRASH_AT=point:operation[:nth]` in its environment aborts there, and a test that has
//! [`set`] a trap gets told and the task that came there never goes on: dropping the engine is then the
//! crash, thousands of them in one process. Rejected: kills at random moments alone, because the short
//! moments between two writes are what they seldom hit.

#[cfg(not(feature = "crash-points"))]
use std::borrow::Cow;
#[cfg(feature = "crash-points")]
use std::collections::BTreeMap;

#[cfg(feature = "crash-points")]
use provisor_core::workflow::CallKey;
use provisor_core::workflow::{Answer, Call};

/// A place in the engine's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// Requests are admitted, and nobody was told.
    AfterAdmit,
    /// A command is stored, and nobody was told.
    AfterCommand,
    /// A request is claimed, its calls are handed out, and nothing has begun.
    AfterClaim,
    /// The intent of a call is durable; it is not sent yet.
    AfterIntent,
    /// The provider has answered; nothing is stored of that.
    AfterCall,
    /// Something is under way at the provider, which was told to wait for.
    WithinWait,
    /// The answer is about to be stored.
    BeforeSettle,
    /// The answer is stored; what comes next has not begun.
    AfterSettle,
    /// A sweep has found something that it may release, and noted nothing yet.
    BeforeSweepRelease,
    /// A sweep has noted that something came back, and not released it yet.
    WithinSweep,
    /// A sweep has released something, and noted nothing of it.
    AfterSweepRelease,
    /// A reader has read a page of the log, and not moved on.
    WithinAdvance,
    /// A reader has moved on in the log, and nobody was told what it made of it.
    AfterAdvance,
}

impl Point {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::AfterAdmit,
        Self::AfterCommand,
        Self::AfterClaim,
        Self::AfterIntent,
        Self::AfterCall,
        Self::WithinWait,
        Self::BeforeSettle,
        Self::AfterSettle,
        Self::BeforeSweepRelease,
        Self::WithinSweep,
        Self::AfterSweepRelease,
        Self::WithinAdvance,
        Self::AfterAdvance,
    ];

    /// Its name in `PROVISOR_CRASH_AT`.
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterAdmit => "after-admit",
            Self::AfterCommand => "after-command",
            Self::AfterClaim => "after-claim",
            Self::AfterIntent => "after-intent",
            Self::AfterCall => "after-call",
            Self::WithinWait => "within-wait",
            Self::BeforeSettle => "before-settle",
            Self::AfterSettle => "after-settle",
            Self::BeforeSweepRelease => "before-sweep-release",
            Self::WithinSweep => "within-sweep",
            Self::AfterSweepRelease => "after-sweep-release",
            Self::WithinAdvance => "within-advance",
            Self::AfterAdvance => "after-advance",
        }
    }
}

/// The engine is at a point of an operation, whose name is asked for only where it matters.
#[cfg(not(feature = "crash-points"))]
#[inline(always)]
#[allow(clippy::inline_always, clippy::unused_async)] // so that nothing is left of it
pub(crate) async fn at<'a>(_: Point, _: impl FnOnce() -> Cow<'a, str>) {}

/// Which operation a call is of, for the points where only the call's key is known. Empty in other builds.
#[derive(Default)]
pub(crate) struct Names {
    #[cfg(feature = "crash-points")]
    by_key: BTreeMap<CallKey, String>,
}

#[cfg(not(feature = "crash-points"))]
#[allow(clippy::unused_self, clippy::unused_async)] // so that nothing is left of it
impl Names {
    pub(crate) fn note(&mut self, _: &Call) {}
    pub(crate) async fn at(&self, _: Point, _: &[Answer]) {}
}

#[cfg(feature = "crash-points")]
impl Names {
    /// A call is handed out.
    pub(crate) fn note(&mut self, call: &Call) {
        self.by_key.insert(call.key.clone(), crate::call::name(call).into_owned());
    }

    /// The engine is at a point of the operations that these are the answers of.
    pub(crate) async fn at(&self, point: Point, answers: &[Answer]) {
        for name in answers.iter().filter_map(|a| self.by_key.get(&a.key)) {
            at(point, || name.as_str().into()).await;
        }
    }
}

#[cfg(feature = "crash-points")]
pub(crate) use armed::at;
#[cfg(feature = "crash-points")]
pub use armed::{Trap, set};

#[cfg(feature = "crash-points")]
mod armed {
    //! What the points do where they are compiled in.

    use std::borrow::Cow;
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, OnceLock};

    use tokio::sync::Notify;

    use super::Point;

    /// Where to stop: at this point, at this operation, the so-manieth time.
    #[derive(Debug)]
    pub struct Trap {
        point: String,
        operation: String,
        nth: u32,
        seen: AtomicU32,
        hit: Notify,
    }

    thread_local! {
        static TRAP: RefCell<Option<Arc<Trap>>> = const { RefCell::new(None) };
    }

    impl Trap {
        fn new(point: &str, operation: &str, nth: u32) -> Self {
            Self { point: point.to_owned(), operation: operation.to_owned(), nth, seen: AtomicU32::new(0), hit: Notify::new() }
        }

        /// Waits until the engine has come there.
        pub async fn sprung(&self) {
            self.hit.notified().await;
        }

        fn takes(&self, point: Point, operation: &str) -> bool {
            let fits = self.point == point.name() && (self.operation == "*" || self.operation == operation);
            fits && self.seen.fetch_add(1, Ordering::SeqCst) + 1 == self.nth
        }
    }

    /// Sets a trap for every engine on this thread, instead of the last one. `nth` counts from 1.
    pub fn set(point: Point, operation: &str, nth: u32) -> Arc<Trap> {
        let trap = Arc::new(Trap::new(point.name(), operation, nth));
        TRAP.with_borrow_mut(|t| *t = Some(Arc::clone(&trap)));
        trap
    }

    /// `point:operation[:nth]`.
    fn of_environment() -> Option<&'static Trap> {
        static TRAP: OnceLock<Option<Trap>> = OnceLock::new();
        let read = || {
            let text = std::env::var("PROVISOR_CRASH_AT").ok()?;
            let mut parts = text.split(':');
            let (point, operation) = (parts.next()?, parts.next()?);
            Some(Trap::new(point, operation, parts.next().and_then(|n| n.parse().ok()).unwrap_or(1)))
        };
        TRAP.get_or_init(read).as_ref()
    }

    /// The engine is at a point of an operation.
    pub(crate) async fn at<'a>(point: Point, operation: impl FnOnce() -> Cow<'a, str>) {
        let operation = &operation();
        if of_environment().is_some_and(|trap| trap.takes(point, operation)) {
            std::process::abort();
        }
        let trap = TRAP.with_borrow(|t| t.clone().filter(|t| t.takes(point, operation)));
        if let Some(trap) = trap {
            trap.hit.notify_one();
            std::future::pending::<()>().await;
        }
    }
}
