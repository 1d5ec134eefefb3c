//! One question to a simulated cluster: counts the call, lets faults strike, has the effect, says when the answer comes.
//!
//! The effect comes at the beginning of a call and the answer after the latency, so that a call that is cut off on the
//! way has been done: the hard case is the usual one. A fault is decided by seed, cluster, operation and the count of
//! calls; of several rules the first that strikes counts. `success_rate` is drawn once for each step of each attempt
//! and makes that step's last creating or waiting operation fail with class permanent, because anything milder would
//! be retried away.

use provisor_core::{Chance as _, Class, Failure, Span, Timestamp};

use crate::act;
use crate::port::{Ask, Deletion, Figures, Order, Reply};
use crate::roll::{fits, roll};
use crate::settings::{Fault, FaultKind, When};
use crate::table::{Operation, Played};
use crate::world::{Cluster, Resource, key};

/// How a question ends.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Time until the answer.
    pub(crate) wait: Span,
    /// The answer; `None`: it never comes.
    pub(crate) end: Option<Result<Reply, Failure>>,
    /// Whether it might have made something.
    pub(crate) creates: bool,
}

/// What sort of call it is, as some faults strike only some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    /// Makes something.
    Create,
    /// Deletes.
    Delete,
    /// Looks for things.
    Look,
    /// Everything else.
    Other,
}

/// A call that has been counted.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: String,
    pub(crate) number: u64,
    pub(crate) strike: Option<(FaultKind, Option<Span>)>,
}

impl Call {
    /// Whether a fault of this kind strikes.
    pub(crate) fn is(&self, kind: FaultKind) -> bool {
        self.strike.is_some_and(|(k, _)| k == kind)
    }

    /// The delay that the fault's rule gives.
    pub(crate) fn delay(&self) -> Option<Span> {
        self.strike.and_then(|(_, after)| after)
    }
}

/// Items of one page of a list.
const PAGE: usize = 500;

impl Cluster {
    /// Answers a question.
    pub(crate) fn turn(&mut self, ask: &Ask, now: Timestamp) -> Turn {
        self.tick(now);
        if self.settings.offline && !matches!(ask, Ask::Register(_)) {
            let failure = Failure::new(Class::Transient, "unreachable", format!("{}: connection refused (simulated)", self.name));
            return Turn { wait: Span::ZERO, end: Some(Err(failure)), creates: false };
        }
        match ask {
            Ask::Register(registration) => {
                self.register(registration.clone());
                answer(Reply::Identity { identity: self.head.identity.clone() })
            }
            Ask::Identity => self.plain("identity", |c| Reply::Identity { identity: c.head.identity.clone() }),
            Ask::Capacity => self.plain("capacity", |c| Reply::Capacity { total: c.settings.total }),
            Ask::Metrics { resources } => self.plain("metrics", |c| Reply::Metrics(c.figures(resources, now))),
            Ask::Perform(order) => self.perform(order, now),
            Ask::Release(deletion) => self.release(deletion, now),
            Ask::Find { kind, tag } => self.find(kind, tag, now),
            Ask::List { prefix, from } => self.list(prefix, from.as_deref(), now),
            Ask::Test => self.test(),
        }
    }

    /// Counts a call and decides whether a fault strikes it.
    pub(crate) fn begin(&mut self, operation: &str, tenant: &str, request_name: &str, sort: Sort) -> Call {
        let calls = self.calls.entry(operation.to_owned()).or_default();
        calls.count += 1;
        let number = calls.count;
        let (mut strike, mut counted) = (None, false);
        for fault in self.settings.faults.iter().filter(|f| concerns(f, operation, tenant, request_name, sort)) {
            let strikes = match &fault.when {
                When::Probability(p) => roll(self.settings.seed, &[&self.name, operation, &fault.key], number).fraction() < *p,
                When::OnCalls(calls) => {
                    counted = true;
                    let count = self.counts.entry(fault.key.clone()).or_default();
                    *count += 1;
                    calls.contains(count)
                }
            };
            if strikes && strike.is_none() {
                strike = Some((fault.kind, fault.after));
            }
        }
        if counted {
            // Awaited, because a count that a crash takes back would strike twice.
            self.save_counts();
            self.durable = true;
        }
        Call { operation: operation.to_owned(), number, strike }
    }

    /// Counts the result of a call.
    pub(crate) fn count(&mut self, call: &Call, result: &str) {
        let Some(calls) = self.calls.get_mut(&call.operation) else { return };
        *calls.results.entry(result.to_owned()).or_default() += 1;
        let calls = calls.clone();
        self.save("n", &call.operation, Some(&calls));
    }

