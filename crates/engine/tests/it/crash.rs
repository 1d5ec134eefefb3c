//! Every crash point at every operation of every simulated provider, on both databases, each ending with a clean slate.
//!
//! The operations are those that the plans name; the crash is the drop of the whole engine while the task that
//! came to the point stands there. The simulated cloud outlives it, and so does the store. A case whose point
//! is not reached is a failure: what is never tried proves nothing.
//!
//! On PostgreSQL a third of them is tried, drawn by `PROVISOR_CRASH_SEED`, and all with `PROVISOR_CRASH_ALL=1`.

mod house;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use provisor_core::State;
use provisor_core::run::Command;
use provisor_core::workflow::Plan;
use provisor_engine::crash::{Point, set};
use serde_json::{Value, json};

use crate::ground::Ground;
use house::{House, deletes, names};

/// What is simulated.
const PROVIDERS: [&str; 5] = ["openstack", "vmware", "proxmox", "kubernetes", "argocd"];
/// Points in the life of a single call.
const OF_CALLS: [Point; 5] = [Point::AfterIntent, Point::AfterCall, Point::BeforeSettle, Point::AfterSettle, Point::WithinWait];

const SUSPEND: Command = Command::Suspend { reason: None };
const REACTIVATE: Command = Command::Reactivate { reason: None };
const DEPROVISION: Command = Command::Deprovision { reason: None, force: false };

/// One case: where it crashes, in which world.
struct Case {
    provider: &'static str,
    point: Point,
    operation: String,
    settings: Value,
    /// Beside the point and the operation.
    more: String,
}

impl Case {
    fn new(provider: &'static str, point: Point, operation: &str) -> Self {
        Self { provider, point, operation: operation.to_owned(), settings: json!({}), more: String::new() }
    }

    fn what(&self) -> String {
        format!("{} {} {} {}", self.provider, self.more, self.point.name(), self.operation)
    }

    /// Where it stands in the lot.
    fn lot(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (std::env::var("PROVISOR_CRASH_SEED").ok(), self.what()).hash(&mut hasher);
        hasher.finish()
    }
}

/// Those whose turn it is: on PostgreSQL a third of each provider's, and one at the least.
fn drawn(ground: Ground, cases: Vec<Case>) -> Vec<Case> {
    if ground == Ground::Sqlite || std::env::var("PROVISOR_CRASH_ALL").is_ok_and(|all| all == "1") {
        return cases;
    }
    let mut of_each: BTreeMap<&str, Vec<Case>> = BTreeMap::new();
    for case in cases {
        of_each.entry(case.provider).or_default().push(case);
    }
    let third = |mut cases: Vec<Case>| {
        cases.sort_by_key(Case::lot);
        cases.truncate(cases.len().div_ceil(3));
        cases
    };
    of_each.into_values().flat_map(third).collect()
}

/// Lives each case in a house of its own.
async fn each(ground: Ground, cases: Vec<Case>, life: impl AsyncFn(&Case, House)) {
    let (all, mut tried) = (cases.len(), BTreeMap::new());
    for case in &drawn(ground, cases) {
        let house = House::open(ground, case.provider, case.settings.clone(), case.what()).await;
        life(case, house).await;
        *tried.entry(case.provider).or_insert(0) += 1;
    }
    let sum: usize = tried.values().sum();
    eprintln!("{ground:?}: {sum} of {all} cases: {tried:?}");
    assert!(tried.len() == PROVIDERS.len(), "nothing was tried of some: {tried:?}");
}

/// The plans of a provider, which are the same on both databases.
async fn plans(provider: &'static str) -> [Plan; 3] {
    House::open(Ground::Sqlite, provider, json!({}), String::new()).await.plans().await
}

/// The operations that are waited for, so that there is something within the wait: tried by running without a crash.
async fn waited_for(provider: &'static str) -> BTreeSet<String> {
    static KNOWN: Mutex<BTreeMap<&str, BTreeSet<String>>> = Mutex::new(BTreeMap::new());
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(waited) = known().get(provider) {
        return waited.clone();
    }
    let mut waited = BTreeSet::new();
    let [attempt, suspend, reactivate] = plans(provider).await;
    let all = [names(&attempt), names(&suspend), names(&reactivate), deletes(&attempt)];
    for name in all.iter().flatten().collect::<BTreeSet<_>>() {
        let house = House::open(Ground::Sqlite, provider, json!({}), name.clone()).await;
        let trap = set(Point::WithinWait, name, 1);
        let life = async {
            let id = house.admit().await;
            house.ends(id, State::Completed).await;
            for (command, state) in
                [(SUSPEND, State::Suspended), (REACTIVATE, State::Completed), (DEPROVISION, State::RolledBack)]
            {
                house.ask(id, command).await;
                house.ends(id, state).await;
            }
        };
        tokio::select! {
            () = trap.sprung() => { waited.insert(name.clone()); }
            () = life => {}
        }
    }
    set(Point::AfterAdmit, "none", 1);
    known().insert(provider, waited.clone());
    waited
}

