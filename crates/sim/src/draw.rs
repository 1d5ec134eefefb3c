//! A plan from a seed: what is asked for, and what goes wrong.
//!
//! Every part is drawn by a chance of its own, so that a change of one moves no other. Times are short: a lease of some
//! seconds, deadlines of four, so that a run of a minute of virtual time holds what takes hours outside.

use std::collections::BTreeSet;

use provisor_core::Chance as _;
use provisor_core::chance::SplitMix;

use crate::chance::draw;
use crate::plan::{Ask, CLOUD_FAULTS, Database, Moment, Network, Order, Plan, Site, Tenant, Trouble, Wish};

/// Requests of a run at least; up to as many more as [`MORE_REQUESTS`].
const REQUESTS: u64 = 24;
const MORE_REQUESTS: u64 = 6;
/// Troubles of a run at least.
const TROUBLES: u64 = 5;
const MORE_TROUBLES: u64 = 7;
/// In this time everything is asked for.
const ASKED_WITHIN_MS: u64 = 18_000;

/// Operations of the store at which something can happen to a worker.
const OF_WORKERS: [&str; 12] = [
    "settle",
    "settle",
    "settle",
    "claim",
    "claim",
    "keep_leases",
    "hold_role",
    "list_clusters",
    "clusters_stamp",
    "mark_seen_closed",
    "reappeared",
    "set_health",
];
/// Those of who answers the API.
const OF_API: [&str; 6] = ["admit", "ask", "get_request", "get_cluster", "update_cluster", "clusters_stamp"];
/// Those of a follower.
const OF_FOLLOWER: [&str; 3] = ["feed", "advance_reader", "open_reader"];
/// Operations of the clouds that belong to no request.
const OF_CLUSTERS: [&str; 3] = ["list_owned", "identity", "test"];

/// The plan of a seed.
pub fn plan(seed: u64) -> Plan {
    let mut c = draw(seed, "plan", 0);
    let tenants = (0..2 + c.below(2)).map(|i| tenant(i, &mut c)).collect::<Vec<_>>();
    let clusters: Vec<Site> = (0..2 + c.below(2)).map(|i| site(i, &mut c)).collect();
    let lease_ms = pick(&[2_000, 4_000, 8_000], &mut c);
    let mut orders = admissions(seed, &tenants);
    let asks: Vec<(u64, Ask)> = orders.iter().flat_map(|o| of(o).iter().map(|a| (o.at_ms, a.clone()))).collect();
    orders.extend(commands(seed, &asks, &clusters));
    orders.sort_by_key(|o| o.at_ms);
    let troubles = troubles(seed, &asks, &clusters);
    Plan { seed, lease_ms, tenants, clusters, orders, troubles }
}

fn of(order: &Order) -> &[Ask] {
    if let Wish::Admit(asks) = &order.wish { asks } else { &[] }
}

fn pick<T: Clone>(all: &[T], c: &mut SplitMix) -> T {
    let index = usize::try_from(c.below(all.len() as u64)).unwrap_or(0);
    #[allow(clippy::indexing_slicing, reason = "all lists of this file have something in them")]
    all[index].clone()
}

fn one_in(n: u64, c: &mut SplitMix) -> bool {
    c.below(n) == 0
}

fn tenant(index: u64, c: &mut SplitMix) -> Tenant {
    Tenant {
        name: format!("t{index}"),
        max_concurrent: u32::try_from(2 + c.below(8)).unwrap_or(2),
        cpu: one_in(6, c).then(|| u32::try_from(16 + c.below(16)).unwrap_or(16)),
    }
}

fn site(index: u64, c: &mut SplitMix) -> Site {
    let mut plays = vec![pick(&["openstack", "openstack", "vmware", "proxmox"], c).to_owned()];
    plays.extend(["kubernetes", "argocd", "manual"].map(str::to_owned));
    Site { name: format!("c{index}"), plays, cpu: u32::try_from(pick(&[12_u64, 24, 64], c)).unwrap_or(64) }
}

