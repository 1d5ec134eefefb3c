//! Reads server-sent events, and goes on after a broken connection where it stopped.

use std::collections::VecDeque;
use std::time::Duration;

use futures::Stream;

use super::lines::Lines;
use super::{Call, Client, ClientError, problem_of};
use crate::event::CloudEvent;

/// The server sends a comment every 15 s; silence of three of them means that the connection is dead.
const SILENCE: Duration = Duration::from_secs(45);
/// Pauses between connections: from this, doubling, to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Connections in a row that brought nothing before the reader gives up: about a minute.
const GIVE_UP_AFTER: u32 = 15;

/// An event of a stream with its cursor.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Where to go on: `Last-Event-ID`, or `after` of the feed.
    pub cursor: String,
    /// The event.
    pub event: CloudEvent,
}

/// A live stream of events. Never ends by itself: it comes back after a broken connection, and each event
/// comes once.
#[derive(Debug)]
pub struct EventStream {
    client: Client,
    path: String,
    query: Vec<(&'static str, String)>,
    last: Option<String>,
    answer: Option<reqwest::Response>,
    lines: Lines,
    ready: VecDeque<Received>,
    failures: u32,
}

impl EventStream {
    pub(crate) fn new(client: Client, path: String, query: Vec<(&'static str, String)>, after: Option<&str>) -> Self {
        let last = after.map(str::to_owned);
        Self { client, path, query, last, answer: None, lines: Lines::default(), ready: VecDeque::new(), failures: 0 }
    }

    /// Where it stands: the cursor of the last event handed out or, before that, where it began.
    pub fn cursor(&self) -> Option<&str> {
        self.last.as_deref()
    }

    /// Opens the connection now, so that nothing that happens from here on is missed.
    pub async fn open(&mut self) -> Result<(), ClientError> {
        if self.answer.is_none() {
            self.answer = Some(self.connect().await?);
        }
        Ok(())
    }

    /// The next event; waits for it. An error means that the server refuses, or stays away too long.
    pub async fn next(&mut self) -> Result<Received, ClientError> {
        loop {
            if let Some(received) = self.ready.pop_front() {
                self.last = Some(received.cursor.clone());
                return Ok(received);
            }
            match self.fill().await {
                Ok(()) => self.failures = 0,
                Err(e) if e.is_retriable() && self.failures < GIVE_UP_AFTER => {
                    self.answer = None;
                    tokio::time::sleep(pause(self.failures)).await;
                    self.failures += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Result<Received, ClientError>> {
        futures::stream::unfold(Some(self), |state| async {
            let mut events = state?;
            match events.next().await {
                Ok(received) => Some((Ok(received), Some(events))),
                Err(e) => Some((Err(e), None)),
            }
        })
    }

    async fn connect(&mut self) -> Result<reqwest::Response, ClientError> {
        self.lines = Lines::default();
        let mut call = Call::get(self.path.clone());
        call.query.clone_from(&self.query);
        let mut request = self.client.prepare(&call).header("accept", "text/event-stream");
        if let Some(last) = &self.last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.map_err(|e| self.client.unreachable(&self.path, &e))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = self.client.read(&self.path, answer).await?;
        Err(problem_of(status, &String::from_utf8_lossy(&bytes)))
    }

    /// Reads until there is at least one event, or the connection ends.
    async fn fill(&mut self) -> Result<(), ClientError> {
        self.open().await?;
        let broken = |reason: &str| ClientError::Unreachable { url: self.client.url(&self.path), reason: reason.to_owned() };
        let Some(answer) = &mut self.answer else { return Err(broken("no connection")) };
        let chunk = match tokio::time::timeout(SILENCE, answer.chunk()).await {
            Err(_) => return Err(broken("silence")),
            Ok(Err(e)) => return Err(self.client.unreachable(&self.path, &e)),
            Ok(Ok(None)) => return Err(broken("the stream ended")),
            Ok(Ok(Some(chunk))) => chunk,
        };
        let blocks = self.lines.push(&chunk).map_err(|_| ClientError::Other("an event of the stream is too long".to_owned()))?;
        for block in blocks {
            let event = serde_json::from_str(&block.data)
                .map_err(|e| ClientError::Other(format!("an event of the stream is not as expected: {e}")))?;
            self.ready.push_back(Received { cursor: block.id.unwrap_or_default(), event });
        }
        Ok(())
    }
}

fn pause(failures: u32) -> Duration {
    (FIRST_PAUSE * 2_u32.saturating_pow(failures.min(10))).min(LONGEST_PAUSE)
}