/// Each point of each operation that has it.
async fn cases(of: fn(&[Plan; 3]) -> (&Plan, BTreeSet<String>)) -> Vec<Case> {
    let mut cases = Vec::new();
    for provider in PROVIDERS {
        let (plans, waited) = (plans(provider).await, waited_for(provider).await);
        let (plan, operations) = of(&plans);
        for operation in &operations {
            let points = OF_CALLS.into_iter().filter(|p| *p != Point::WithinWait || waited.contains(operation));
            let claimed = is_first(plan, operation).then_some(Point::AfterClaim);
            cases.extend(points.chain(claimed).map(|point| Case::new(provider, point, operation)));
        }
    }
    cases
}

/// Begun by the claim itself: everything else begins in a settlement.
fn is_first(plan: &Plan, operation: &str) -> bool {
    plan.operations.iter().any(|o| o.name == operation && o.after.is_empty() && o.step == plan.operations[0].step)
}

async fn every_point_of_every_operation_of_an_attempt(ground: Ground) {
    let cases = cases(|[attempt, ..]| (attempt, names(attempt))).await;
    each(ground, cases, async |case, mut house| {
        let trap = set(case.point, &case.operation, 1);
        let id = house.admit().await;
        house.crash(&trap).await;
        house.stands(id, State::Completed).await;
    })
    .await;
}

async fn every_point_of_every_release(ground: Ground) {
    let cases = cases(|[attempt, ..]| (attempt, deletes(attempt))).await;
    each(ground, cases, async |case, mut house| {
        let id = house.admit().await;
        house.ends(id, State::Completed).await;
        let trap = set(case.point, &case.operation, 1);
        house.ask(id, DEPROVISION).await;
        house.crash(&trap).await;
        house.ends_with_nothing(id).await;
    })
    .await;
}

/// A failure at every operation, so that the roll-back begins at each step of the way, and a crash within it.
async fn every_failed_operation_with_a_crash_in_its_rollback(ground: Ground) {
    let mut cases = Vec::new();
    for provider in PROVIDERS {
        let [plan, ..] = plans(provider).await;
        let names = names(&plan);
        let fails = names.iter().flat_map(|fails| deletes(&plan).into_iter().map(move |delete| (fails, delete)));
        for (fails, delete) in fails {
            for point in [Point::AfterIntent, Point::AfterCall, Point::AfterSettle] {
                let settings = json!({"faults": [{"operation": fails, "kind": "permanent"}]});
                cases.push(Case { settings, more: format!("{fails} fails,"), ..Case::new(provider, point, &delete) });
            }
        }
    }
    let tried = std::cell::Cell::new(0);
    each(ground, cases, async |case, mut house| {
        let trap = set(case.point, &case.operation, 1);
        let id = house.admit().await;
        // What was not made is not released either.
        let crashed = tokio::select! {
            biased;
            () = trap.sprung() => true,
            _ = house.ends(id, State::RolledBack) => false,
        };
        if crashed {
            house.again().await;
            tried.set(tried.get() + 1);
        }
        house.ends_with_nothing(id).await;
    })
    .await;
    assert!(tried.get() > 30, "{}", tried.get());
}

async fn every_point_of_every_action(ground: Ground) {
    each(ground, cases(|[_, suspend, _]| (suspend, names(suspend))).await, async |case, mut house| {
        let id = house.admit().await;
        house.ends(id, State::Completed).await;
        let trap = set(case.point, &case.operation, 1);
        house.ask(id, SUSPEND).await;
        house.crash(&trap).await;
        house.stands(id, State::Suspended).await;
    })
    .await;
    each(ground, cases(|[_, _, reactivate]| (reactivate, names(reactivate))).await, async |case, mut house| {
        let id = house.admit().await;
        house.ends(id, State::Completed).await;
        house.ask(id, SUSPEND).await;
        house.ends(id, State::Suspended).await;
        let trap = set(case.point, &case.operation, 1);
        house.ask(id, REACTIVATE).await;
        house.crash(&trap).await;
        house.stands(id, State::Completed).await;
    })
    .await;
}

