//! A run on a bench: time, chance and placement in the test's hand, and rules that hold after every decision.
//!
//! It stands where store and engine stand: [`Bench::advance`] does what the transaction of a settle does, further
//! attempts included. Every decision is checked here, so each scenario and each property checks them all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use provisor_core::chance::{Chance, SplitMix};
use provisor_core::cluster::{ProviderType, Settings};
use provisor_core::deadline::{Figures, Key, step_name};
use provisor_core::event::{Actor, Event, EventKind};
use provisor_core::known::Known;
use provisor_core::lifecycle::{Step, is_allowed};
use provisor_core::run::{Admission, Command, Directive, Launch, Moment, Refusal, Role, Wanted};
use provisor_core::spec::{Seal, Sealed};
use provisor_core::workflow::{Answer, Call, CallKey, Planner, Task};
use provisor_core::{AttemptId, Class, ClusterId, Failure, RequestId, ResourceId, Run, Span, Spec, State, TenantId, Timestamp};
use serde_json::{Value, json};

use crate::plans::Plans;

/// The beginning of time on a bench.
pub(crate) const START: Timestamp = Timestamp(1_800_000_000_000_000);
/// How long a create may wait before it must not be sent.
pub(crate) const SEND_WITHIN: Span = Span::seconds(5);

/// What is recorded of something that takes so long in all but a few of many cases.
pub(crate) fn figures(usual: Span) -> Figures {
    let usual = Some(usual);
    Figures { samples: 5000, finished: 5000, p50: usual, p95: usual, p99: usual, high: usual, alone: false, off_until: None }
}

/// Ids from a seed, jitter always in the middle, so that pauses are those of the text book.
#[derive(Debug, Clone)]
pub(crate) struct Even(pub(crate) SplitMix);

impl Chance for Even {
    fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }
    fn fraction(&mut self) -> f64 {
        0.5
    }
}

struct Clear;
impl Seal for Clear {
    fn seal(&self, clear: &str) -> Sealed {
        Sealed { key: "k".into(), sealed: clear.into(), fingerprint: clear.into() }
    }
}

/// One cluster with room for so many attempts, unless it is full.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) id: ClusterId,
    pub(crate) full: bool,
    pub(crate) slots: usize,
}

pub(crate) struct Bench {
    pub(crate) run: Run,
    pub(crate) now: Timestamp,
    pub(crate) generation: i64,
    pub(crate) downtime: Span,
    pub(crate) stuck_after: Span,
    pub(crate) chance: Even,
    pub(crate) plans: Plans,
    pub(crate) clusters: Vec<Place>,
    pub(crate) settings: Settings,
    pub(crate) known: Arc<Known>,
    /// All facts so far.
    pub(crate) log: Vec<(Timestamp, Event)>,
    pub(crate) wake_at: Timestamp,
    /// Calls handed out under the present generation and not answered yet.
    pub(crate) in_flight: BTreeMap<CallKey, Call>,
    pub(crate) edges: BTreeSet<(Option<State>, State)>,
    checks: u32,
}

