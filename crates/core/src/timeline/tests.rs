//! What a timeline shows of a life, from hand-made facts.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;
use crate::chance::SplitMix;
use crate::event::Actor;
use crate::failure::Class;
use crate::id::{ClusterId, RequestId, TenantId};
use crate::lifecycle::State;
use crate::run::admit::Admission;
use crate::run::{ActionRun, Role, StepRun, StepStatus, Wait};
use crate::spec::{Seal, Sealed, Spec};
use crate::workflow::plan::Planned;

struct NoSeal;
impl Seal for NoSeal {
    fn seal(&self, clear: &str) -> Sealed {
        Sealed { key: String::new(), sealed: clear.to_owned(), fingerprint: String::new() }
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp(seconds * 1_000_000)
}

fn admitted(kind: &str) -> (Run, Vec<(Timestamp, Event)>) {
    let value = match kind {
        "environment" => json!({"name": "pr-42", "tenant": "acme", "kind": "environment", "region": "eu",
            "source": {"repository": "https://git.example/shop.git", "branch": "pr-42", "commit_sha": "0a1b2c3d4e5f"}}),
        _ => json!({"name": "db", "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12",
            "size": {"cpu": 2, "memory_gb": 4, "storage_gb": 40}}),
    };
    let mut chance = SplitMix::new(1);
    let admission = Admission {
        id: RequestId::new(at(0), &mut chance),
        tenant: TenantId::new(at(0), &mut chance),
        spec: Spec::check("", &value, &NoSeal).unwrap(),
        regions: vec!["eu".to_owned()],
        policy: None,
        depends_on: Vec::new(),
        must_wait: false,
        retry_of: None,
        actor: Actor::system("test"),
    };
    let (run, events) = Run::admit(admission, at(0));
    (run, events.into_iter().map(|e| (at(0), e)).collect())
}

fn operation(name: &str, step: Step, from: i64, to: Option<i64>) -> Operation {
    Operation {
        planned: Planned::new(name, step),
        status: if to.is_some() { OperationStatus::Succeeded } else { OperationStatus::Running },
        tries: vec![Try { finished_at: to.map(at), ..Try::begin(at(from)) }],
        retries: 0,
        next_at: None,
        calls: 1,
        row: None,
        clears: None,
        deadline: Span::seconds(60),
        deadline_source: "default".to_owned(),
        learned: None,
        generation: 0,
        held_since: None,
        refused: None,
        throttled_until: None,
    }
}

fn attempt(number: u32, started: i64, state: AttemptState) -> Attempt {
    let mut chance = SplitMix::new(u64::from(number) + 10);
    let step =
        |step| StepRun { step, status: StepStatus::Succeeded, started_at: Some(at(started)), finished_at: Some(at(started + 3)) };
    Attempt {
        id: AttemptId::new(at(started), &mut chance),
        number,
        role: Role::First,
        cluster: ClusterId::new(at(0), &mut chance),
        cluster_name: format!("sim-{number}"),
        provider: crate::cluster::ProviderType::Simulation,
        region: "eu".to_owned(),
        identity: None,
        settings: crate::cluster::Settings::default(),
        others: false,
        state,
        steps: Step::ALL.into_iter().map(step).collect(),
        operations: Vec::new(),
        facts: std::collections::BTreeMap::new(),
        endpoints: Vec::new(),
        error: None,
        replaced_by: None,
        failure_told: false,
        asked_beside: None,
        started_at: at(started),
        finished_at: (state != AttemptState::Running).then(|| at(started + 9)),
        released_at: None,
    }
}

fn started(attempt: &Attempt) -> Event {
    let detail = json!({"number": attempt.number, "cluster": attempt.cluster_name, "role": attempt.role});
    Event { attempt: Some(attempt.id), detail, ..Event::new(EventKind::AttemptStarted) }
}

fn names(run: &Run, log: &[(Timestamp, Event)], operations: bool) -> Vec<&'static str> {
    build(run, log, operations).items.into_iter().map(|i| i.event).collect()
}

fn build(run: &Run, log: &[(Timestamp, Event)], operations: bool) -> Timeline {
    let facts: Vec<Fact<'_>> = log.iter().map(|(at, event)| Fact { at: *at, event }).collect();
    timeline(run, &facts, operations, at(100))
}

/// Two attempts, the first of which failed; ready at 40 after ten seconds of waiting by hand.
fn completed() -> (Run, Vec<(Timestamp, Event)>) {
    let (mut run, mut log) = admitted("vps");
    let (mut first, mut second) = (attempt(1, 10, AttemptState::Failed), attempt(2, 19, AttemptState::Won));
    first.error = Some(Failure::new(Class::Ambiguous, "answer_lost", "lost"));
    first.replaced_by = Some(second.id);
    second.operations =
        vec![operation("create_server", Step::Allocate, 20, Some(22)), operation("probe_ssh", Step::Verify, 30, Some(40))];
    log.push((at(10), started(&first)));
    let failed = Event { attempt: Some(first.id), ..Event::new(EventKind::AttemptFailed) };
    log.push((at(19), failed));
    log.push((at(19), started(&second)));
    log.push((at(40), Event::new(EventKind::ServiceActivated)));
    log.push((at(40), Event::new(EventKind::Completed)));
    run.winner = Some(second.id);
    run.attempts = vec![first, second];
    run.state = State::Completed;
    run.waiting = None;
    run.waits = vec![
        Wait { reason: "queue".into(), since: at(0), until: at(10) },
        Wait { reason: "manual_input".into(), since: at(22), until: at(32) },
    ];
    run.provisioning_started_at = Some(at(10));
    run.ready_at = Some(at(40));
    (run, log)
}

