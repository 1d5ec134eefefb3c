//! The two edges of a process, where everything that it does crosses: the database and the clouds.

pub(crate) mod cloud;
pub(crate) mod store;
