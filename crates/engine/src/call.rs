//! One call of core made at a provider: its deadline, its looks, its end.
//!
//! Polls are not durable and not retries: they are made here, as often as the deadline allows. What is
//! learned on the way (the id of what is being made) is settled at once as progress.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use provisor_core::breaker::counts;
use provisor_core::mutant::{self, Mutant};
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::{Answer, Call, CallKey, Made, Reply, Task};
use provisor_core::{Class, Failure, Span, Timestamp};
use provisor_provider::{Progress, Released};
use provisor_store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::crash::{self, Point};
use crate::guard::{Guard, REFUSED};
use crate::registry::Bound;

/// Between looks, where neither the provider nor the settings say otherwise.
const LOOK_EVERY: Span = Span::seconds(2);
/// Longest time in which a backend may tell why something failed: the answer waits for it.
const DIAGNOSE_LIMIT: Duration = Duration::from_secs(5);

/// What was last seen of a call that goes on once its cluster lets calls in again.
const HELD: &str = "its cluster holds calls back";

/// What a call needs of its surroundings.
pub(crate) struct Line {
    pub store: Store,
    /// What holds calls back, and counts them.
    pub guard: Arc<Guard>,
    /// Nobody wants the answer any more, or the process stops.
    pub drop: CancellationToken,
    /// For what is learned on the way.
    pub progress: mpsc::Sender<Answer>,
}

/// What became of one call to a cluster.
enum Passed<T> {
    Answered(Result<T, Failure>),
    /// No answer within so long.
    Silent(Duration),
    /// It was not made; ask again then.
    Held(Timestamp),
    /// Nobody waits for it any more.
    Dropped,
}

/// Makes a call to its end.
pub(crate) async fn make(line: Line, bound: Result<Arc<Bound>, Failure>, call: Call) -> Answer {
    let key = call.key.clone();
    crash::at(Point::AfterIntent, || name(&call)).await;
    let reply = match bound {
        Err(failure) => Reply::Failed(failure),
        Ok(bound) => match &call.task {
            Task::Perform(work) => {
                let mut work = (**work).clone();
                let reply = perform(&line, &bound, &call, &mut work).await;
                diagnosed(&line, &bound, &work, reply).await
            }
            Task::Find { kind, tag, name } => {
                if let Err(reply) = line.backend(&bound, &call).await {
                    return Answer { key, reply };
                }
                match line.pass(&bound, &call, false, true, || bound.provider.find(kind, tag.as_str(), name)).await {
                    Passed::Answered(Ok(found)) => Reply::Looked(found),
                    Passed::Answered(Err(failure)) => Reply::Failed(failure),
                    Passed::Silent(_) => timed_out(None),
                    Passed::Held(until) => Reply::Held { until },
                    Passed::Dropped => Reply::Dropped,
                }
            }
            Task::Release(held) => release(&line, &bound, &call, held).await,
        },
    };
    crash::at(Point::AfterCall, || name(&call)).await;
    Answer { key, reply }
}

/// The operation of a call, as timelines and settings name it.
pub(crate) fn name(call: &Call) -> Cow<'_, str> {
    match &call.task {
        Task::Perform(work) => Cow::Borrowed(&work.operation),
        Task::Find { .. } => Cow::Borrowed("find"),
        Task::Release(held) => Cow::Owned(format!("delete_{}", held.kind)),
    }
}

impl Line {
    /// The time that one call may still take.
    fn limit(&self, call: &Call) -> Duration {
        call.call_limit.min(call.deadline.at().since(self.store.now())).to_std()
    }

    /// H4: what is made, and what is believed to be absent, is so on the backend that was asked, so the backend is
    /// asked first who it is. Anything but the expected answer ends the call before it is sent.
    async fn backend(&self, bound: &Bound, call: &Call) -> Result<(), Reply> {
        let now = match tokio::time::timeout(self.limit(call), with_login(|| bound.identity())).await {
            Ok(Ok(now)) => now,
            // H29: a backend that once knew us; one that never did is a mistake, which is told at once.
            Ok(Err(failure)) if failure.code == REFUSED && call.identity.is_some() => {
                return Err(Reply::Held { until: self.guard.refused(bound, call, &failure).await });
            }
            Ok(Err(failure)) => return Err(Reply::Failed(failure)),
            Err(_) => {
                let text = "the backend does not say who it is";
                return Err(Reply::Failed(Failure::new(Class::Transient, "backend_silent", text)));
            }
        };
        match call.identity.as_ref().filter(|expected| **expected != now) {
            None => Ok(()),
            Some(expected) => {
                let text = format!("the backend is {now} by now, but this belongs to {expected}");
                Err(Reply::Failed(Failure::new(Class::Auth, "identity_changed", text)))
            }
        }
    }

