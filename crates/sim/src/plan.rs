//! A run as data: who asks for what and when, and what goes wrong.
//!
//! A plan follows from its seed ([`crate::draw`]), but it is kept as data: a failing one is made smaller by leaving out
//! orders and troubles, and a kept one goes on meaning the same when the drawing changes. What the plan does not say
//! (how long a call takes, which id something gets) follows from the seed and from what it is for, so that leaving
//! something out moves as little as can be of the rest. Rejected: keeping seeds alone, which a change of the drawing
//! turns into other runs.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Everything about one run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Where all chance comes from that the plan does not spell out.
    pub seed: u64,
    /// Length of a lease.
    pub lease_ms: u64,
    /// Who asks.
    pub tenants: Vec<Tenant>,
    /// Where it is made.
    pub clusters: Vec<Site>,
    /// What is asked for, in order of time.
    pub orders: Vec<Order>,
    /// What goes wrong.
    pub troubles: Vec<Trouble>,
}

/// One tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Requests in work at once.
    pub max_concurrent: u32,
    /// Limit of processors, if there is one.
    pub cpu: Option<u32>,
}

/// One simulated cluster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Site {
    /// Its name.
    pub name: String,
    /// What it plays.
    pub plays: Vec<String>,
    /// Processors that it has.
    pub cpu: u32,
}

/// A wish at a time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Order {
    /// When, after the start.
    pub at_ms: u64,
    /// Through which process: 0 only answers the API, so that no worker hears its bell; others are workers.
    pub via: usize,
    /// What.
    pub wish: Wish,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Requests, all or none.
    Admit(Vec<Ask>),
    /// Take the request of that name back.
    Cancel(String),
    /// Stop it.
    Suspend(String),
    /// Start it again.
    Reactivate(String),
    /// Release it.
    Deprovision(String),
    /// Ask for it anew.
    Retry(String),
    /// Give what a person is asked for.
    Input(String),
    /// Switch provisioning on a cluster off or on.
    Enable(String, bool),
}

/// One request that is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Its name, which no other ask of the plan has.
    pub name: String,
    /// For whom.
    pub tenant: String,
    /// `vps`, `kubernetes_namespace`, `environment`, `managed`.
    pub kind: String,
    /// Processors.
    pub cpu: u32,
    /// Names of its prerequisites.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// `single`, `failover` …
    pub strategy: String,
}

/// Something that goes wrong once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    /// A process ends as by kill -9, and another one takes its place after a while.
    Kill {
        /// Which process.
        node: usize,
        /// When.
        at: Moment,
        /// Until the next one starts.
        down_ms: u64,
    },
    /// A process stands still and wakes again.
    Freeze {
        /// Which process.
        node: usize,
        /// When.
        at: Moment,
        /// For how long.
        ms: u64,
    },
    /// The database does badly by one process.
    Database {
        /// Which process.
        node: usize,
        /// At which operation of the store.
        operation: String,
        /// The so-manieth time, from 1.
        nth: u32,
        /// How.
        how: Database,
    },
    /// The simulated clouds have a fault of their own.
    Cloud {
        /// At which operation.
        operation: String,
        /// Which fault.
        kind: String,
        /// Only for the request of that name, where one is given.
        request: Option<String>,
        /// At which of a cluster's calls for it, from 1.
        calls: Vec<u64>,
        /// Instead of the fault's usual delay.
        after_ms: Option<u64>,
    },
    /// The way to a cluster is bad.
    Network {
        /// Which cluster.
        cluster: String,
        /// At which operation.
        operation: String,
        /// The so-manieth call over all processes, from 1.
        nth: u32,
        /// How.
        how: Network,
    },
    /// The store's clock jumps.
    Clock {
        /// When.
        at_ms: u64,
        /// By how much; back, it stands still until that time is over.
        by_ms: i64,
    },
    /// The follower's sink takes its time.
    Sink {
        /// From when on.
        at_ms: u64,
        /// For each event.
        ms: u64,
    },
}

/// When something happens to a process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// At a time after the start, wherever it then is.
    At(u64),
    /// Just before an operation, of the store or of a provider, leaves it: the so-manieth of that name.
    Before(String, u32),
    /// When the operation has been done, and before its answer is seen.
    After(String, u32),
}

/// What a database does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Database {
    /// Refuses; nothing is stored.
    Refused,
    /// Stores, and its answer is lost.
    Lost,
    /// Is slow.
    Slow(u64),
}

