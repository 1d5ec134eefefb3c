//! The kit that every backend must pass: one service from nothing to nothing, as the engine would drive it.
//!
//! It is called with a constructor and takes a fresh provider for every call, so that nothing can be kept in the
//! adapter that a restart would lose. It knows no kind and no provider type: what it does is what a plan says. Each
//! broken promise has the name of its case. Rejected: a macro that makes one test a case, because a real backend takes
//! minutes for one service and would be asked for a dozen.
//!
//! [`faults`] goes the same way with something going wrong on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use provisor_core::chance::SplitMix;
use provisor_core::event::Endpoint;
use provisor_core::id::Tag;
use provisor_core::lifecycle::Step;
use provisor_core::workflow::Made;
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::plan::{OnRetry, PLAN_VERSION, Plan, Planned};
use provisor_core::{AttemptId, Class, RequestId, ResourceId, Span, Spec, Timestamp};
use tokio::time::Instant;

use crate::{Action, Progress, Provider, Released};

pub mod faults;

/// Pause between looks where the provider does not say.
const PAUSE: Duration = Duration::from_millis(200);
/// Pages of an inventory after which it counts as endless.
const PAGES: usize = 10_000;

/// What is tested.
pub struct Subject {
    /// Makes a provider bound to the cluster under test.
    pub connect: Box<dyn Fn() -> Arc<dyn Provider> + Send + Sync>,
    /// A service that the cluster can serve.
    pub spec: Spec,
    /// The installation that stands in the tags: lower case letters and digits, used by nothing else in the project.
    pub installation: String,
    /// Makes the ids; the same seed makes the same ones, so take another for each run against a real backend.
    pub seed: u64,
    /// The time that stands in the ids.
    pub now: Timestamp,
    /// Longest time of one operation.
    pub patience: Duration,
}

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{case}: {why}")]
pub struct Broken {
    /// The name of the case.
    pub case: &'static str,
    /// What was seen.
    pub why: String,
}

type Verdict<T = ()> = Result<T, Broken>;

/// One resource that an operation made.
#[derive(Debug, Clone)]
struct Row {
    kind: String,
    tag: Tag,
    name: String,
    made: Made,
}

/// A service under test.
struct Bench<'a> {
    subject: &'a Subject,
    identity: String,
    request: RequestId,
    attempt: AttemptId,
    chance: SplitMix,
    rows: Vec<Row>,
    resources: BTreeMap<String, String>,
    facts: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
}

/// Runs every case. What was made is released also when a case breaks, as far as that is possible.
pub async fn run(subject: &Subject) -> Verdict {
    let identity = identity(subject).await?;
    tests(subject).await?;
    let plan = plans(subject)?;
    let mut bench = Bench::new(subject, identity, subject.seed);
    let result = bench.live(&plan).await;
    let released = bench.release_all().await;
    result?;
    released?;
    bench.nothing_is_left().await
}

fn check(case: &'static str, holds: bool, why: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(Broken { case, why: why() }) }
}

fn broken<E: std::fmt::Debug>(case: &'static str) -> impl Fn(E) -> Broken {
    move |error| Broken { case, why: format!("{error:?}") }
}

/// The identity is there and stays (H4).
async fn identity(subject: &Subject) -> Verdict<String> {
    let case = "identity_is_stable";
    let first = (subject.connect)().identity().await.map_err(broken(case))?;
    let again = (subject.connect)().identity().await.map_err(broken(case))?;
    check(case, !first.is_empty() && first == again, || format!("{first:?}, then {again:?}"))?;
    Ok(first)
}

/// A working cluster passes its own test, and its capacity can be asked for.
async fn tests(subject: &Subject) -> Verdict {
    let case = "a_working_cluster_passes_its_test";
    let checks = (subject.connect)().test().await;
    check(case, !checks.is_empty(), || "no checks".to_owned())?;
    let bad: Vec<_> = checks.iter().filter(|c| !c.ok || c.error.is_some() || c.name.is_empty()).collect();
    check(case, bad.is_empty(), || format!("{bad:?}"))?;
    (subject.connect)().capacity().await.map(drop).map_err(broken("capacity_can_be_asked"))
}

