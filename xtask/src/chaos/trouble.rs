//! What befalls the processes of a run: kills, standing still, cut connections, crash points.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use provisor_core::Chance as _;
use serde_json::Value;

use super::checks::list;
use super::house::Process;
use super::load;
use super::stage::{LEASE, Stage};
use crate::shell::{Done, Failed};

/// A kill is worth something with so many requests in work.
pub(super) const IN_WORK: usize = 20;

/// Crash points at which a call may end its process, in `PROVISOR_CRASH_AT`.
const POINTS: [&str; 6] = ["after-claim", "after-intent", "after-call", "within-wait", "before-settle", "after-settle"];
/// How long the disk is full.
const FULL: Duration = Duration::from_secs(5);
/// Of so many commits one loses its reply.
const COMMITS: u32 = 60;
/// A process that does not come to its crash point in this time is killed where it is.
const PATIENCE: Duration = Duration::from_secs(5);

/// The crash points of a run.
#[derive(Debug, Default)]
pub(super) struct Traps {
    to_try: VecDeque<String>,
    /// By process: where it is to end, and since when it is on its way.
    set: BTreeMap<usize, (String, Instant)>,
    taken: BTreeSet<String>,
    missed: BTreeSet<String>,
    untried: usize,
}

impl Traps {
    /// The next one that this process can come to: calls are made by those that work, the others belong to the API.
    fn next(&self, house: &Process) -> Option<usize> {
        self.to_try.iter().position(|t| if t.ends_with(':') { house.listens } else { house.works })
    }

    /// What came of them.
    pub(super) fn told(&self) -> String {
        let missed: Vec<&str> = self.missed.difference(&self.taken).map(String::as_str).collect();
        format!(
            "crash points: {} taken, {} not reached in time, {} not tried\n  taken: {}\n  not reached: {}",
            self.taken.len(),
            missed.len(),
            self.untried,
            self.taken.iter().map(String::as_str).collect::<Vec<_>>().join(" "),
            missed.join(" ")
        )
    }
}