fn admissions(seed: u64, tenants: &[Tenant]) -> Vec<Order> {
    let mut c = draw(seed, "admissions", 0);
    let wanted = REQUESTS + c.below(MORE_REQUESTS);
    let (mut orders, mut made): (Vec<Order>, Vec<Ask>) = (Vec::new(), Vec::new());
    while (made.len() as u64) < wanted {
        let tenant = pick(tenants, &mut c).name;
        let size = if one_in(3, &mut c) { 2 + c.below(4) } else { 1 };
        let at_ms = if one_in(3, &mut c) { 0 } else { c.below(ASKED_WITHIN_MS) };
        let mut batch: Vec<Ask> = Vec::new();
        for _ in 0..size.min(wanted - made.len() as u64) {
            // Earlier ones of the batch, or of what was asked for before it in the plan.
            let known: Vec<&Ask> = batch.iter().chain(made.iter()).filter(|a| a.tenant == tenant).collect();
            let after = (one_in(5, &mut c) && !known.is_empty()).then(|| pick(&known, &mut c).name.clone());
            let kind = pick(&["vps", "vps", "vps", "kubernetes_namespace", "environment", "managed"], &mut c);
            let number = made.len() + batch.len();
            batch.push(Ask {
                name: format!("r{number}"),
                tenant: tenant.clone(),
                kind: kind.to_owned(),
                cpu: u32::try_from(1 + c.below(3)).unwrap_or(1),
                after: after.into_iter().collect(),
                strategy: strategy(kind, &mut c).to_owned(),
            });
        }
        made.extend(batch.iter().cloned());
        let via = usize::try_from(c.below(4)).unwrap_or(0);
        orders.push(Order { at_ms, via, wish: Wish::Admit(batch) });
    }
    orders
}

/// What the request itself fixes an endpoint for takes no second attempt beside the first (H9).
fn strategy(kind: &str, c: &mut SplitMix) -> &'static str {
    let all: &[&str] =
        if kind == "vps" { &["failover", "failover", "single", "race", "hedge"] } else { &["failover", "failover", "single"] };
    pick(all, c)
}

fn commands(seed: u64, asks: &[(u64, Ask)], clusters: &[Site]) -> Vec<Order> {
    let mut orders = Vec::new();
    let mut give = |at_ms: u64, wish: Wish, c: &mut SplitMix| {
        let via = usize::try_from(c.below(4)).unwrap_or(0);
        orders.push(Order { at_ms, via, wish });
    };
    for (index, (at, ask)) in asks.iter().enumerate() {
        let mut c = draw(seed, "command", index as u64);
        let name = ask.name.clone();
        if ask.kind == "managed" && !one_in(4, &mut c) {
            let later = at + c.below(8_000);
            give(later, Wish::Input(name.clone()), &mut c);
        }
        match c.below(12) {
            0 | 1 => {
                let later = at + c.below(4_000);
                give(later, Wish::Cancel(name.clone()), &mut c);
                if one_in(2, &mut c) {
                    let again = at + 5_000 + c.below(10_000);
                    give(again, Wish::Retry(name), &mut c);
                }
            }
            2..=4 => {
                let mut later = at + 2_000 + c.below(10_000);
                for _ in 0..=c.below(3) {
                    let wish = match c.below(4) {
                        0 | 1 => Wish::Suspend(name.clone()),
                        2 => Wish::Reactivate(name.clone()),
                        _ => Wish::Deprovision(name.clone()),
                    };
                    give(later, wish, &mut c);
                    later += c.below(3_000);
                }
            }
            5 => {
                let later = at + 3_000 + c.below(12_000);
                give(later, Wish::Deprovision(name), &mut c);
            }
            6 => {
                let later = at + 8_000 + c.below(12_000);
                give(later, Wish::Retry(name), &mut c);
            }
            _ => {}
        }
    }
    let mut c = draw(seed, "edits", 0);
    if one_in(3, &mut c) {
        let (name, off) = (pick(clusters, &mut c).name, c.below(12_000));
        give(off, Wish::Enable(name.clone(), false), &mut c);
        let on = off + 1_000 + c.below(6_000);
        give(on, Wish::Enable(name, true), &mut c);
    }
    orders
}

fn troubles(seed: u64, asks: &[(u64, Ask)], clusters: &[Site]) -> Vec<Trouble> {
    let mut c = draw(seed, "troubles", 0);
    let wanted = TROUBLES + c.below(MORE_TROUBLES);
    let mut troubles = Vec::new();
    while (troubles.len() as u64) < wanted {
        let mut c = draw(seed, "trouble", troubles.len() as u64);
        let (_, ask) = pick(asks, &mut c);
        let operation = operation_of(&ask, clusters, &mut c);
        let first = trouble(&ask, &operation, clusters, &mut c);
        // Pairs: what goes wrong with a call, and what then happens to who made it.
        let second = one_in(3, &mut c).then(|| of_process(&operation, &mut c));
        troubles.push(first);
        troubles.extend(second);
    }
    troubles
}

