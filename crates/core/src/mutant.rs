//! Deliberately broken variants of what holds everything together, to prove that the simulator finds such things.
//!
//! Compiled in only with the feature `mutants`, which nothing that ships has; without it [`on`] is `false` at compile
//! time, and nothing is left of the places that ask. At most one is switched on at a time, for one thread, by the
//! simulator (docs/simulator.md). Rejected: a tool that changes the source at random, which builds everything anew for
//! each variant and mostly breaks what nobody would break.

macro_rules! mutants {
    ($($name:ident $sentence:literal;)*) => {
        /// What is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Mutant { $(#[doc = $sentence] $name,)* }
        impl Mutant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// What is broken, in words.
            pub fn sentence(self) -> &'static str { match self { $(Self::$name => $sentence,)* } }
            /// Its name.
            pub fn name(self) -> &'static str { match self { $(Self::$name => stringify!($name),)* } }
        }
    };
}

mutants! {
    NoFence "A settlement is taken from whoever sends it, whatever lease it had.";
    NoDoubt "A lost answer of a create counts as a create that failed.";
    NoAdoption "What is found by its tag is not adopted: it is made again.";
    NoUndo "A security group or a machine is taken for released without being told to go.";
    QuotaKept "The end of a request gives no quota back.";
    CapacityKept "The end of an attempt gives no capacity back.";
    NoSweep "The sweeper releases nothing that comes late.";
    NoSendBy "A create is sent however late it is.";
    NoPrerequisites "The claim does not look at prerequisites.";
    BlindHeartbeat "A heartbeat extends every lease of its worker, also those that it has never heard of.";
    NoIdempotency "An idempotency key is not remembered.";
    ForgottenCalls "Calls that a lost settlement handed out are not asked for anew.";
}

/// Whether this is broken now.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
#[allow(clippy::inline_always)] // so that nothing is left of it
pub const fn on(_: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
pub use armed::{on, set};

#[cfg(feature = "mutants")]
mod armed {
    //! The switch, where it is compiled in.

    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Breaks one thing for this thread, or none.
    pub fn set(mutant: Option<Mutant>) {
        BROKEN.set(mutant);
    }

    /// Whether this is broken now.
    pub fn on(mutant: Mutant) -> bool {
        BROKEN.get() == Some(mutant)
    }
}
