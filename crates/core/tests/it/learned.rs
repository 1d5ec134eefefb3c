//! Learned deadlines in a request: where they hold, what a further try has, and how they are told (SPEC 3.3, H30).

use std::sync::Arc;

use provisor_core::cluster::{ProviderType, Settings};
use provisor_core::deadline::{Deadlines, Key};
use provisor_core::event::EventKind;
use provisor_core::known::Known;
use provisor_core::timeline::{Fact, timeline};
use provisor_core::workflow::{Answer, Call, Made, Reply};
use provisor_core::{Span, State};
use serde_json::json;

use crate::bench::{Bench, START, figures, spec};
use crate::plans::Plans;

/// A bench that knows how long `slow` takes: 4 s for all but a few.
fn bench(settings: Settings) -> Bench {
    bench_of(&["c1"], settings)
}

fn bench_of(clusters: &[&str], settings: Settings) -> Bench {
    let plans = Plans::of("slow/60s | b | c | d");
    let mut bench = Bench::admit(spec("vps", &json!({})), plans, clusters, settings, 1);
    let key = Key::of(ProviderType::Simulation, bench.clusters[0].id, "slow", &bench.run.spec);
    bench.known = Arc::new(Known { deadlines: Arc::new(Deadlines::new([(key, figures(Span::seconds(4)))])), ..Known::default() });
    bench
}

fn limit(bench: &Bench, calls: &[Call]) -> Span {
    assert_eq!(calls.len(), 1);
    calls[0].deadline.at().since(bench.now)
}

/// The try passes its deadline, and the next one begins when it is due.
fn time_out(bench: &mut Bench, calls: &[Call]) -> Vec<Call> {
    bench.now = calls[0].deadline.at();
    let none = bench
        .answer(vec![Answer { key: calls[0].key.clone(), reply: Reply::TimedOut { last_seen: None, diagnosis: Vec::new() } }]);
    assert!(none.is_empty());
    bench.now = bench.wake_at;
    bench.advance()
}

#[test]
fn h30_a_learned_deadline_holds_and_says_so() {
    let mut bench = bench(Settings::default());
    let calls = bench.launch();
    let learned = limit(&bench, &calls);
    assert!(learned > Span::seconds(5) && learned < Span::seconds(8), "{learned:?}");
    let calls = time_out(&mut bench, &calls);
    let error = bench.run.attempts[0].operations[0].tries[0].error.clone().unwrap();
    assert_eq!(error.code, "operation_timed_out");
    assert!(error.message.contains("limit from: learned"), "{}", error.message);
    assert_eq!(limit(&bench, &calls), Span(learned.0 * 2), "a further try has twice its time");
    let calls = time_out(&mut bench, &calls);
    assert_eq!(limit(&bench, &calls), Span(learned.0 * 4));
    bench.now = bench.now.plus(Span::seconds(3));
    bench.answer(vec![Answer { key: calls[0].key.clone(), reply: Reply::Done(Made::default()) }]);
    let facts: Vec<Fact<'_>> = bench.log.iter().map(|(at, event)| Fact { at: *at, event }).collect();
    let shown = timeline(&bench.run, &facts, true, bench.now);
    let slow = shown.items.iter().find(|i| i.metadata.get("operation") == Some(&json!("slow"))).unwrap();
    assert_eq!(slow.metadata["deadline_source"], "learned");
    assert_eq!(slow.metadata["learned"]["samples"], 5000);
    let class = slow.metadata["learned"]["class"].as_str().unwrap();
    assert!(class.starts_with("simulation/clu_") && class.ends_with("/slow/c1-m1-s1"), "{class}");
    let done = bench.log.iter().find(|(_, e)| e.kind == EventKind::OperationDone).unwrap();
    assert_eq!(done.1.detail["class"]["size"], "c1-m1-s1");
}

#[test]
fn h30_at_last_the_configured_deadline_holds() {
    let mut bench = bench(Settings { deadlines: [("slow".to_owned(), Span::seconds(20))].into(), ..Settings::default() });
    let calls = bench.launch();
    let first = limit(&bench, &calls);
    assert!(first < Span::seconds(8));
    let second = time_out(&mut bench, &calls);
    assert!(limit(&bench, &second) < Span::seconds(16));
    let third = time_out(&mut bench, &second);
    assert_eq!(limit(&bench, &third), Span::seconds(20), "no operation fails by a learned deadline alone");
    assert_eq!(bench.run.attempts[0].operations[0].deadline_source, "cluster");
    let fourth = time_out(&mut bench, &third);
    assert_eq!(limit(&bench, &fourth), Span::seconds(20));
    bench.now = fourth[0].deadline.at();
    bench.answer(vec![Answer { key: fourth[0].key.clone(), reply: Reply::TimedOut { last_seen: None, diagnosis: Vec::new() } }]);
    assert_ne!(bench.run.state, State::Allocating, "three retries, as without it");
}

#[test]
fn h30_where_another_cluster_can_take_over_three_learned_tries_are_enough() {
    let mut bench = bench_of(&["c1", "c2"], Settings::default());
    let first = bench.launch();
    let learned = limit(&bench, &first);
    let second = time_out(&mut bench, &first);
    assert_eq!(limit(&bench, &second), Span(learned.0 * 2));
    let third = time_out(&mut bench, &second);
    assert_eq!(limit(&bench, &third), Span(learned.0 * 2), "no longer than the second");
    bench.now = third[0].deadline.at();
    let none = Answer { key: third[0].key.clone(), reply: Reply::TimedOut { last_seen: None, diagnosis: Vec::new() } };
    let next = bench.answer(vec![none]);
    assert_eq!((bench.run.attempts.len(), bench.run.attempts[0].operations[0].retries), (2, 2), "tried again twice (SPEC 3.1)");
    assert_eq!(next[0].cluster, bench.clusters[1].id);
    // On the last cluster there is, what is learned alone ends nothing.
    assert!(!bench.run.attempts[1].others);
}

#[test]
fn it_can_be_switched_off_for_a_cluster() {
    let mut off = Settings::default();
    off.learned.enabled = false;
    let mut bench = bench(off);
    let calls = bench.launch();
    assert_eq!(limit(&bench, &calls), Span::seconds(60));
    assert_eq!(bench.run.attempts[0].operations[0].deadline_source, "default");
    assert_eq!(bench.now, START);
}
