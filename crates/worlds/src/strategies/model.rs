//! The world that the requests meet: how long calls take, which of them fail, and when a whole cluster is out of order.

use std::collections::BTreeMap;

use provisor_core::chance::{Chance, SplitMix};
use provisor_core::cluster::Settings;
use provisor_core::lifecycle::Step;
use provisor_core::workflow::plan::PLAN_VERSION;
use provisor_core::workflow::{Answer, Call, CallKey, Found, Made, Plan, Planned, Planner, Reply, Task};
use provisor_core::{Class, ClusterId, Failure, Run, Span, Spec, Timestamp};
use serde::Deserialize;

use super::{Deadlines, Place, START};

/// The file with the distributions.
const FILE: &str = include_str!("../../data/strategies.json");
/// As long as nothing may take where there is no deadline.
const A_DAY: Span = Span::seconds(86_400);

/// The distributions.
#[derive(Debug, Clone, Deserialize)]
pub struct Model {
    pub(super) seed: u64,
    /// How many requests.
    pub requests: u32,
    pub(super) seconds_between_requests: f64,
    pub(super) clusters: Vec<String>,
    operations: Vec<Operation>,
    release: Duration,
    failures: Failures,
    baseline_limit_seconds: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
struct Duration {
    p50: f64,
    p99: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Operation {
    name: String,
    step: Step,
    #[serde(default)]
    makes: Option<String>,
    #[serde(default)]
    after: Vec<String>,
    #[serde(default)]
    recreates: Option<String>,
    p50: f64,
    p99: f64,
    deadline: f64,
}

#[derive(Debug, Clone, Deserialize)]
struct Failures {
    of_attempts: f64,
    common_to_cluster: f64,
    hang: f64,
    outlast_retries: f64,
    #[serde(rename = "where")]
    places: BTreeMap<String, f64>,
    outage_seconds: f64,
}

impl Model {
    /// The model of the file.
    pub fn read() -> Result<Self, serde_json::Error> {
        serde_json::from_str(FILE)
    }

    pub(super) fn settings(&self, deadlines: Deadlines) -> Settings {
        let of = |o: &Operation| match deadlines {
            Deadlines::OneLimit => A_DAY,
            Deadlines::Configured | Deadlines::Learned => Span::from_seconds_f64(o.deadline),
        };
        let given = self.operations.iter().map(|o| (o.name.clone(), of(o))).collect();
        let mut settings = Settings { deadlines: given, ..Settings::default() };
        settings.learned.enabled = deadlines == Deadlines::Learned;
        settings
    }

    pub(super) fn baseline_limit(&self) -> Span {
        Span::from_seconds_f64(self.baseline_limit_seconds)
    }
}

impl Duration {
    /// A lognormal draw.
    fn draw(self, chance: &mut SplitMix) -> Span {
        let (u, v) = (1.0 - chance.fraction(), chance.fraction());
        let normal = (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos();
        Span::from_seconds_f64(self.p50 * (normal * (self.p99 / self.p50).ln() / 2.3263).exp())
    }
}

impl Operation {
    fn takes(&self) -> Duration {
        Duration { p50: self.p50, p99: self.p99 }
    }
}

/// Plans of the model's operations.
pub(super) struct Plans {
    plan: Plan,
}

impl Plans {
    pub(super) fn of(model: &Model, deadlines: Deadlines) -> Self {
        let planned = |o: &Operation| {
            let after: Vec<&str> = o.after.iter().map(String::as_str).collect();
            let mut planned = Planned::new(&o.name, o.step).after(&after);
            planned.makes.clone_from(&o.makes);
            if let Some(made) = &o.recreates {
                planned = planned.recreate(made);
            }
            // The baseline waits for an answer as long as it waits for everything.
            if deadlines == Deadlines::OneLimit { Planned { call_limit: A_DAY, ..planned } } else { planned }
        };
        Self { plan: Plan { version: PLAN_VERSION, operations: model.operations.iter().map(planned).collect() } }
    }
}

impl Planner for Plans {
    fn plan(&self, _: ClusterId, _: &Spec) -> Result<Plan, Failure> {
        Ok(self.plan.clone())
    }

    fn plan_action(&self, _: ClusterId, _: &str, _: &Spec) -> Result<Plan, Failure> {
        Ok(Plan { version: PLAN_VERSION, operations: Vec::new() })
    }
}

/// What is there for a request, by tag, and since when.
pub(super) type Objects = BTreeMap<String, Timestamp>;

/// What goes wrong with an attempt.
struct Fate {
    operation: String,
    hangs: bool,
    outlasts: bool,
}

fn told(call: &Call, reply: Reply) -> Answer {
    Answer { key: call.key.clone(), reply }
}

/// Says what comes of each call.
pub(super) struct Luck<'a> {
    model: &'a Model,
    /// When each cluster is out of order.
    outages: BTreeMap<ClusterId, Vec<(Timestamp, Timestamp)>>,
}

impl<'a> Luck<'a> {
    pub(super) fn of(model: &'a Model, places: &[Place]) -> Self {
        let share = model.failures.of_attempts * model.failures.common_to_cluster;
        let until = f64::from(model.requests) * model.seconds_between_requests;
        let mut outages = BTreeMap::new();
        for (number, place) in places.iter().enumerate() {
            let mut chance = SplitMix::new(model.seed.rotate_left(17) ^ number as u64);
            let mut exponential = |mean: f64| -mean * (1.0 - chance.fraction()).ln();
            let (mut drawn, mut up, mut down) = (Vec::new(), 0.0, 0.0);
            while up + down < until && share > 0.0 {
                let one = (
                    exponential(model.failures.outage_seconds * (1.0 - share) / share),
                    exponential(model.failures.outage_seconds),
                );
                (up, down) = (up + one.0, down + one.1);
                drawn.push(one);
            }
            // There are few of them: as drawn, their share would be another one than the file says.
            let (mut at, mut found) = (0.0, Vec::new());
            for (before, length) in drawn {
                let from = at + before * until * (1.0 - share) / up;
                at = from + length * until * share / down;
                let time = |seconds| START.plus(Span::from_seconds_f64(seconds));
                found.push((time(from), time(at)));
            }
            outages.insert(place.id, found);
        }
        Self { model, outages }
    }

