//! Learning on durations from a seed: lognormal ones, and backends that hang or become slower.

use super::*;
use crate::chance::SplitMix;
use crate::failure::{Class as ErrorClass, Failure};

const CONFIGURED: Span = Span::seconds(600);
const START: Timestamp = Timestamp(1_800_000_000_000_000);
const POLICY: Policy = Policy { enabled: true, floor: Span::seconds(1) };

/// A backend with durations from a seed.
struct Backend {
    chance: SplitMix,
    median: f64,
    sigma: f64,
    hangs: f64,
}

impl Backend {
    fn new(seed: u64, p50: f64, spread: f64) -> Self {
        // 2.326 standard deviations are the 99th percentile.
        Self { chance: SplitMix::new(seed), median: p50, sigma: spread.ln() / 2.326, hangs: 0.0 }
    }

    /// How long the next one takes; `None` for ever.
    fn next(&mut self) -> Option<Span> {
        if self.chance.fraction() < self.hangs {
            return None;
        }
        let radius = (-2.0 * (1.0 - self.chance.fraction()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * self.chance.fraction()).cos();
        Some(Span::from_seconds_f64(self.median * (self.sigma * normal).exp()))
    }
}

/// A store of classes with one operation on one cluster.
struct Learner {
    classes: BTreeMap<Key, Class>,
    key: Key,
    now: Timestamp,
    chance: SplitMix,
    false_kills: u32,
    trips: u32,
}

impl Learner {
    fn new(size: &str) -> Self {
        let mut chance = SplitMix::new(7);
        let key = Key {
            provider: ProviderType::Openstack,
            cluster: Some(ClusterId::new(START, &mut chance)),
            operation: "create_server".into(),
            size: Some(size.into()),
        };
        Self { classes: BTreeMap::new(), key, now: START, chance, false_kills: 0, trips: 0 }
    }

    fn known(&self) -> Deadlines {
        Deadlines::new(self.classes.iter().map(|(k, c)| (k.clone(), c.figures())))
    }

    fn deadline(&self) -> Span {
        self.known().deadline(&self.key, CONFIGURED, POLICY, self.now).map_or(CONFIGURED, |l| l.deadline)
    }

    fn teach(&mut self, lesson: &Lesson) {
        for key in self.key.chain() {
            let leaf = key == self.key;
            if self.classes.entry(key).or_default().learn(lesson, self.now) && leaf {
                self.trips += 1;
            }
        }
    }

    /// One operation as core runs it: a first try, and after a cut-off tries of twice the time each.
    fn run(&mut self, known: &Deadlines, backend: &mut Backend) {
        self.now = self.now.plus(Span::seconds(5));
        let mut learned = known.first(&self.key, CONFIGURED, POLICY, self.now, &mut self.chance).map(|l| l.deadline);
        let mut tries = Vec::new();
        for _ in 0..4 {
            let limit = learned.unwrap_or(CONFIGURED);
            let takes = backend.next();
            let begun = Try { learned, ..Try::begin(self.now) };
            let Some(takes) = takes.filter(|t| *t <= limit) else {
                self.false_kills += u32::from(takes.is_some());
                let error = Some(Failure::new(ErrorClass::Transient, "operation_timed_out", "too late"));
                tries.push(Try { finished_at: Some(self.now.plus(limit)), error, ..begun });
                learned = learned.map(|l| Span(l.0 * 2)).filter(|l| *l < CONFIGURED);
                continue;
            };
            tries.push(Try { finished_at: Some(self.now.plus(takes)), ..begun });
            break;
        }
        let succeeded = tries.last().is_some_and(|t| t.error.is_none());
        self.teach(&Lesson::of(&tries, succeeded));
    }

    /// So many operations; what is known is refreshed every twenty, as by a reader of the log.
    fn runs(&mut self, count: usize, backend: &mut Backend) {
        let mut known = self.known();
        for n in 0..count {
            if n % 20 == 0 {
                known = self.known();
            }
            let trips = self.trips;
            self.run(&known, backend);
            // Whoever finds that learning goes off is the reader, so it is known at once.
            if self.trips > trips {
                known = self.known();
            }
        }
    }

    /// The part of fresh durations that the deadline would cut off.
    fn held_out(&self, backend: &Backend) -> f64 {
        let mut other = Backend { chance: SplitMix::new(991), hangs: 0.0, ..*backend };
        let deadline = self.deadline();
        let cut = (0..20_000).filter(|_| other.next().is_some_and(|t| t > deadline)).count();
        f64::from(u32::try_from(cut).unwrap()) / 20_000.0
    }