    fn is_over(&self, deadline: Timestamp) -> bool {
        self.store.now() >= deadline
    }

    /// A pause within the deadline; false when nobody waits any more.
    async fn pause(&self, pause: Span, deadline: Timestamp) -> bool {
        let pause = pause.min(deadline.since(self.store.now())).to_std();
        tokio::select! {
            biased;
            () = self.drop.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// The pause before the next look, or the end that comes first.
    async fn between_looks(&self, pause: Option<Span>, deadline: Timestamp, seen: String) -> Option<Reply> {
        if !self.is_over(deadline) && !self.pause(pause.unwrap_or(LOOK_EVERY).max(Span::millis(1)), deadline).await {
            return Some(Reply::Dropped);
        }
        self.is_over(deadline).then_some(timed_out(Some(seen)))
    }

    /// Makes one call to the cluster, once it is let in, and once more where its login has run out (H29). `protect`: what
    /// is sent is not cut off by a drop, as a look is.
    async fn pass<T, F: Future<Output = Result<T, Failure>>>(
        &self,
        bound: &Bound,
        call: &Call,
        sent: bool,
        protect: bool,
        ask: impl Fn() -> F,
    ) -> Passed<T> {
        let entered = tokio::select! {
            biased;
            () = self.drop.cancelled() => return if sent { Passed::Dropped } else { Passed::Held(self.store.now()) },
            entered = self.guard.enter(bound, call, sent, self.limit(call)) => entered,
        };
        let pass = match entered {
            Ok(pass) => pass,
            Err(until) => return Passed::Held(until),
        };
        // H5: it may have stood in line until it must not be sent any more.
        if !sent && call.send_by.is_some_and(|by| self.store.now() > by) {
            return Passed::Held(self.store.now());
        }
        let limit = self.limit(call);
        let answer = if protect {
            tokio::time::timeout(limit, with_login(ask)).await
        } else {
            tokio::select! {
                biased;
                () = self.drop.cancelled() => return Passed::Dropped,
                answer = tokio::time::timeout(limit, with_login(ask)) => answer,
            }
        };
        // No answer is the worst of answers.
        let bad = answer.as_ref().map_or(true, |told| told.as_ref().is_err_and(counts));
        self.guard.ended(pass, bad).await;
        match answer {
            Ok(Err(failure)) if failure.code == REFUSED => Passed::Held(self.guard.refused(bound, call, &failure).await),
            Ok(answer) => Passed::Answered(answer),
            Err(_) => Passed::Silent(limit),
        }
    }

    async fn tell(&self, key: &CallKey, made: &Made) {
        let reply = Reply::Progress(made.clone());
        // The receiver lives as long as the drive; when it is gone nobody can be told.
        let _ = self.progress.send(Answer { key: key.clone(), reply }).await;
    }
}

/// Adds what the backend tells about a failure that it can know more of: something that stands in a bad state, or
/// that never came to its end. A refusal says itself why, and a backend that does not answer is not asked again.
async fn diagnosed(line: &Line, bound: &Bound, work: &Work, reply: Reply) -> Reply {
    let telling = match &reply {
        Reply::Failed(failure) => failure.spoiled && failure.diagnosis.is_empty(),
        Reply::TimedOut { .. } => true,
        _ => false,
    };
    if !telling {
        return reply;
    }
    let asked = tokio::time::timeout(DIAGNOSE_LIMIT, bound.provider.diagnose(work));
    let lines = tokio::select! {
        biased;
        () = line.drop.cancelled() => Vec::new(),
        lines = asked => lines.unwrap_or_default(),
    };
    match reply {
        Reply::Failed(failure) => Reply::Failed(failure.diagnosed(lines)),
        Reply::TimedOut { last_seen, .. } => Reply::TimedOut { last_seen, diagnosis: lines },
        other => other,
    }
}

/// Asks, and once more where the login was refused: it may have run out, and the adapter has forgotten it by now (H29).
async fn with_login<T, F: Future<Output = Result<T, Failure>>>(ask: impl Fn() -> F) -> Result<T, Failure> {
    match ask().await {
        Err(failure) if failure.code == REFUSED => ask().await,
        answer => answer,
    }
}

fn timed_out(last_seen: Option<String>) -> Reply {
    Reply::TimedOut { last_seen, diagnosis: Vec::new() }
}

async fn perform(line: &Line, bound: &Bound, call: &Call, work: &mut Work) -> Reply {
    let probe = call.look_every.is_some();
    if call.first_after > Span::ZERO && !line.pause(call.first_after, call.deadline.at()).await {
        return Reply::Dropped;
    }
    if call.send_by.is_some()
        && let Err(reply) = line.backend(bound, call).await
    {
        return reply;
    }
    if call.send_by.is_some_and(|by| line.store.now() > by) && !mutant::on(Mutant::NoSendBy) {
        // H5: too late to send; it was not sent, so this is no doubt.
        return Reply::Failed(Failure::new(Class::Transient, "not_sent_in_time", "the call could not be sent within its lease"));
    }
    let (mut looks, mut before) = (0_u32, None);
    loop {
        let creating = work.tag.is_some() && work.provider_id.is_none();
        if creating && looks > 0 && call.send_by.is_some_and(|by| line.store.now() > by) {
            // H5: it may have been sent and says no id; it is looked for by its tag instead of being sent again.
            return timed_out(Some("under way without an id".to_owned()));
        }
        let answer = line.pass(bound, call, looks > 0, creating || looks == 0, || bound.provider.perform(work)).await;
        let (seen, pause) = match answer {
            Passed::Dropped => return Reply::Dropped,
            Passed::Held(until) if looks == 0 => return Reply::Held { until },
            Passed::Held(until) => (HELD.to_owned(), Some(until.since(line.store.now()))),
            Passed::Silent(limit) if creating => return timed_out(Some(silence(limit))),
            // A look that the deadline cut off says less than the one before it.
            Passed::Silent(limit) => {
                let cut_off = line.is_over(call.deadline.at());
                (before.take().filter(|_| cut_off).unwrap_or_else(|| silence(limit)), call.look_every)
            }
            Passed::Answered(Ok(Progress::Done(made))) => return Reply::Done(made),
            Passed::Answered(Ok(Progress::Running { made, seen, look_again })) => {
                if made.provider_id.is_some() && work.provider_id.is_none() {
                    line.tell(&call.key, &made).await;
                    work.provider_id.clone_from(&made.provider_id);
                }
                work.facts.extend(made.facts);
                (seen, look_again.or(call.look_every))
            }
            // A look that failed is looked again: polling is not retrying (SPEC 3.2).
            Passed::Answered(Err(failure)) if is_passing(&failure) && (probe || (looks > 0 && !creating)) => {
                (failure.message, call.look_every)
            }
            Passed::Answered(Err(failure)) => return Reply::Failed(failure),
        };
        looks = looks.saturating_add(1);
        before = Some(seen.clone());
        crash::at(Point::WithinWait, || name(call)).await;
        if let Some(end) = line.between_looks(pause, call.deadline.at(), seen).await {
            return end;
        }
    }
}

fn silence(limit: Duration) -> String {
    format!("no answer within {:.1} s", limit.as_secs_f64())
}

fn is_passing(failure: &Failure) -> bool {
    failure.class == Class::Transient && !failure.spoiled
}

async fn release(line: &Line, bound: &Bound, call: &Call, held: &Held) -> Reply {
    // A row without an identity was made before one was known.
    if call.identity.is_some()
        && let Err(reply) = line.backend(bound, call).await
    {
        return reply;
    }
    let mut looks = 0_u32;
    loop {
        let (seen, pause) = match line.pass(bound, call, looks > 0, looks == 0, || bound.provider.release(held)).await {
            Passed::Dropped => return Reply::Dropped,
            Passed::Held(until) if looks == 0 => return Reply::Held { until },
            Passed::Held(until) => (HELD.to_owned(), Some(until.since(line.store.now()))),
            Passed::Answered(Ok(Released::Gone)) => return Reply::Gone { replaced: false },
            Passed::Answered(Ok(Released::Replaced)) => return Reply::Gone { replaced: true },
            Passed::Answered(Ok(Released::Running { seen, look_again })) => (seen, look_again),
            Passed::Answered(Err(failure)) if is_passing(&failure) && looks > 0 => (failure.message, None),
            Passed::Answered(Err(failure)) => return Reply::Failed(failure),
            Passed::Silent(limit) => (silence(limit), None),
        };
        looks = looks.saturating_add(1);
        crash::at(Point::WithinWait, || name(call)).await;
        if let Some(end) = line.between_looks(pause, call.deadline.at(), seen).await {
            return end;
        }
    }
}
