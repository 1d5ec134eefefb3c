//! Worlds of core alone: the shipping decisions, with everything around them replaced by a model small enough to be
//! counted.
//!
//! Because core is pure, a world needs no runtime and no database. [`small`] walks every interleaving of one request to
//! its end; [`strategies`] runs ten thousand in virtual time and compares what the strategies bring. What the store does
//! around a decision is in [`desk`], and a differential test in the store's crate holds it to the real operations.
//! Rejected: a model of the decisions themselves, which would prove something about the model.

pub mod desk;
pub mod small;
pub mod store;
pub mod strategies;
