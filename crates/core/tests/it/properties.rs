//! What holds of every life of a request in a world that goes wrong (see `world.rs`), however it goes.
//!
//! `Bench` checks after every decision: each change of state is in the table and begins where the last one ended; asked
//! again without news nothing new is decided; never two calls in flight for one operation or row; no dead run.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;
use provisor_core::event::EventKind;
use provisor_core::lifecycle::{Outcome, Step};
use provisor_core::run::{AttemptState, Command, StepStatus, Wanted};
use provisor_core::{Kind, Run, State, Timestamp};

use crate::bench::Bench;
use crate::plans::{MANAGED, VPS, plan};
use crate::world::{Weather, World};

const CLOUD: &str = "create_group=group create_volume=volume create_port=port<create_group \
                     create_server=server<create_port,create_volume | create_rule:22=rule<create_group \
                     create_rule:80=rule<create_group create_address=address<create_port | \
                     wait_server<create_server~create_server/120s | probe_ssh probe_http";
const NAMESPACE: &str = "create_namespace=namespace create_quota=quota<create_namespace | grant_access | wait/60s | check";
const CLONE: &str = "clone_vm=vm | configure_vm<clone_vm create_rule=rule<configure_vm | wait_address~clone_vm/90s | probe_ssh";

const SHAPES: [(&str, &str); 6] = [
    ("vps", VPS),
    ("vps", CLOUD),
    ("vps", CLONE),
    ("kubernetes_namespace", NAMESPACE),
    ("environment", "create_application=application | sync | wait | probe_url"),
    ("managed", MANAGED),
];

/// Fixed, so that all tests of the crate stay within seconds; `PROVISOR_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROVISOR_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000)
}

fn weather() -> impl Strategy<Value = Weather> {
    let some = |most: u64| prop_oneof![Just(0), 1..most];
    (some(40), some(40), some(12), some(25), some(20)).prop_map(|(fails, lost, crashes, commands, held)| Weather {
        fails,
        lost,
        crashes,
        commands,
        held,
    })
}

proptest! {
    #![proptest_config(Config { cases: cases(), max_shrink_iters: 64, failure_persistence: None, ..Config::default() })]

    #[test]
    fn every_life_keeps_the_rules(seed in any::<u64>(), shape in 0..SHAPES.len(), weather in weather()) {
        let (kind, text) = SHAPES[shape];
        let mut world = World::new(seed, kind, text, weather);
        world.live(150);
        world.calm = true;
        world.live(600);
        settled(&world, text);
        check_life(&world.bench);
        end(&mut world);
        check_life(&world.bench);
        let left: Vec<_> = world.objects.iter().collect();
        let rows = world.bench.run.ledger.iter().filter(|r| left.iter().any(|o| o.tag == r.tag.as_str()));
        prop_assert!(left.is_empty(), "left behind: {left:?}\n{:#?}", rows.collect::<Vec<_>>());
        terminal(&mut world.bench);
    }

    #[test]
    fn in_fair_weather_everything_completes(seed in any::<u64>(), shape in 0..SHAPES.len()) {
        let (kind, text) = SHAPES[shape];
        let mut world = World::new(seed, kind, text, Weather { fails: 0, lost: 0, crashes: 0, commands: 0, held: 0 });
        world.live(100);
        let run = &world.bench.run;
        prop_assert!(run.ready_at.is_some() && (run.attempts.len() == 1 || side_by_side(run)), "{} {:?}", run.state.name(), run.waiting);
        prop_assert!(run.ledger.iter().all(|r| !r.in_doubt && r.written_off == run.ledger.is_empty()));
    }
}

/// Two attempts may be at work at once.
fn side_by_side(run: &Run) -> bool {
    run.strategy().kind.is_parallel()
}

/// In calm weather a life comes to rest: it stands as it is wanted, or nothing is left of it.
fn settled(world: &World, text: &str) {
    let run = &world.bench.run;
    let rests = match run.state {
        State::Completed => run.wanted == Wanted::Running,
        State::Suspended => run.wanted == Wanted::Suspended,
        state => state.is_terminal(),
    };
    assert!(rests, "it does not come to rest: {} wants {:?}, waits {:?}\n{run:#?}", run.state.name(), run.wanted, run.waiting);
    if run.state.is_terminal() {
        return;
    }
    assert_eq!(world.stopped, run.state == State::Suspended, "it is up or down as its state says (H13, H14)");
    assert!(run.ledger.iter().all(|r| r.is_closed() || !r.unwanted), "doubts are settled by now");
    let mut planned: BTreeMap<String, usize> = BTreeMap::new();
    for kind in plan(text).operations.into_iter().filter_map(|o| o.makes) {
        *planned.entry(kind).or_default() += 1;
    }
    let mut live: BTreeMap<String, usize> = BTreeMap::new();
    for object in &world.objects {
        *live.entry(object.kind.clone()).or_default() += 1;
    }
    assert!(!world.objects.iter().any(|o| o.spoiled), "what is in a terminal bad state is never adopted (H10)");
    assert_eq!(live, planned, "exactly one live object for each that is planned");
}

