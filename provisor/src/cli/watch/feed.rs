//! The events of what is watched, from the server's live streams.
//!
//! A few requests have a stream each, which begins with their first event; many share the stream of all
//! events, which begins now. Where no stream can be had the watcher goes on by asking alone.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use provisor_wire::ClientError;
use provisor_wire::client::{EventFilter, Received};

use crate::session::Session;

/// Up to so many requests have streams of their own.
const OWN_STREAMS: usize = 8;

/// The events.
pub(crate) struct Feed {
    streams: SelectAll<BoxStream<'static, Result<Received, ClientError>>>,
    only: Option<BTreeSet<String>>,
    broken: Option<String>,
    /// Whether the past comes too.
    pub(crate) tells_past: bool,
}

impl Feed {
    /// Everything that happens from here on.
    pub(crate) async fn from_now(session: &Session) -> Self {
        let mut stream = session.client.event_stream(&EventFilter::default());
        let mut feed = Self { streams: SelectAll::new(), only: None, broken: None, tells_past: false };
        match stream.open().await {
            Ok(()) => feed.streams.push(stream.into_stream().boxed()),
            Err(e) => feed.broken = Some(e.to_string()),
        }
        feed
    }

    /// Everything that happened to these requests and will happen; of many only what will.
    pub(crate) async fn of(session: &Session, ids: &[String]) -> Self {
        let mut feed = if ids.len() > OWN_STREAMS {
            Self::from_now(session).await
        } else {
            let streams = ids.iter().map(|id| session.client.request_events(id, None).into_stream().boxed());
            Self { streams: streams.collect(), only: None, broken: None, tells_past: true }
        };
        feed.only = Some(ids.iter().cloned().collect());
        feed
    }

    /// Only events of these requests are of interest.
    pub(crate) fn narrow(&mut self, ids: &[String]) {
        self.only = Some(ids.iter().cloned().collect());
    }

    /// Whether events can still come; else why not.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// The next event of interest. Never ends; once the streams are broken it waits for ever, beside the
    /// watcher's timer.
    pub(crate) async fn next(&mut self) -> Received {
        loop {
            match self.streams.next().await {
                Some(Ok(received)) => {
                    if self.only.as_ref().is_none_or(|only| only.contains(&received.event.subject)) {
                        return received;
                    }
                }
                Some(Err(error)) => self.broken = Some(error.to_string()),
                None => {
                    self.broken.get_or_insert_with(|| "the stream ended".to_owned());
                    return std::future::pending().await;
                }
            }
        }
    }
}
