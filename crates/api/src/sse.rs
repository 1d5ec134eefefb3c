//! Live streams: a reader of the log that waits at its end. `id:` is the cursor, so that a reader that was
//! cut off goes on with `Last-Event-ID`.
//!
//! The bell only shortens the wait; the log is looked at again each second anyway, because another process
//! may write to it. Rejected: pushing events from the writers, which would lose them at each gap.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use provisor_core::event::EventKind;
use provisor_core::{RequestId, TenantId};
use provisor_store::OpError;
use provisor_store::ops::log::{EntriesOf, Entry, Feed};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::App;
use crate::problem::Problem;
use crate::show;

/// A comment goes out this often, so that proxies keep the connection and readers notice when it is dead.
const BEAT: Duration = Duration::from_secs(15);
/// The log is looked at again after this, whether or not the bell rang.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After an error of the store.
const PAUSE: Duration = Duration::from_secs(2);
/// Entries read at a time.
const PAGE: i64 = 200;

/// What a stream shows.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// The events of one request.
    Request {
        /// Which.
        id: RequestId,
        /// The last version looked at.
        version: i64,
    },
    /// The whole feed.
    Feed {
        /// Only these kinds; all when empty.
        kinds: Vec<EventKind>,
        /// Only this tenant's.
        tenant: Option<TenantId>,
    },
}

struct Reader {
    app: App,
    source: Source,
    position: i64,
    ready: VecDeque<Event>,
    bell: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
}

/// A position from `Last-Event-ID`, where it is given.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    let position = text.parse::<i64>().ok().filter(|p| *p >= 0);
    position.map(Some).ok_or_else(|| Problem::flaw("Last-Event-ID", "format", text.into(), "is not a cursor of this stream"))
}

/// Opens a stream after a position.
pub(crate) fn open(
    app: &App,
    source: Source,
    position: i64,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, Problem> {
    let permit = Arc::clone(&app.streams).try_acquire_owned();
    let permit =
        permit.map_err(|_| Problem::new("rate_limited", "Too many live streams are open.").header(header::RETRY_AFTER, "5"))?;
    let reader = Reader {
        app: app.clone(),
        source,
        position,
        ready: VecDeque::new(),
        bell: app.backend.follow_log(),
        closing: app.closing.clone(),
        _permit: permit,
    };
    let stream = futures::stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(BEAT).text("beat")))
}

impl Reader {
    /// The next event; `None` when the server closes.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if *self.closing.borrow() {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            // Why before the look: what rings during it must wake the wait below.
            self.bell.borrow_and_update();
            let pause = match self.fill().await {
                Ok(true) => continue,
                Ok(false) => LOOK_AGAIN,
                Err(error) => {
                    // The store itself tells what stands in the way of all.
                    tracing::debug!(%error, "a live stream could not read the log");
                    PAUSE
                }
            };
            tokio::select! {
                biased;
                _ = self.closing.wait_for(|closing| *closing) => return None,
                _ = tokio::time::timeout(pause, self.bell.changed()) => {}
            }
        }
    }

    /// Reads on; answers whether there may be more at once.
    async fn fill(&mut self) -> Result<bool, OpError> {
        let (entries, more) = match &mut self.source {
            Source::Request { id, version } => {
                let entries = self.app.store().run(EntriesOf { subject: *id, after: *version }).await?;
                *version = entries.last().map_or(*version, |e| e.version);
                (entries, false)
            }
            Source::Feed { kinds, tenant } => {
                let feed =
                    Feed { after: self.position, kinds: kinds.clone(), tenant: *tenant, limit: PAGE, published_only: true };
                let page = self.app.store().run(feed).await?;
                self.position = page.next;
                (page.entries, !page.at_head)
            }
        };
        let of_request = matches!(self.source, Source::Request { .. });
        let after = self.position;
        let installation = self.app.backend.installation();
        let fresh = entries.iter().filter(|e| e.sequence.is_some() && (!of_request || e.position > after));
        self.ready.extend(fresh.map(|e| event_of(e, installation)));
        Ok(more || !self.ready.is_empty())
    }
}

fn event_of(entry: &Entry, installation: &str) -> Event {
    let shown = show::event::event(entry, installation);
    let data = serde_json::to_string(&shown).unwrap_or_default();
    Event::default().id(entry.position.to_string()).event(entry.kind.name()).data(data)
}
