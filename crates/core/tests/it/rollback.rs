//! How fast a rollback is (SPEC 3.5): what is independent goes at once, and nothing waits for what it does not need.

use provisor_core::cluster::Settings;
use provisor_core::lifecycle::Step;
use provisor_core::run::Command;
use provisor_core::workflow::{Answer, Call, Made, Reply, Task};
use provisor_core::{Class, Failure, Span, State};
use serde_json::json;

use crate::bench::{Bench, spec};
use crate::plans::Plans;

const CLOUD: &str = "create_group=group create_volume=volume create_port=port<create_group \
                     create_server=server<create_port,create_volume | create_rule:22=rule<create_group \
                     create_rule:80=rule<create_group create_address=address<create_port | \
                     wait_server<create_server~create_server/120s | probe_ssh";

fn good(call: &Call) -> Answer {
    let reply = match &call.task {
        Task::Perform(work) => Reply::Done(Made { provider_id: work.tag.as_ref().map(ToString::to_string), ..Made::default() }),
        Task::Find { .. } => Reply::Looked(Vec::new()),
        Task::Release(_) => Reply::Gone { replaced: false },
    };
    Answer { key: call.key.clone(), reply }
}

fn bench(strategy: &str) -> Bench {
    let spec = spec("vps", &json!({"strategy": {"type": strategy}}));
    let mut bench = Bench::admit(spec, Plans::of(CLOUD), &["c1", "c2"], Settings::default(), 1);
    bench.launch();
    bench
}

/// Answers well, one call after the other, until the state is reached.
fn until(bench: &mut Bench, done: impl Fn(&Bench) -> bool) {
    for _ in 0..200 {
        if done(bench) {
            return;
        }
        if let Some(answer) = bench.in_flight.values().next().map(good) {
            drop(bench.answer(vec![answer]));
        } else {
            bench.now = bench.wake_at;
            bench.advance();
        }
    }
    panic!("it does not get there: {:#?}", bench.run);
}

/// What is being released now, by kind.
fn releasing(bench: &Bench) -> Vec<String> {
    let kind = |c: &Call| if let Task::Release(held) = &c.task { Some(held.kind.clone()) } else { None };
    let mut kinds: Vec<String> = bench.in_flight.values().filter_map(kind).collect();
    kinds.sort();
    kinds
}

/// Answers all releases at once, ten seconds later; what is released next.
fn round(bench: &mut Bench) -> Vec<String> {
    bench.now = bench.now.plus(Span::seconds(10));
    let answers = bench.in_flight.values().filter(|c| matches!(c.task, Task::Release(_))).map(good).collect();
    bench.answer(answers);
    releasing(bench)
}

#[test]
fn a_rollback_takes_as_long_as_its_longest_chain() {
    let mut bench = bench("single");
    until(&mut bench, |b| b.run.state == State::Completed);
    bench.command(Command::Deprovision { reason: None, force: false }).unwrap();
    bench.advance();
    let began = bench.now;
    // Seven resources in three rounds: server, then port, then group is the longest chain.
    assert_eq!(releasing(&bench), ["address", "rule", "rule", "server"]);
    assert_eq!(round(&mut bench), ["port", "volume"]);
    assert_eq!(round(&mut bench), ["group"]);
    assert!(round(&mut bench).is_empty());
    assert_eq!((bench.run.state, bench.now.since(began)), (State::RolledBack, Span::seconds(30)));
}

/// The loser of a race goes as fast, beside the service that stands.
#[test]
fn h07_a_loser_is_released_at_once_and_in_parallel() {
    let mut bench = bench("race");
    let winner = |b: &Bench| b.run.winner.is_some();
    let go_on = |bench: &mut Bench, attempt: usize| {
        let id = bench.run.attempts[attempt].id;
        let of_it = |c: &&Call| matches!(&c.task, Task::Perform(w) if w.attempt == Some(id));
        let answer = good(bench.in_flight.values().find(of_it).expect("the attempt goes on"));
        bench.answer(vec![answer]);
    };
    // The second attempt has made all that it makes before the first one wins.
    while bench.run.attempts[1].current_step() < Step::Activate {
        go_on(&mut bench, 1);
    }
    while !winner(&bench) {
        go_on(&mut bench, 0);
    }
    assert_eq!(releasing(&bench), ["address", "rule", "rule", "server"]);
    assert_eq!(round(&mut bench), ["port", "volume"]);
    assert_eq!(round(&mut bench), ["group"]);
    assert!(round(&mut bench).is_empty());
    assert!(bench.run.attempts[1].released_at.is_some() && bench.run.state == State::Completed);
}

/// H6, H8: what cannot be released, or may still come, holds up nothing that does not stand on it.
#[test]
fn h08_what_is_owed_holds_up_only_what_it_stands_on() {
    let mut bench = bench("single");
    until(&mut bench, |b| b.run.state == State::Completed);
    bench.command(Command::Deprovision { reason: None, force: false }).unwrap();
    bench.advance();
    // The address cannot be released, again and again; the port stands under it, and the group under the port.
    for _ in 0..8 {
        let fails = |c: &&Call| matches!(&c.task, Task::Release(h) if h.kind == "address");
        let answers: Vec<Answer> = bench
            .in_flight
            .values()
            .map(|c| {
                if fails(&c) {
                    Answer { key: c.key.clone(), reply: Reply::Failed(Failure::new(Class::Transient, "busy", "busy")) }
                } else {
                    good(c)
                }
            })
            .collect();
        bench.answer(answers);
        bench.now = bench.now.max(bench.wake_at.min(bench.now.plus(Span::seconds(300))));
        bench.advance();
    }
    let open: Vec<&str> = bench.run.ledger.iter().filter(|r| !r.is_closed()).map(|r| r.kind.as_str()).collect();
    assert_eq!(open, ["group", "port", "address"]);
    let owed: Vec<_> = bench.run.owed().collect();
    assert_eq!((owed.len(), owed[0].kind.as_str(), bench.run.state), (1, "address", State::RollingBack));
    assert!(owed[0].provider_id.is_some() && owed[0].owed_since.is_some());
    assert_eq!(owed[0].last_error.as_ref().map(|e| e.code.as_str()), Some("busy"), "visible with its last error");
    assert!(bench.run.holds_quota(), "what is owed keeps its quota");
    // And it is retried without end: once it works, everything goes.
    until(&mut bench, |b| b.run.state.is_terminal());
}