/// Plans are pure, name only earlier operations, fill all four steps and have limits.
fn plans(subject: &Subject) -> Verdict<Plan> {
    let case = "a_plan_is_well_formed";
    let provider = (subject.connect)();
    let plan = provider.plan(&subject.spec).map_err(broken(case))?;
    let again = provider.plan(&subject.spec).map_err(broken(case))?;
    check("a_plan_is_pure", plan == again, || format!("{plan:?}, then {again:?}"))?;
    well_formed(case, &plan)?;
    for step in Step::ALL {
        let fills = plan.operations.iter().any(|o| o.step == step);
        check(case, fills, || format!("nothing in step {}", step.name()))?;
    }
    for action in [Action::Suspend, Action::Reactivate] {
        let case = "an_action_is_well_formed";
        let plan = provider.plan_action(action, &subject.spec).map_err(broken(case))?;
        well_formed(case, &plan)?;
        for o in &plan.operations {
            check(case, matches!(o.step, Step::Activate | Step::Verify), || format!("{} in {}", o.name, o.step.name()))?;
            check(case, o.makes.is_none(), || format!("{} makes something", o.name))?;
        }
    }
    Ok(plan)
}

fn well_formed(case: &'static str, plan: &Plan) -> Verdict {
    check(case, plan.version == PLAN_VERSION, || format!("version {}", plan.version))?;
    check(case, !plan.operations.is_empty(), || "no operations".to_owned())?;
    for (i, o) in plan.operations.iter().enumerate() {
        let (earlier, _) = plan.operations.split_at(i);
        let known = |name: &String| earlier.iter().any(|e| e.name == *name);
        let stranger = o.after.iter().find(|n| !known(n));
        check(case, stranger.is_none(), || format!("{} comes after {stranger:?}, which does not come before it", o.name))?;
        let in_order = earlier.iter().all(|e| e.step <= o.step);
        check(case, in_order, || format!("{} stands after operations of a later step", o.name))?;
        let twin = earlier.iter().any(|e| e.name == o.name && e.item == o.item);
        check(case, !twin, || format!("{} {:?} stands twice", o.name, o.item))?;
        check(case, o.deadline.0 > 0 && o.call_limit.0 > 0, || format!("{} has no limit", o.name))?;
        check(case, o.call_limit <= o.deadline, || format!("one call of {} may outlast its deadline", o.name))?;
        if let OnRetry::Recreate(name) = &o.on_retry {
            let makes = plan.operations.iter().any(|e| e.name == *name && e.makes.is_some());
            check(case, makes, || format!("{} recreates {name}, which makes nothing", o.name))?;
        }
    }
    Ok(())
}

impl<'a> Bench<'a> {
    fn new(subject: &'a Subject, identity: String, seed: u64) -> Self {
        let mut chance = SplitMix::new(seed);
        let request = RequestId::new(subject.now, &mut chance);
        let attempt = AttemptId::new(subject.now, &mut chance);
        Self {
            subject,
            identity,
            request,
            attempt,
            chance,
            rows: Vec::new(),
            resources: BTreeMap::new(),
            facts: BTreeMap::new(),
            endpoints: Vec::new(),
        }
    }

    fn provider(&self) -> Arc<dyn Provider> {
        (self.subject.connect)()
    }

