//! Claims due work and drives each claimed request until nothing is under way for it.
//!
//! One task a request: it makes the calls that core asked for, gathers answers, settles them in one
//! transaction and gets the next calls back. With nothing under way the lease is given back in that same
//! transaction, so a request that waits costs no memory here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use provisor_core::workflow::{Answer, Call, CallKey, Reply};
use provisor_core::{ClusterId, RequestId, Span, Timestamp};
use provisor_store::OpError;
use provisor_store::ops::claim::{Claim, Claimed};
use provisor_store::ops::heartbeat::{HandBack, KeepLeases};
use provisor_store::ops::settle::Settle;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::Engine;
use crate::call::{self, Line};
use crate::crash::{self, Names, Point};
use crate::registry::Bound;

/// Requests claimed in one transaction.
const CLAIM_AT_MOST: usize = 64;
/// Without a ring the store is asked this often: the poll is the truth.
const POLL_EVERY: Duration = Duration::from_secs(1);

/// A lease that this worker holds.
struct Hold {
    generation: i64,
    poke: Arc<Notify>,
}

type Holds = Arc<Mutex<BTreeMap<RequestId, Hold>>>;

/// Forgets a lease when its drive ends, however it ends: one that is forgotten runs out.
struct Entry {
    engine: Arc<Engine>,
    holds: Holds,
    id: RequestId,
    generation: i64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut held = lock(&self.holds);
        if held.get(&self.id).is_some_and(|h| h.generation == self.generation) {
            held.remove(&self.id);
            self.engine.bell.let_go(self.id);
        }
    }
}

/// Runs until stopped; then waits for what is in flight.
pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let holds: Holds = Arc::default();
    // Why sets: when this future is dropped, as a crash would, what it began is dropped with it.
    let mut drives = JoinSet::new();
    // Why before the first claim: what waited out a downtime must not count as stuck by it (H12).
    while !stop.is_cancelled() && !beat(&engine, &holds).await {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = tokio::time::sleep(POLL_EVERY) => {}
        }
    }
    let beating = CancellationToken::new();
    let mut beats = JoinSet::new();
    beats.spawn(heartbeat(Arc::clone(&engine), Arc::clone(&holds), beating.clone()));
    while !stop.is_cancelled() {
        let free = engine.config.concurrency.saturating_sub(lock(&holds).len());
        let mut due = Timestamp::NEVER;
        if free > 0 {
            if let Err(error) = engine.keep_up().await {
                store_failed!(error, "the clusters could not be read; they are looked at again");
            }
            let claim = Claim {
                worker: engine.config.worker.clone(),
                limit: free.min(CLAIM_AT_MOST),
                context: Arc::clone(&engine.context),
            };
            match engine.store.run(claim).await {
                Ok(batch) => {
                    due = batch.next_due;
                    for claimed in batch.claimed {
                        for call in &claimed.calls {
                            crash::at(Point::AfterClaim, || call::name(call)).await;
                        }
                        spawn(&engine, &holds, &mut drives, &stop, claimed);
                    }
                    if batch.busy {
                        engine.bell.log_moved();
                        // Why not otherwise: what is due and was not taken is in other hands.
                        if due <= engine.store.now() {
                            continue;
                        }
                    }
                }
                Err(error) => store_failed!(error, "claiming failed; it is tried again"),
            }
        }
        let wait = due.since(engine.store.now()).to_std().clamp(Duration::from_millis(1), POLL_EVERY);
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = engine.bell.rung() => {}
            Some(_) = drives.join_next(), if !drives.is_empty() => while drives.try_join_next().is_some() {},
            () = tokio::time::sleep(wait) => {}
        }
    }
    while drives.join_next().await.is_some() {}
    beating.cancel();
    while beats.join_next().await.is_some() {}
}

fn lock(holds: &Holds) -> std::sync::MutexGuard<'_, BTreeMap<RequestId, Hold>> {
    holds.lock().unwrap_or_else(PoisonError::into_inner)
}