fn trouble(ask: &Ask, operation: &str, clusters: &[Site], c: &mut SplitMix) -> Trouble {
    match c.below(20) {
        0..=2 => kill(operation, c),
        3 | 4 => freeze(operation, c),
        5..=7 => database(c),
        8 => clock(c),
        9 => Trouble::Sink { at_ms: c.below(20_000), ms: 50 + c.below(500) },
        10..=12 => network(operation, clusters, c),
        _ => cloud(ask, operation, c),
    }
}

fn of_process(operation: &str, c: &mut SplitMix) -> Trouble {
    if one_in(2, c) { kill(operation, c) } else { freeze(operation, c) }
}

fn worker(c: &mut SplitMix) -> usize {
    usize::try_from(1 + c.below(3)).unwrap_or(1)
}

fn nth(most: u64, c: &mut SplitMix) -> u32 {
    u32::try_from(1 + c.below(most)).unwrap_or(1)
}

fn moment(operation: &str, c: &mut SplitMix) -> Moment {
    match c.below(6) {
        0 => Moment::At(c.below(25_000)),
        1 | 2 => Moment::Before(operation.to_owned(), nth(4, c)),
        3 => Moment::After(operation.to_owned(), nth(4, c)),
        4 => Moment::Before(pick(&OF_WORKERS, c).to_owned(), nth(20, c)),
        _ => Moment::After(pick(&OF_WORKERS, c).to_owned(), nth(20, c)),
    }
}

fn kill(operation: &str, c: &mut SplitMix) -> Trouble {
    match c.below(10) {
        0 => Trouble::Kill { node: 0, at: Moment::After(pick(&OF_API, c).to_owned(), nth(6, c)), down_ms: c.below(3_000) },
        1 => Trouble::Kill { node: 4, at: Moment::After(pick(&OF_FOLLOWER, c).to_owned(), nth(12, c)), down_ms: c.below(3_000) },
        _ => Trouble::Kill { node: worker(c), at: moment(operation, c), down_ms: c.below(12_000) },
    }
}

/// Mostly beyond the lease, so that another worker takes over and the frozen one wakes to find it so.
fn freeze(operation: &str, c: &mut SplitMix) -> Trouble {
    Trouble::Freeze { node: worker(c), at: moment(operation, c), ms: 500 + c.below(14_000) }
}

fn database(c: &mut SplitMix) -> Trouble {
    let how = match c.below(5) {
        0 | 1 => Database::Lost,
        2 | 3 => Database::Refused,
        _ => Database::Slow(200 + c.below(9_000)),
    };
    let (node, operation, most) = match c.below(8) {
        0 => (0, pick(&OF_API, c), 6),
        1 => (4, pick(&OF_FOLLOWER, c), 12),
        _ => (worker(c), pick(&OF_WORKERS, c), 30),
    };
    Trouble::Database { node, operation: operation.to_owned(), nth: nth(most, c), how }
}

fn clock(c: &mut SplitMix) -> Trouble {
    let by = i64::try_from(500 + c.below(12_000)).unwrap_or(1_000);
    Trouble::Clock { at_ms: c.below(22_000), by_ms: if one_in(3, c) { -by } else { by } }
}

fn network(operation: &str, clusters: &[Site], c: &mut SplitMix) -> Trouble {
    let operation = if one_in(6, c) { pick(&OF_CLUSTERS, c).to_owned() } else { operation.to_owned() };
    let how = match c.below(5) {
        0 | 1 => Network::Lost,
        2 | 3 => Network::Late(500 + c.below(7_000)),
        // A create is not repeated by any network that takes requests over TCP; a second object is no doubt's (H2).
        _ if makes(&operation) => Network::Lost,
        _ => Network::Twice,
    };
    Trouble::Network { cluster: pick(clusters, c).name, operation, nth: nth(5, c), how }
}

/// Whether an operation makes something.
fn makes(operation: &str) -> bool {
    operation != "create_rule" && ["create_", "clone_", "reserve"].iter().any(|p| operation.starts_with(p))
}

/// The faults that a cloud can have at an operation.
fn faults_of(operation: &str) -> Vec<&'static str> {
    let deletes = operation.starts_with("delete_");
    let looks = operation == "find" || operation == "list_owned";
    let fits = |kind: &&str| match *kind {
        "vanish" => makes(operation),
        "late_success" => makes(operation) || deletes,
        "delete_fails" => deletes,
        "stale_list" => looks,
        _ => true,
    };
    CLOUD_FAULTS.into_iter().filter(fits).collect()
}

