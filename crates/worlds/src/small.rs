//! Every interleaving of one request in a small world, to its end, breadth first.
//!
//! The world is the core that ships and a small model of the store and of a backend, with two workers and a given number of
//! faults. Breadth first, so that the first violation is one of the shortest. Rejected: stateright, which brings a web
//! server and a model of actors for what is a queue and a set; see docs/decisions.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use provisor_core::Spec;
use provisor_core::spec::{Seal, Sealed, Strategy, StrategyKind};
use serde_json::json;

mod check;
mod plans;
mod same;
mod world;

pub use check::Property;
pub use world::Action;

use plans::Fixed;
use world::World;

/// What is explored.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Its name.
    pub name: &'static str,
    /// The plan, in the short notation of `plans`.
    pub plan: &'static str,
    /// The strategy.
    pub strategy: StrategyKind,
    /// Attempts in all.
    pub max_attempts: u32,
    /// Clusters.
    pub clusters: usize,
    /// Faults on a way.
    pub faults: u32,
    /// States after which it gives up.
    pub states_at_most: u32,
}

/// One resource in each step.
const FOUR: &str = "a=server | b=address | c=disk | d=record";
/// One that is waited for and made anew after a time-out, and one that is probed.
const REMADE: &str = "a=server | b=address<a | wait~a | probe";

/// The worlds that the command explores. A race has one fault less: its two attempts at once make thirty times as many
/// states with each fault.
pub fn scopes(faults: u32) -> Vec<Scope> {
    let scope = |name, plan, strategy, max_attempts| Scope {
        name,
        plan,
        strategy,
        max_attempts,
        clusters: 2,
        faults,
        states_at_most: 8_000_000,
    };
    vec![
        scope("single, a resource in each step", FOUR, StrategyKind::Single, 1),
        scope("failover, a resource in each step", FOUR, StrategyKind::Failover, 2),
        scope("failover, a server made anew after a time-out", REMADE, StrategyKind::Failover, 2),
        scope("hedge, a server made anew after a time-out", REMADE, StrategyKind::Hedge, 2),
        Scope {
            faults: faults.saturating_sub(1),
            ..scope("race, a server made anew after a time-out", REMADE, StrategyKind::Race, 2)
        },
    ]
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Distinct states.
    pub states: u32,
    /// Steps between them.
    pub steps: u64,
    /// Ends.
    pub ends: u32,
    /// Those in which the request completed.
    pub completed: u32,
    /// The longest of the shortest ways to a state.
    pub depth: u32,
    /// The first violation, with the way to it.
    pub violation: Option<Violation>,
    /// There are more states than were allowed.
    pub cut: bool,
}

/// A property that does not hold.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub property: Property,
    /// What was seen.
    pub seen: String,
    /// One of the shortest ways to it.
    pub way: Vec<Action>,
}

struct Clear;
impl Seal for Clear {
    fn seal(&self, clear: &str) -> Sealed {
        Sealed { key: String::new(), sealed: clear.to_owned(), fingerprint: clear.to_owned() }
    }
}

/// What is remembered of a state: how it was reached.
#[derive(Debug, Clone, Copy)]
struct Step {
    from: u32,
    action: Action,
    depth: u32,
}

/// An exploration at work.
struct Explorer {
    plans: Fixed,
    seen: BTreeMap<(u64, u64), u32>,
    steps: Vec<Step>,
    /// Which state leads to which.
    edges: Vec<(u32, u32)>,
    ends: Vec<u32>,
    queue: VecDeque<(u32, World)>,
    found: Found,
}