fn spawn(engine: &Arc<Engine>, holds: &Holds, drives: &mut JoinSet<()>, stop: &CancellationToken, claimed: Claimed) {
    let id = claimed.run.id;
    let poke = engine.bell.hold(id);
    lock(holds).insert(id, Hold { generation: claimed.generation, poke: Arc::clone(&poke) });
    let drive = Drive {
        engine: Arc::clone(engine),
        id,
        generation: claimed.generation,
        stop: stop.clone(),
        poke,
        in_flight: BTreeMap::new(),
        wake_at: claimed.wake_at,
        bound: BTreeMap::new(),
        names: Names::default(),
    };
    let entry = Entry { engine: Arc::clone(engine), holds: Arc::clone(holds), id, generation: claimed.generation };
    drives.spawn(async move {
        let _entry = entry;
        drive.run(claimed.calls).await;
    });
}

async fn heartbeat(engine: Arc<Engine>, holds: Holds, stop: CancellationToken) {
    let every = Span(engine.config.lease.0 / 3).to_std();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
        beat(&engine, &holds).await;
    }
}

/// Extends the leases that this worker knows of. A request whose lease is gone looks, and finds itself fenced;
/// so does one that got a command, and finds it. A lease whose claim or settlement lost its answer is known to
/// nobody and runs out, so that the request is found again. False: the store did not answer.
async fn beat(engine: &Engine, holds: &Holds) -> bool {
    let leases: Vec<(RequestId, i64)> = lock(holds).iter().map(|(id, h)| (*id, h.generation)).collect();
    let keep = KeepLeases { worker: engine.config.worker.clone(), leases: leases.clone(), context: Arc::clone(&engine.context) };
    let kept: BTreeMap<(RequestId, i64), bool> = match engine.store.run(keep).await {
        Ok(kept) => kept.into_iter().map(|k| ((k.id, k.generation), k.attention)).collect(),
        Err(error) => {
            store_failed!(error, "the heartbeat failed; it is tried again");
            return false;
        }
    };
    let held = lock(holds);
    for lease in leases {
        let Some(hold) = held.get(&lease.0).filter(|h| h.generation == lease.1) else { continue };
        if kept.get(&lease).copied().unwrap_or(true) {
            hold.poke.notify_one();
        }
    }
    true
}

/// One claimed request.
struct Drive {
    engine: Arc<Engine>,
    id: RequestId,
    generation: i64,
    stop: CancellationToken,
    poke: Arc<Notify>,
    in_flight: BTreeMap<CallKey, CancellationToken>,
    wake_at: Timestamp,
    bound: BTreeMap<ClusterId, Arc<Bound>>,
    names: Names,
}

type Calls = FuturesUnordered<std::pin::Pin<Box<dyn Future<Output = Answer> + Send>>>;

/// Why a drive looks up.
enum Woken {
    Answers(Vec<Answer>),
    Look,
    Stop,
}

impl Drive {
    async fn run(mut self, calls: Vec<Call>) {
        let (sender, mut progress) = mpsc::channel(64);
        let mut running: Calls = FuturesUnordered::new();
        self.begin(calls, &mut running, &sender);
        loop {
            match self.wait(&mut running, &mut progress).await {
                Woken::Stop => return self.wind_up(running, progress).await,
                Woken::Look => {
                    if !self.settle(Vec::new(), &mut running, &sender).await {
                        return;
                    }
                }
                Woken::Answers(answers) => {
                    if !self.settle(answers, &mut running, &sender).await {
                        return;
                    }
                }
            }
        }
    }

    fn begin(&mut self, calls: Vec<Call>, running: &mut Calls, sender: &mpsc::Sender<Answer>) {
        for call in calls {
            let bound = self.engine.registry.get(call.cluster);
            let drop = CancellationToken::new();
            self.names.note(&call);
            self.in_flight.insert(call.key.clone(), drop.clone());
            let guard = Arc::clone(&self.engine.guard);
            let line = Line { store: self.engine.store.clone(), guard, drop, progress: sender.clone() };
            if let Ok(bound) = &bound {
                self.bound.entry(call.cluster).or_insert_with(|| Arc::clone(bound));
            }
            running.push(Box::pin(call::make(line, bound, call)));
        }
    }

