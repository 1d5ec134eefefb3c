//! A tiny model of backends around a run: creates succeed, fail, lose their answer or arrive late, lists lag, releases
//! fail, workers die, people ask for things. All from one seed, so that a failure can be played again.

use std::collections::BTreeMap;

use provisor_core::chance::{Chance, SplitMix};
use provisor_core::cluster::Settings;
use provisor_core::event::Endpoint;
use provisor_core::run::{Command, ManualInput};
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::{Answer, Call, CallKey, Found, Made, Reply, Task};
use provisor_core::{AttemptId, Class, ClusterId, Failure, Kind, Span, State, Timestamp};

use crate::bench::{Bench, spec};
use crate::plans::Plans;

/// Something at a backend.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) tag: String,
    pub(crate) cluster: ClusterId,
    /// From then on it is there; a list shows it a little later.
    pub(crate) since: Timestamp,
    /// In a terminal bad state.
    pub(crate) spoiled: bool,
}

/// How likely what is, in percent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    pub(crate) fails: u64,
    pub(crate) lost: u64,
    pub(crate) crashes: u64,
    pub(crate) commands: u64,
    pub(crate) held: u64,
}

pub(crate) struct World {
    pub(crate) bench: Bench,
    pub(crate) objects: Vec<Object>,
    chance: SplitMix,
    weather: Weather,
    /// Answers on their way, by time and order.
    coming: BTreeMap<(Timestamp, u64), Answer>,
    /// How many objects and answers there were, for their ids and their order.
    made: u64,
    order: u64,
    /// The tags under which each operation was told to create.
    tags: BTreeMap<(AttemptId, usize), Vec<String>>,
    managed: bool,
    /// Whether the service was stopped.
    pub(crate) stopped: bool,
    /// Nothing goes wrong any more.
    pub(crate) calm: bool,
}

/// A list shows what is this old.
const LIST_LAG: Span = Span::seconds(5);

impl World {
    pub(crate) fn new(seed: u64, kind: &str, plan: &str, weather: Weather) -> Self {
        let mut chance = SplitMix::new(seed);
        let mut extra = serde_json::json!({});
        match chance.below(8) {
            0 | 1 => extra["strategy"] = serde_json::json!({"type": "single"}),
            2 => extra["order_id"] = serde_json::json!("o-1"),
            3 | 4 if kind == "vps" => extra["strategy"] = serde_json::json!({"type": "race"}),
            5 if kind == "vps" => extra["strategy"] = serde_json::json!({"type": "hedge"}),
            _ => {}
        }
        if kind == "environment" && chance.below(2) == 0 {
            extra["ttl_seconds"] = serde_json::json!(400);
        }
        let mut bench = Bench::admit(spec(kind, &extra), Plans::of(plan), &["c1", "c2", "c3"], Settings::default(), seed);
        // Often slow, and often without room for two.
        bench.record_steps(Span::seconds(15));
        if chance.below(4) == 0 {
            bench.clusters.iter_mut().for_each(|c| c.slots = 1);
            bench.clusters.truncate(1 + usize::try_from(chance.below(3)).unwrap());
        }
        "| | start_server | probe_ssh probe_http".clone_into(&mut bench.plans.reactivate);
        let (objects, coming) = (Vec::new(), BTreeMap::new());
        let managed = kind == "managed";
        if managed {
            "| await_confirmation? | stop_server |".clone_into(&mut bench.plans.suspend);
            "| await_confirmation? | start_server | probe_url".clone_into(&mut bench.plans.reactivate);
        }
        Self {
            bench,
            objects,
            chance,
            weather,
            coming,
            made: 0,
            order: 0,
            tags: BTreeMap::new(),
            managed,
            stopped: false,
            calm: false,
        }
    }

    fn percent(&mut self, n: u64) -> bool {
        !self.calm && self.chance.below(100) < n
    }

    fn span(&mut self, from: i64, to: i64) -> Span {
        let width = u64::try_from(to - from).unwrap_or(0) * 1000;
        Span::millis(from * 1000 + i64::try_from(self.chance.below(width.max(1))).unwrap())
    }