/// Whatever still stands is released.
fn end(world: &mut World) {
    if world.bench.run.state.is_standing() {
        world.ask(Command::Deprovision { reason: None, force: false });
        world.live(600);
    }
    assert!(world.bench.run.state.is_terminal(), "{}", world.bench.run.state.name());
}

fn terminal(bench: &mut Bench) {
    let commands = [
        Command::Suspend { reason: None },
        Command::Reactivate { reason: None },
        Command::QueueTimeout,
        Command::Unplaceable { rejected: Vec::new() },
    ];
    for command in commands {
        assert!(bench.command(command).is_err(), "a terminal state accepts nothing");
    }
    bench.new_generation();
    assert!(bench.advance().is_empty());
    assert_eq!(bench.wake_at, Timestamp::NEVER);
}

fn check_life(bench: &Bench) {
    check_times(&bench.run);
    check_events(bench);
    let run = &bench.run;
    assert_eq!(run.winner.is_some(), run.ready_at.is_some());
    let probe = run.error.as_ref().is_some_and(|e| e.step.as_deref() == Some("verify") && e.code != "stuck");
    assert!(!probe || run.spec.kind != Kind::Managed, "a typo rolls a vendor's service back (H17)");
    assert!(run.attempts.iter().filter(|a| a.state == AttemptState::Won).count() <= 1);
    let mut tags: Vec<_> = run.ledger.iter().map(|r| (&r.tag, &r.provider_id)).collect();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), run.ledger.len(), "a tag names one row, and surplus another object");
}

/// Steps abut, every try lies inside its step, and queue, attempts and waits make up the time until it was ready.
fn check_times(run: &Run) {
    for attempt in &run.attempts {
        let mut at = attempt.started_at;
        for step in &attempt.steps {
            let Some(started) = step.started_at else {
                assert!(matches!(step.status, StepStatus::Pending | StepStatus::Cancelled));
                continue;
            };
            assert_eq!(started, at, "steps abut");
            at = step.finished_at.unwrap_or(Timestamp::NEVER);
            for operation in attempt.operations.iter().filter(|o| o.planned.step == step.step) {
                for pair in operation.tries.windows(2) {
                    assert!(pair[0].finished_at.is_some_and(|end| end <= pair[1].started_at), "tries follow one another");
                }
                for one in &operation.tries {
                    let ended = one.finished_at.unwrap_or(at);
                    assert!(
                        started <= one.started_at && ended <= at,
                        "a try of {} lies outside its step",
                        operation.planned.name
                    );
                }
                assert!(operation.retries <= attempt.settings.retry.max_retries);
            }
        }
        if let (Some(end), Some(_)) = (attempt.finished_at, attempt.steps[0].started_at) {
            assert_eq!(end, at, "the last step that began ends with its attempt");
        }
    }
    let Some(ready) = run.ready_at else { return };
    let within =
        |w: &&provisor_core::run::Wait| run.attempts.iter().any(|a| a.started_at <= w.since && Some(w.since) < a.finished_at);
    let waited: i64 = run.waits.iter().filter(|w| w.until <= ready && !within(w)).map(|w| w.until.since(w.since).0).sum();
    // Attempts side by side take their time together.
    let (mut worked, mut until) = (0, run.created_at);
    for attempt in &run.attempts {
        let end = attempt.finished_at.unwrap();
        worked += end.since(until.max(attempt.started_at)).0;
        until = until.max(end);
    }
    assert_eq!(ready.since(run.created_at).0, waited + worked, "the account of time is complete");
}

