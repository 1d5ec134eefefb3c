//! Steps that the harder tests share.

use std::sync::Arc;
use std::time::Duration;

use provisor_core::run::Command;
use provisor_core::{RequestId, Run, State, Timestamp};
use provisor_store::driver::{Faulty, Inline};
use provisor_store::tx::{Stmt, both};
use provisor_store::{Mode, Op, OpError, Store, Tx};
use serde_json::json;

use crate::world::{Test, actor};

pub(crate) async fn sleep(seconds: f64) {
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
}

/// Waits, in virtual time, until something holds of a request.
pub(crate) async fn until(t: &Test, id: RequestId, what: &str, holds: impl Fn(&Run) -> bool) -> Run {
    let found = t.until_or_not(id, holds).await;
    found.unwrap_or_else(|run| panic!("never {what}: {} {:?} {:#?}", run.state.name(), run.action, run.ledger))
}

pub(crate) async fn completed(t: &Test, name: &str) -> RequestId {
    let id = t.admit(vec![Test::spec(name, json!({}))]).await[0];
    t.until(id, &[State::Completed]).await;
    id
}

pub(crate) async fn ask(t: &Test, id: RequestId, command: Command) {
    t.engine.command(id, command, actor()).await.unwrap();
}

pub(crate) fn deprovision() -> Command {
    Command::Deprovision { reason: None, force: false }
}

/// A statement of a test.
pub(crate) struct Do(pub(crate) &'static Stmt, pub(crate) String);
impl Op for Do {
    type Out = u64;
    const NAME: &'static str = "test";
    const MODE: Mode = Mode::Write;
    async fn run(&self, tx: &mut Tx<'_>) -> Result<u64, OpError> {
        tx.exec(self.0, &[self.1.as_str().into()]).await
    }
}
pub(crate) const GONE: Stmt = both("delete from cluster where name = ?1");
pub(crate) const MEND: Stmt = both("update request set run = (select value from meta where name = 'kept') where id = ?1");
pub(crate) const KEEP: Stmt = both("insert into meta (name, value) select 'kept', run from request where id = ?1");
pub(crate) const DAMAGE: Stmt = both("update request set run = '{\"version\":1}' where id = ?1");

pub(crate) async fn with_faults() -> (Test, Arc<Faulty>) {
    let clock = provisor_store::clock::of_runtime(Timestamp(1_000_000_000_000));
    let faulty = Arc::new(Faulty::new(Arc::new(Inline::in_memory(clock).unwrap()), 1));
    let t = Test::start_over(Store::new(Arc::clone(&faulty) as _), &["one", "two"], json!({})).await;
    (t, faulty)
}
