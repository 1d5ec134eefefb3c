//! PostgreSQL for tests: one database for each test on the server of the whole run.

mod driver;
mod opening;
mod races;
mod same;
pub mod server;
mod tls;

use provisor_store::Store;
use provisor_store::driver::Postgres;
use provisor_store::driver::postgres::Lanes;
pub use server::{database, sql};

/// Enough for one test; each connection costs it time.
pub const FEW: Lanes = Lanes::of(2, 1, 16);

/// A fresh store of few connections; `None` without a server.
pub fn store() -> Option<Store> {
    Some(Store::new(std::sync::Arc::new(driver(&database()?, FEW))))
}

/// With other numbers of connections.
pub fn driver(url: &str, lanes: Lanes) -> Postgres {
    Postgres::open_with(url, lanes, None).unwrap()
}
