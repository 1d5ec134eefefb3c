//! Learned deadlines (SPEC 3.3, H30): how long an operation may take, from how long it took before.
//!
//! What is learned is kept by class: operation and size on a cluster, below it the operation on that cluster, below it
//! the operation at that type of backend. A class with few samples leans on its parent, with more slack. The deadline of
//! a first try is a high quantile times that slack, between a floor and the configured deadline; where the quantile is
//! not reached the configured one holds.
//!
//! A deadline that cuts off what would have finished must not teach itself to be ever shorter. What it cuts off enters
//! as a lower bound; a further try of the same operation has twice its time, so that no operation fails by a learned
//! deadline alone; a few operations run with the configured one and see what lies beyond; and a class forgets what it
//! knew when the last fifty do not look like it any more: at once when many of them hit a learned deadline, and then it
//! is off for an hour, else when far too many of them are slow. Rejected: decay by weights, which forgets at the same
//! speed whether anything changed or not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::chance::Chance;
use crate::cluster::ProviderType;
use crate::id::ClusterId;
use crate::lifecycle::Step;
use crate::run::Try;
use crate::sketch::{End, Sketch};
use crate::spec::Spec;
use crate::time::{Span, Timestamp};

mod ended;

pub use ended::ended;

/// The part of those that finish that a deadline lets through before the slack.
const PART: f64 = 0.995;
/// The slack of a class with many samples.
const SLACK: f64 = 1.5;
/// With this many samples of its own, a class and its parent count alike.
const LEANS: f64 = 50.0;
/// A class says nothing by itself below this many.
const ENOUGH: u64 = 100;
/// A class looks back on so many, and at most twice as many. From then on its deadline is at most twice its 99th
/// percentile, so that a hang is found within that.
const WINDOW: u64 = 1000;
/// What is slow is judged by a class with so many.
const JUDGES: u64 = 500;
/// So many of the last operations are looked at.
const LAST: u32 = 50;
/// When more of them have hit a learned deadline, learning is off for the class.
const HITS: u32 = 5;
/// When more of them took longer than nine of ten did before, the class begins anew.
const SLOW: u32 = 18;
/// For how long it is off.
pub const OFF: Span = Span::seconds(3600);
/// One operation in so many runs with the configured deadline.
const EXPLORES: u64 = 50;

/// What is alike in how long it takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// The type of the backend.
    pub provider: ProviderType,
    /// Which one; `None` for all of the type.
    pub cluster: Option<ClusterId>,
    /// The operation, or the step as `step:allocate`.
    pub operation: String,
    /// How large a thing is asked for; `None` for all sizes.
    pub size: Option<String>,
}

impl Key {
    /// What an operation on a cluster is learned as.
    pub fn of(provider: ProviderType, cluster: ClusterId, operation: &str, spec: &Spec) -> Self {
        Self { provider, cluster: Some(cluster), operation: operation.to_owned(), size: Some(size_class(spec)) }
    }

    /// Itself and its parents, the widest last.
    pub fn chain(&self) -> [Self; 3] {
        let on_cluster = Self { size: None, ..self.clone() };
        let of_type = Self { cluster: None, ..on_cluster.clone() };
        [self.clone(), on_cluster, of_type]
    }

    /// In one text: `openstack/clu_…/create_server/c2-m4-s64`, what is left out is `*`.
    pub fn name(&self) -> String {
        let cluster = self.cluster.map_or_else(|| "*".to_owned(), |c| c.to_string());
        format!("{}/{cluster}/{}/{}", self.provider.name(), self.operation, self.size.as_deref().unwrap_or("*"))
    }
}

/// The name under which the duration of a step is learned.
pub fn step_name(step: Step) -> String {
    format!("step:{}", step.name())
}

/// How large it is, in powers of two of each dimension: what takes about as long.
pub fn size_class(spec: &Spec) -> String {
    let needs = spec.needs();
    let up = |n: i64| u64::try_from(n).unwrap_or(0).max(1).checked_next_power_of_two().unwrap_or(u64::MAX);
    match spec.size {
        None => "any".to_owned(),
        Some(_) => format!("c{}-m{}-s{}", up(needs.cpu), up(needs.memory_gb), up(needs.storage_gb)),
    }
}

/// What one operation that ended tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lesson {
    /// How long what it began took.
    pub samples: Vec<(Span, End)>,
    /// A try of it was ended by a learned deadline.
    pub hit: bool,
}