/// The answer of each create is lost, and the process ends while it is looked for.
async fn h5_every_point_of_the_look_for_every_create_in_doubt(ground: Ground) {
    let mut cases = Vec::new();
    for provider in PROVIDERS {
        let [plan, ..] = plans(provider).await;
        for maker in plan.operations.iter().filter(|o| o.makes.is_some()) {
            for kind in ["lost_reply", "late_success", "hang"] {
                for point in [Point::AfterIntent, Point::AfterCall, Point::BeforeSettle, Point::AfterSettle] {
                    let fault = json!({"operation": maker.name, "kind": kind, "on_calls": [1]});
                    let settings = json!({"faults": [fault], "deadlines": {"*": 10}});
                    cases.push(Case {
                        settings,
                        more: format!("{kind} of {},", maker.name),
                        ..Case::new(provider, point, "find")
                    });
                }
            }
        }
    }
    each(ground, cases, async |case, mut house| {
        let trap = set(case.point, &case.operation, 1);
        let id = house.admit().await;
        house.crash(&trap).await;
        house.stands(id, State::Completed).await;
    })
    .await;
}

/// Nobody is told of an admission or a command, and it is done all the same.
async fn what_is_admitted_or_asked_for_is_done_though_nobody_was_told(ground: Ground) {
    for provider in PROVIDERS {
        let mut house = House::open(ground, provider, json!({}), provider.to_owned()).await;
        let trap = set(Point::AfterAdmit, "", 1);
        tokio::select! {
            biased;
            () = trap.sprung() => {}
            _ = house.admit() => panic!("it was told"),
        }
        house.again().await;
        let id = house.only().await;
        house.stands(id, State::Completed).await;
        for (command, state) in [(SUSPEND, State::Suspended), (REACTIVATE, State::Completed), (DEPROVISION, State::RolledBack)] {
            let trap = set(Point::AfterCommand, "", 1);
            tokio::select! {
                biased;
                () = trap.sprung() => {}
                () = house.ask(id, command) => panic!("it was told"),
            }
            house.again().await;
            house.ends(id, state).await;
        }
        house.ends_with_nothing(id).await;
    }
}

/// What comes after its row was closed is released by the sweeper (H6), wherever it stops.
async fn h6_every_point_of_a_sweep_for_every_kind(ground: Ground) {
    let mut cases = Vec::new();
    for provider in PROVIDERS {
        let [plan, ..] = plans(provider).await;
        for (maker, kind) in plan.operations.iter().filter_map(|o| Some((o, o.makes.as_ref()?))) {
            for point in [Point::BeforeSweepRelease, Point::WithinSweep, Point::AfterSweepRelease] {
                let fault = json!({"operation": maker.name, "kind": "late_success", "on_calls": [1], "after_seconds": 120});
                let settings =
                    json!({"faults": [fault], "deadlines": {"*": 10}, "late_create_seconds": 30, "sweep_every_seconds": 5});
                cases.push(Case { settings, ..Case::new(provider, point, kind) });
            }
        }
    }
    each(ground, cases, async |case, mut house| {
        let trap = set(case.point, &case.operation, 1);
        let id = house.admit().await;
        house.ends(id, State::Completed).await;
        house.crash(&trap).await;
        tokio::time::sleep(Duration::from_mins(1)).await;
        let run = house.run_of(id).await;
        house.assert_one_of_each(&run).await;
    })
    .await;
}

/// A reader of the log stops in the middle of its advance: what it makes of the log counts each operation once.
async fn every_point_of_a_reader_s_advance(ground: Ground) {
    for provider in PROVIDERS {
        for point in [Point::WithinAdvance, Point::AfterAdvance] {
            let what = format!("{provider} {} learn", point.name());
            let mut house = House::open(ground, provider, json!({}), what).await;
            let [plan, ..] = house.plans().await;
            let trap = set(point, "learn", 1);
            let id = house.admit().await;
            house.crash(&trap).await;
            house.stands(id, State::Completed).await;
            // Each create takes its time, and one may stand in the plan for each port.
            for name in plan.operations.iter().filter(|o| o.makes.is_some()).map(|o| &o.name).collect::<BTreeSet<_>>() {
                let times = plan.operations.iter().filter(|o| o.name == *name).count();
                house.has_learned(name, times as u64).await;
            }
        }
    }
}

macro_rules! suite {
    ($($name:ident)*) => {
        mod sqlite {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(crate::ground::Ground::Sqlite).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                if crate::ground::Ground::Postgres.is_there() {
                    super::$name(crate::ground::Ground::Postgres).await;
                }
            })*
        }
    };
}

suite! {
    every_point_of_every_operation_of_an_attempt
    every_point_of_every_release
    every_failed_operation_with_a_crash_in_its_rollback
    every_point_of_every_action
    h5_every_point_of_the_look_for_every_create_in_doubt
    what_is_admitted_or_asked_for_is_done_though_nobody_was_told
    h6_every_point_of_a_sweep_for_every_kind
    every_point_of_a_reader_s_advance
}