/// Walks through all of a scope.
pub fn explore(scope: &Scope) -> Found {
    let strategy = Strategy { kind: scope.strategy, max_attempts: scope.max_attempts };
    let spec = json!({"name": "db", "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12",
        "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}, "strategy": strategy});
    let empty = Found { states: 0, steps: 0, ends: 0, completed: 0, depth: 0, violation: None, cut: false };
    let mut explorer = Explorer {
        plans: Fixed(plans::plan(scope.plan)),
        seen: BTreeMap::new(),
        steps: Vec::new(),
        edges: Vec::new(),
        ends: Vec::new(),
        queue: VecDeque::new(),
        found: empty,
    };
    let Ok(spec) = Spec::check("", &spec, &Clear) else { return explorer.found };
    explorer.meet(World::new(spec, scope.clusters, scope.faults), Step { from: 0, action: Action::Tick, depth: 0 });
    while let Some((index, world)) = explorer.queue.pop_front() {
        if explorer.found.violation.is_some() {
            break;
        }
        if explorer.steps.len() > scope.states_at_most as usize {
            explorer.found.cut = true;
            break;
        }
        explorer.visit(index, &world);
    }
    explorer.finish()
}

impl Explorer {
    /// A state that was reached: a new one is put into the queue.
    fn meet(&mut self, world: World, step: Step) -> u32 {
        let next = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        let index = *self.seen.entry(same::digest(&world)).or_insert(next);
        if index == next {
            self.steps.push(step);
            self.found.depth = self.found.depth.max(step.depth);
            self.queue.push_back((index, world));
        }
        index
    }

    fn visit(&mut self, index: u32, world: &World) {
        let depth = self.steps.get(index as usize).map_or(0, |s| s.depth) + 1;
        if check::is_end(world) {
            self.ends.push(index);
            self.found.completed += u32::from(world.row.run.winner.is_some());
            if let Err((property, seen)) = check::end(world) {
                return self.violate(property, seen, index, None);
            }
        }
        let actions = world.actions();
        if actions.iter().all(|a| a.is_fault()) && !check::is_end(world) {
            let seen = format!("{:?}, due {:?}, waits for {:?}", world.row.run.state, world.row.due, world.row.run.waiting);
            return self.violate(Property::NoDeadEnd, seen, index, None);
        }
        for action in actions {
            let mut after = world.clone();
            let (events, calls) = after.act(action, &self.plans);
            self.found.steps += 1;
            if let Err((property, seen)) = check::step(world, &after, &events, &calls) {
                return self.violate(property, seen, index, Some(action));
            }
            let to = self.meet(after, Step { from: index, action, depth });
            self.edges.push((to, index));
        }
    }

    fn violate(&mut self, property: Property, seen: String, index: u32, last: Option<Action>) {
        let mut way: Vec<Action> = last.into_iter().collect();
        let mut at = index;
        while let Some(step) = self.steps.get(at as usize).filter(|s| s.depth > 0) {
            way.push(step.action);
            at = step.from;
        }
        way.reverse();
        self.found.violation = Some(Violation { property, seen, way });
    }

    /// From every state an end can be reached: backwards from the ends.
    fn finish(mut self) -> Found {
        self.found.states = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.found.ends = u32::try_from(self.ends.len()).unwrap_or(u32::MAX);
        if self.found.violation.is_some() || self.found.cut {
            return self.found;
        }
        self.edges.sort_unstable();
        let mut reached = vec![false; self.steps.len()];
        let mut open = self.ends.clone();
        while let Some(index) = open.pop() {
            let Some(mark) = reached.get_mut(index as usize).filter(|m| !**m) else { continue };
            *mark = true;
            let from = self.edges.partition_point(|(to, _)| *to < index);
            open.extend(self.edges.iter().skip(from).take_while(|(to, _)| *to == index).map(|(_, from)| *from));
        }
        if let Some(lost) = reached.iter().position(|r| !r) {
            self.violate(Property::EndsAlways, "it goes on for ever".to_owned(), u32::try_from(lost).unwrap_or(0), None);
        }
        self.found
    }
}

/// What was found, in words.
pub fn report(scope: &Scope, found: &Found) -> String {
    let mut text = format!(
        "{}: {} states, {} steps, {} ends ({} completed), longest way {}, {} faults{}\n",
        scope.name,
        found.states,
        found.steps,
        found.ends,
        found.completed,
        found.depth,
        scope.faults,
        if found.cut { "; NOT ALL, cut off" } else { "" }
    );
    if let Some(violation) = &found.violation {
        let told = writeln!(text, "  VIOLATED: {}\n  {}", violation.property.sentence(), violation.seen);
        debug_assert!(told.is_ok(), "a text takes any line");
        for action in &violation.way {
            let told = writeln!(text, "    {action:?}");
            debug_assert!(told.is_ok(), "a text takes any line");
        }
    }
    text
}
