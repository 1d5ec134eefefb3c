//! The 11 states and the only table of transitions (SPEC 2). The picture in the docs, the coverage test
//! and the guard of every state change are made from [`EDGES`].

use serde::{Deserialize, Serialize};

/// The states of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Admitted; waits for its turn, prerequisites or room.
    Queued,
    /// Held by a rule.
    PendingApproval,
    /// Step 1.
    Allocating,
    /// Step 2.
    Configuring,
    /// Step 3.
    Activating,
    /// Step 4.
    Verifying,
    /// Verified and running.
    Completed,
    /// Stopped, everything kept.
    Suspended,
    /// No attempt lives or may follow; rolls back at once.
    Failed,
    /// What was made is taken back.
    RollingBack,
    /// Nothing is left.
    RolledBack,
}

impl State {
    /// All states with their names.
    pub const ALL: [(&'static str, Self); 11] = [
        ("queued", Self::Queued),
        ("pending_approval", Self::PendingApproval),
        ("allocating", Self::Allocating),
        ("configuring", Self::Configuring),
        ("activating", Self::Activating),
        ("verifying", Self::Verifying),
        ("completed", Self::Completed),
        ("suspended", Self::Suspended),
        ("failed", Self::Failed),
        ("rolling_back", Self::RollingBack),
        ("rolled_back", Self::RolledBack),
    ];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, s)| *s == self).map_or("", |(n, _)| n)
    }

    /// The state of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, s)| *s)
    }

    /// A step of the pipeline runs.
    pub fn is_working(self) -> bool {
        matches!(self, Self::Allocating | Self::Configuring | Self::Activating | Self::Verifying)
    }

    /// Nothing more happens.
    pub fn is_terminal(self) -> bool {
        self == Self::RolledBack
    }

    /// The service stands.
    pub fn is_standing(self) -> bool {
        matches!(self, Self::Completed | Self::Suspended)
    }

    /// The state of a step by its number, 0 to 3.
    pub fn of_step(step: Step) -> Self {
        match step {
            Step::Allocate => Self::Allocating,
            Step::Configure => Self::Configuring,
            Step::Activate => Self::Activating,
            Step::Verify => Self::Verifying,
        }
    }

    /// What a user may ask for in this state.
    pub fn allowed_actions(self) -> &'static [&'static str] {
        match self {
            Self::Queued | Self::Allocating | Self::Configuring | Self::Activating | Self::Verifying => &["cancel"],
            Self::PendingApproval => &["approve", "reject", "cancel"],
            Self::Completed => &["suspend", "deprovision", "check-status"],
            Self::Suspended => &["reactivate", "deprovision"],
            Self::Failed | Self::RollingBack => &[],
            Self::RolledBack => &["retry"],
        }
    }
}

/// The four steps, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Make what it stands on.
    Allocate,
    /// Make it reachable.
    Configure,
    /// Bring it up.
    Activate,
    /// Prove that it works.
    Verify,
}

impl Step {
    /// All steps in order.
    pub const ALL: [Self; 4] = [Self::Allocate, Self::Configure, Self::Activate, Self::Verify];

    /// The name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Configure => "configure",
            Self::Activate => "activate",
            Self::Verify => "verify",
        }
    }

    /// 0 to 3.
    pub fn number(self) -> usize {
        self as usize
    }

    /// The next step.
    pub fn next(self) -> Option<Self> {
        Self::ALL.get(self.number() + 1).copied()
    }
}

/// Why a request left (SPEC 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It became a verified service.
    Completed,
    /// Retries and attempts are used up, or it was stuck.
    Failed,
    /// Its tenant took it back.
    Cancelled,
    /// An approver said no.
    Rejected,
    /// Nobody said yes in time.
    ApprovalExpired,
    /// A prerequisite ended otherwise.
    DependencyFailed,
    /// It was released after it had completed.
    Deprovisioned,
}

/// One allowed change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edge {
    /// From; `None` is admission.
    pub from: Option<State>,
    /// To.
    pub to: State,
    /// When, in words.
    pub when: &'static str,
}

const fn edge(from: State, to: State, when: &'static str) -> Edge {
    Edge { from: Some(from), to, when }
}

/// Every transition that can be stored. No other exists.
pub const EDGES: &[Edge] = &[
    Edge { from: None, to: State::Queued, when: "admitted, no rule matches" },
    Edge { from: None, to: State::PendingApproval, when: "admitted, a rule matches" },
    edge(State::PendingApproval, State::Queued, "approved"),
    edge(State::PendingApproval, State::RollingBack, "rejected, expired, cancelled, or a prerequisite ended otherwise"),
    edge(State::Queued, State::Allocating, "claimed, prerequisites completed, a cluster has room"),
    edge(State::Queued, State::Failed, "a prerequisite ended otherwise, or nothing can ever fit it any more"),
    edge(State::Queued, State::RollingBack, "cancelled"),
    edge(State::Allocating, State::Configuring, "allocate succeeded"),
    edge(State::Configuring, State::Activating, "configure succeeded"),
    edge(State::Activating, State::Verifying, "activate succeeded"),
    edge(State::Verifying, State::Completed, "verify succeeded"),
    edge(State::Configuring, State::Allocating, "another attempt leads"),
    edge(State::Activating, State::Allocating, "another attempt leads"),
    edge(State::Activating, State::Configuring, "another attempt leads"),
    edge(State::Verifying, State::Allocating, "another attempt leads"),
    edge(State::Verifying, State::Configuring, "another attempt leads"),
    edge(State::Verifying, State::Activating, "another attempt leads"),
    edge(State::Allocating, State::Failed, "attempts are used up, or stuck"),
    edge(State::Configuring, State::Failed, "attempts are used up, or stuck"),
    edge(State::Activating, State::Failed, "attempts are used up, or stuck"),
    edge(State::Verifying, State::Failed, "attempts are used up, or stuck"),
    edge(State::Allocating, State::RollingBack, "cancelled"),
    edge(State::Configuring, State::RollingBack, "cancelled"),
    edge(State::Activating, State::RollingBack, "cancelled"),
    edge(State::Verifying, State::RollingBack, "cancelled"),
    edge(State::Failed, State::RollingBack, "at once"),
    edge(State::RollingBack, State::RolledBack, "everything is confirmed gone"),
    edge(State::Completed, State::Suspended, "suspend"),
    edge(State::Suspended, State::Completed, "reactivate"),
    edge(State::Completed, State::RollingBack, "deprovision"),
    edge(State::Suspended, State::RollingBack, "deprovision"),
];

/// Whether a change of state is in the table.
pub fn is_allowed(from: Option<State>, to: State) -> bool {
    EDGES.iter().any(|e| e.from == from && e.to == to)
}

/// The table as a Mermaid picture, for the docs.
pub fn picture() -> String {
    let lines = EDGES.iter().map(|e| format!("    {} --> {}: {}\n", e.from.map_or("[*]", State::name), e.to.name(), e.when));
    format!("stateDiagram-v2\n{}    rolled_back --> [*]\n", lines.collect::<String>())
}