    /// From nothing to a service that is suspended and comes back.
    async fn live(&mut self, plan: &Plan) -> Verdict {
        self.refuses_the_unknown().await?;
        for planned in plan.operations.iter().filter(|o| !o.awaits_input) {
            self.perform("an_attempt_succeeds", planned, Some(self.attempt)).await?;
        }
        self.is_found().await?;
        self.repeats(plan).await?;
        let work = self.work("metrics", None, Some(self.attempt));
        self.provider().metrics(&work).await.map_err(broken("metrics_can_be_asked"))?;
        for action in [Action::Suspend, Action::Suspend, Action::Reactivate, Action::Reactivate] {
            let case = if action == Action::Suspend { "suspend_succeeds_also_twice" } else { "reactivate_succeeds_also_twice" };
            let plan = self.provider().plan_action(action, &self.subject.spec).map_err(broken(case))?;
            for planned in plan.operations.iter().filter(|o| !o.awaits_input) {
                self.perform(case, planned, None).await?;
            }
        }
        self.strangers_are_left_alone().await
    }

    fn work(&self, operation: &str, item: Option<String>, attempt: Option<AttemptId>) -> Work {
        Work {
            operation: operation.to_owned(),
            item,
            spec: self.subject.spec.clone(),
            request: self.request,
            attempt,
            tag: None,
            name: self.subject.spec.name.clone(),
            provider_id: None,
            resources: self.resources.clone(),
            facts: self.facts.clone(),
            endpoints: self.endpoints.clone(),
            try_number: 1,
        }
    }

    /// Performs one operation to its end, each call by a fresh provider.
    async fn perform(&mut self, case: &'static str, planned: &Planned, attempt: Option<AttemptId>) -> Verdict {
        let work = self.begin(planned, attempt);
        self.drive(case, planned, work).await
    }

    /// The work of an operation, with a row for what it makes.
    fn begin(&mut self, planned: &Planned, attempt: Option<AttemptId>) -> Work {
        let mut work = self.work(&planned.name, planned.item.clone(), attempt);
        let row = planned.makes.as_ref().map(|kind| {
            let id = ResourceId::new(self.subject.now, &mut self.chance);
            let tag = Tag::new(&self.subject.installation, id);
            let letters: String = id.letters().chars().skip(16).collect();
            Row { kind: kind.clone(), tag, name: format!("{}-{letters}", self.subject.spec.name), made: Made::default() }
        });
        if let Some(row) = row {
            work.tag = Some(row.tag.clone());
            work.name.clone_from(&row.name);
            self.rows.push(row);
        }
        work
    }

    async fn drive(&mut self, case: &'static str, planned: &Planned, mut work: Work) -> Verdict {
        let mut seen = String::new();
        let end = Instant::now() + self.subject.patience;
        while Instant::now() < end {
            let progress = self.provider().perform(&work).await;
            let progress = progress.map_err(|e| Broken { case, why: format!("{}: {} {}", planned.name, e.code, e.message) })?;
            let (made, pause) = match progress {
                Progress::Done(made) => (made, None),
                Progress::Running { made, seen: now, look_again } => {
                    seen = now;
                    (made, Some(look_again))
                }
            };
            work.provider_id = made.provider_id.clone().or(work.provider_id);
            work.facts.extend(made.facts.clone());
            self.learn(planned, made);
            let Some(look_again) = pause else { return self.has_made(planned) };
            rest(look_again).await;
        }
        Err(Broken { case, why: format!("{} is not done in time; last seen: {seen}", planned.name) })
    }

    fn learn(&mut self, planned: &Planned, made: Made) {
        self.facts.extend(made.facts.clone());
        if !made.endpoints.is_empty() {
            self.endpoints.clone_from(&made.endpoints);
        }
        if let (Some(kind), Some(id)) = (&planned.makes, &made.provider_id) {
            self.resources.insert(kind.clone(), id.clone());
            if let Some(row) = self.rows.last_mut() {
                row.made = made;
            }
        }
    }

    fn has_made(&self, planned: &Planned) -> Verdict {
        let has = planned.makes.is_none() || self.rows.last().is_some_and(|r| r.made.provider_id.is_some());
        check("what_was_made_has_an_id", has, || format!("{} is done and gave no id", planned.name))
    }