    /// Lives on until it ends or so many things have happened.
    pub(crate) fn live(&mut self, steps: usize) {
        if self.bench.run.state == State::Queued {
            let calls = self.bench.launch();
            self.begin(calls);
        }
        for _ in 0..steps {
            if self.bench.run.state.is_terminal() || !self.step() {
                return;
            }
        }
    }

    /// One thing happens: the next answer, the time to wake, another worker, a wish. False: nothing is going to.
    fn step(&mut self) -> bool {
        if self.percent(self.weather.crashes) {
            self.crash();
            return true;
        }
        if self.percent(self.weather.commands) {
            self.wish();
            return true;
        }
        if self.needs_input() {
            let input = self.input();
            self.ask(input);
            return true;
        }
        let answer = self.coming.keys().next().copied();
        let at = answer.map_or(Timestamp::NEVER, |(at, _)| at).min(self.bench.wake_at);
        if at == Timestamp::NEVER {
            return false;
        }
        self.bench.now = self.bench.now.max(at);
        let calls = match answer.filter(|(due, _)| *due <= self.bench.now) {
            Some(key) => {
                let answer = self.coming.remove(&key).unwrap();
                let wanted = self.bench.run.wants(&answer.key);
                // The engine drops a wait that nobody wants any more, but never a create that was sent.
                let reply = if wanted || self.is_creating(&answer.key) || self.chance.below(2) == 0 {
                    answer.reply
                } else {
                    Reply::Dropped
                };
                self.bench.answer(vec![Answer { key: answer.key, reply }])
            }
            None => self.bench.advance(),
        };
        self.begin(calls);
        true
    }

    /// A create was sent of which nothing is known yet.
    fn is_creating(&self, key: &CallKey) -> bool {
        let CallKey::Operation { attempt, operation, .. } = key else { return false };
        let run = &self.bench.run;
        let row = run.attempts.iter().find(|a| a.id == *attempt).and_then(|a| a.operations[*operation].row);
        run.ledger.iter().any(|r| Some(r.id) == row && r.provider_id.is_none())
    }

    fn needs_input(&self) -> bool {
        let waits = self.bench.run.waiting.as_ref().is_some_and(|w| w.reason == "manual_input");
        waits && self.coming.is_empty()
    }

    /// The worker is gone, and what it had in flight is never answered; what it had sent may still be done.
    fn crash(&mut self) {
        self.coming.clear();
        let lost = self.bench.new_generation();
        for call in lost {
            if let Task::Perform(work) = &call.task {
                // One call makes one object at most.
                let made = self.objects.iter().any(|o| work.tag.as_ref().is_some_and(|t| t.as_str() == o.tag));
                if !made && creates(work) && self.chance.below(2) == 0 {
                    self.arrive_late(&call, work);
                }
            }
        }
        // Now and then Provisor is away for hours, which it notices or not.
        let hours = self.chance.below(8) == 0;
        let away = if hours { self.span(0, 7200) } else { self.span(0, 60) };
        self.bench.now = self.bench.now.plus(away);
        if hours && self.chance.below(2) == 0 {
            self.bench.downtime = self.bench.downtime.plus(away);
        }
        let calls = self.bench.advance();
        self.begin(calls);
    }

    fn wish(&mut self) {
        // Mostly what a service survives, else few live long.
        let command = match self.chance.below(if self.managed { 26 } else { 20 }) {
            0 => Command::Cancel { reason: None },
            1 => Command::Deprovision { reason: None, force: false },
            2 => Command::QueueTimeout,
            3..=10 => Command::Suspend { reason: None },
            11..=18 => Command::Reactivate { reason: None },
            19 => {
                let resources: Vec<_> = self.bench.run.owed().map(|r| r.id).collect();
                // Why gone: a write-off is for what no longer is; else the model would rightly find it left over.
                for row in self.bench.run.owed() {
                    self.objects.retain(|o| row.provider_id.as_ref().map_or(o.tag != row.tag.as_str(), |id| o.id != *id));
                }
                Command::WriteOff { resources, reason: "gone".into() }
            }
            _ => self.input(),
        };
        self.ask(command);
    }

    fn input(&mut self) -> Command {
        let url = format!("https://{}.example", self.chance.below(3));
        Command::ManualInput(ManualInput { endpoints: vec![Endpoint { name: "web".into(), url }], credentials: None })
    }