    /// A sample of an operation's latency for a call.
    pub(crate) fn latency(&self, operation: &str, number: u64) -> Span {
        let mut chance = roll(self.settings.seed, &[&self.name, operation, "latency"], number);
        self.settings.model(operation).sample(self.settings.time_scale, &mut chance)
    }

    /// The failure or the silence of a fault that strikes before anything is done.
    pub(crate) fn struck(&mut self, call: &Call, creates: bool) -> Option<Turn> {
        let (kind, _) = call.strike?;
        if kind == FaultKind::Hang {
            self.count(call, kind.name());
            return Some(Turn { wait: Span::ZERO, end: None, creates });
        }
        let failure = self.failure(kind, call)?;
        self.count(call, kind.name());
        let wait = self.latency(&call.operation, call.number);
        Some(Turn { wait, end: Some(Err(failure)), creates })
    }

    fn failure(&self, kind: FaultKind, call: &Call) -> Option<Failure> {
        let operation = &call.operation;
        let (class, code, text) = match kind {
            FaultKind::Transient => (Class::Transient, "service_failed", "503 Service Unavailable"),
            FaultKind::Permanent => (Class::Permanent, "bad_request", "400 Bad Request"),
            FaultKind::Throttled => (Class::Throttled, "throttled", "429 Too Many Requests"),
            FaultKind::Auth => (Class::Auth, "credentials_refused", "401 Unauthorized"),
            FaultKind::Capacity => {
                (Class::Capacity, "capacity", "No valid host was found. There are not enough hosts available.")
            }
            FaultKind::DeleteFails => (Class::Transient, "conflict", "409 Conflict: it cannot be deleted now"),
            _ => return None,
        };
        let failure = Failure::new(class, code, format!("{operation}: {text} (simulated)"));
        if kind != FaultKind::Throttled {
            return Some(failure);
        }
        let wait = call.delay().unwrap_or_else(|| Span::from_seconds_f64(self.settings.time_scale.clamp(0.01, 1.0)));
        Some(failure.after(wait))
    }

    /// The answer of a call that had its effect, or its loss.
    pub(crate) fn end(&mut self, call: &Call, result: &str, reply: Result<Reply, Failure>, wait: Span, creates: bool) -> Turn {
        let lost = matches!(call.strike, Some((FaultKind::LostReply | FaultKind::LateSuccess, _)));
        let name = call.strike.filter(|_| lost).map_or(result, |(k, _)| k.name());
        self.count(call, name);
        Turn { wait, end: (!lost).then_some(reply), creates }
    }

    fn plain(&mut self, operation: &str, reply: impl FnOnce(&Self) -> Reply) -> Turn {
        let call = self.begin(operation, "", "", Sort::Other);
        if let Some(turn) = self.struck(&call, false) {
            return turn;
        }
        let reply = reply(self);
        let wait = self.latency(operation, call.number);
        self.end(&call, "ok", Ok(reply), wait, false)
    }

    /// How much later than now something comes that comes after the deadline of `operation`.
    pub(crate) fn too_late(&self, call: &Call, operation: &Operation) -> Span {
        let (deadline, _) = self.head.registration.common.deadline(operation.name, Span::seconds(operation.deadline));
        call.delay().unwrap_or(Span(deadline.0.saturating_add(deadline.0 / 10)).plus(Span::millis(50)))
    }

    /// Draws, once for each step of an attempt, whether it goes well.
    pub(crate) fn goes_well(&mut self, order: &Order, operation: &Operation) -> bool {
        let Some(attempt) = order.attempt.filter(|_| operation.judged) else { return true };
        let Some(rate) = self.settings.success.get(&operation.step).copied().filter(|r| *r < 1.0) else { return true };
        let name = format!("{attempt}/{}", operation.step.name());
        if let Some(verdict) = self.verdicts.get(&name) {
            return *verdict;
        }
        let counter = format!("success/{}", operation.step.name());
        let count = self.counts.entry(counter.clone()).or_default();
        *count += 1;
        let number = *count;
        self.save_counts();
        let good = roll(self.settings.seed, &[&self.name, &counter], number).fraction() < rate;
        self.note_verdict(name, good);
        good
    }

    fn perform(&mut self, order: &Order, now: Timestamp) -> Turn {
        let known = Played::of(order.plays).and_then(|p| Some((p, p.operation(&order.operation, order.attempt.is_none())?)));
        let Some((played, operation)) = known else {
            let text = format!("{} knows no operation {:?}", order.plays.name(), order.operation);
            return failed(Failure::new(Class::Permanent, "unknown_operation", text));
        };
        act::act(self, order, played, operation, now)
    }