fn cloud(ask: &Ask, operation: &str, c: &mut SplitMix) -> Trouble {
    let (operation, request) =
        if one_in(8, c) { (pick(&OF_CLUSTERS, c).to_owned(), None) } else { (operation.to_owned(), Some(ask.name.clone())) };
    let kind = pick(&faults_of(&operation), c);
    let first = 1 + c.below(2);
    let calls = (first..=first + c.below(4)).collect();
    let after_ms = match kind {
        "late_success" | "vanish" => Some(500 + c.below(9_000)),
        "stale_list" => Some(100 + c.below(800)),
        _ => None,
    };
    Trouble::Cloud { operation, kind: kind.to_owned(), request, calls, after_ms }
}

/// An operation that serves the request, on one of the clusters where it may be made.
fn operation_of(ask: &Ask, clusters: &[Site], c: &mut SplitMix) -> String {
    let played = clusters.iter().filter_map(|s| s.plays.first()).cloned().collect::<Vec<_>>();
    let played = pick(&played, c);
    let fits = |(kind, plays, _): &&(&str, &str, &[&str])| *kind == ask.kind && (plays.is_empty() || *plays == played);
    let of = OPERATIONS.iter().find(fits).map_or(&["find"][..], |(_, _, of)| of);
    pick(of, c).to_owned()
}

/// Operations by kind and, where it matters, by what is played.
const OPERATIONS: [(&str, &str, &[&str]); 6] = [
    (
        "vps",
        "openstack",
        &[
            "create_security_group",
            "create_port",
            "create_volume",
            "create_server",
            "create_rule",
            "create_floating_ip",
            "wait_server",
            "probe_ssh",
            "probe_http",
            "stop_server",
            "start_server",
            "delete_security_group",
            "delete_port",
            "delete_volume",
            "delete_server",
            "delete_floating_ip",
            "find",
        ],
    ),
    (
        "vps",
        "vmware",
        &["clone_vm", "reconfigure_vm", "power_on_vm", "wait_address", "probe_ssh", "shutdown_vm", "delete_vm", "find"],
    ),
    (
        "vps",
        "proxmox",
        &[
            "clone_vm",
            "configure_vm",
            "resize_disk",
            "create_rule",
            "start_vm",
            "wait_address",
            "probe_ssh",
            "shutdown_vm",
            "delete_vm",
            "find",
        ],
    ),
    (
        "kubernetes_namespace",
        "",
        &[
            "create_namespace",
            "create_resource_quota",
            "create_limit_range",
            "create_network_policy",
            "create_role_binding",
            "grant_access",
            "wait_admission",
            "check_pod",
            "check_isolation",
            "scale_down",
            "scale_up",
            "delete_namespace",
            "delete_resource_quota",
            "delete_limit_range",
            "delete_network_policy",
            "delete_role_binding",
            "find",
        ],
    ),
    (
        "environment",
        "",
        &["create_application", "sync", "wait_healthy", "probe_url", "scale_down", "scale_up", "delete_application", "find"],
    ),
    ("managed", "", &["reserve", "mark_active", "probe_url", "suspend_service", "resume_service", "delete_reservation", "find"]),
];

/// Every fault at every operation that a plan can have, so that what was never tried is seen.
pub fn possible() -> BTreeSet<(String, String)> {
    let mut all = BTreeSet::new();
    let mut add = |fault: &str, operation: &str| {
        all.insert((fault.to_owned(), operation.to_owned()));
    };
    let of_requests: BTreeSet<&str> = OPERATIONS.iter().flat_map(|(_, _, of)| of.iter().copied()).collect();
    for fault in ["kill", "freeze"] {
        of_requests.iter().chain(&OF_WORKERS).chain(&["any"]).for_each(|o| add(fault, o));
    }
    OF_API.iter().chain(&OF_FOLLOWER).for_each(|o| add("kill", o));
    for fault in ["database refuses", "commit's answer lost", "database slow"] {
        OF_WORKERS.iter().chain(&OF_API).chain(&OF_FOLLOWER).for_each(|o| add(fault, o));
    }
    for operation in of_requests.iter().chain(&OF_CLUSTERS) {
        add("answer lost on the way", operation);
        add("call arrives late", operation);
        if !makes(operation) {
            add("call arrives twice", operation);
        }
        for fault in faults_of(operation) {
            add(fault, operation);
        }
    }
    add("clock jumps", "forwards");
    add("clock jumps", "back");
    add("slow sink", "any");
    all
}