#[test]
fn a_failover_is_told_in_order() {
    let (run, log) = completed();
    let expected = ["created", "provisioning_started", "attempt_started", "attempt_failed", "attempt_started", "ready"];
    assert_eq!(names(&run, &log, false), expected);
    let made = build(&run, &log, false);
    let failed = &made.items[3];
    assert_eq!(failed.metadata["error"]["class"], "transient");
    assert_eq!(failed.metadata["replaced_on"], "sim-2");
    assert!(expected.iter().all(|n| NAMES.contains(n)));
}

#[test]
fn h46_the_duration_leaves_out_waits_for_manual_input() {
    let (run, log) = completed();
    let made = build(&run, &log, false);
    assert_eq!(made.summary.provisioning_duration, Some(Span::seconds(20)));
    assert_eq!(made.summary.waited, Span::seconds(20));
    assert_eq!(made.summary.lifetime, Span::seconds(100));
    let ready = made.items.last().unwrap();
    assert_eq!(ready.metadata["provisioning_duration_seconds"], 20.0);
    assert!(ready.metadata["readiness_summary"].as_str().unwrap().contains("probe_ssh"));
    let mut with_facts = run;
    for attempt in &mut with_facts.attempts {
        attempt.facts.insert("flavor".to_owned(), "m1.small".to_owned());
    }
    let made = build(&with_facts, &log, false);
    assert!(made.items.last().unwrap().metadata["readiness_summary"].as_str().unwrap().ends_with("; flavor m1.small"));
}

#[test]
fn operations_are_added_running_ones_too() {
    let (mut run, log) = completed();
    run.attempts[1].operations.push(operation("probe_http", Step::Verify, 35, None));
    let made = build(&run, &log, true);
    let found: Vec<_> = made.items.iter().filter(|i| i.event == "operation").collect();
    assert_eq!(found.len(), 3);
    let running = found.iter().find(|i| i.metadata["operation"] == "probe_http").unwrap();
    assert_eq!((&running.metadata["status"], &running.metadata["finished_at"]), (&json!("running"), &Value::Null));
    assert_eq!(running.metadata["deadline_seconds"], 60.0);
    assert!(made.items.windows(2).all(|w| w[0].at <= w[1].at));
    assert!(!names(&run, &log, false).contains(&"operation"));
}

#[test]
fn operations_of_a_forgotten_action_come_from_the_log_once() {
    let (mut run, mut log) = completed();
    let done = |o: &Operation, attempt| Event {
        step: Some("activate".into()),
        attempt,
        detail: json!({"operation": o.planned.name, "item": null, "status": "succeeded", "resource": null, "tries": o.tries,
            "deadline_seconds": o.deadline, "deadline_source": "default", "learned": null}),
        ..Event::new(EventKind::OperationDone)
    };
    let (stop, start) =
        (operation("stop_server", Step::Activate, 50, Some(51)), operation("start_server", Step::Activate, 60, Some(61)));
    log.push((at(51), done(&stop, run.winner)));
    log.push((at(61), done(&start, run.winner)));
    run.action = Some(ActionRun {
        name: "reactivate".into(),
        status: "succeeded".into(),
        reason: None,
        started_at: at(60),
        finished_at: Some(at(61)),
        error: None,
        operations: vec![start],
        next_at: None,
        halfway: false,
        stop: crate::run::Stop::None,
    });
    let made = build(&run, &log, true);
    let of = |name: &str| made.items.iter().filter(|i| i.metadata.get("operation") == Some(&json!(name))).count();
    assert_eq!((of("stop_server"), of("start_server"), of("create_server")), (1, 1, 1));
}

#[test]
fn a_cancelled_request_ends() {
    let (mut run, mut log) = admitted("vps");
    run.waiting = None;
    run.terminated_at = Some(at(36));
    let cancelled = |kind| Event { outcome: Some(Outcome::Cancelled), detail: json!({"reason": "no"}), ..Event::new(kind) };
    log.push((at(30), cancelled(EventKind::RollbackStarted)));
    log.push((at(36), cancelled(EventKind::RolledBack)));
    assert_eq!(names(&run, &log, true), ["created", "cancelled", "termination_started", "terminated"]);
    let made = build(&run, &log, false);
    assert_eq!(made.items[1].metadata["reason"], "no");
    assert_eq!(made.summary.provisioning_duration, None);
    assert_eq!(made.summary.lifetime, Span::seconds(36));
}

#[test]
fn an_environment_shows_its_commit_in_short() {
    let (mut run, mut log) = admitted("environment");
    let first = attempt(1, 5, AttemptState::Running);
    log.push((at(5), started(&first)));
    run.attempts = vec![first];
    let made = build(&run, &log, false);
    assert_eq!(made.items[1].event, "provisioning_started");
    assert_eq!(made.items[1].metadata["commit_sha"], "0a1b2c3d");
    assert_eq!(made.items[1].metadata["branch"], "pr-42");
}