    fn chance(&self, request: u32, words: [u64; 3]) -> SplitMix {
        let mut seed = self.model.seed ^ (u64::from(request) << 24);
        for word in words {
            seed = SplitMix::new(seed ^ word.wrapping_mul(0x9e37_79b9)).next_u64();
        }
        SplitMix::new(seed)
    }

    /// What is to go wrong with an attempt: with its cluster, or with itself.
    fn fate(&self, request: u32, run: &Run, key: &CallKey) -> Option<Fate> {
        let CallKey::Operation { attempt, .. } = key else { return None };
        let attempt = run.attempts.iter().find(|a| a.id == *attempt)?;
        let failures = &self.model.failures;
        let mut chance = self.chance(request, [u64::from(attempt.number), 1, 0]);
        let out = self.outages.get(&attempt.cluster)?.iter().any(|(from, to)| (*from..*to).contains(&attempt.started_at));
        let share = failures.of_attempts * failures.common_to_cluster;
        let alone = (failures.of_attempts - share) / (1.0 - share);
        if !(chance.fraction() < alone || out) {
            return None;
        }
        let mut rest = chance.fraction() * failures.places.values().sum::<f64>();
        let found = failures.places.iter().find(|(_, weight)| {
            rest -= **weight;
            rest < 0.0
        });
        let hangs = chance.fraction() < failures.hang;
        let outlasts = chance.fraction() < failures.outlast_retries || out;
        Some(Fate { operation: found?.0.clone(), hangs, outlasts })
    }

    /// The answer to a call, and when it comes.
    pub(super) fn answer(
        &self,
        now: Timestamp,
        request: u32,
        objects: &mut Objects,
        run: &Run,
        call: &Call,
    ) -> (Timestamp, Answer) {
        let (at, reply) = match &call.task {
            Task::Perform(work) => {
                let CallKey::Operation { operation, .. } = call.key else { return (now, told(call, Reply::Dropped)) };
                let creates = work.tag.is_some() && work.provider_id.is_none();
                let limit = if creates { call.deadline.at().min(now.plus(call.call_limit)) } else { call.deadline.at() };
                let number = run.attempts.iter().find(|a| Some(a.id) == work.attempt).map_or(0, |a| u64::from(a.number));
                let mut chance = self.chance(request, [number, 2 + operation as u64, u64::from(work.try_number)]);
                let end = now.plus(self.takes(&work.operation).draw(&mut chance));
                let fate = self.fate(request, run, &call.key);
                let fate = fate.filter(|f| f.operation == work.operation && (f.outlasts || work.try_number == 1));
                let id = work.tag.as_ref().map(ToString::to_string);
                match fate {
                    Some(Fate { hangs: true, .. }) => (limit, Reply::TimedOut { last_seen: None, diagnosis: Vec::new() }),
                    Some(_) => (end, Reply::Failed(Failure::new(Class::Permanent, "failed", "it failed"))),
                    None => {
                        if let Some(id) = &id {
                            objects.entry(id.clone()).or_insert(end);
                        }
                        let made = Made { provider_id: id, ..Made::default() };
                        if end <= limit {
                            (end, Reply::Done(made))
                        } else {
                            (limit, Reply::TimedOut { last_seen: None, diagnosis: Vec::new() })
                        }
                    }
                }
            }
            Task::Find { tag, kind, .. } => {
                let there = objects.get(tag.as_str()).filter(|since| **since <= now);
                let found = there.map(|_| Found {
                    kind: kind.clone(),
                    provider_id: tag.to_string(),
                    uid: None,
                    tag: tag.to_string(),
                    age_seconds: None,
                    spoiled: false,
                });
                (now.plus(Span::seconds(1)), Reply::Looked(found.into_iter().collect()))
            }
            Task::Release(held) => {
                objects.remove(held.tag.as_str());
                let mut chance = self.chance(request, [3, 3, held.kind.len() as u64]);
                (now.plus(self.model.release.draw(&mut chance)).min(call.deadline.at()), Reply::Gone { replaced: false })
            }
        };
        (at, told(call, reply))
    }

    fn takes(&self, operation: &str) -> Duration {
        let found = self.model.operations.iter().find(|o| o.name == operation);
        found.map_or(Duration { p50: 1.0, p99: 1.0 }, Operation::takes)
    }
}