    async fn wait(&mut self, running: &mut Calls, progress: &mut mpsc::Receiver<Answer>) -> Woken {
        let wait = self.wake_at.since(self.engine.store.now()).to_std();
        let mut answers = Vec::new();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Woken::Stop,
            Some(answer) = progress.recv() => answers.push(answer),
            Some(answer) = running.next(), if !running.is_empty() => answers.push(answer),
            () = self.poke.notified() => return Woken::Look,
            () = tokio::time::sleep(wait) => {
                self.wake_at = self.engine.store.now().plus(Span::seconds(1));
                return Woken::Look;
            }
        }
        // What else is ready belongs in the same transaction.
        while let Ok(answer) = progress.try_recv() {
            answers.push(answer);
        }
        while let Some(Some(answer)) = futures::FutureExt::now_or_never(running.next()) {
            answers.push(answer);
        }
        Woken::Answers(answers)
    }

    /// Settles answers and begins what comes next. False: nothing is left to do under this lease.
    async fn settle(&mut self, answers: Vec<Answer>, running: &mut Calls, sender: &mpsc::Sender<Answer>) -> bool {
        self.landed(&answers);
        let Some(settled) = self.write(answers, false).await else { return false };
        self.engine.bell.log_moved();
        self.wake_at = settled.wake_at;
        for (key, drop) in &self.in_flight {
            if !settled.run.wants(key) {
                drop.cancel();
            }
        }
        if settled.released {
            return false;
        }
        self.begin(settled.calls, running, sender);
        true
    }

    /// Calls that ended are in flight no more; progress leaves its call in flight.
    fn landed(&mut self, answers: &[Answer]) {
        for answer in answers.iter().filter(|a| !matches!(a.reply, Reply::Progress(_))) {
            self.in_flight.remove(&answer.key);
        }
    }

    /// Writes answers until it is known that they are stored, or that the lease is lost. A commit whose
    /// answer was lost counts as lost: another look under a new generation finds out what is so.
    async fn write(&self, answers: Vec<Answer>, closing: bool) -> Option<provisor_store::ops::settle::Settled> {
        let mut pause = Duration::from_millis(50);
        self.names.at(Point::BeforeSettle, &answers).await;
        loop {
            let settle = Settle {
                id: self.id,
                generation: self.generation,
                worker: self.engine.config.worker.clone(),
                answers: answers.clone(),
                in_flight: !self.in_flight.is_empty(),
                closing,
                identities: self.bound.iter().filter_map(|(c, b)| Some((*c, b.known_identity()?))).collect(),
                context: Arc::clone(&self.engine.context),
            };
            match self.engine.store.run(settle).await {
                Ok(settled) => {
                    self.names.at(Point::AfterSettle, &answers).await;
                    return Some(settled);
                }
                Err(error @ OpError::Database(_)) => {
                    store_failed!(error, request = %self.id, "settling failed; it is tried again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
                Err(error) => {
                    debug!(request = %self.id, %error, "the lease is given up");
                    return None;
                }
            }
        }
    }

    /// Shutdown: waits between looks end at once, calls that are being sent are waited for; what they
    /// answer is settled, nothing new begins, and the lease is given back unless a create is in doubt.
    async fn wind_up(mut self, mut running: Calls, mut progress: mpsc::Receiver<Answer>) {
        for drop in self.in_flight.values() {
            drop.cancel();
        }
        let mut answers = Vec::new();
        while let Some(answer) = running.next().await {
            if !matches!(answer.reply, Reply::Dropped) {
                answers.push(answer);
            }
        }
        while let Ok(answer) = progress.try_recv() {
            answers.insert(0, answer);
        }
        self.in_flight.clear();
        if !answers.is_empty() && self.write(answers, true).await.is_none() {
            return;
        }
        let back = HandBack { worker: self.engine.config.worker.clone(), leases: vec![(self.id, self.generation)] };
        if let Err(error) = self.engine.store.run(back).await {
            store_failed!(error, request = %self.id, "the lease could not be given back; it runs out");
        }
    }
}