impl Lesson {
    /// What the tries of an operation tell. A try that went on with what an earlier one had made is part of it, so that
    /// a late success replaces its cut-off. Of a try that failed nothing is learned, and nothing of one that another
    /// process took over, whose time holds the time between them.
    pub fn of(tries: &[Try], succeeded: bool) -> Self {
        let mut lesson = Self::default();
        let mut begun: Option<Timestamp> = None;
        let mut taken_over = false;
        for (index, one) in tries.iter().enumerate() {
            let Some(finished) = one.finished_at else { continue };
            let start = if one.goes_on { begun.unwrap_or(one.started_at) } else { one.started_at };
            taken_over = one.taken_over || (one.goes_on && taken_over);
            begun = Some(start);
            let took = finished.since(start);
            let timed_out = one.error.as_ref().is_some_and(|e| e.code == "operation_timed_out");
            let lost = one.error.as_ref().is_some_and(|e| e.class == crate::Class::Ambiguous);
            lesson.hit |= one.was_cut_short();
            let last = index + 1 == tries.len();
            let end = match &one.error {
                None if last && succeeded => End::Finished,
                None => End::Cut,
                Some(_) if timed_out && one.learned.is_none() => End::Expired,
                Some(_) if timed_out || lost => End::Cut,
                Some(_) => continue,
            };
            let replaced = tries.get(index + 1).is_some_and(|next| next.goes_on);
            if took > Span::ZERO && !taken_over && !replaced {
                lesson.samples.push((took, end));
            }
        }
        lesson
    }

    /// Nothing is to be learned of it.
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty() && !self.hit
    }
}

/// Yes or no of the last fifty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Recent(u64);

impl Recent {
    fn push(&mut self, yes: bool) {
        self.0 = (self.0 << 1 | u64::from(yes)) & ((1 << LAST) - 1);
    }

    fn many(self) -> u32 {
        self.0.count_ones()
    }
}

/// What is known of one class. Its fold over lessons is all that the reader of the log does.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Class {
    /// The window that is being filled, and the one before it.
    now: Sketch,
    before: Sketch,
    hits: Recent,
    slow: Recent,
    /// What nine of ten were done within, by what `slow` is judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    usual: Option<Span>,
    /// It has forgotten what it knew, and leans on no parent until it knows enough by itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    alone: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    off_until: Option<Timestamp>,
}

impl Class {
    /// Takes in a lesson; true when learning is off from now on, for an hour.
    pub fn learn(&mut self, lesson: &Lesson, at: Timestamp) -> bool {
        for (took, end) in &lesson.samples {
            if self.now.count() >= WINDOW {
                self.before = std::mem::take(&mut self.now);
                self.alone = false;
            }
            self.now.add(*took, *end);
            let slow = self.usual.map(|usual| *took > usual);
            // What was cut off earlier says nothing of whether it is slow.
            if let Some(slow) = slow.filter(|slow| *slow || *end == End::Finished) {
                self.slow.push(slow);
            }
        }
        self.hits.push(lesson.hit);
        if self.hits.many() > HITS {
            self.forget();
            self.off_until = Some(at.plus(OFF));
            return true;
        }
        if self.slow.many() > SLOW {
            self.forget();
        }
        let count = self.now.count().saturating_add(self.before.count());
        if count >= JUDGES && (self.usual.is_none() || count.is_multiple_of(u64::from(LAST))) {
            self.usual = self.all().quantile(0.9).map(|q| q.to);
        }
        false
    }

    fn forget(&mut self) {
        *self = Self { alone: true, ..Self::default() };
    }

    fn all(&self) -> Sketch {
        let mut all = self.now.clone();
        all.merge(&self.before);
        all
    }

    /// What follows from it, worked out once.
    pub fn figures(&self) -> Figures {
        let all = self.all();
        let upper = |part| all.quantile(part).map(|q| q.to);
        Figures {
            samples: all.count(),
            finished: all.finished(),
            p50: upper(0.5),
            p95: upper(0.95),
            p99: all.quantile(0.99).map(|q| q.from),
            high: upper(PART),
            alone: self.alone,
            off_until: self.off_until,
        }
    }
}

/// The figures of a class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Observations, those that were cut off included.
    pub samples: u64,
    /// Those that finished.
    pub finished: u64,
    /// Median; `None` where it is not reached, as for the others.
    pub p50: Option<Span>,
    /// 95th percentile.
    pub p95: Option<Span>,
    /// 99th percentile.
    pub p99: Option<Span>,
    /// The quantile that deadlines are made of.
    pub high: Option<Span>,
    /// Leans on no parent.
    pub alone: bool,
    /// Off until then.
    pub off_until: Option<Timestamp>,
}