impl Stage<'_> {
    /// Nothing more is to befall anybody. Crash points last as long as the load.
    pub(super) fn is_over_with_kills(&self) -> bool {
        self.still.is_none() && (self.traps.is_some() || self.kills.len() >= self.asked.kills)
    }

    /// The end of all trouble: nobody ends at a crash point any more, and no reply is lost.
    pub(super) fn disarm(&mut self) -> Done {
        if let Some(proxy) = &self.proxy {
            proxy.lose_every(0);
        }
        let Some(traps) = &mut self.traps else { return Ok(()) };
        traps.untried = std::mem::take(&mut traps.to_try).len();
        for at in std::mem::take(&mut traps.set).into_keys() {
            if let Some(house) = self.houses.get_mut(at) {
                house.kill();
                house.crash_at(None);
                house.start()?;
            }
        }
        Ok(())
    }

    /// Every crash point of every operation that the plans name, in an order that follows from the seed.
    pub(super) fn set_traps(&mut self) -> Done {
        if self.traps.is_none() {
            return Ok(());
        }
        let mut operations: BTreeSet<String> = ["find".to_owned()].into();
        for body in load::samples() {
            let plan = self.ask("POST", "/api/requests?dry_run=true", None, Some(&body))?;
            let steps = list(&plan.body, "steps").iter().flat_map(|s| list(s, "operations"));
            let names: Vec<String> = steps.filter_map(Value::as_str).map(str::to_owned).collect();
            if names.is_empty() {
                return Err(Failed::new(format!("no plan for {body}: {plan:?}")));
            }
            operations.extend(names);
        }
        operations.extend(load::CLUSTERS.iter().flat_map(|(_, plays)| load::roles(plays)).map(|kind| format!("delete_{kind}")));
        let mut all: Vec<String> = operations.iter().flat_map(|o| POINTS.map(|p| format!("{p}:{o}"))).collect();
        all.extend(["after-admit:".to_owned(), "after-command:".to_owned()]);
        all.sort_by_cached_key(|_| self.chance.next_u64());
        if let Some(traps) = &mut self.traps {
            traps.to_try = all.into();
        }
        Ok(())
    }

    /// Starts again what has ended. By itself a process may end at its crash point only.
    pub(super) fn revive(&mut self) -> Done {
        let in_work = self.in_work();
        for (at, house) in self.houses.iter_mut().enumerate() {
            let Some(traps) = &mut self.traps else {
                house.check()?;
                continue;
            };
            let ended = house.check();
            let over = self.kills.len() >= self.asked.kills;
            match (traps.set.get(&at).cloned(), ended) {
                (None, Err(failed)) => return Err(failed),
                (Some(_), Err(failed)) if !house.was_killed() => return Err(failed),
                (Some((trap, _)), Err(_)) => {
                    traps.taken.insert(trap.clone());
                    self.kills.push((format!("{} at {trap}", house.name), in_work));
                }
                (Some((trap, since)), Ok(())) if since.elapsed() > PATIENCE && self.still.is_none_or(|(s, _)| s != at) => {
                    traps.missed.insert(trap);
                }
                (None, Ok(())) if !over && in_work > 0 && traps.next(house).is_some() => {}
                _ => continue,
            }
            house.kill();
            traps.set.remove(&at);
            let next = if over { None } else { traps.next(house).and_then(|n| traps.to_try.remove(n)) };
            house.crash_at(next.as_deref());
            if let Some(next) = next {
                traps.set.insert(at, (next, Instant::now()));
            }
            house.start()?;
        }
        Ok(())
    }

    /// Kills a process in the middle of the work, and starts it again.
    pub(super) fn kill(&mut self, all_sent: bool) -> Done {
        if self.traps.is_some() || self.kills.len() >= self.asked.kills || Instant::now() < self.next_kill {
            return Ok(());
        }
        let in_work = self.in_work();
        if in_work < IN_WORK && !all_sent {
            return Ok(());
        }
        let mut at = usize::try_from(self.chance.next_u64() % (self.houses.len().max(1) as u64)).unwrap_or(0);
        if self.still.is_some_and(|(still, _)| still == at) {
            at = (at + 1) % self.houses.len();
        }
        let pause = Duration::from_secs_f64(self.chance.fraction() * 0.8);
        let Some(house) = self.houses.get_mut(at) else { return Ok(()) };
        house.kill();
        self.kills.push((house.name.clone(), in_work));
        std::thread::sleep(pause);
        house.start()?;
        self.next_kill = Instant::now() + Duration::from_secs_f64(0.3 + self.chance.fraction() * 1.5);
        Ok(())
    }

    /// Once in a run, past its middle, the disk is full for a while.
    fn fill_disk(&mut self) -> Done {
        let Some(disk) = self.disk.as_ref().filter(|_| !self.was_full && self.asked.kills > 0) else { return Ok(()) };
        if self.kills.len() * 3 < self.asked.kills * 2 || self.still.is_some() {
            return Ok(());
        }
        self.was_full = true;
        disk.fill()?;
        std::thread::sleep(FULL);
        disk.free()
    }

    /// Connections to the database are cut, replies to commits are lost, and once the server itself is restarted.
    pub(super) fn shake(&mut self) -> Done {
        self.fill_disk()?;
        let (Some(proxy), Some(postgres)) = (&self.proxy, &mut self.postgres) else { return Ok(()) };
        if self.asked.kills == 0 || Instant::now() < self.next_cut {
            return Ok(());
        }
        if !self.restarted && self.kills.len() * 2 >= self.asked.kills {
            self.restarted = true;
            postgres.restart()?;
        } else {
            proxy.lose_every(COMMITS);
            proxy.cut();
        }
        self.next_cut = Instant::now() + Duration::from_secs_f64(4.0 + self.chance.fraction() * 8.0);
        Ok(())
    }

    /// Once in a run each process that works stands still for longer than its lease, and goes on as if nothing had been.
    pub(super) fn stop(&mut self) -> Done {
        if self.still.is_some_and(|(_, until)| Instant::now() < until) {
            return Ok(());
        }
        self.still = None;
        let workers: Vec<usize> = (0..self.houses.len()).filter(|at| self.houses.get(*at).is_some_and(|h| h.works)).collect();
        let due = self.kills.len() * (workers.len() + 1) / self.asked.kills.max(1);
        let next = workers.get(self.stops).filter(|_| self.stops < due).copied();
        let Some((at, house)) = next.and_then(|at| Some((at, self.houses.get(at)?))) else { return Ok(()) };
        let still = Duration::from_secs(LEASE + 2);
        house.stand_still(still)?;
        self.stops += 1;
        self.still = Some((at, Instant::now() + still + Duration::from_secs(1)));
        if self.houses.iter().filter(|h| h.listens).count() == 1 {
            std::thread::sleep(still);
        }
        Ok(())
    }
}
