//! The same ten thousand requests under each strategy, in virtual time: what each brings, and what it costs.
//!
//! Everything that is decided is decided by core, as in a real installation; the world only says how long a call takes
//! and whether it ever answers. What happens to a try of an attempt depends on the request, the attempt and the try alone,
//! not on the strategy, so that all strategies meet the same luck. Durations and failures come from a file
//! (`data/strategies.json`).

use std::collections::BTreeMap;

use provisor_core::chance::SplitMix;
use provisor_core::event::Actor;
use provisor_core::run::{Admission, Role};
use provisor_core::spec::{Seal, Sealed, Strategy, StrategyKind};
use provisor_core::workflow::Answer;
use provisor_core::{ClusterId, RequestId, Run, Span, Spec, State, TenantId, Timestamp, budget};
use serde_json::json;

use crate::desk::{Desk, Place};

mod lessons;
mod model;
mod table;

use lessons::Lessons;
pub use model::Model;
use model::{Luck, Objects, Plans};
pub use table::{Figures, table};

/// When time begins.
const START: Timestamp = Timestamp(1_800_000_000_000_000);
/// How long a create may wait before it is sent: half of a usual lease.
const SEND_WITHIN: Span = Span::seconds(5);
/// Decisions of one request, as a limit for a world that does not end.
const DECISIONS_AT_MOST: u32 = 10_000;

/// One way of trying all requests.
#[derive(Debug, Clone)]
pub struct Way {
    /// Its name in the table.
    pub name: &'static str,
    /// The strategy.
    pub strategy: Strategy,
    /// Which deadlines hold.
    pub deadlines: Deadlines,
}

/// Where deadlines come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadlines {
    /// None for an operation, one limit for the whole: the baseline.
    OneLimit,
    /// As configured, nothing learned.
    Configured,
    /// As configured until there is something learned from the requests so far, as it ships.
    Learned,
}

/// The ways that are compared.
pub fn ways() -> Vec<Way> {
    let way = |name, kind, deadlines| Way { name, strategy: Strategy::of(kind), deadlines };
    vec![
        way("baseline: one limit for the whole", StrategyKind::Single, Deadlines::OneLimit),
        way("single", StrategyKind::Single, Deadlines::Learned),
        way("failover", StrategyKind::Failover, Deadlines::Learned),
        way("race", StrategyKind::Race, Deadlines::Learned),
        way("hedge", StrategyKind::Hedge, Deadlines::Learned),
        way("single, nothing learned", StrategyKind::Single, Deadlines::Configured),
        way("failover, nothing learned", StrategyKind::Failover, Deadlines::Configured),
        way("race, nothing learned", StrategyKind::Race, Deadlines::Configured),
        way("hedge, nothing learned", StrategyKind::Hedge, Deadlines::Configured),
    ]
}

struct Clear;
impl Seal for Clear {
    fn seal(&self, clear: &str) -> Sealed {
        Sealed { key: String::new(), sealed: clear.to_owned(), fingerprint: clear.to_owned() }
    }
}

/// What happens next, and to which request.
enum Due {
    Arrives,
    Answers(Box<Answer>),
    Wakes,
    /// The one limit of the baseline is over.
    Limit,
}

/// A request at work.
struct Life {
    run: Run,
    chance: SplitMix,
    wake_at: Timestamp,
    decisions: u32,
    /// What was made for it, by tag.
    objects: Objects,
}

/// All requests under one way.
struct World<'a> {
    model: &'a Model,
    way: &'a Way,
    plans: Plans,
    places: Vec<Place>,
    luck: Luck<'a>,
    due: BTreeMap<(Timestamp, u64), (u32, Due)>,
    order: u64,
    lives: BTreeMap<u32, Life>,
    lessons: Lessons,
    figures: Figures,
}

/// Runs all requests of the model in one way.
pub fn compare(model: &Model, way: &Way) -> Figures {
    let mut world = World::new(model, way);
    for request in 0..model.requests {
        let at = START.plus(Span::from_seconds_f64(f64::from(request) * model.seconds_between_requests));
        world.put(at, request, Due::Arrives);
    }
    while let Some(((now, _), (request, due))) = world.due.pop_first() {
        world.happen(now, request, due);
    }
    world.figures
}

