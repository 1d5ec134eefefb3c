//! Plans in a short notation, and a planner that gives them out.
//!
//! `create_volume=volume create_server=server<create_volume | create_rule:80 | wait_server~create_server/600s | probe_ssh`
//! `|` parts the four steps; `=KIND` makes, `<A,B` comes after, `:ITEM` is one of several, `~OP` makes that one anew
//! after a time-out, `/600s` is the deadline, `^20s` the limit of one call, `?` waits for a person.

use provisor_core::lifecycle::Step;
use provisor_core::workflow::plan::PLAN_VERSION;
use provisor_core::workflow::{Plan, Planned, Planner};
use provisor_core::{Class, ClusterId, Failure, Span, Spec};

/// What a small cloud does for a server.
pub(crate) const VPS: &str = "create_volume=volume create_server=server<create_volume | create_rule:80=rule | \
                       wait_server<create_server~create_server/600s | probe_ssh";
/// A service that a vendor sets up.
pub(crate) const MANAGED: &str = "reserve=reservation | await_input?<reserve | mark_active | probe_url";

/// Gives the same plans for every cluster.
#[derive(Debug, Clone)]
pub(crate) struct Plans {
    pub(crate) attempt: String,
    pub(crate) suspend: String,
    pub(crate) reactivate: String,
    /// Actions cannot be planned.
    pub(crate) refuses_actions: bool,
}

impl Plans {
    pub(crate) fn of(attempt: &str) -> Self {
        Self {
            attempt: attempt.to_owned(),
            suspend: "| | stop_server |".to_owned(),
            reactivate: "| | start_server | probe_ssh".to_owned(),
            refuses_actions: false,
        }
    }
}

impl Planner for Plans {
    fn plan(&self, _: ClusterId, _: &Spec) -> Result<Plan, Failure> {
        Ok(plan(&self.attempt))
    }

    fn plan_action(&self, _: ClusterId, action: &str, _: &Spec) -> Result<Plan, Failure> {
        if self.refuses_actions {
            return Err(Failure::new(Class::Transient, "cluster_unknown", "not known to this process yet"));
        }
        Ok(plan(if action == "suspend" { &self.suspend } else { &self.reactivate }))
    }
}

/// Reads the notation above.
pub(crate) fn plan(text: &str) -> Plan {
    let mut operations = Vec::new();
    for (step, part) in Step::ALL.into_iter().zip(text.split('|')) {
        operations.extend(part.split_whitespace().map(|word| operation(word, step)));
    }
    Plan { version: PLAN_VERSION, operations }
}

fn operation(word: &str, step: Step) -> Planned {
    const MARKS: [char; 7] = ['=', '<', ':', '~', '/', '^', '?'];
    let (name, mut rest) = word.split_at(word.find(MARKS).unwrap_or(word.len()));
    let mut planned = Planned::new(name, step);
    while let Some(mark) = rest.chars().next() {
        let tail = &rest[1..];
        let (value, next) = tail.split_at(tail.find(MARKS).unwrap_or(tail.len()));
        planned = match mark {
            '=' => planned.makes(value),
            '<' => planned.after(&value.split(',').collect::<Vec<_>>()),
            ':' => planned.item(value),
            '~' => planned.recreate(value),
            '/' => Planned { deadline: span(value), ..planned },
            '^' => Planned { call_limit: span(value), ..planned },
            _ => Planned { awaits_input: true, ..planned },
        };
        rest = next;
    }
    planned
}

/// `30s`, `1.5s`, `15m`, `2h`.
pub(crate) fn span(text: &str) -> Span {
    let (number, unit) = text.split_at(text.len() - 1);
    let factor = match unit {
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => panic!("{text} is no span of time"),
    };
    Span::from_seconds_f64(number.parse::<f64>().unwrap_or_else(|_| panic!("{text} is no span of time")) * factor)
}
