//! Live streams: a reader of the log that waits at its end. `id:` is the cursor, so that a reader that was
//! cut off goes on with `Last-Event-ID`.
//!
//! The bell only shortens the wait; the log is looked at again each second anyway, because another process
//! may write to it. At the end of the log all streams read it together ([`crate::tail`]), but for those of one tenant:
//! whose a request is stands in its row, not in the log. Rejected: pushing events from the writers, which would lose them
//! at each gap.

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
use provisor_store::ops::log::{EntriesOf, Entry, Feed, Head, Standing};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::App;
use crate::problem::Problem;
use crate::show;
use crate::tail::News;

/// A comment goes out this often, so that proxies keep the connection and readers notice when it is dead.
const BEAT: Duration = Duration::from_secs(15);
/// The log is looked at again after this, whether or not the bell rang.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
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
        /// The last version looked at; 0 before the first look.
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
            let bell = *self.bell.borrow_and_update();
            let pause = match self.fill(bell).await {
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
    async fn fill(&mut self, bell: u64) -> Result<bool, OpError> {
        let begins = matches!(self.source, Source::Request { version: 0, .. });
        let alone = matches!(self.source, Source::Feed { tenant: Some(_), .. });
        if !begins && !alone {
            let app = self.app.clone();
            if let Some(news) = app.tail.after(app.store(), self.position, bell).await? {
                return self.take(&news, app.backend.installation());
            }
        }
        match &mut self.source {
            Source::Request { id, version } => {
                // Before the events, so that what comes between the two is not passed by.
                let head = self.app.store().run(Head).await?;
                let entries = self.app.store().run(EntriesOf { subject: *id, after: *version }).await?;
                *version = entries.last().map_or(*version, |e| e.version);
                let after = if begins { self.position } else { 0 };
                self.position = head;
                self.show(entries.iter().filter(|e| e.sequence.is_some() && e.position > after));
                Ok(!entries.is_empty())
            }
            Source::Feed { kinds, tenant } => {
                let feed =
                    Feed { after: self.position, kinds: kinds.clone(), tenant: *tenant, limit: PAGE, published_only: true };
                let page = self.app.store().run(feed).await?;
                self.position = page.next;
                self.show(page.entries.iter());
                Ok(!page.at_head || !self.ready.is_empty())
            }
        }
    }

    fn show<'e>(&mut self, entries: impl Iterator<Item = &'e Entry>) {
        let installation = self.app.backend.installation();
        let shown = entries.map(|e| event_of(e.position, e.kind, &show::event::text(e, installation)));
        self.ready.extend(shown);
    }

    /// What this stream shows of the end of the log.
    fn take(&mut self, news: &News, installation: &str) -> Result<bool, OpError> {
        for told in &news.rows {
            let of_others = matches!(&self.source, Source::Request { id, .. } if told.row().subject() != *id);
            if of_others {
                continue;
            }
            let (position, source) = (self.position, &self.source);
            let wanted = |s: &Standing| {
                s.sequence.is_some()
                    && match source {
                        Source::Request { version, .. } => s.version > *version,
                        Source::Feed { kinds, .. } => s.position > position && (kinds.is_empty() || kinds.contains(&s.kind)),
                    }
            };
            for shown in told.shown(installation, wanted) {
                let (standing, text) = shown?;
                self.ready.push_back(event_of(standing.position, standing.kind, text));
            }
            if let (Source::Request { version, .. }, Some(last)) = (&mut self.source, told.row().standings().last()) {
                *version = last.version.max(*version);
            }
        }
        self.position = news.to;
        Ok(news.more || !self.ready.is_empty())
    }
}

fn event_of(position: i64, kind: EventKind, text: &str) -> Event {
    Event::default().id(position.to_string()).event(kind.name()).data(text)
}