/// The table of events of API.md, as far as it can be read from the whole list.
fn check_events(bench: &Bench) {
    let run = &bench.run;
    let kinds = bench.published();
    let count = |kind: EventKind| kinds.iter().filter(|k| **k == kind).count();
    let started = run.attempts.len();
    assert_eq!(kinds[0], EventKind::Started);
    assert_eq!(count(EventKind::Started), 1);
    assert_eq!(count(EventKind::AttemptStarted), started);
    check_ends(bench);
    let completed = usize::from(run.ready_at.is_some());
    assert_eq!(count(EventKind::Completed), completed);
    assert_eq!(count(EventKind::ServiceActivated), completed);
    let failed = usize::from(matches!(run.outcome, Some(Outcome::Failed | Outcome::DependencyFailed)));
    assert_eq!(count(EventKind::Failed), failed, "provisioning.failed once, and only then");
    let leaving = usize::from(run.termination_started_at.is_some());
    assert_eq!(count(EventKind::RollbackStarted), leaving * (1 - completed));
    assert_eq!(count(EventKind::DeprovisionStarted), leaving * completed);
    let left = usize::from(run.state.is_terminal());
    assert_eq!(count(EventKind::RolledBack), left * (1 - completed));
    assert_eq!(count(EventKind::Deprovisioned), left * completed);
    if run.state.is_terminal() {
        assert!(matches!(kinds.last(), Some(EventKind::RolledBack | EventKind::Deprovisioned)), "{:?}", kinds.last());
    }
    check_completion(bench);
    check_resources(bench);
    let steps = bench.log.iter().filter(|(_, e)| e.kind == EventKind::StepCompleted);
    let mut seen: Vec<_> = steps.map(|(_, e)| (e.attempt, e.step.clone())).collect();
    seen.sort();
    let all = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), all, "step-completed once for each step of an attempt");
    if let Some(winner) = run.winner {
        let told = seen.iter().filter(|(a, _)| *a == Some(winner)).count();
        // Beside another it is told only of the steps in which it led; the last one is always the winner's.
        assert!(told == Step::ALL.len() || (side_by_side(run) && told >= 1), "{told} steps of the winner");
    }
}

/// An attempt that ends otherwise is told once, except where its end is that of the request (H11).
fn check_ends(bench: &Bench) {
    let run = &bench.run;
    let mut untold = 0;
    for attempt in &run.attempts {
        let of = |kind| bench.log.iter().filter(|(_, e)| e.kind == kind && e.attempt == Some(attempt.id)).count();
        let (failed, lost) = (of(EventKind::AttemptFailed), of(EventKind::AttemptLost));
        assert_eq!(lost, usize::from(attempt.state == AttemptState::Lost));
        assert!(failed <= usize::from(attempt.state == AttemptState::Failed), "attempt {} failed {failed} times", attempt.number);
        untold += usize::from(attempt.state == AttemptState::Failed) - failed;
        assert!(lost == 0 || run.winner.is_some() && run.winner == attempt.replaced_by, "who loses knows to whom");
    }
    let stuck = run.error.as_ref().is_some_and(|e| e.code == "stuck");
    assert!(untold <= 1 || stuck, "{untold} failures were not told");
    assert!(side_by_side(run) || run.attempts.iter().filter(|a| a.state == AttemptState::Running).count() <= 1);
    assert!(run.attempts.iter().filter(|a| a.state == AttemptState::Running).count() <= 2, "more than two at once");
    assert!(run.attempts.len() <= usize::try_from(run.strategy().max_attempts).unwrap());
}

/// service.activated directly before provisioning.completed; no endpoints and no refund anywhere else.
fn check_completion(bench: &Bench) {
    let published: Vec<_> = bench.log.iter().map(|(_, e)| e).filter(|e| e.kind.is_published()).collect();
    for (i, event) in published.iter().enumerate() {
        if event.kind == EventKind::Completed {
            assert_eq!(published[i - 1].kind, EventKind::ServiceActivated);
        }
        let shows = matches!(event.kind, EventKind::Completed | EventKind::ServiceActivated);
        assert!(shows || event.endpoints.is_empty(), "{} shows endpoints", event.kind.name());
        assert!(!event.refund || event.kind == EventKind::RolledBack);
        if event.kind == EventKind::RolledBack {
            let cancelled = bench.run.outcome == Some(Outcome::Cancelled);
            assert_eq!(event.refund, !cancelled || bench.run.spec.order_id.is_some());
        }
    }
}

/// Each row is told made and gone at most once, in that order.
fn check_resources(bench: &Bench) {
    for row in &bench.run.ledger {
        let of = |kind: EventKind| {
            let about = |e: &provisor_core::event::Event| e.kind == kind && e.resource.as_ref().is_some_and(|r| r.id == row.id);
            bench.log.iter().enumerate().filter(|(_, (_, e))| about(e)).map(|(i, _)| i).collect::<Vec<_>>()
        };
        let (made, gone) = (of(EventKind::ResourceAllocated), of(EventKind::ResourceReleased));
        assert!(made.len() <= 1 && gone.len() <= 1, "{} is told {} times made, {} times gone", row.name, made.len(), gone.len());
        if let (Some(made), Some(gone)) = (made.first(), gone.first()) {
            assert!(made < gone);
        }
        let closed = row.is_closed() && row.provider_id.is_some() && !row.written_off;
        assert_eq!(gone.len(), usize::from(closed), "what was made is told gone");
    }
}
