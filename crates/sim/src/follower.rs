//! A follower of the log with a durable cursor and a slow sink, as every consumer of events is one.
//!
//! It hands a page of the feed to its sink and then moves its cursor; after a crash it goes on from the cursor, so that
//! the sink may see an event twice and must see none out of order and miss none.

use std::sync::Arc;
use std::time::Duration;

use provisor_store::ops::log::Feed;
use provisor_store::ops::readers::{AdvanceReader, OpenReader, Start};
use provisor_store::{OpError, Store};

use crate::edge::store::Edge;
use crate::node::{FOLLOWER, Life};
use crate::plan::Trouble;
use crate::stage::Stage;

const NAME: &str = "follower";
/// Events that it takes at once.
const PAGE: i64 = 40;
/// Between looks at the head, and after an error.
const AGAIN: Duration = Duration::from_millis(700);

/// Keeps it running, for ever.
pub(crate) async fn keep(stage: Arc<Stage>) {
    loop {
        let life = stage.born(FOLLOWER);
        tokio::select! {
            biased;
            down = life.end() => tokio::time::sleep(down.min(Duration::from_secs(2))).await,
            () = follow(&stage, &life) => {}
        }
    }
}

async fn follow(stage: &Arc<Stage>, life: &Arc<Life>) {
    let store = Store::new(Arc::new(Edge::new(Arc::clone(stage), Arc::clone(life))));
    loop {
        if let Err(error) = from_its_cursor(stage, &store).await {
            stage.note(|| format!("the follower begins again: {error}"));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn from_its_cursor(stage: &Stage, store: &Store) -> Result<(), OpError> {
    let mut position = store.run(OpenReader { name: NAME.to_owned(), start: Start::Beginning }).await?;
    loop {
        let page = store.run(Feed { after: position, limit: PAGE, ..Feed::default() }).await?;
        for entry in &page.entries {
            if let Some(pause) = slowness(stage) {
                tokio::time::sleep(pause).await;
            }
            stage.lock().sink.push_back((entry.position, entry.subject));
        }
        if page.next > position {
            position = store.run(AdvanceReader { name: NAME.to_owned(), to: page.next }).await?;
        }
        if page.at_head {
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// How long the sink takes for an event now.
fn slowness(stage: &Stage) -> Option<Duration> {
    let now = stage.now_ms();
    let slow = stage.plan.troubles.iter().filter(|_| !stage.is_calm()).find_map(|t| match t {
        Trouble::Sink { at_ms, ms } if *at_ms <= now => Some(*ms),
        _ => None,
    });
    slow.map(Duration::from_millis)
}