/// What a network does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The question is under way for so long, whatever becomes of who asked.
    Late(u64),
    /// The answer does not come back.
    Lost,
    /// The question arrives twice.
    Twice,
}

impl Trouble {
    /// What it is, in one word, for the table of what was tried.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::Freeze { .. } => "freeze",
            Self::Database { how: Database::Refused, .. } => "database refuses",
            Self::Database { how: Database::Lost, .. } => "commit's answer lost",
            Self::Database { how: Database::Slow(_), .. } => "database slow",
            Self::Cloud { kind, .. } => word_of_cloud(kind),
            Self::Network { how: Network::Late(_), .. } => "call arrives late",
            Self::Network { how: Network::Lost, .. } => "answer lost on the way",
            Self::Network { how: Network::Twice, .. } => "call arrives twice",
            Self::Clock { .. } => "clock jumps",
            Self::Sink { .. } => "slow sink",
        }
    }
}

/// The faults of the simulated cloud, by the words of its settings.
pub const CLOUD_FAULTS: [&str; 11] = [
    "transient",
    "permanent",
    "throttled",
    "auth",
    "capacity",
    "hang",
    "lost_reply",
    "late_success",
    "delete_fails",
    "stale_list",
    "vanish",
];

fn word_of_cloud(kind: &str) -> &'static str {
    CLOUD_FAULTS.iter().find(|k| **k == kind).copied().unwrap_or("cloud")
}

impl Plan {
    /// As it is kept: one order or trouble a line.
    pub fn to_text(&self) -> String {
        let line = |value: serde_json::Result<String>| value.unwrap_or_default();
        let mut text = format!("seed {}\nlease_ms {}\n", self.seed, self.lease_ms);
        for tenant in &self.tenants {
            let _ = writeln!(text, "tenant {}", line(serde_json::to_string(tenant)));
        }
        for site in &self.clusters {
            let _ = writeln!(text, "cluster {}", line(serde_json::to_string(site)));
        }
        for order in &self.orders {
            let _ = writeln!(text, "order {}", line(serde_json::to_string(order)));
        }
        for trouble in &self.troubles {
            let _ = writeln!(text, "trouble {}", line(serde_json::to_string(trouble)));
        }
        text
    }

    /// Reads what [`Plan::to_text`] wrote; lines that begin with `#` are for people.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut plan = Self { seed: 0, lease_ms: 0, tenants: vec![], clusters: vec![], orders: vec![], troubles: vec![] };
        for (number, line) in text.lines().enumerate() {
            let wrong = |e: &dyn std::fmt::Display| format!("line {}: {e}", number + 1);
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, rest) = line.split_once(' ').ok_or_else(|| wrong(&"a word and a value are expected"))?;
            match word {
                "seed" => plan.seed = rest.parse().map_err(|e| wrong(&e))?,
                "lease_ms" => plan.lease_ms = rest.parse().map_err(|e| wrong(&e))?,
                "tenant" => plan.tenants.push(serde_json::from_str(rest).map_err(|e| wrong(&e))?),
                "cluster" => plan.clusters.push(serde_json::from_str(rest).map_err(|e| wrong(&e))?),
                "order" => plan.orders.push(serde_json::from_str(rest).map_err(|e| wrong(&e))?),
                "trouble" => plan.troubles.push(serde_json::from_str(rest).map_err(|e| wrong(&e))?),
                other => return Err(wrong(&format!("unknown word {other:?}"))),
            }
        }
        Ok(plan)
    }

    /// Requests that are asked for.
    pub fn asks(&self) -> impl Iterator<Item = &Ask> {
        self.orders.iter().flat_map(|o| match &o.wish {
            Wish::Admit(asks) => asks.as_slice(),
            _ => &[],
        })
    }

    /// The last moment that the plan speaks of.
    pub fn busy_until_ms(&self) -> u64 {
        let orders = self.orders.iter().map(|o| o.at_ms);
        let troubles = self.troubles.iter().map(|t| match t {
            Trouble::Kill { at: Moment::At(at), down_ms, .. } => at + down_ms,
            Trouble::Freeze { at: Moment::At(at), ms, .. } => at + ms,
            Trouble::Clock { at_ms, .. } | Trouble::Sink { at_ms, .. } => *at_ms,
            _ => 0,
        });
        orders.chain(troubles).max().unwrap_or(0)
    }
}
