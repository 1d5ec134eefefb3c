//! Calls that a breaker, a pause or a full cluster holds back: no try, no retry, and said by name (H27, H28, H29).

use std::sync::Arc;

use provisor_core::breaker::{Breaker, Calls, Gate, Pause, Policy};
use provisor_core::cluster::Settings;
use provisor_core::known::Known;
use provisor_core::run::{AttemptState, Command, OperationStatus};
use provisor_core::workflow::{Answer, Call, Made, Reply, Task};
use provisor_core::{Span, State};
use serde_json::json;

use crate::bench::{Bench, START, spec};
use crate::plans::Plans;

const POLICY: Policy = Policy { failures: 1, window: Span::seconds(60), open: Span::seconds(30) };

fn bench(plan: &str, clusters: &[&str]) -> Bench {
    Bench::admit(spec("vps", &json!({})), Plans::of(plan), clusters, Settings::default(), 1)
}

/// The cluster's breaker has just opened.
fn open(bench: &mut Bench) {
    let mut breaker = Breaker::default();
    assert!(breaker.note(Calls { good: 0, bad: 1 }, POLICY, bench.now));
    know(bench, Gate { breaker, ..Gate::default() });
}

fn know(bench: &mut Bench, gate: Gate) {
    let gates = [(bench.clusters[0].id, gate)].into();
    bench.known = Arc::new(Known { gates, ..Known::default() });
}

fn waits_for(bench: &Bench) -> Option<&str> {
    bench.run.waiting.as_ref().map(|w| w.reason.as_str())
}

fn good(call: &Call) -> Answer {
    let provider_id = matches!(&call.task, Task::Perform(w) if w.tag.is_some()).then(|| format!("id-{:?}", call.key));
    let reply = match &call.task {
        Task::Release(_) => Reply::Gone { replaced: false },
        _ => Reply::Done(Made { provider_id, ..Made::default() }),
    };
    Answer { key: call.key.clone(), reply }
}

#[test]
fn h27_an_operation_waits_for_an_open_breaker_and_uses_no_retry() {
    let mut bench = bench("a/60s | b | c | d", &["c1"]);
    open(&mut bench);
    assert!(bench.launch().is_empty());
    assert_eq!(waits_for(&bench), Some("cluster_health"));
    let detail = bench.run.waiting.as_ref().and_then(|w| w.detail.clone()).unwrap();
    assert!(detail.contains("circuit breaker is open"), "{detail}");
    bench.now = bench.wake_at;
    assert!(bench.now >= START.plus(Span::seconds(30)));
    let calls = bench.advance();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].deadline.at(), bench.now.plus(Span::seconds(60)), "its full deadline");
    assert_eq!(waits_for(&bench), None);
    let operation = &bench.run.attempts[0].operations[0];
    assert_eq!((operation.retries, operation.tries.len()), (0, 1));
}

#[test]
fn h27_it_waits_no_longer_than_its_own_deadline() {
    let mut bench = bench("a/20s | b | c | d", &["c1", "c2"]);
    open(&mut bench);
    assert!(bench.launch().is_empty());
    bench.now = bench.wake_at;
    assert_eq!(bench.now, START.plus(Span::seconds(20)));
    let calls = bench.advance();
    let first = &bench.run.attempts[0];
    assert_eq!((first.state, first.error.as_ref().unwrap().code.as_str()), (AttemptState::Failed, "cluster_unavailable"));
    assert_eq!(calls.len(), 1, "it goes on elsewhere");
    assert_eq!(calls[0].cluster, bench.clusters[1].id);
}

/// It fails without a call, in a decision that nothing else would follow: the action must end in that same one.
#[test]
fn h14_h27_a_suspend_that_is_held_back_for_too_long_fails_and_is_tried_again() {
    let mut bench = bench("a | b | c | d", &["c1"]);
    bench.plans.suspend = "| | stop_server/20s |".to_owned();
    let mut calls = bench.launch();
    while !calls.is_empty() {
        calls = bench.answer(calls.iter().map(good).collect());
    }
    assert_eq!(bench.run.state, State::Completed);
    open(&mut bench);
    bench.command(Command::Suspend { reason: None }).unwrap();
    assert!(bench.advance().is_empty());
    assert_eq!(waits_for(&bench), Some("cluster_health"));
    bench.now = bench.wake_at;
    assert!(bench.advance().is_empty());
    let action = bench.run.action.clone().unwrap();
    assert_eq!((action.status.as_str(), action.error.unwrap().code.as_str()), ("failed", "cluster_unavailable"));
    assert_eq!(bench.wake_at, bench.now.plus(Span::seconds(900)));
    // By then the breaker lets it through.
    bench.now = bench.wake_at;
    know(&mut bench, Gate::default());
    let calls = bench.advance();
    bench.answer(calls.iter().map(good).collect());
    assert_eq!(bench.run.state, State::Suspended);
}