    /// Asks for something, and begins what follows from it.
    pub(crate) fn ask(&mut self, command: Command) {
        let _ = self.bench.command(command);
        let calls = self.bench.advance();
        self.begin(calls);
    }

    /// Decides what will come of each call.
    fn begin(&mut self, calls: Vec<Call>) {
        for call in calls {
            if self.percent(self.weather.held) {
                // It is not sent: a breaker, a pause, or too many in flight.
                let until = self.bench.now.plus(self.span(0, 3));
                self.send(self.bench.now, call.key, Reply::Held { until });
                continue;
            }
            let reply = match call.task.clone() {
                Task::Perform(work) if creates(&work) => self.create(&call, &work),
                Task::Perform(work) => self.perform(&call, &work),
                Task::Find { tag, .. } => self.find(&call, tag.as_str()),
                Task::Release(held) => self.release(&call, &held),
            };
            let (after, reply) = reply;
            let at = self.bench.now.plus(after).min(call.deadline.at().max(self.bench.now));
            self.send(at, call.key, reply);
        }
    }

    fn send(&mut self, at: Timestamp, key: CallKey, reply: Reply) {
        self.order += 1;
        self.coming.insert((at, self.order), Answer { key, reply });
    }

    fn failure(&mut self) -> Failure {
        let class = match self.chance.below(10) {
            0 => Class::Permanent,
            1 => Class::Capacity,
            2 => Class::Auth,
            3 => Class::Throttled,
            _ => Class::Transient,
        };
        Failure::new(class, "weather", "the weather is bad")
    }

    fn object(&mut self, work: &Work, cluster: ClusterId, since: Timestamp, spoiled: bool) -> String {
        self.made += 1;
        let tag = work.tag.as_ref().unwrap().to_string();
        let row = self.bench.run.ledger.iter().find(|r| r.tag.as_str() == tag).unwrap();
        let (id, kind) = (format!("{}-{}", row.kind, self.made), row.kind.clone());
        self.objects.push(Object { id: id.clone(), kind, tag, cluster, since, spoiled });
        id
    }

    /// Done, but nobody is told: at once, after a while, or as late as a backend may be.
    fn arrive_late(&mut self, call: &Call, work: &Work) {
        let send_by = call.send_by.unwrap_or(self.bench.now);
        let at = match self.chance.below(3) {
            0 => self.bench.now,
            1 => self.bench.now.plus(self.span(0, 30)),
            _ => send_by.plus(self.span(0, 120)),
        };
        let spoiled = self.chance.below(4) == 0;
        self.object(work, call.cluster, at, spoiled);
        if self.chance.below(8) == 0 {
            // Something on the way sent it twice.
            self.object(work, call.cluster, at, false);
        }
    }

    fn create(&mut self, call: &Call, work: &Work) -> (Span, Reply) {
        self.check_first(call, work);
        let after = self.span(0, 20);
        if self.percent(self.weather.fails) {
            return (after, Reply::Failed(self.failure()));
        }
        if self.percent(self.weather.lost) {
            if self.chance.below(2) == 0 {
                self.arrive_late(call, work);
            }
            let reply = match self.chance.below(2) {
                0 => Reply::TimedOut { last_seen: None, diagnosis: Vec::new() },
                _ => Reply::Failed(Failure::new(Class::Ambiguous, "reset", "connection reset")),
            };
            return (call.call_limit, reply);
        }
        let since = self.bench.now;
        if self.percent(self.weather.fails) {
            // Its id is known before it goes wrong.
            let id = self.object(work, call.cluster, since, true);
            let made = Made { provider_id: Some(id), ..Made::default() };
            self.send(since.plus(Span::millis(1)), call.key.clone(), Reply::Progress(made));
            let reply = match self.chance.below(2) {
                0 => Reply::TimedOut { last_seen: Some("BUILD".into()), diagnosis: Vec::new() },
                _ => Reply::Failed(Failure::new(Class::Transient, "error", "it is in ERROR").spoiled()),
            };
            return (after.plus(Span::millis(2)), reply);
        }
        let id = self.object(work, call.cluster, since, false);
        (after, Reply::Done(Made { provider_id: Some(id), ..Made::default() }))
    }