    fn release(&mut self, deletion: &Deletion, now: Timestamp) -> Turn {
        let key = key(&deletion.kind, &deletion.provider_id);
        let (tenant, name) = self.live.get(&key).map_or_else(Default::default, |r| (r.tenant.clone(), r.request_name.clone()));
        let call = self.begin(&format!("delete_{}", deletion.kind), &tenant, &name, Sort::Delete);
        if let Some(turn) = self.struck(&call, false) {
            return turn;
        }
        if deletion.identity.as_ref().is_some_and(|i| *i != self.head.identity) {
            let text = format!("{key} was made on another backend than {}", self.head.identity);
            return self.end(&call, "auth", Err(Failure::new(Class::Auth, "identity_changed", text)), Span::ZERO, false);
        }
        let (result, reply) = self.delete(&call, &key, deletion, now);
        self.end(&call, result, Ok(reply), Span::ZERO, false)
    }

    fn delete(&mut self, call: &Call, key: &str, deletion: &Deletion, now: Timestamp) -> (&'static str, Reply) {
        let Some(found) = self.live.get(key) else { return ("gone", Reply::Gone) };
        let other_uid = matches!((&found.uid, &deletion.uid), (Some(a), Some(b)) if a != b);
        if found.tag != deletion.tag || other_uid {
            return ("replaced", Reply::Replaced);
        }
        if let Some(at) = found.leaving {
            return ("running", Reply::Leaving { seen: "deleting".to_owned(), look_again: Some(at.since(now)) });
        }
        if let Some(holder) = self.holder(key) {
            return ("in_use", Reply::Leaving { seen: format!("in use by {holder}"), look_again: None });
        }
        let maker = Played::of(found.plays).and_then(|p| p.maker(&found.kind));
        let late = maker.filter(|_| call.is(FaultKind::LateSuccess)).map(|m| self.too_late(call, m));
        let wait = late.unwrap_or_else(|| self.latency(&call.operation, call.number));
        if wait == Span::ZERO {
            self.remove(key, now);
            return ("ok", Reply::Gone);
        }
        self.leave(key, now.plus(wait));
        ("ok", Reply::Leaving { seen: "deleting".to_owned(), look_again: Some(wait) })
    }

    /// How far back a stale list looks: less than the lag that the cluster's settings allow for.
    fn staleness(&self, call: &Call, now: Timestamp) -> Option<Timestamp> {
        let lag = self.head.registration.common.list_lag;
        let back = call.delay().unwrap_or(Span(lag.0 - lag.0 / 10));
        call.is(FaultKind::StaleList).then(|| Timestamp(now.0.saturating_sub(back.0)))
    }

    fn find(&mut self, kind: &str, tag: &str, now: Timestamp) -> Turn {
        let known = self.tagged(tag, "").next().map(|(_, r)| (r.tenant.clone(), r.request_name.clone())).unwrap_or_default();
        let call = self.begin("find", &known.0, &known.1, Sort::Look);
        if let Some(turn) = self.struck(&call, false) {
            return turn;
        }
        let fits = |r: &Resource| r.kind == kind && r.tag == tag;
        let items = match self.staleness(&call, now) {
            Some(then) => self.seen_at(then, now, fits).into_iter().collect(),
            None => self.tagged(tag, "").filter(|(_, r)| fits(r)).map(|(_, r)| r.found(now)).collect(),
        };
        let wait = self.latency("find", call.number);
        let result = if call.is(FaultKind::StaleList) { "stale_list" } else { "ok" };
        self.end(&call, result, Ok(Reply::Page { items, next: None }), wait, false)
    }

    /// What was there at a moment in the past.
    fn seen_at(&self, then: Timestamp, now: Timestamp, fits: impl Fn(&Resource) -> bool) -> Vec<provisor_core::workflow::Found> {
        let lately = self.gone.iter().rev().take_while(|r| r.gone_at.is_some_and(|at| at > then));
        let all = self.live.values().chain(lately);
        all.filter(|r| r.made_at <= then && fits(r)).map(|r| r.found(now)).collect()
    }

    fn list(&mut self, prefix: &str, from: Option<&str>, now: Timestamp) -> Turn {
        let call = self.begin("list_owned", "", "", Sort::Look);
        if let Some(turn) = self.struck(&call, false) {
            return turn;
        }
        let (mut items, mut next) = (Vec::new(), None);
        match self.staleness(&call, now) {
            // Why in one page: the view of the past cannot be continued at a later call.
            Some(then) => items = self.seen_at(then, now, |r| r.tag.starts_with(prefix)),
            None => {
                for (tag, resource) in self.tagged(prefix, from.unwrap_or_default()) {
                    // A page ends between two tags, so that the next one can begin with a tag.
                    if items.len() >= PAGE && items.last().is_some_and(|f: &provisor_core::workflow::Found| f.tag != *tag) {
                        next = Some(tag.clone());
                        break;
                    }
                    items.push(resource.found(now));
                }
            }
        }
        let wait = self.latency("list_owned", call.number);
        let result = if call.is(FaultKind::StaleList) { "stale_list" } else { "ok" };
        self.end(&call, result, Ok(Reply::Page { items, next }), wait, false)
    }