impl<'a> World<'a> {
    fn new(model: &'a Model, way: &'a Way) -> Self {
        let mut chance = SplitMix::new(model.seed);
        let settings = model.settings(way.deadlines);
        let place = |name: &String| Place {
            id: ClusterId::new(START, &mut chance),
            name: name.clone(),
            settings: settings.clone(),
            room: u32::MAX,
            budget: budget::FULL,
        };
        let places: Vec<Place> = model.clusters.iter().map(place).collect();
        Self {
            model,
            way,
            plans: Plans::of(model, way.deadlines),
            luck: Luck::of(model, &places),
            places,
            due: BTreeMap::new(),
            order: 0,
            lives: BTreeMap::new(),
            lessons: Lessons::default(),
            figures: Figures::of(way),
        }
    }

    fn put(&mut self, at: Timestamp, request: u32, due: Due) {
        self.order += 1;
        self.due.insert((at, self.order), (request, due));
    }

    fn happen(&mut self, now: Timestamp, request: u32, due: Due) {
        match due {
            Due::Arrives => self.arrive(now, request),
            Due::Answers(answer) => self.decide(now, request, Some(*answer)),
            Due::Wakes => {
                if self.lives.get(&request).is_some_and(|l| l.wake_at <= now) {
                    self.decide(now, request, None);
                }
            }
            Due::Limit => self.give_up(now, request),
        }
    }

    fn arrive(&mut self, now: Timestamp, request: u32) {
        let mut chance = SplitMix::new(self.model.seed ^ (u64::from(request) << 20));
        let spec = json!({"name": format!("r-{request}"), "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12",
            "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 10}, "strategy": self.way.strategy});
        let Ok(spec) = Spec::check("", &spec, &Clear) else { return };
        let admission = Admission {
            id: RequestId::new(now, &mut chance),
            tenant: TenantId::new(now, &mut chance),
            spec,
            regions: vec!["eu".to_owned()],
            policy: None,
            depends_on: Vec::new(),
            must_wait: false,
            retry_of: None,
            actor: Actor::system("world"),
        };
        let (run, _) = Run::admit(admission, now);
        let life = Life { run, chance, wake_at: now, decisions: 0, objects: Objects::default() };
        self.lives.insert(request, life);
        if self.way.deadlines == Deadlines::OneLimit {
            self.put(now.plus(self.model.baseline_limit()), request, Due::Limit);
        }
        self.decide(now, request, None);
    }

    fn decide(&mut self, now: Timestamp, request: u32, answer: Option<Answer>) {
        let Some(mut life) = self.lives.remove(&request) else { return };
        life.decisions += 1;
        // Each request has another cluster first, as regions and room spread them.
        let first = request as usize % self.places.len().max(1);
        self.places.rotate_left(first);
        let mut desk = Desk {
            places: &mut self.places,
            planner: &self.plans,
            chance: &mut life.chance,
            now,
            generation: 1,
            send_within: SEND_WITHIN,
            downtime: Span::ZERO,
            stuck_after: Span::seconds(1800),
            known: self.lessons.known(),
            events: Vec::new(),
        };
        if life.run.state == State::Queued {
            desk.place(&mut life.run, Role::First);
        }
        if let Some(answer) = answer {
            desk.with(|m| life.run.settle(answer, m));
        }
        let directive = desk.advance(&mut life.run);
        let events = desk.events;
        self.lessons.take_in(&events, now);
        self.places.rotate_right(first);
        if !life.run.state.is_working() || life.decisions > DECISIONS_AT_MOST {
            let (end, done) = (life.run.ready_at.or(life.run.termination_started_at), life.run.winner.is_some());
            return self.figures.add(end.unwrap_or(now).since(life.run.created_at), done, &life.run);
        }
        for call in directive.calls {
            let (at, answer) = self.luck.answer(now, request, &mut life.objects, &life.run, &call);
            self.put(at, request, Due::Answers(Box::new(answer)));
        }
        life.wake_at = directive.wake_at;
        if life.wake_at < Timestamp::NEVER {
            self.put(life.wake_at.max(now), request, Due::Wakes);
        }
        self.lives.insert(request, life);
    }

    /// The baseline knows one limit only.
    fn give_up(&mut self, now: Timestamp, request: u32) {
        if let Some(life) = self.lives.remove(&request) {
            self.figures.add(now.since(life.run.created_at), false, &life.run);
        }
    }
}
