//! The pure domain of Provisor: decisions as values.
//!
//! What it does: turns (state, facts, now, chance) into events, calls to make and refusals. It has no
//! runtime, no database, no clock and no chance of its own, so that everything hard to get right can be
//! tested by text scenarios, properties and a simulator. The shell (`provisor-engine`) only fetches
//! what these functions need, waits, and writes down what they decide.
//!
//! Glossary: a **tenant** asks; a **request** is one thing asked for; an **attempt** is one try at it on
//! one **cluster**; its four **steps** hold **operations**; a **resource** is a row of the **ledger**,
//! there from before the call that makes it until its absence is confirmed; an **event** is one fact in
//! the append-only **log**.

pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod chance;
pub mod check;
pub mod cluster;
pub mod deadline;
pub mod error_code;
pub mod event;
pub mod failure;
pub mod id;
pub mod known;
pub mod lifecycle;
pub mod mutant;
pub mod order;
pub mod placement;
pub mod quota;
pub mod recovery;
pub mod run;
pub mod sketch;
pub mod spec;
pub mod tenant;
mod text;
pub mod time;
pub mod timeline;
pub mod workflow;

pub use chance::Chance;
pub use failure::{Class, Failure};
pub use id::{AttemptId, ClusterId, EventId, RequestId, ResourceId, TenantId, TokenId};
pub use lifecycle::State;
pub use quota::Amounts;
pub use run::Run;
pub use spec::{Kind, Spec};
pub use time::{Span, Timestamp};
