//! Following requests until they end: `watch`, and `--wait` of other commands.
//!
//! Events tell what happens; whether it is over is judged by asking for the request itself, so that a lost
//! event can delay the end by a few seconds, never miss it. Interrupting leaves the work going.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use provisor_wire::client::Received;
use provisor_wire::{ClientError, Request};
use tokio::time::Instant;

use super::Watch;
use crate::fail::Fail;
use crate::session::{Session, is_missing};

mod feed;
mod goal;
mod show;

pub(crate) use feed::Feed;
pub(crate) use goal::{Goal, Verdict, judge};
pub(crate) use show::Show;

/// How often what has news is asked for again.
const TICK: Duration = Duration::from_millis(200);
/// How often everything is asked for again, with few and with many requests.
const ROUND: Duration = Duration::from_secs(2);
const LONG_ROUND: Duration = Duration::from_secs(15);
/// What counts as many.
const MANY: usize = 50;
/// Calls under way at once.
const CALLS: usize = 8;
/// How long the last events may come after the end.
const GRACE: Duration = Duration::from_secs(2);
/// How long the server may be away before waiting is given up.
const PATIENCE: Duration = Duration::from_mins(1);

/// One request that is followed.
struct Followed {
    request: Request,
    verdict: Verdict,
    /// There is news of it.
    dirty: bool,
    /// The state that events told last.
    told: Option<String>,
    over_since: Option<Instant>,
}

/// The requests that are followed.
struct Watcher<'a> {
    session: &'a Session,
    goal: Goal,
    all: BTreeMap<String, Followed>,
    order: Vec<String>,
    show: Show,
    round: Instant,
    away_since: Option<Instant>,
}

/// `watch`.
pub(crate) async fn watch(session: &Session, asked: &Watch) -> Result<(), Fail> {
    let mut requests: Vec<Request> = Vec::new();
    for id in &asked.ids {
        let request = session.find(id, asked.tenant.as_deref()).await?;
        if !requests.iter().any(|r| r.id == request.id) {
            requests.push(request);
        }
    }
    let ids: Vec<String> = requests.iter().map(|r| r.id.clone()).collect();
    let feed = Feed::of(session, &ids).await;
    follow(session, feed, requests, Goal::Wanted, asked.timeout, Show::events(session.out)).await.map(|_| ())
}

/// Follows requests until each is over. Answers them as they are then.
pub(crate) async fn follow(
    session: &Session,
    mut feed: Feed,
    requests: Vec<Request>,
    goal: Goal,
    timeout: Option<f64>,
    show: Show,
) -> Result<Vec<Request>, Fail> {
    let order: Vec<String> = requests.iter().map(|r| r.id.clone()).collect();
    feed.narrow(&order);
    let mut watcher = Watcher { session, goal, all: BTreeMap::new(), order, show, round: Instant::now(), away_since: None };
    watcher.begin(requests, feed.tells_past);
    let limit = timeout.map_or(Duration::from_secs(320_000_000), Duration::from_secs_f64);
    let end = watcher.run(&mut feed, limit).await;
    watcher.show.end();
    end?;
    watcher.answer()
}