    /// H5: nothing is made anew while what an earlier try made in time is there.
    fn check_first(&mut self, call: &Call, work: &Work) {
        let CallKey::Operation { attempt, operation, .. } = call.key else { return };
        let tag = work.tag.as_ref().unwrap().to_string();
        let tags = self.tags.entry((attempt, operation)).or_default();
        for earlier in tags.iter().filter(|t| **t != tag) {
            let row = self.bench.run.ledger.iter().find(|r| r.tag.as_str() == earlier).unwrap();
            let in_time = row.send_by.plus(row.call_limit);
            let there = self.objects.iter().find(|o| o.tag == *earlier && o.since <= in_time);
            assert!(there.is_none(), "{} is made anew though {there:?} is there", work.operation);
        }
        tags.push(tag);
        // H9: where the request fixes the endpoint, nothing of a former attempt is left.
        if self.bench.run.spec.kind != Kind::Vps {
            let of = |o: &Object| self.bench.run.ledger.iter().find(|r| r.tag.as_str() == o.tag).map(|r| r.attempt);
            let former = self.objects.iter().find(|o| of(o) != Some(attempt));
            assert!(former.is_none(), "{} begins beside {former:?}", work.operation);
        }
    }

    fn seen_until(&self) -> Timestamp {
        Timestamp(self.bench.now.0 - LIST_LAG.0)
    }

    fn perform(&mut self, call: &Call, work: &Work) -> (Span, Reply) {
        let after = self.span(0, 30);
        if let Some(id) = &work.provider_id {
            if self.objects.iter().any(|o| o.id == *id && o.spoiled) {
                return (after, Reply::Failed(Failure::new(Class::Transient, "error", "it is in ERROR").spoiled()));
            }
            let made = Made { provider_id: Some(id.clone()), ..Made::default() };
            return (after, Reply::Done(made));
        }
        let fails = self.percent(self.weather.fails);
        let lost = self.percent(self.weather.lost);
        // What fails or is lost may have been done all the same.
        if !(fails || lost) || self.chance.below(2) == 0 {
            self.stopped = match work.operation.as_str() {
                "stop_server" => true,
                "start_server" => false,
                _ => self.stopped,
            };
        }
        if fails {
            return (after, Reply::Failed(self.failure()));
        }
        if lost {
            return (call.deadline.at().since(self.bench.now), Reply::TimedOut { last_seen: None, diagnosis: Vec::new() });
        }
        let endpoints = vec![Endpoint { name: "ssh".into(), url: "ssh://192.0.2.1".into() }];
        (after, Reply::Done(Made { endpoints, ..Made::default() }))
    }

    /// What a list shows is decided when it is read, which is when it is asked.
    fn find(&mut self, call: &Call, tag: &str) -> (Span, Reply) {
        let after = self.span(0, 3);
        if self.percent(self.weather.fails) {
            return (after, Reply::Failed(self.failure()));
        }
        let until = self.seen_until();
        let seen = self.objects.iter().filter(|o| o.tag == tag && o.cluster == call.cluster && o.since <= until);
        let found = seen.map(|o| Found {
            kind: o.kind.clone(),
            provider_id: o.id.clone(),
            uid: None,
            tag: o.tag.clone(),
            age_seconds: None,
            spoiled: o.spoiled,
        });
        (after, Reply::Looked(found.collect()))
    }

    fn release(&mut self, call: &Call, held: &Held) -> (Span, Reply) {
        let after = self.span(0, 20);
        let mut mine = self.objects.iter().filter(|o| o.id == held.provider_id);
        assert!(mine.all(|o| o.tag == held.tag.as_str() && o.cluster == call.cluster), "a stranger is released");
        if self.percent(self.weather.fails * 2) {
            return (after, Reply::Failed(self.failure()));
        }
        self.objects.retain(|o| o.id != held.provider_id);
        if self.percent(self.weather.lost) {
            return (call.deadline.at().since(self.bench.now), Reply::TimedOut { last_seen: None, diagnosis: Vec::new() });
        }
        (after, Reply::Gone { replaced: false })
    }
}

fn creates(work: &Work) -> bool {
    work.tag.is_some() && work.provider_id.is_none()
}