#[test]
fn h27_a_call_that_was_not_sent_was_no_try() {
    let mut bench = bench("create_volume=volume | b | c | d", &["c1"]);
    let calls = bench.launch();
    open(&mut bench);
    let until = bench.now.plus(Span::seconds(31));
    assert!(bench.answer(vec![Answer { key: calls[0].key.clone(), reply: Reply::Held { until } }]).is_empty());
    let operation = &bench.run.attempts[0].operations[0];
    assert_eq!((operation.status, operation.tries.len(), operation.retries), (OperationStatus::Waiting, 0, 0));
    assert!(!bench.run.ledger[0].in_doubt, "it was not sent");
    assert_eq!(waits_for(&bench), Some("cluster_health"));
    bench.now = bench.wake_at;
    let again = bench.advance();
    assert_eq!(bench.run.ledger.len(), 1, "the same row, with a new time to send it by");
    assert!(again[0].send_by.unwrap() > bench.now);
    bench.answer(vec![good(&again[0])]);
    assert_eq!(bench.run.attempts[0].operations[0].tries.len(), 1);
}

#[test]
fn h28_a_full_cluster_is_waited_for_by_name_and_what_takes_back_passes() {
    let mut bench = bench("create_volume=volume | create_rule=rule | c | d", &["c1"]);
    let calls = bench.launch();
    let full = [(bench.run.tenant, bench.now.plus(Span::seconds(5)))].into();
    know(&mut bench, Gate { full, ..Gate::default() });
    assert!(bench.answer(vec![good(&calls[0])]).is_empty());
    assert_eq!(waits_for(&bench), Some("capacity"));
    bench.command(Command::Cancel { reason: None }).unwrap();
    let calls = bench.advance();
    assert!(calls.len() == 1 && calls[0].urgent && matches!(calls[0].task, Task::Release(_)), "{calls:?}");
}

#[test]
fn h29_a_paused_cluster_is_waited_for_until_the_stuck_limit() {
    let mut bench = bench("a/20s | b | c | d", &["c1", "c2"]);
    know(&mut bench, Gate { paused: Some(Pause { since: START, error: "401".into() }), ..Gate::default() });
    assert!(bench.launch().is_empty());
    assert_eq!(waits_for(&bench), Some("cluster_health"));
    while bench.run.state == State::Allocating {
        assert!(bench.now < START.plus(Span::seconds(1900)), "for ever");
        bench.now = bench.wake_at;
        bench.advance();
    }
    assert_eq!(bench.now, START.plus(Span::seconds(1800)));
    assert_eq!(bench.run.error.as_ref().unwrap().code, "stuck");
    assert_eq!(bench.run.attempts.len(), 1, "without failover");
    assert_eq!(bench.run.attempts[0].operations[0].tries.len(), 0);
}

#[test]
fn h29_with_other_credentials_it_goes_on() {
    let mut bench = bench("a/20s | b | c | d", &["c1"]);
    know(&mut bench, Gate { paused: Some(Pause { since: START, error: "401".into() }), ..Gate::default() });
    assert!(bench.launch().is_empty());
    know(&mut bench, Gate::default());
    bench.now = bench.wake_at;
    assert_eq!(bench.advance().len(), 1);
    assert_eq!(waits_for(&bench), None);
}

#[test]
fn h27_taking_back_waits_for_the_breaker_too_and_says_so() {
    let mut bench = bench("create_volume=volume | b | c | d", &["c1"]);
    let calls = bench.launch();
    bench.answer(vec![good(&calls[0])]);
    open(&mut bench);
    bench.command(Command::Cancel { reason: None }).unwrap();
    assert!(bench.advance().is_empty());
    assert_eq!((bench.run.state, waits_for(&bench)), (State::RollingBack, Some("cluster_health")));
    bench.now = bench.wake_at;
    assert_eq!(bench.now, START.plus(Span::seconds(30)), "at once when it half opens");
    let calls = bench.advance();
    assert_eq!(calls.len(), 1);
    bench.answer(vec![good(&calls[0])]);
    assert_eq!(bench.run.state, State::RolledBack);
    assert_eq!(bench.run.ledger[0].failures, 0);
}
