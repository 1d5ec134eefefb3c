//! Generic faults at every operation of every provider, each with a clean slate after it.
//!
//! What may go wrong around a call is the same for all backends, so it is said once: it is not made at all, its answer
//! is lost, its caller dies, it is made again, its undo is done by two at once. Nothing here knows a kind or a
//! provider type, so a new operation is tried without a line being added.

use provisor_core::workflow::plan::{Plan, Planned};
use tokio::time::Instant;

use super::{Bench, Broken, Row, Subject, Verdict, broken, check, identity, plans, rest};
use crate::{Progress, Released};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The attempt ends before the operation is begun.
    Refused,
    /// It is done, and its answer never comes: what it made is found by its tag and goes on.
    LostReply,
    /// It is begun, and whoever began it dies: nothing but the tag is known of what it made.
    Killed,
    /// It is called again after it was done.
    Repeated,
    /// What it made is released by two at once, and then again.
    UndoneTwice,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Refused, Self::LostReply, Self::Killed, Self::Repeated, Self::UndoneTwice];

    const fn case(self) -> &'static str {
        match self {
            Self::Refused => "an_attempt_that_ends_early_leaves_nothing",
            Self::LostReply => "what_a_lost_answer_made_is_found_and_goes_on",
            Self::Killed => "what_a_dead_caller_made_is_found_and_released",
            Self::Repeated => "an_operation_called_again_makes_nothing_more",
            Self::UndoneTwice => "an_undo_by_two_at_once_ends_well",
        }
    }
}

/// Tries each of the faults at each operation, one after the other. Answers the number of cases.
pub async fn at_each(subject: &Subject, faults: &[Fault]) -> Result<u64, Broken> {
    let plan = plans(subject)?;
    let operations = plan.operations.iter().filter(|o| !o.awaits_input).count();
    let mut cases = 0;
    for place in 0..operations {
        for fault in faults {
            cases += 1;
            case(subject, &plan, cases, &|at| (at == place).then_some(*fault)).await?;
        }
    }
    Ok(cases)
}

/// One attempt in which a fault that lets it go on happens at every operation.
pub async fn at_all(subject: &Subject, fault: Fault) -> Verdict {
    let plan = plans(subject)?;
    case(subject, &plan, 0, &|_| Some(fault)).await
}

/// One attempt with its faults, undone and looked for afterwards.
async fn case(subject: &Subject, plan: &Plan, number: u64, fault_at: &(dyn Fn(usize) -> Option<Fault> + Sync)) -> Verdict {
    let identity = identity(subject).await?;
    let mut bench = Bench::new(subject, identity, subject.seed.wrapping_add(number));
    let walked = bench.walk(plan, fault_at).await;
    let two = plan.operations.iter().enumerate().any(|(at, _)| fault_at(at) == Some(Fault::UndoneTwice));
    let undone = if two { bench.release_all_by_two().await } else { Ok(()) };
    let released = bench.release_all().await;
    walked?;
    undone?;
    released?;
    bench.nothing_is_left().await
}

impl Bench<'_> {
    async fn walk(&mut self, plan: &Plan, fault_at: &(dyn Fn(usize) -> Option<Fault> + Sync)) -> Verdict {
        for (at, planned) in plan.operations.iter().filter(|o| !o.awaits_input).enumerate() {
            let fault = fault_at(at);
            let case = fault.map_or("an_attempt_succeeds", Fault::case);
            match fault {
                Some(Fault::Refused) => return Ok(()),
                Some(Fault::Killed) => {
                    let work = self.begin(planned, Some(self.attempt));
                    // Why dropped: whoever would have heard the answer is dead.
                    drop(self.provider().perform(&work).await);
                    return Ok(());
                }
                Some(Fault::LostReply) => self.lose(case, planned).await?,
                Some(Fault::Repeated) => {
                    self.perform(case, planned, Some(self.attempt)).await?;
                    self.again(case, planned).await?;
                }
                Some(Fault::UndoneTwice) | None => self.perform(case, planned, Some(self.attempt)).await?,
            }
        }
        Ok(())
    }

    /// The first answer is thrown away; what it made is found by its tag, and the operation goes on with it.
    async fn lose(&mut self, case: &'static str, planned: &Planned) -> Verdict {
        let mut work = self.begin(planned, Some(self.attempt));
        drop(self.provider().perform(&work).await);
        let row = self.rows.last().filter(|_| planned.makes.is_some()).cloned();
        if let Some(row) = row {
            let found = self.provider().find(&row.kind, row.tag.as_str(), &row.name).await.map_err(broken(case))?;
            let one = matches!(found.as_slice(), [one] if !one.spoiled);
            check(case, one, || format!("{} was called once, and found is {found:?}", planned.name))?;
            work.provider_id = found.into_iter().next().map(|f| f.provider_id);
            let made = provisor_core::workflow::Made { provider_id: work.provider_id.clone(), ..Default::default() };
            self.learn(planned, made);
        }
        self.drive(case, planned, work).await
    }

    /// Called again with what is known of it, it makes nothing more.
    async fn again(&mut self, case: &'static str, planned: &Planned) -> Verdict {
        let mut work = self.work(&planned.name, planned.item.clone(), Some(self.attempt));
        let row = self.rows.last().filter(|_| planned.makes.is_some()).cloned();
        if let Some(row) = &row {
            work.tag = Some(row.tag.clone());
            work.name.clone_from(&row.name);
            work.provider_id.clone_from(&row.made.provider_id);
        }
        match self.provider().perform(&work).await.map_err(broken(case))? {
            Progress::Done(_) | Progress::Running { .. } => {}
        }
        let Some(row) = row else { return Ok(()) };
        let found = self.provider().find(&row.kind, row.tag.as_str(), &row.name).await.map_err(broken(case))?;
        check(case, found.len() == 1, || format!("{} was called twice, and found is {found:?}", planned.name))
    }

    /// Everything is released by two at once, the last made first.
    async fn release_all_by_two(&mut self) -> Verdict {
        self.find_what_gave_no_id().await;
        for row in self.rows.iter().rev().filter(|r| r.made.provider_id.is_some()) {
            let (one, other) = tokio::join!(self.release_once_or_more(row), self.release_once_or_more(row));
            one.and(other)?;
        }
        Ok(())
    }

    async fn release_once_or_more(&self, row: &Row) -> Verdict {
        let case = Fault::UndoneTwice.case();
        let (held, end) = (self.held(row), Instant::now() + self.subject.patience);
        while Instant::now() < end {
            match self.provider().release(&held).await {
                Ok(Released::Gone) => return Ok(()),
                Ok(Released::Replaced) => {
                    return Err(Broken { case, why: format!("{} counts as a stranger", row.kind) });
                }
                // The other one was faster in the middle of it; the next look tells.
                Err(failure) if failure.class == provisor_core::Class::Transient => rest(None).await,
                Err(failure) => return Err(broken(case)(failure)),
                Ok(Released::Running { look_again, .. }) => rest(look_again).await,
            }
        }
        Err(Broken { case, why: format!("{} is not gone in time", row.kind) })
    }
}
