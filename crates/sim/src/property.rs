//! What must hold, by name: each property is a sentence, and a breach says what was seen instead.
//!
//! The checks of those that hold at every moment are in [`crate::watch`], which looks after every commit; those of the
//! end are in [`crate::ending`]. One list for both, because a reader asks what is proved, not when.

macro_rules! properties {
    ($($name:ident $sentence:literal;)*) => {
        /// A property; first come those that hold after every commit, then those of the end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Property { $(#[doc = $sentence] $name,)* }
        impl Property {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// What must hold.
            pub fn sentence(self) -> &'static str { match self { $(Self::$name => $sentence,)* } }
            /// In one word.
            pub fn name(self) -> &'static str { match self { $(Self::$name => stringify!($name),)* } }
        }
    };
}

properties! {
    Fence "only who holds a request's lease settles it, and a generation never goes back";
    Table "a state changes only along the table of transitions";
    Fold "a request's row says what the fold of its events says";
    Gapless "the events of a request are numbered without a gap, and so are its published ones";
    Forwards "no event of a request is earlier than the one before it";
    Usage "what tenants use and clusters hold is the sum of what live requests hold";
    Limits "no quota, no capacity and no limit of requests in work is overrun";
    Endpoints "no event tells an endpoint before its request has a winner";
    OneWinner "a request has one winner, for good";
    Once "completed, failed and the end are told once, and nothing but late facts after the end";
    Prerequisites "work on a request begins when all its prerequisites are completed";
    Readable "no operation finds stored data unreadable, panics or waits for more than its transaction";
    LedgerFirst "what is told to make something has a durable row in the ledger before";
    SendBy "nothing is told to be made after the time by which it had to be sent";
    AdmittedOnce "what is asked for once is there once, however often the asking was repeated";
    Ends "once nothing goes wrong any more, every request ends within a bounded time";
    NothingOwed "then nothing is owed, in doubt or on its way out";
    NoLease "then no lease is held";
    Inventory "then what lives in the clouds is what the ledgers of standing requests name";
    OneOfEach "then a standing request has one live resource of each role of its plan";
    Proof "then the store's own proof of quota and capacity finds no difference";
    Delivered "then the follower has had every event, in the order of its request, and stands at the head";
    Emptied "when everything is released, the clouds are empty and nobody holds anything";
}

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Breach {
    /// Which.
    pub property: Property,
    /// What was seen.
    pub what: String,
    /// When, in milliseconds of virtual time.
    pub at_ms: u64,
}

impl std::fmt::Display for Breach {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {} ms: not so: {}\n  seen: {}", self.at_ms, self.property.sentence(), self.what)
    }
}
