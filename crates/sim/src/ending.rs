//! What must hold once nothing goes wrong any more: everything ends within a bounded time, and all accounts agree.
//!
//! First everything comes to rest by itself, with a person who answers every question; then all of it is released, and
//! must be gone. The time in between is bounded, because "in the end" without a bound cannot be tested.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use provisor_core::lifecycle::Outcome;
use provisor_core::run::{Command, RowState};
use provisor_core::workflow::Planner as _;
use provisor_core::{RequestId, State};
use provisor_store::ops::quota::QuotaProof;
use provisor_store::ops::readers::Backlogs;
use provisor_store::ops::requests::GetRequest;
use serde_json::Value;

use crate::node::API;
use crate::orders::{client, engine, input};
use crate::plan::Wish;
use crate::property::Property;
use crate::stage::Stage;
use crate::watch::Picture;
use crate::world::heal;

/// Longest time until everything has come to rest, in virtual seconds.
const REST_WITHIN: u64 = 300;
/// Before this nothing is judged: what was sent before the calm may still arrive.
const REST_AFTER: u64 = 8;

/// Judges the end, empties everything, and judges again.
pub(crate) async fn judge(stage: &Arc<Stage>) {
    rest(stage, false).await;
    account(stage).await;
    let outcomes: BTreeMap<RequestId, String> = {
        let inner = stage.lock();
        inner.watch.requests.iter().map(|(id, p)| (*id, outcome(p))).collect()
    };
    stage.lock().coverage.settle(|id| outcomes.get(&id).cloned().unwrap_or_else(|| "unknown".to_owned()));
    stage.note(|| "everything is released".to_owned());
    rest(stage, true).await;
    account(stage).await;
    emptied(stage);
}

/// Where a request stands in the end, in one word.
fn outcome(picture: &Picture) -> String {
    match (picture.state, picture.run.outcome) {
        (State::Completed | State::Suspended | State::Queued, _) => picture.state.name().to_owned(),
        (_, Some(outcome)) => match outcome {
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
            Outcome::DependencyFailed => "dependency failed",
            Outcome::Deprovisioned => "deprovisioned",
            _ => "other",
        }
        .to_owned(),
        (state, None) => state.name().to_owned(),
    }
}