    /// Each class of fault fails the check that it would fail in reality.
    fn test(&mut self) -> Turn {
        let call = self.begin("test", "", "", Sort::Other);
        let kind = call.strike.map(|(k, _)| k);
        if kind == Some(FaultKind::Hang) {
            self.count(&call, "hang");
            return Turn { wait: Span::ZERO, end: None, creates: false };
        }
        let failure = kind.and_then(|k| self.failure(k, &call)).map(|f| f.message);
        let bad = match kind {
            Some(FaultKind::Auth) => 1,
            Some(FaultKind::Capacity) => 2,
            _ => 0,
        };
        let wait = self.latency("test", call.number);
        let latency_ms = u64::try_from(wait.0 / 1000).unwrap_or(0);
        let checks = ["reachable", "login", "quota"].into_iter().enumerate().map(|(i, name)| {
            // What comes after the check that failed was not tried.
            let error = failure.as_ref().filter(|_| i >= bad).map(|f| if i == bad { f.clone() } else { "not tried".to_owned() });
            (name.to_owned(), error.is_none(), latency_ms, error)
        });
        let reply = Reply::Checks { checks: checks.collect() };
        let result = kind.filter(|_| failure.is_some()).map_or("ok", FaultKind::name);
        self.end(&call, result, Ok(reply), wait, false)
    }

    /// Plausible figures that follow from the service and the time.
    #[allow(clippy::cast_precision_loss)]
    fn figures(&self, resources: &std::collections::BTreeMap<String, String>, now: Timestamp) -> Figures {
        let hosts = resources.iter().filter_map(|(kind, id)| self.live.get(&key(kind, id)));
        let host = hosts.max_by_key(|r| Played::of(r.plays).is_some_and(|p| p.host == r.kind));
        let Some((host, played)) = host.and_then(|h| Some((h, Played::of(h.plays)?))) else {
            let why = "the service is not there".to_owned();
            let all = ["cpu_percent", "memory_used_gb", "disk_used_gb", "network_rx_bytes", "network_tx_bytes"];
            return Figures { unavailable: all.map(|f| (f.to_owned(), why.clone())).into(), ..Figures::default() };
        };
        let up = now.since(host.ready_at);
        let seconds = u64::try_from(up.0 / 1_000_000).unwrap_or(0);
        let mut chance = roll(self.settings.seed, &[&host.id, "metrics"], seconds / 60);
        let hundredths = |share: f64| (share * 100.0).round() / 100.0;
        let mut figures = Figures {
            cpu_percent: Some(if host.power { hundredths(2.0 + 60.0 * chance.fraction()) } else { 0.0 }),
            memory_used_gb: Some(hundredths(f64::from(host.memory_gb) * (0.2 + 0.6 * chance.fraction()))),
            disk_used_gb: Some(hundredths(1.5 + seconds as f64 / 86_400.0)),
            network_rx_bytes: Some(seconds * 1500 + host.number),
            network_tx_bytes: Some(seconds * 900 + host.number),
            unavailable: std::collections::BTreeMap::new(),
        };
        for (figure, why) in played.unavailable {
            match *figure {
                "cpu_percent" => figures.cpu_percent = None,
                "memory_used_gb" => figures.memory_used_gb = None,
                "disk_used_gb" => figures.disk_used_gb = None,
                "network_rx_bytes" => figures.network_rx_bytes = None,
                _ => figures.network_tx_bytes = None,
            }
            figures.unavailable.insert((*figure).to_owned(), (*why).to_owned());
        }
        figures
    }
}

fn concerns(fault: &Fault, operation: &str, tenant: &str, request_name: &str, sort: Sort) -> bool {
    let sort_fits = match fault.kind {
        FaultKind::DeleteFails => sort == Sort::Delete,
        FaultKind::StaleList => sort == Sort::Look,
        FaultKind::Vanish => sort == Sort::Create,
        _ => true,
    };
    let is = |wanted: &Option<String>, given: &str| wanted.as_ref().is_none_or(|w| w == given);
    sort_fits && is(&fault.tenant, tenant) && is(&fault.request_name, request_name) && fits(&fault.operation, operation)
}

fn answer(reply: Reply) -> Turn {
    Turn { wait: Span::ZERO, end: Some(Ok(reply)), creates: false }
}

/// An answer to a call that is not worth counting.
pub(crate) fn failed(failure: Failure) -> Turn {
    Turn { wait: Span::ZERO, end: Some(Err(failure)), creates: false }
}
