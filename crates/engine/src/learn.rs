//! The reader of the log that learns how long operations take (SPEC 3.3), and how what it learns comes to the workers.
//!
//! One process does it at a time, by lease. It is in no hurry: deadlines of days are made of it.

use std::sync::Arc;
use std::time::Duration;

use provisor_core::deadline::Deadlines;
use provisor_store::OpError;
use provisor_store::ops::learn::{self, AllLearned, LearnedStamp, ReadEnded, TakeIn};
use provisor_store::ops::roles::{Role, Under};
use tokio_util::sync::CancellationToken;

use crate::Engine;
use crate::crash::{self, Point};

/// How often the log is looked at when its end was reached.
const EVERY: Duration = Duration::from_secs(2);
/// The same where this process has written nothing.
const IDLE: Duration = Duration::from_secs(10);
/// Between two pages of a long way to the end: others want the store, too.
const BETWEEN_PAGES: Duration = Duration::from_millis(20);

pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken, role: Option<Role>) {
    let mut log = engine.bell.follow();
    loop {
        let pause = match engine.learn(role.as_ref()).await {
            Ok(true) => EVERY,
            Ok(false) => BETWEEN_PAGES,
            Err(error) => {
                store_failed!(error, "what the log teaches could not be taken in; it is tried again");
                EVERY
            }
        };
        // At the end of the log it waits for more; what other processes write is found a little later.
        let rest = async {
            if pause == EVERY {
                let _ = tokio::time::timeout(IDLE, log.changed()).await;
            }
            tokio::time::sleep(pause).await;
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = rest => {}
        }
    }
}

impl Engine {
    /// Takes in one page of the log; true at its end.
    async fn learn(&self, role: Option<&Role>) -> Result<bool, OpError> {
        let after = self.store.run(learn::open()).await?;
        let page = self.store.run(ReadEnded { after }).await?;
        if page.to == page.from {
            return Ok(true);
        }
        crash::at(Point::WithinAdvance, || "learn".into()).await;
        let (at_head, context) = (page.at_head, Arc::clone(&self.context));
        let changed = self.store.run(Under { role: role.cloned(), op: TakeIn { page, context } }).await?;
        crash::at(Point::AfterAdvance, || "learn".into()).await;
        self.context.learn(|known| Arc::make_mut(&mut known.deadlines).update(changed));
        Ok(at_head)
    }

    /// What others have learned since the last look.
    pub(crate) async fn follow_learning(&self) -> Result<(), OpError> {
        let stamp = self.store.run(LearnedStamp).await?;
        if self.learned.swap(stamp, std::sync::atomic::Ordering::Relaxed) != stamp {
            let all = self.store.run(AllLearned).await?;
            self.context.learn(|known| known.deadlines = Arc::new(Deadlines::new(all)));
        }
        Ok(())
    }
}