    /// An operation that no plan names, a tag that nothing carries, an id that is not there.
    async fn refuses_the_unknown(&mut self) -> Verdict {
        let case = "the_unknown_is_refused";
        let result = self.provider().perform(&self.work("make_coffee", None, Some(self.attempt))).await;
        check(case, result.as_ref().is_err_and(|e| e.class == Class::Permanent), || format!("{result:?}"))?;
        let tag = Tag::new(&self.subject.installation, ResourceId::new(self.subject.now, &mut self.chance));
        let case = "nothing_is_found_by_a_tag_that_nothing_carries";
        for kind in self.kinds()? {
            let found = self.provider().find(&kind, tag.as_str(), "nobody-has-this-name").await.map_err(broken(case))?;
            check(case, found.is_empty(), || format!("{found:?}"))?;
        }
        Ok(())
    }

    fn kinds(&self) -> Verdict<Vec<String>> {
        let plan = self.provider().plan(&self.subject.spec).map_err(broken("a_plan_is_pure"))?;
        Ok(plan.operations.into_iter().filter_map(|o| o.makes).collect())
    }

    /// Everything is found once by its tag, and stands in the inventory.
    async fn is_found(&self) -> Verdict {
        let case = "what_was_made_is_found_by_its_tag";
        let listed = self.listed().await?;
        for row in &self.rows {
            let id = row.made.provider_id.clone().unwrap_or_default();
            let found = self.provider().find(&row.kind, row.tag.as_str(), &row.name).await.map_err(broken(case))?;
            let ids: Vec<&str> = found.iter().map(|f| f.provider_id.as_str()).collect();
            check(case, ids == [id.as_str()], || format!("{} {id} was made, and found is {ids:?}", row.kind))?;
            let ours = found.iter().all(|f| f.tag == row.tag.as_str() && f.kind == row.kind && !f.spoiled);
            check(case, ours, || format!("{found:?} for {}", row.tag))?;
            let case = "what_was_made_stands_in_the_inventory";
            let times = listed.iter().filter(|(tag, other)| *tag == row.tag.as_str() && *other == id).count();
            check(case, times == 1, || format!("{} {id} stands there {times} times", row.kind))?;
        }
        Ok(())
    }

    /// A create that is called again with the id of what it made goes on with it.
    async fn repeats(&mut self, plan: &Plan) -> Verdict {
        let case = "a_create_called_again_makes_nothing_more";
        let makers: Vec<&Planned> = plan.operations.iter().filter(|o| o.makes.is_some()).collect();
        for (planned, row) in makers.into_iter().zip(self.rows.clone()) {
            let mut work = self.work(&planned.name, planned.item.clone(), Some(self.attempt));
            work.tag = Some(row.tag.clone());
            work.name.clone_from(&row.name);
            work.provider_id.clone_from(&row.made.provider_id);
            let progress = self.provider().perform(&work).await.map_err(broken(case))?;
            let Progress::Done(made) = progress else {
                return Err(Broken { case, why: format!("{} was done, and now {progress:?}", planned.name) });
            };
            let same = made.provider_id.is_none() || made.provider_id == row.made.provider_id;
            check(case, same, || format!("{} made {:?}, now {:?}", planned.name, row.made.provider_id, made.provider_id))?;
        }
        self.is_found().await
    }

    /// Another's object stays (H3); absence is believed of the same backend only (H4).
    async fn strangers_are_left_alone(&mut self) -> Verdict {
        let Some(row) = self.rows.last().cloned() else { return Ok(()) };
        let other = ResourceId::new(self.subject.now, &mut self.chance);
        let foreign = Held { tag: Tag::new(&self.subject.installation, other), uid: None, ..self.held(&row) };
        let case = "h3_undo_never_touches_a_stranger";
        let released = self.provider().release(&foreign).await.map_err(broken(case))?;
        check(case, released == Released::Replaced, || format!("{released:?}"))?;
        let elsewhere = Held { identity: Some("another-backend".to_owned()), ..self.held(&row) };
        let result = self.provider().release(&elsewhere).await;
        let case = "h4_gone_is_believed_only_of_the_same_backend";
        check(case, result.as_ref().is_err_and(|e| e.class == Class::Auth), || format!("{result:?}"))?;
        self.is_found().await
    }