    fn p99(&self) -> Span {
        self.classes[&self.key].all().quantile(0.99).unwrap().to
    }
}

const SPREADS: [f64; 4] = [1.5, 3.0, 6.0, 10.0];

#[test]
fn h30_a_hang_is_found_within_twice_the_99th_percentile_and_little_else_is_cut_off() {
    for spread in SPREADS {
        for seed in 1..=5 {
            let mut backend = Backend::new(seed, 4.0, spread);
            let mut learner = Learner::new("c2");
            learner.runs(1100, &mut backend);
            let (deadline, p99) = (learner.deadline(), learner.p99());
            assert!(deadline < CONFIGURED && deadline <= Span(p99.0 * 2), "{spread} {seed}: {deadline:?} of {p99:?}");
            let cut = learner.held_out(&backend);
            assert!(cut <= 0.005, "{spread} {seed}: {cut}");
        }
    }
}

#[test]
fn h30_a_backend_three_times_slower_makes_no_spiral() {
    for spread in SPREADS {
        for seed in 1..=3 {
            let mut backend = Backend::new(seed, 4.0, spread);
            let mut learner = Learner::new("c2");
            learner.runs(2000, &mut backend);
            let before = learner.deadline();
            backend.median *= 3.0;
            learner.false_kills = 0;
            let mut least = CONFIGURED;
            for _ in 0..60 {
                learner.runs(50, &mut backend);
                least = least.min(learner.deadline());
            }
            let (spread_of, kills) = (format!("{spread} {seed}"), learner.false_kills);
            assert!(least.0 * 10 >= before.0 * 9, "{spread_of}: the deadline went from {before:?} down to {least:?}");
            assert!(kills <= 15, "{spread_of}: {kills} of 3000 were cut off, 0.5 % are 15");
            let cut = learner.held_out(&backend);
            assert!(cut <= 0.005, "{spread_of}: {cut} are cut off by {:?}", learner.deadline());
            let (deadline, p99) = (learner.deadline(), learner.p99());
            assert!(deadline < CONFIGURED && deadline <= Span(p99.0 * 2), "{spread_of}: learned anew: {deadline:?} of {p99:?}");
        }
    }
}

#[test]
fn h30_hangs_do_not_keep_it_from_learning() {
    let mut learned = 0;
    for seed in 1..=4 {
        let mut backend = Backend::new(seed, 4.0, 4.0);
        backend.hangs = 0.02;
        let mut learner = Learner::new("c2");
        learner.runs(1100, &mut backend);
        for _ in 0..40 {
            learner.runs(50, &mut backend);
            learned += u32::from(learner.deadline() < CONFIGURED);
        }
        assert!(learner.held_out(&backend) <= 0.005, "{seed}");
    }
    assert!(learned >= 120, "a learned deadline held {learned} times of 160");
}

#[test]
fn h30_many_hits_switch_learning_off_for_an_hour() {
    let mut learner = Learner::new("c2");
    learner.runs(1500, &mut Backend::new(3, 4.0, 1.5));
    assert!(learner.deadline() < Span::seconds(15));
    learner.runs(12, &mut Backend::new(4, 60.0, 1.5));
    assert_eq!((learner.trips, learner.deadline()), (1, CONFIGURED));
    let off = learner.classes[&learner.key].figures().off_until.unwrap();
    learner.now = off.plus(Span::seconds(-1));
    assert_eq!(learner.deadline(), CONFIGURED);
    // What it knew is forgotten, and it does not lean on a parent that knows the old times.
    learner.now = off.plus(Span::seconds(1));
    assert_eq!(learner.deadline(), CONFIGURED);
    learner.runs(300, &mut Backend::new(5, 60.0, 1.5));
    let anew = learner.deadline();
    assert!(anew > Span::seconds(90) && anew < CONFIGURED, "{anew:?}");
}

#[test]
fn few_samples_lean_on_the_parent_with_more_slack() {
    let mut learner = Learner::new("c2");
    learner.runs(1500, &mut Backend::new(3, 4.0, 2.0));
    let own = learner.deadline();
    learner.key.size = Some("c64".into());
    let leaning = learner.deadline();
    assert!(own < leaning && leaning < CONFIGURED, "{own:?} {leaning:?}");
    let known = learner.known();
    let of = known.deadline(&learner.key, CONFIGURED, POLICY, learner.now).unwrap();
    assert_eq!(of.samples, 0);
    assert!(of.class.contains("create_server/c64"), "{}", of.class);
    // Another cluster of the same type leans on what is known of the type.
    learner.key.cluster = Some(ClusterId::new(START.plus(Span::seconds(1)), &mut learner.chance));
    assert_eq!(learner.deadline(), leaning);
    // Another operation has nothing to lean on.
    learner.key.operation = "create_volume".into();
    assert_eq!(learner.deadline(), CONFIGURED);
    assert_eq!(known.deadline(&learner.key, CONFIGURED, Policy { enabled: false, ..POLICY }, learner.now), None);
}

#[test]
fn the_floor_and_the_configured_deadline_bound_it() {
    let mut learner = Learner::new("c2");
    learner.runs(1500, &mut Backend::new(3, 0.1, 2.0));
    assert_eq!(learner.deadline(), POLICY.floor);
    let known = learner.known();
    assert_eq!(known.deadline(&learner.key, Span::millis(900), POLICY, learner.now), None, "the configured one is shorter");
}

#[test]
fn h30_one_in_fifty_runs_with_the_configured_deadline() {
    let mut learner = Learner::new("c2");
    learner.runs(1500, &mut Backend::new(3, 4.0, 2.0));
    let (known, mut chance) = (learner.known(), SplitMix::new(5));
    let configured = (0..10_000).filter(|_| known.first(&learner.key, CONFIGURED, POLICY, learner.now, &mut chance).is_none());
    let count = configured.count();
    assert!((150..250).contains(&count), "{count}");
}

fn ended(from: i64, to: i64, code: Option<&str>) -> Try {
    let at = |s| START.plus(Span::seconds(s));
    let error = code.map(|code| Failure::new(ErrorClass::Transient, code, "it did not work"));
    Try { finished_at: Some(at(to)), error, ..Try::begin(at(from)) }
}

#[test]
fn h30_a_late_success_replaces_its_cut_off() {
    let cut = Try { learned: Some(Span::seconds(20)), ..ended(0, 20, Some("operation_timed_out")) };
    let late = Try { goes_on: true, ..ended(25, 32, None) };
    let lesson = Lesson::of(&[cut.clone(), late], true);
    assert_eq!(lesson.samples, [(Span::seconds(32), End::Finished)]);
    assert!(lesson.hit, "it hit a learned deadline all the same");
    let anew = Lesson::of(&[cut, ended(25, 32, None)], true);
    assert_eq!(anew.samples, [(Span::seconds(20), End::Cut), (Span::seconds(7), End::Finished)]);
}

#[test]
fn h30_what_was_cut_off_cancelled_or_lost_is_a_lower_bound() {
    let of = |tries: &[Try], succeeded| Lesson::of(tries, succeeded).samples;
    let full = ended(0, 60, Some("operation_timed_out"));
    assert_eq!(of(&[full], false), [(Span::seconds(60), End::Expired)]);
    assert_eq!(of(&[ended(0, 9, None)], false), [(Span::seconds(9), End::Cut)], "cancelled");
    let mut lost = ended(0, 30, Some("answer_lost"));
    lost.error.as_mut().unwrap().class = ErrorClass::Ambiguous;
    assert_eq!(of(&[lost], false), [(Span::seconds(30), End::Cut)]);
    assert!(of(&[ended(0, 3, Some("conflict"))], false).is_empty(), "a failure is no duration");
    let taken_over = Try { taken_over: true, ..ended(0, 600, None) };
    assert!(of(&[taken_over], true).is_empty(), "Provisor may have been down meanwhile");
    assert!(of(&[ended(5, 5, None)], true).is_empty(), "it asked nobody");
}

#[test]
fn steps_say_what_is_usual() {
    let mut learner = Learner::new("any");
    learner.key.operation = step_name(Step::Allocate);
    learner.runs(99, &mut Backend::new(3, 4.0, 2.0));
    let spec = Spec::check(
        "",
        &serde_json::json!({"name": "a", "tenant": "t", "kind": "environment", "region": "eu",
        "source": {"repository": "https://git.example/a.git"}}),
        &Clear,
    );
    let spec = spec.unwrap();
    let usual = |l: &Learner| l.known().step(l.key.provider, l.key.cluster.unwrap(), Step::Allocate, &spec);
    assert_eq!(usual(&learner), None);
    learner.runs(400, &mut Backend::new(4, 4.0, 2.0));
    let p95 = usual(&learner).unwrap().p95;
    assert!(p95 > Span::seconds(5) && p95 < Span::seconds(8), "{p95:?}");
}

struct Clear;
impl crate::spec::Seal for Clear {
    fn seal(&self, clear: &str) -> crate::spec::Sealed {
        crate::spec::Sealed { key: "k".into(), sealed: clear.into(), fingerprint: clear.into() }
    }
}