/// Waits until everything rests. With `release` it is all asked to go, again and again.
async fn rest(stage: &Arc<Stage>, release: bool) {
    let mut restless = vec![(Property::Ends, "nothing was looked at".to_owned())];
    for second in 0..REST_WITHIN {
        answer_persons(stage).await;
        if release {
            ask_to_go(stage).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        heal(stage).await;
        if second < REST_AFTER {
            continue;
        }
        restless = unrest(stage, release);
        if restless.is_empty() {
            restless = strangers(stage);
        }
        if restless.is_empty() {
            restless = behind(stage).await;
        }
        if restless.is_empty() {
            return;
        }
    }
    for (property, what) in restless {
        stage.breach(property, what);
    }
}

async fn answer_persons(stage: &Arc<Stage>) {
    let asked: Vec<RequestId> = {
        let inner = stage.lock();
        inner.watch.requests.iter().filter(|(_, p)| p.run.asks_person()).map(|(id, _)| *id).collect()
    };
    let Some(engine) = engine(stage, API) else { return };
    for id in asked {
        // A refusal: somebody was faster.
        let _ = engine.command(id, input(), client()).await;
    }
}

async fn ask_to_go(stage: &Arc<Stage>) {
    let live: Vec<(RequestId, State)> = {
        let inner = stage.lock();
        inner.watch.requests.iter().filter(|(_, p)| p.live).map(|(id, p)| (*id, p.state)).collect()
    };
    let Some(engine) = engine(stage, API) else { return };
    for (id, state) in live {
        let command = match state {
            State::Completed | State::Suspended => Command::Deprovision { reason: None, force: true },
            State::Failed | State::RollingBack | State::RolledBack => continue,
            _ => Command::Cancel { reason: None },
        };
        // A refusal: its state has changed meanwhile, and it is asked again.
        let _ = engine.command(id, command, client()).await;
    }
}

type Wrong = Vec<(Property, String)>;

/// What has not ended yet, or is owed.
fn unrest(stage: &Stage, all: bool) -> Wrong {
    let inner = stage.lock();
    let mut wrong = Wrong::new();
    for (id, picture) in &inner.watch.requests {
        let run = &picture.run;
        if picture.worker.is_some() {
            wrong.push((Property::NoLease, format!("{id} is held by {:?}", picture.worker)));
        }
        let open: Vec<_> = run.ledger.iter().filter(|r| r.is_open()).collect();
        let stands = picture.state.is_standing();
        for row in open.iter().filter(|r| !stands || r.unwanted || r.in_doubt || r.state != RowState::Created) {
            wrong.push((Property::NothingOwed, format!("{id} ({}): {row:?}", picture.state.name())));
        }
        let acts = run.action.as_ref().is_some_and(|a| a.status == "running");
        let may_wait = !all && picture.state == State::Queued && waits_for_good(&inner.watch.requests, picture);
        let ended = picture.state == State::RolledBack || (stands && !all && !acts);
        if !ended && !may_wait {
            let waits = run.waiting.as_ref().map(|w| w.reason.as_str());
            wrong.push((Property::Ends, format!("{id} {} is {}, waits for {waits:?}", picture.name, picture.state.name())));
        }
    }
    wrong
}

/// It waits for a prerequisite that is suspended or waits itself, or for room that others keep.
fn waits_for_good(all: &BTreeMap<RequestId, Picture>, picture: &Picture) -> bool {
    match picture.run.waiting.as_ref().map(|w| w.reason.as_str()) {
        Some("capacity") => true,
        Some("prerequisites") => {
            let open = |p: &&RequestId| all.get(p).is_some_and(|p| p.state != State::Completed);
            picture.run.depends_on.iter().any(|p| open(&p))
        }
        _ => false,
    }
}

/// An object: cluster, kind, id.
type Object = (String, String, String);

fn live_objects(stage: &Stage) -> BTreeMap<Object, Value> {
    let mut live = BTreeMap::new();
    for site in &stage.plan.clusters {
        let inventory = stage.cloud.inventory(&site.name, true).unwrap_or_default();
        let text = |o: &Value, key: &str| o.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        for object in inventory.get("resources").and_then(Value::as_array).into_iter().flatten() {
            live.insert((site.name.clone(), text(object, "kind"), text(object, "id")), object.clone());
        }
    }
    live
}

/// What lives and is in no ledger, and what a ledger names and does not live.
fn strangers(stage: &Stage) -> Wrong {
    let mut live = live_objects(stage);
    let inner = stage.lock();
    let mut wrong = Wrong::new();
    for (id, picture) in &inner.watch.requests {
        let drifted = picture.run.health.as_ref().is_some_and(|h| h.state != "ok");
        for row in picture.run.ledger.iter().filter(|r| r.is_open()) {
            let attempt = picture.run.attempts.iter().find(|a| a.id == row.attempt);
            let cluster = attempt.map_or_else(String::new, |a| a.cluster_name.clone());
            let key = (cluster, row.kind.clone(), row.provider_id.clone().unwrap_or_default());
            // What vanished by itself is shown as drifted and left alone (H15).
            if live.remove(&key).is_none() && !drifted {
                wrong.push((Property::Inventory, format!("{id} owns {key:?}, which is not there ({:?})", row.id)));
            }
        }
    }
    for (key, object) in live {
        wrong.push((Property::Inventory, format!("{key:?} is there, and nobody owns it: {object}")));
    }
    wrong
}

/// Whether the follower has had everything.
async fn behind(stage: &Stage) -> Wrong {
    let mut wrong = Wrong::new();
    match stage.store.run(Backlogs).await {
        Ok(all) => {
            for backlog in all.iter().filter(|b| b.behind > 0) {
                wrong.push((Property::Delivered, format!("{} is {} positions behind", backlog.name, backlog.behind)));
            }
        }
        Err(error) => wrong.push((Property::Readable, error.to_string())),
    }
    wrong
}

/// The accounts that need no patience.
async fn account(stage: &Arc<Stage>) {
    match stage.store.run(QuotaProof).await {
        Ok(differences) => {
            for difference in differences {
                stage.breach(Property::Proof, format!("{difference:?}"));
            }
        }
        Err(error) => stage.breach(Property::Readable, format!("the proof of quota: {error}")),
    }
    for (property, what) in delivered(stage).into_iter().chain(asked_once(stage)) {
        stage.breach(property, what);
    }
    one_of_each(stage).await;
}

/// The sink's first sight of each event comes in the order of the log, and none is missing.
fn delivered(stage: &Stage) -> Wrong {
    let inner = stage.lock();
    let mut wrong = Wrong::new();
    let mut log = inner.watch.log.iter();
    let mut last = 0;
    for (position, subject) in &inner.sink {
        if *position <= last {
            continue;
        }
        last = *position;
        match log.next() {
            Some(next) if *next == (*position, *subject) => {}
            other => {
                wrong.push((Property::Delivered, format!("the sink gets {position} where {other:?} is next in the log")));
                return wrong;
            }
        }
    }
    if let Some(missing) = log.next() {
        wrong.push((Property::Delivered, format!("the sink never got {missing:?}")));
    }
    wrong
}

/// What was asked for is there once: where the answer was a yes it is there, and never twice.
fn asked_once(stage: &Stage) -> Wrong {
    let inner = stage.lock();
    let mut wrong = Wrong::new();
    for (index, order) in stage.plan.orders.iter().enumerate() {
        let Wish::Admit(asks) = &order.wish else { continue };
        let yes = inner.answered.get(&index);
        for ask in asks {
            let of_name = inner.watch.requests.values().filter(|p| p.name == ask.name && p.run.retry_of.is_none());
            let count = of_name.count();
            let expected: &[usize] = match yes {
                Some(true) => &[1],
                Some(false) => &[0],
                None => &[0, 1],
            };
            if !expected.contains(&count) {
                wrong.push((Property::AdmittedOnce, format!("{} is there {count} times, its answer was {yes:?}", ask.name)));
            }
        }
    }
    wrong
}

/// One live resource of each role that the winner's plan makes.
async fn one_of_each(stage: &Arc<Stage>) {
    let standing: Vec<(RequestId, Picture)> = {
        let inner = stage.lock();
        inner.watch.requests.iter().filter(|(_, p)| p.state.is_standing()).map(|(id, p)| (*id, p.clone())).collect()
    };
    let Some(engine) = engine(stage, API) else { return };
    for (id, picture) in standing {
        let Ok(Some(view)) = stage.store.run(GetRequest { id, scope: None }).await else { continue };
        let Some(winner) = picture.run.attempts.iter().find(|a| Some(a.id) == picture.run.winner) else {
            stage.breach(Property::OneWinner, format!("{id} is {} without a winner", picture.state.name()));
            continue;
        };
        let Ok(plan) = engine.registry().plan(winner.cluster, &view.run.spec) else { continue };
        let roles: Vec<String> = plan.operations.iter().filter_map(|o| o.makes.clone()).collect();
        let owned: Vec<String> = picture.run.ledger.iter().filter(|r| r.is_open()).map(|r| r.kind.clone()).collect();
        if sorted(&roles) != sorted(&owned) {
            stage.breach(Property::OneOfEach, format!("{id} has {owned:?} where its plan makes {roles:?}"));
        }
    }
}

fn sorted(names: &[String]) -> Vec<&String> {
    let mut all: Vec<&String> = names.iter().collect();
    all.sort();
    all
}

/// Nothing lives, nobody holds anything.
fn emptied(stage: &Arc<Stage>) {
    for key in live_objects(stage).keys() {
        stage.breach(Property::Emptied, format!("{key:?} still lives"));
    }
    let holders: BTreeSet<RequestId> = {
        let inner = stage.lock();
        inner.watch.requests.iter().filter(|(_, p)| p.live).map(|(id, _)| *id).collect()
    };
    for id in holders {
        stage.breach(Property::Emptied, format!("{id} still holds its quota"));
    }
}