    fn held(&self, row: &Row) -> Held {
        Held {
            kind: row.kind.clone(),
            tag: row.tag.clone(),
            provider_id: row.made.provider_id.clone().unwrap_or_default(),
            uid: row.made.uid.clone(),
            identity: Some(self.identity.clone()),
            resources: self.resources.clone(),
            facts: self.facts.clone(),
        }
    }

    /// Releases backwards; each is confirmed gone, also a second time.
    async fn release_all(&mut self) -> Verdict {
        let case = "what_was_made_is_released";
        self.find_what_gave_no_id().await;
        let mut result = Ok(());
        for row in self.rows.iter().rev().filter(|r| r.made.provider_id.is_some()) {
            let released = self.release(case, row).await;
            result = result.and(released);
        }
        result?;
        for row in self.rows.iter().filter(|r| r.made.provider_id.is_some()) {
            self.release("already_gone_is_gone", row).await?;
        }
        Ok(())
    }

    /// A create that broke may have been done.
    async fn find_what_gave_no_id(&mut self) {
        let provider = self.provider();
        for row in self.rows.iter_mut().filter(|r| r.made.provider_id.is_none()) {
            let found = provider.find(&row.kind, row.tag.as_str(), &row.name).await.unwrap_or_default();
            row.made.provider_id = found.into_iter().next().map(|f| f.provider_id);
        }
    }

    async fn release(&self, case: &'static str, row: &Row) -> Verdict {
        let held = self.held(row);
        let mut last = String::new();
        let end = Instant::now() + self.subject.patience;
        while Instant::now() < end {
            match self.provider().release(&held).await.map_err(broken(case))? {
                Released::Gone => return Ok(()),
                Released::Replaced => return Err(Broken { case, why: format!("{} counts as a stranger", row.kind) }),
                Released::Running { seen, look_again } => {
                    last = seen;
                    rest(look_again).await;
                }
            }
        }
        Err(Broken { case, why: format!("{} is not gone in time; last seen: {last}", row.kind) })
    }

    /// Neither a search nor the inventory shows anything of it.
    async fn nothing_is_left(&self) -> Verdict {
        let case = "nothing_is_left_after_release";
        for row in &self.rows {
            let found = self.provider().find(&row.kind, row.tag.as_str(), &row.name).await.map_err(broken(case))?;
            check(case, found.is_empty(), || format!("{found:?}"))?;
        }
        let listed = self.listed().await?;
        let ours = listed.iter().filter(|(tag, _)| self.rows.iter().any(|r| r.tag.as_str() == tag)).count();
        check(case, ours == 0, || format!("{ours} objects still stand in the inventory"))
    }

    /// Tags and ids of everything that this installation has.
    async fn listed(&self) -> Verdict<Vec<(String, String)>> {
        let case = "the_inventory_can_be_read_to_its_end";
        let prefix = Tag::prefix(&self.subject.installation);
        let (mut all, mut from) = (Vec::new(), None);
        for _ in 0..PAGES {
            let page = self.provider().list_owned(&prefix, from).await.map_err(broken(case))?;
            let stranger = page.items.iter().find(|f| !f.tag.starts_with(&prefix));
            check(case, stranger.is_none(), || format!("{stranger:?} is not of {prefix}"))?;
            all.extend(page.items.into_iter().map(|f| (f.tag, f.provider_id)));
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(all),
            }
        }
        Err(Broken { case, why: format!("it does not end after {PAGES} pages") })
    }
}

/// At least a millisecond, so that a provider that says "at once" cannot spin.
async fn rest(look_again: Option<Span>) {
    let pause = look_again.map_or(PAUSE, Span::to_std);
    tokio::time::sleep(pause.clamp(Duration::from_millis(1), Duration::from_secs(10))).await;
}