/// A learned deadline, with what it rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learned {
    /// The class.
    pub class: String,
    /// Its own samples; with few of them it leans on its parents.
    pub samples: u64,
    /// The quantile (0.995) of how long it takes, its parents' part included.
    #[serde(rename = "quantile_seconds")]
    pub quantile: Span,
    /// The deadline that follows.
    #[serde(rename = "deadline_seconds")]
    pub deadline: Span,
}

/// Whether and how deadlines are learned on a cluster (`settings.learned_deadlines`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// It may be switched off.
    pub enabled: bool,
    /// No learned deadline is shorter.
    pub floor: Span,
}

impl Default for Policy {
    fn default() -> Self {
        Self { enabled: true, floor: Span::seconds(5) }
    }
}

/// The recorded 95th percentile of a step (SPEC 3.4, hedge).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usual {
    /// Nineteen of twenty were done within.
    pub p95: Span,
    /// How many that rests on.
    pub samples: u64,
}

/// All that is known, as a decision sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deadlines {
    classes: BTreeMap<Key, Figures>,
}

impl Deadlines {
    /// Of what was learned.
    pub fn new(classes: impl IntoIterator<Item = (Key, Figures)>) -> Self {
        Self { classes: classes.into_iter().collect() }
    }

    /// Puts what has changed in the place of what was.
    pub fn update(&mut self, changed: impl IntoIterator<Item = (Key, Figures)>) {
        self.classes.extend(changed);
    }

    /// Everything that is known of a cluster's operations.
    pub fn on(&self, cluster: ClusterId) -> impl Iterator<Item = (&Key, &Figures)> {
        self.classes.iter().filter(move |(key, _)| key.cluster == Some(cluster))
    }

    /// The learned deadline of a class, where it is shorter than the configured one.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)] // spans of a day, counts of a window
    pub fn deadline(&self, key: &Key, configured: Span, policy: Policy, now: Timestamp) -> Option<Learned> {
        if !policy.enabled {
            return None;
        }
        let mut high: Option<f64> = None;
        for class in key.chain().iter().rev() {
            let Some(own) = self.classes.get(class) else { continue };
            if own.alone || own.off_until.is_some_and(|until| now < until) {
                high = None;
            }
            if own.off_until.is_some_and(|until| now < until) {
                if class == key {
                    return None;
                }
                continue;
            }
            let trust = own.samples as f64 / (own.samples as f64 + LEANS);
            high = match (high, own.high) {
                (None, Some(found)) if own.samples >= ENOUGH => Some(found.as_seconds_f64().ln()),
                (Some(parent), Some(found)) => Some(trust * found.as_seconds_f64().ln() + (1.0 - trust) * parent),
                (Some(parent), None) if own.samples < ENOUGH => Some(parent),
                _ => None,
            };
        }
        let quantile = high?.exp();
        let own = self.classes.get(key);
        let samples = own.map_or(0, |f| f.samples);
        let trust = samples as f64 / (samples as f64 + LEANS);
        let mut deadline = Span::from_seconds_f64(quantile * SLACK * (2.0 - trust));
        if let Some(p99) = own.filter(|f| f.samples >= WINDOW).and_then(|f| f.p99) {
            deadline = deadline.min(Span(p99.0.saturating_mul(2)));
        }
        let deadline = deadline.max(policy.floor);
        let learned = Learned { class: key.name(), samples, quantile: Span::from_seconds_f64(quantile), deadline };
        (deadline < configured).then_some(learned)
    }

    /// The same for a first try: now and then the configured deadline holds all the same, to see what lies beyond.
    pub fn first(&self, key: &Key, configured: Span, policy: Policy, now: Timestamp, chance: &mut dyn Chance) -> Option<Learned> {
        let learned = self.deadline(key, configured, policy, now)?;
        (chance.below(EXPLORES) != 0).then_some(learned)
    }

    /// How long a step on a cluster usually takes; `None` below a hundred samples.
    pub fn step(&self, provider: ProviderType, cluster: ClusterId, step: Step, spec: &Spec) -> Option<Usual> {
        let key = Key::of(provider, cluster, &step_name(step), spec);
        let found = key.chain().into_iter().filter_map(|k| self.classes.get(&k)).find(|f| f.samples >= ENOUGH)?;
        Some(Usual { p95: found.p95?, samples: found.samples })
    }
}

#[cfg(test)]
mod tests;
