//! What the store's transactions do around a decision of core, as far as one request sees it: the first attempt of a
//! queued one, a further attempt where core wants one, and the end where there is no place for it.

use std::sync::Arc;

use provisor_core::chance::Chance;
use provisor_core::cluster::{ProviderType, Settings};
use provisor_core::event::Event;
use provisor_core::known::Known;
use provisor_core::run::attempt::no_room;
use provisor_core::run::{Directive, Launch, Moment, Role};
use provisor_core::workflow::Planner;
use provisor_core::{AttemptId, ClusterId, Run, Span, Timestamp, budget};

/// A cluster of a world.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its id.
    pub id: ClusterId,
    /// Its name.
    pub name: String,
    /// The settings that hold there.
    pub settings: Settings,
    /// Attempts that it still takes.
    pub room: u32,
    /// Its budget of extra launches (H31).
    pub budget: i64,
}

/// What stands around a decision.
pub struct Desk<'a> {
    /// In order of registration.
    pub places: &'a mut Vec<Place>,
    /// Plans attempts.
    pub planner: &'a dyn Planner,
    /// Ids and jitter.
    pub chance: &'a mut dyn Chance,
    /// The time.
    pub now: Timestamp,
    /// The lease's fencing token.
    pub generation: i64,
    /// How long a create may wait before it must not be sent.
    pub send_within: Span,
    /// How long no worker was alive, in all.
    pub downtime: Span,
    /// Stuck limit.
    pub stuck_after: Span,
    /// What is known of clusters by now.
    pub known: Arc<Known>,
    /// What is decided, as facts.
    pub events: Vec<Event>,
}

impl Desk<'_> {
    /// Lets core decide at this desk.
    pub fn with<T>(&mut self, act: impl FnOnce(&mut Moment<'_>) -> T) -> T {
        let mut moment = Moment {
            now: self.now,
            generation: self.generation,
            installation: "world",
            send_within: self.send_within,
            downtime: self.downtime,
            stuck_after: self.stuck_after,
            planner: self.planner,
            chance: self.chance,
            actor: None,
            known: Arc::clone(&self.known),
            events: &mut self.events,
        };
        act(&mut moment)
    }

    /// The first attempt of a queued request, and the second one of its race. False: no cluster has room.
    pub fn place(&mut self, run: &mut Run, role: Role) -> bool {
        let placed = self.place_apart(run, role, &run.used_clusters());
        if placed && run.races() {
            self.place_beside(run, Role::Race);
        }
        placed
    }

    fn place_beside(&mut self, run: &mut Run, role: Role) {
        for used in [run.used_clusters(), run.failed_clusters()] {
            if self.place_apart(run, role, &used) {
                return;
            }
        }
        self.with(|m| run.go_without(role, "no room, or no budget", m));
    }

    fn place_apart(&mut self, run: &mut Run, role: Role, avoid: &[ClusterId]) -> bool {
        let draws = run.draws_on_budget(role);
        let fits = |p: &&mut Place| p.room > 0 && !avoid.contains(&p.id) && (!draws || p.budget >= budget::LAUNCH);
        let mut fitting = self.places.iter_mut().filter(fits);
        let Some(place) = fitting.next() else { return false };
        let others = fitting.next().is_some();
        place.room -= 1;
        let (id, name, settings) = (place.id, place.name.clone(), place.settings.clone());
        let Ok(plan) = self.planner.plan(id, &run.spec) else { return false };
        let (provider, region) = (ProviderType::Simulation, "eu".to_owned());
        let identity = Some(format!("project-of-{name}"));
        let launch = Launch { role, cluster: id, cluster_name: name, provider, region, identity, settings, others, plan };
        self.with(|m| run.launch(launch, m));
        if let (Some(started), Some(place)) = (run.attempts.last(), self.places.iter_mut().find(|p| p.id == id)) {
            place.budget = budget::after(place.budget, budget::change(run, started));
        }
        true
    }

    /// Lets core decide, and gives back the room of attempts that are released by it, as the real store does with every
    /// change of a request.
    pub fn with_room<T>(&mut self, run: &mut Run, act: impl FnOnce(&mut Self, &mut Run) -> T) -> T {
        let held = unreleased(run);
        let done = act(self, run);
        let kept = unreleased(run);
        for (_, cluster) in held.into_iter().filter(|h| !kept.contains(h)) {
            if let Some(place) = self.places.iter_mut().find(|p| p.id == cluster) {
                place.room += 1;
            }
        }
        done
    }

    /// Decides what is next, with a further attempt where one is wanted.
    pub fn advance(&mut self, run: &mut Run) -> Directive {
        self.with_room(run, Self::decide)
    }

    fn decide(&mut self, run: &mut Run) -> Directive {
        let mut directive = self.with(|m| run.advance(m));
        while let Some(role) = directive.launch {
            if role != Role::Failover {
                self.place_beside(run, role);
            } else if !self.place(run, role) {
                let failure = run.error.clone().unwrap_or_else(|| no_room(&[]));
                self.with(|m| run.give_up(failure, m));
            }
            let mut next = self.with(|m| run.advance(m));
            next.calls.splice(0..0, directive.calls);
            next.wake_at = next.wake_at.min(directive.wake_at);
            directive = next;
        }
        directive
    }
}

/// The attempts that hold their cluster's room.
fn unreleased(run: &Run) -> Vec<(AttemptId, ClusterId)> {
    run.attempts.iter().filter(|a| a.released_at.is_none()).map(|a| (a.id, a.cluster)).collect()
}