impl Watcher<'_> {
    fn begin(&mut self, requests: Vec<Request>, tells_past: bool) {
        self.show.begin(&requests);
        for request in requests {
            let verdict = judge(self.goal, &request);
            let over_since = verdict.is_over().then(Instant::now);
            // Why: no event will tell of what was over before.
            let told = (verdict.is_over() && !tells_past).then(|| request.state.clone());
            let followed = Followed { verdict, dirty: true, told, over_since, request };
            self.all.insert(followed.request.id.clone(), followed);
        }
    }

    async fn run(&mut self, feed: &mut Feed, limit: Duration) -> Result<(), Fail> {
        let mut interrupt = Box::pin(tokio::signal::ctrl_c());
        let mut deadline = Box::pin(tokio::time::sleep(limit));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut remarked = false;
        // Ends with the last request, the time limit or the user.
        loop {
            if self.is_over(feed) {
                return Ok(());
            }
            tokio::select! {
                biased;
                _ = &mut interrupt => return Err(Fail::Interrupted(format!("stopped watching; the work goes on: {}", self.open()))),
                () = &mut deadline => return Err(Fail::TimedOut(format!("timed out; the work goes on: {}", self.open()))),
                received = feed.next() => self.event(&received)?,
                _ = tick.tick() => {
                    if let (false, Some(why)) = (remarked, feed.broken()) {
                        remarked = true;
                        self.session.out.remark(&format!("no live events ({why}); asking instead"));
                    }
                    self.refresh(feed.broken().is_none()).await?;
                    self.show.tick(self.all.values().map(|f| &f.request));
                }
            }
        }
    }

    /// Over, and the events have told so or had time to.
    fn is_over(&self, feed: &Feed) -> bool {
        let silent = matches!(self.show, Show::Silent | Show::Bars(_)) || feed.broken().is_some();
        self.all.values().all(|f| {
            let late = f.over_since.is_some_and(|t| t.elapsed() > GRACE);
            f.verdict.is_over() && !f.dirty && (silent || late || f.told.as_deref() == Some(&f.request.state))
        })
    }

    fn event(&mut self, received: &Received) -> Result<(), Fail> {
        if let Some(followed) = self.all.get_mut(&received.event.subject) {
            followed.dirty = true;
            followed.told = received.event.data.to_state.clone().or(followed.told.take());
        }
        self.show.event(received)
    }

    /// Asks for what has news, and from time to time for everything that is not over.
    async fn refresh(&mut self, told: bool) -> Result<(), Fail> {
        let round = if self.all.len() > MANY { LONG_ROUND } else { ROUND };
        let everything = self.round.elapsed() >= round;
        if everything {
            self.round = Instant::now();
        }
        let due = self.all.iter().filter(|(_, f)| f.dirty || (everything && !f.verdict.is_over()));
        let ids: Vec<String> = due.map(|(id, _)| id.clone()).collect();
        let client = &self.session.client;
        let answers: Vec<(String, Result<Request, ClientError>)> = futures::stream::iter(ids)
            .map(|id| async move { (id.clone(), client.request(&id).await) })
            .buffered(CALLS)
            .collect()
            .await;
        for (id, answer) in answers {
            self.take(&id, answer, told)?;
        }
        Ok(())
    }

    fn take(&mut self, id: &str, answer: Result<Request, ClientError>, told: bool) -> Result<(), Fail> {
        let Some(followed) = self.all.get_mut(id) else { return Ok(()) };
        match answer {
            Ok(request) => {
                self.away_since = None;
                let changed = followed.request.state != request.state;
                followed.verdict = judge(self.goal, &request);
                followed.dirty = false;
                if !followed.verdict.is_over() {
                    followed.over_since = None;
                } else if followed.over_since.is_none() {
                    followed.over_since = Some(Instant::now());
                }
                followed.request = request;
                self.show.update(&followed.request, changed, told)
            }
            Err(error) if is_missing(&error) => {
                followed.verdict = Verdict::Bad("does not exist any more".to_owned());
                followed.dirty = false;
                followed.over_since.get_or_insert_with(Instant::now);
                Ok(())
            }
            Err(error) if error.is_retriable() => {
                let since = *self.away_since.get_or_insert_with(Instant::now);
                if since.elapsed() > PATIENCE { Err(error.into()) } else { Ok(()) }
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What is not over, in words.
    fn open(&self) -> String {
        let open = self.all.values().filter(|f| !f.verdict.is_over());
        let names: Vec<String> = open.map(|f| format!("{} ({})", f.request.name, f.request.state)).take(20).collect();
        names.join(", ")
    }

    fn answer(self) -> Result<Vec<Request>, Fail> {
        let mut all = self.all;
        let (mut requests, mut bad) = (Vec::new(), Vec::new());
        for followed in self.order.iter().filter_map(|id| all.remove(id)) {
            if let Verdict::Bad(why) = &followed.verdict {
                bad.push(format!("{}: {why}", followed.request.name));
            }
            requests.push(followed.request);
        }
        if bad.is_empty() { Ok(requests) } else { Err(Fail::Ended(bad.join("\n"))) }
    }
}

#[cfg(test)]
mod tests;
