//! Plans in a short notation: `a=server | b=address<a | wait~a | probe`. `|` parts the four steps, `=KIND` makes, `<A`
//! comes after, `~A` makes that one anew after a time-out.

use provisor_core::lifecycle::Step;
use provisor_core::workflow::plan::PLAN_VERSION;
use provisor_core::workflow::{Plan, Planned, Planner};
use provisor_core::{ClusterId, Failure, Spec};

/// The same plan everywhere.
#[derive(Debug, Clone)]
pub(super) struct Fixed(pub(super) Plan);

impl Planner for Fixed {
    fn plan(&self, _: ClusterId, _: &Spec) -> Result<Plan, Failure> {
        Ok(self.0.clone())
    }

    fn plan_action(&self, _: ClusterId, _: &str, _: &Spec) -> Result<Plan, Failure> {
        Ok(Plan { version: PLAN_VERSION, operations: Vec::new() })
    }
}

/// Reads the notation.
pub(super) fn plan(text: &str) -> Plan {
    let mut operations = Vec::new();
    for (step, part) in Step::ALL.into_iter().zip(text.split('|')) {
        operations.extend(part.split_whitespace().map(|word| operation(word, step)));
    }
    Plan { version: PLAN_VERSION, operations }
}

fn operation(word: &str, step: Step) -> Planned {
    let marks = ['=', '<', '~'];
    let (name, mut rest) = word.split_at(word.find(marks).unwrap_or(word.len()));
    let mut planned = Planned::new(name, step).call_limit(2);
    while let Some(mark) = rest.chars().next() {
        let tail = rest.get(1..).unwrap_or_default();
        let (value, next) = tail.split_at(tail.find(marks).unwrap_or(tail.len()));
        planned = match mark {
            '=' => planned.makes(value),
            '<' => planned.after(&[value]),
            _ => planned.after(&[value]).recreate(value),
        };
        rest = next;
    }
    planned
}