/// A specification of a kind, with keys added or replaced.
pub(crate) fn spec(kind: &str, extra: &Value) -> Spec {
    let mut value = match kind {
        "vps" => json!({"name": "db", "region": "eu", "image": "debian-12", "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}}),
        "kubernetes_namespace" => json!({"name": "team", "region": "eu", "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}}),
        "environment" => json!({"name": "pr-1", "region": "eu", "source": {"repository": "https://git.example/a.git"}}),
        _ => json!({"name": "licence", "product": "erp"}),
    };
    value["tenant"] = json!("acme");
    value["kind"] = json!(kind);
    for (key, new) in extra.as_object().unwrap() {
        value[key] = new.clone();
    }
    Spec::check("", &value, &Clear).unwrap()
}

impl Bench {
    pub(crate) fn admit(spec: Spec, plans: Plans, clusters: &[&str], settings: Settings, seed: u64) -> Self {
        let mut chance = Even(SplitMix::new(seed));
        let place = |name: &&str| Place {
            name: (*name).to_owned(),
            id: ClusterId::new(START, &mut chance.clone()),
            full: false,
            slots: usize::MAX,
        };
        let mut places: Vec<Place> = clusters.iter().map(place).collect();
        for place in &mut places {
            place.id = ClusterId::new(START, &mut chance);
        }
        let admission = Admission {
            id: RequestId::new(START, &mut chance),
            tenant: TenantId::new(START, &mut chance),
            spec,
            regions: vec!["eu".to_owned()],
            policy: None,
            depends_on: Vec::new(),
            must_wait: false,
            retry_of: None,
            actor: actor(),
        };
        let (run, events) = Run::admit(admission, START);
        let mut bench = Self {
            run,
            now: START,
            generation: 1,
            downtime: Span::ZERO,
            stuck_after: Span::seconds(1800),
            chance,
            plans,
            clusters: places,
            settings,
            known: Arc::default(),
            log: Vec::new(),
            wake_at: Timestamp::NEVER,
            in_flight: BTreeMap::new(),
            edges: BTreeSet::new(),
            checks: 0,
        };
        bench.note(events);
        bench
    }

    /// So long does each step take in 95 of 100 cases, as is recorded of enough of them.
    pub(crate) fn record_steps(&mut self, p95: Span) {
        let of = |step| Key { provider: ProviderType::Simulation, cluster: None, operation: step_name(step), size: None };
        let known = Arc::make_mut(&mut self.known);
        Arc::make_mut(&mut known.deadlines).update(Step::ALL.map(|step| (of(step), figures(p95))));
    }

    fn with<T>(&mut self, actor: Option<Actor>, act: impl FnOnce(&mut Run, &mut Moment<'_>) -> T) -> T {
        let mut events = Vec::new();
        let planner: &dyn Planner = &self.plans;
        let mut moment = Moment {
            now: self.now,
            generation: self.generation,
            installation: "bench",
            send_within: SEND_WITHIN,
            downtime: self.downtime,
            stuck_after: self.stuck_after,
            planner,
            known: Arc::clone(&self.known),
            chance: &mut self.chance,
            actor,
            events: &mut events,
        };
        let result = act(&mut self.run, &mut moment);
        self.note(events);
        result
    }

    /// Keeps facts; every change of state must be in the table and begin where the last one ended.
    fn note(&mut self, events: Vec<Event>) {
        for event in events {
            if let Some(to) = event.to_state {
                assert!(is_allowed(event.from_state, to), "{:?} to {to:?} is not in the table", event.from_state);
                let last = self.log.iter().rev().find_map(|(_, e)| e.to_state);
                assert_eq!(event.from_state, last, "a change of state begins where the last one ended");
                self.edges.insert((event.from_state, to));
            }
            self.log.push((self.now, event));
        }
    }

    /// Takes answers in, in one transaction with the decision that follows.
    pub(crate) fn answer(&mut self, answers: Vec<Answer>) -> Vec<Call> {
        for answer in answers {
            if !matches!(answer.reply, provisor_core::workflow::Reply::Progress(_)) {
                self.in_flight.remove(&answer.key);
            }
            self.with(None, |run, m| run.settle(answer, m));
        }
        self.advance()
    }

    /// Asks something as a person does; what follows from it is decided by the next `advance`.
    pub(crate) fn command(&mut self, command: Command) -> Result<(), Refusal> {
        let (before, events) = (self.run.clone(), self.log.len());
        let done = self.with(Some(actor()), |run, m| run.command(command, m));
        if done.is_err() {
            assert_eq!(self.run, before, "a refusal changes nothing");
            assert_eq!(self.log.len(), events, "a refusal is no event");
        }
        done
    }

    /// The store was restored from a backup; who had the lease then is dead (H41).
    pub(crate) fn restore(&mut self) -> Vec<Call> {
        let lost = self.new_generation();
        self.with(None, Run::after_restore);
        lost
    }

    /// Another worker takes over: what the former one has in flight is never answered.
    pub(crate) fn new_generation(&mut self) -> Vec<Call> {
        self.generation += 1;
        std::mem::take(&mut self.in_flight).into_values().collect()
    }

    /// The first attempt, on the first cluster with room.
    pub(crate) fn launch(&mut self) -> Vec<Call> {
        assert!(self.place(Role::First), "no cluster has room");
        self.advance()
    }

    /// As the store places: elsewhere; beside another also on its cluster, where there is no other.
    fn place(&mut self, role: Role) -> bool {
        let mut used = self.run.used_clusters();
        let held = |c: &Place| self.run.holding().filter(|a| a.cluster == c.id).count();
        let fits = |c: &&Place, used: &[ClusterId]| !c.full && held(c) < c.slots && !used.contains(&c.id);
        if role != Role::Failover && !self.clusters.iter().any(|c| fits(&c, &used)) {
            used = self.run.failed_clusters();
        }
        let mut fitting = self.clusters.iter().filter(|c| fits(c, &used));
        let Some(place) = fitting.next().cloned() else { return false };
        let others = fitting.next().is_some();
        let launch = Launch {
            role,
            cluster: place.id,
            cluster_name: place.name.clone(),
            provider: ProviderType::Simulation,
            region: "eu".into(),
            identity: Some(format!("project-of-{}", place.name)),
            settings: self.settings.clone(),
            others,
            plan: crate::plans::plan(&self.plans.attempt),
        };
        self.with(None, |run, m| run.launch(launch, m));
        true
    }

    fn ask(&mut self) -> Directive {
        self.with(None, Run::advance)
    }

    /// What the transaction of a settle decides: the calls, with a further attempt where one is wanted.
    pub(crate) fn advance(&mut self) -> Vec<Call> {
        let mut calls = self.decide();
        for _ in 0..10 {
            if self.wake_at > self.now {
                self.check();
                return calls;
            }
            calls.extend(self.decide());
        }
        panic!("it wants to be woken again and again at {:?}: {:#?}", self.wake_at, self.run);
    }

    fn decide(&mut self) -> Vec<Call> {
        let mut directive = self.ask();
        while let Some(role) = directive.launch {
            if role != Role::Failover {
                if !self.place(role) {
                    self.with(None, |run, m| run.go_without(role, "no other cluster has room", m));
                }
            } else if !self.place(role) {
                let failure = self.run.error.clone().unwrap_or_else(|| Failure::new(Class::Capacity, "no_cluster", "no room"));
                self.with(None, |run, m| run.give_up(failure, m));
            }
            let mut next = self.ask();
            next.calls.splice(0..0, directive.calls);
            next.wake_at = next.wake_at.min(directive.wake_at);
            directive = next;
        }
        self.wake_at = directive.wake_at;
        for call in &directive.calls {
            let fresh = self.in_flight.insert(call.key.clone(), call.clone()).is_none();
            assert!(fresh, "a call key was used twice: {:?}", call.key);
        }
        directive.calls
    }

    /// What must hold after every decision.
    fn check(&mut self) {
        self.check_repeat();
        self.check_flight();
        self.check_alive();
        self.checks += 1;
        // Why seldom: it takes longer than all other checks together.
        if self.checks % 16 == 1 {
            let text = serde_json::to_string(&self.run).unwrap();
            let back: Run = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&back).unwrap(), text, "the document survives its text");
        }
    }

    /// Asked again without news it decides nothing new.
    fn check_repeat(&mut self) {
        let (run, chance, wake_at) = (self.run.clone(), self.chance.clone(), self.wake_at);
        let log = self.log.len();
        let again = self.ask();
        let new: Vec<_> = self.log[log..].iter().map(|(_, e)| e.kind).collect();
        assert!(again.calls.is_empty() && again.launch.is_none(), "asked again it wants {:?} {:?}", again.calls, again.launch);
        assert!(new.is_empty(), "asked again it tells {new:?}");
        assert!(again.wake_at >= wake_at, "asked again it wakes at {:?}, not {wake_at:?}", again.wake_at);
        (self.run, self.chance) = (run, chance);
    }

    /// Never two calls in flight for one operation, or for one row of the ledger.
    fn check_flight(&self) {
        let (mut operations, mut rows) = (BTreeSet::new(), BTreeSet::new());
        for call in self.in_flight.values() {
            match &call.key {
                CallKey::Operation { attempt, operation, .. } => {
                    assert!(operations.insert((Some(*attempt), *operation)), "two calls of one operation");
                    let made = self.run.attempts.iter().find(|a| a.id == *attempt).and_then(|a| a.operations[*operation].row);
                    if let (Some(row), Task::Perform(work)) = (made, &call.task) {
                        // A row that the operation has given up by now is another one's.
                        let same = self.run.ledger.iter().any(|r| r.id == row && Some(&r.tag) == work.tag.as_ref());
                        assert!(!same || rows.insert(row), "two calls for one row");
                    }
                }
                CallKey::Action { operation, .. } => assert!(operations.insert((None, *operation)), "two calls of one operation"),
                CallKey::Look { row, .. } | CallKey::Release { row, .. } => {
                    let open = self.run.ledger.iter().any(|r| r.id == *row && !r.is_closed());
                    assert!(!open || rows.insert(*row), "two calls for one row");
                }
            }
        }
    }

    /// A live request has a call in flight, a time to wake, or a wait by name.
    fn check_alive(&self) {
        let run = &self.run;
        let rests =
            matches!((run.state, run.wanted), (State::Completed, Wanted::Running) | (State::Suspended, Wanted::Suspended));
        let moves = !self.in_flight.is_empty() || self.wake_at < Timestamp::NEVER;
        let asked = run.confirmation.as_ref().is_some_and(|c| c.given.is_none());
        let waits = run.waiting.is_some() && (asked || !run.state.is_standing());
        let open = run.ledger.iter().any(|r| r.unwanted && !r.is_closed());
        let fine = run.state.is_terminal() || moves || waits || (rests && !open);
        assert!(fine, "a dead run: {} wants {:?}, action {:?}, rows {:#?}", run.state.name(), run.wanted, run.action, run.ledger);
        assert_eq!(run.state == State::RolledBack, run.terminated_at.is_some());
        assert_ne!(run.state, State::Failed, "failed rolls back at once");
    }

    /// The published facts so far.
    pub(crate) fn published(&self) -> Vec<EventKind> {
        self.log.iter().map(|(_, e)| e.kind).filter(|k| k.is_published()).collect()
    }

    /// `server.1`: the first row of its kind.
    pub(crate) fn row_label(&self, id: ResourceId) -> String {
        let row = self.run.ledger.iter().find(|r| r.id == id).expect("a row of this run");
        let earlier = self.run.ledger.iter().take_while(|r| r.id != id).filter(|r| r.kind == row.kind).count();
        format!("{}.{}", row.kind, earlier + 1)
    }

    pub(crate) fn attempt_number(&self, id: AttemptId) -> u32 {
        self.run.attempts.iter().find(|a| a.id == id).expect("an attempt of this run").number
    }
}

/// Who asks in these tests.
pub(crate) fn actor() -> Actor {
    Actor { kind: "token".into(), id: "ops".into() }
}
