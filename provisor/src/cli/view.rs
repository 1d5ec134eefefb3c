//! How objects look to people. Pure: an object in, text out.

use provisor_wire::client::Received;
use provisor_wire::cluster::Room;
use provisor_wire::{
    Attempt, CheckStatus, CloudEvent, Cluster, Failure, Inventory, Metrics, Plan, Quota, Request, Resource, Step, Tenant,
    TestReport,
};

use crate::output::{Colour, Out, Table, clean, clock, inline, put, seconds};

/// The text of an optional text.
fn or_dash(text: Option<&str>) -> String {
    text.map_or_else(|| "–".to_owned(), clean)
}

/// A failure on one line.
pub(crate) fn failure(error: &Failure) -> String {
    let place = match (&error.step, &error.operation) {
        (Some(step), Some(operation)) => format!(" in {step}, {operation}"),
        (Some(step), None) => format!(" in {step}"),
        _ => String::new(),
    };
    clean(&format!("{} ({}){place}: {}", error.code, error.class, error.message))
}

/// What a request waits for, on one line.
pub(crate) fn waiting(request: &Request) -> Option<String> {
    let waiting = request.waiting_for.as_ref()?;
    let detail = waiting.detail.as_deref().map_or(String::new(), |d| format!(" ({d})"));
    Some(clean(&format!("{}{detail}", waiting.reason)))
}

/// A list of requests.
pub(crate) fn requests(out: Out, items: &[Request]) -> String {
    let mut table = Table::new(&["id", "name", "tenant", "kind", "state", "waiting for", "cluster", "created"]);
    for r in items {
        let cluster = shown_attempt(r).map_or("–".to_owned(), |a| a.cluster.clone());
        table.row(vec![
            r.id.clone(),
            r.name.clone(),
            r.tenant.clone(),
            r.kind.clone(),
            out.state(&r.state),
            or_dash(r.waiting_for.as_ref().map(|w| w.reason.as_str())),
            cluster,
            r.created_at.split('.').next().unwrap_or_default().trim_end_matches('Z').replace('T', " "),
        ]);
    }
    table.render()
}

fn shown_attempt(r: &Request) -> Option<&Attempt> {
    let won = r.winner.as_ref().and_then(|w| r.attempts.iter().find(|a| a.id == *w));
    won.or_else(|| r.attempts.iter().rev().find(|a| a.state == "running")).or_else(|| r.attempts.last())
}

/// One request with its steps and attempts.
pub(crate) fn request(out: Out, r: &Request) -> String {
    let mut t = Table::bare();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() && value != "–" {
            t.row(vec![out.paint(Colour::Bold, name), value]);
        }
    };
    field("id", r.id.clone());
    field("name", format!("{} (tenant {})", r.name, r.tenant));
    field("kind", r.kind.clone());
    field("state", out.state(&r.state));
    field("outcome", or_dash(r.outcome.as_deref()));
    field("waiting for", waiting(r).unwrap_or_default());
    field("wanted", r.wanted.clone());
    if let Some(a) = &r.action {
        let reason = a.reason.as_deref().map_or(String::new(), |t| format!(", {t}"));
        field("action", clean(&format!("{} {}{reason}", a.name, a.status)));
        field("", a.error.as_ref().map(failure).unwrap_or_default());
    }
    field("health", or_dash(r.health.as_deref()));
    field("region", or_dash(r.region.as_deref()));
    field("order", or_dash(r.order_id.as_deref()));
    field("depends on", r.depends_on.join(", "));
    for e in &r.endpoints {
        field("endpoint", clean(&format!("{}  {}", e.name, e.url)));
    }
    field("created", r.created_at.clone());
    field("ready", or_dash(r.ready_at.as_deref()));
    field("terminated", or_dash(r.terminated_at.as_deref()));
    field("retry of", or_dash(r.retry_of.as_deref()));
    field("retried as", or_dash(r.retried_as.as_deref()));
    field("error", r.error.as_ref().map(failure).unwrap_or_default());
    for line in r.error.iter().flat_map(|e| &e.diagnosis) {
        field("", clean(line));
    }
    for owed in &r.cleanup_owed {
        let error = owed.last_error.as_ref().map_or(String::new(), |e| format!("; {}", failure(e)));
        let id = or_dash(owed.provider_id.as_deref());
        field(
            "clean-up owed",
            clean(&format!("{} {id} on {} for {}{error}", owed.kind, owed.cluster, seconds(owed.age_seconds))),
        );
    }
    let mut text = t.render();
    if r.steps.iter().any(|s| s.status != "pending") {
        put(&mut text, format_args!("\n{}", steps(out, &r.steps)));
    }
    if r.attempts.len() > 1 {
        put(&mut text, format_args!("\n{}", attempts(out, &r.attempts)));
    }
    text
}

/// The four steps.
fn steps(out: Out, items: &[Step]) -> String {
    let mut table = Table::new(&["step", "status", "took", "retries"]);
    for s in items {
        let took = s.duration_seconds.map_or("–".to_owned(), seconds);
        table.row(vec![s.name.clone(), out.state(&s.status), took, s.retries.to_string()]);
    }
    table.render()
}

/// A list of attempts.
pub(crate) fn attempts(out: Out, items: &[Attempt]) -> String {
    let mut table =
        Table::new(&["attempt", "id", "cluster", "role", "state", "started", "finished", "released", "followed by", "error"]);
    for a in items {
        // By its number, as people speak of it.
        let follower =
            a.replaced_by.as_ref().map(|id| items.iter().find(|o| o.id == *id).map_or(id.clone(), |o| o.number.to_string()));
        let time = |t: &Option<String>| t.as_deref().map_or("–".to_owned(), clock);
        table.row(vec![
            a.number.to_string(),
            a.id.clone(),
            a.cluster.clone(),
            a.role.clone(),
            out.state(&a.state),
            clock(&a.started_at),
            time(&a.finished_at),
            time(&a.released_at),
            or_dash(follower.as_deref()),
            a.error.as_ref().map_or("–".to_owned(), failure),
        ]);
    }
    table.render()
}

/// A list of resources.
pub(crate) fn resources(out: Out, items: &[Resource]) -> String {
    let mut table = Table::new(&["id", "kind", "name", "provider id", "cluster", "state", "tag"]);
    for r in items {
        let state = if r.written_off { format!("{} (written off)", r.state) } else { out.state(&r.state) };
        let provider = or_dash(r.provider_id.as_deref());
        table.row(vec![r.id.clone(), r.kind.clone(), clean(&r.name), provider, r.cluster.clone(), state, r.tag.clone()]);
    }
    table.render()
}

/// One event on a line: time, request, what.
pub(crate) fn event(out: Out, event: &CloudEvent) -> String {
    let data = &event.data;
    let mut what = vec![event_name(out, &event.kind)];
    if let Some(step) = data.step.as_deref().filter(|_| event.kind == "provisioning.step-completed") {
        what.push(step.to_owned());
    }
    if let Some(resource) = &data.resource {
        what.push(format!("{} {}", resource.kind, resource.provider_id.as_deref().unwrap_or_default()));
    }
    if let (Some(from), Some(to)) = (&data.from_state, &data.to_state) {
        what.push(out.paint(Colour::Dim, &format!("{from} → {to}")));
    }
    what.extend(data.endpoints.iter().map(|e| e.url.clone()));
    if let Some(error) = &data.error {
        what.push(failure(error));
    }
    format!("{}  {}  {}", clock(&event.time), clean(&data.request.name), what.join("  ").trim_end())
}

fn event_name(out: Out, kind: &str) -> String {
    let colour = match kind {
        "provisioning.completed" | "service.activated" => Colour::Green,
        k if k.ends_with("failed") || k.ends_with("rejected") => Colour::Red,
        "resource.allocated" | "resource.released" => Colour::Dim,
        _ => Colour::Yellow,
    };
    out.paint(colour, kind)
}

/// One received event on a line.
pub(crate) fn received(out: Out, received: &Received) -> String {
    event(out, &received.event)
}

/// The answer of check-status, or of a cluster's test.
pub(crate) fn checks(out: Out, items: &[provisor_wire::Check]) -> String {
    let mut table = Table::new(&["check", "result", "latency", "error"]);
    for c in items {
        let result = if c.ok { out.state("ok") } else { out.paint(Colour::Red, "failed") };
        table.row(vec![clean(&c.name), result, format!("{} ms", c.latency_ms), or_dash(c.error.as_deref())]);
    }
    table.render()
}

/// The answer of check-status.
pub(crate) fn check_status(out: Out, status: &CheckStatus) -> String {
    checks(out, &status.checks)
}

/// What a service uses; why a figure is missing stands in its place.
pub(crate) fn metrics(m: &Metrics) -> String {
    let mut table = Table::new(&["figure", "value"]);
    let mut row = |figure: &str, value: Option<String>| {
        let missing = || m.unavailable.get(figure).map_or("–".to_owned(), |why| format!("– ({why})"));
        table.row(vec![figure.to_owned(), clean(&value.unwrap_or_else(missing))]);
    };
    row("cpu_percent", m.cpu_percent.map(|n| format!("{n:.1}")));
    row("memory_used_gb", m.memory_used_gb.map(|n| format!("{n:.2}")));
    row("disk_used_gb", m.disk_used_gb.map(|n| format!("{n:.2}")));
    row("network_rx_bytes", m.network_rx_bytes.map(|n| n.to_string()));
    row("network_tx_bytes", m.network_tx_bytes.map(|n| n.to_string()));
    table.render()
}

/// The answer of a cluster's test.
pub(crate) fn test_report(out: Out, report: &TestReport) -> String {
    let verdict = if report.ok { out.state("ok") } else { out.paint(Colour::Red, "failed") };
    format!("{}\n{verdict} after {} ms\n", checks(out, &report.checks), report.latency_ms)
}

/// A list of clusters.
pub(crate) fn clusters(out: Out, items: &[Cluster]) -> String {
    let mut table = Table::new(&["name", "id", "provider", "region", "health", "enabled", "cpu", "memory", "storage", "slots"]);
    for c in items {
        let provider =
            if c.simulates.is_null() { c.provider.clone() } else { format!("{} of {}", c.provider, inline(&c.simulates)) };
        let name = if c.default { format!("{} (default)", c.name) } else { c.name.clone() };
        let enabled = if c.provisioning_enabled { "yes" } else { "no" };
        table.row(vec![
            name,
            c.id.clone(),
            provider,
            c.region.clone(),
            out.state(&c.health.state),
            enabled.to_owned(),
            room(c.capacity.cpu),
            room(c.capacity.memory_gb),
            room(c.capacity.storage_gb),
            room(c.capacity.slots),
        ]);
    }
    table.render()
}

/// What is held of a limit: `4+2/64` is used, reserved and limit.
fn room(room: Room) -> String {
    let limit = room.limit.map_or("–".to_owned(), |l| l.to_string());
    let reserved = if room.reserved > 0 { format!("+{}", room.reserved) } else { String::new() };
    format!("{}{reserved}/{limit}", room.used)
}

/// One cluster.
pub(crate) fn cluster(out: Out, c: &Cluster) -> String {
    let mut text = clusters(out, std::slice::from_ref(c));
    let mut t = Table::bare();
    let mut field = |name: &str, value: String| {
        if !value.is_empty() {
            t.row(vec![out.paint(Colour::Bold, name), value]);
        }
    };
    field(
        "checked",
        format!(
            "{}{}",
            or_dash(c.health.checked_at.as_deref()),
            c.health.latency_ms.map_or(String::new(), |n| format!(" in {n} ms"))
        ),
    );
    field("error", c.health.error.as_deref().map(clean).unwrap_or_default());
    let until = c.breaker.until.as_deref().map(|at| format!(" until {at}")).unwrap_or_default();
    field("breaker", clean(&format!("{}{until}", c.breaker.state)));
    if let Some(paused) = &c.paused {
        field("paused", clean(&format!("since {}: {}", paused.since, paused.error)));
    }
    for (key, value) in &c.endpoint {
        field("endpoint", clean(&format!("{key} = {value}")));
    }
    for (key, value) in &c.settings {
        field("setting", clean(&format!("{key} = {value}")));
    }
    put(&mut text, format_args!("\n{}", t.render()));
    text
}

/// An inventory or the answer of a sweep.
pub(crate) fn inventory(out: Out, inventory: &Inventory) -> String {
    let mut table = Table::new(&["what", "kind", "provider id", "resource or tag"]);
    for o in &inventory.owned {
        table.row(vec![out.state("owned"), o.kind.clone(), or_dash(o.provider_id.as_deref()), o.resource.clone()]);
    }
    for o in &inventory.missing {
        table.row(vec![out.state("missing"), o.kind.clone(), or_dash(o.provider_id.as_deref()), o.resource.clone()]);
    }
    for o in &inventory.orphaned {
        let age = o.age_seconds.map_or(String::new(), |a| format!(" ({} old)", seconds(a)));
        table.row(vec![
            out.paint(Colour::Red, "orphaned"),
            o.kind.clone(),
            clean(&o.provider_id),
            clean(&format!("{}{age}", o.tag)),
        ]);
    }
    for id in &inventory.released {
        table.row(vec![out.state("released"), String::new(), clean(id), String::new()]);
    }
    let counts = [inventory.owned.len(), inventory.missing.len(), inventory.orphaned.len(), inventory.released.len()];
    let [owned, missing, orphaned, released] = counts;
    let mut text = format!(
        "{}\n{}: {owned} owned, {missing} missing, {orphaned} orphaned, {released} released\n",
        table.render(),
        inventory.cluster
    );
    if let Some(alarm) = &inventory.alarm {
        put(&mut text, format_args!("{} {}\n", out.paint(Colour::Red, "alarm:"), clean(alarm)));
    }
    for uneven in &inventory.balance.capacity {
        let counts = format!("{} is counted as {}, attempts hold {}", uneven.dimension, uneven.counted, uneven.held);
        put(&mut text, format_args!("{} {counts}\n", out.paint(Colour::Red, "capacity:")));
    }
    let even = if inventory.balance.even { "ledger, inventory and capacity agree" } else { "not in balance" };
    put(&mut text, format_args!("{even}; {} unexplained\n", inventory.balance.unexplained));
    text
}

/// A list of tenants.
pub(crate) fn tenants(items: &[Tenant]) -> String {
    let mut table = Table::new(&["name", "id", "at once", "cpu", "memory", "storage", "requests"]);
    for t in items {
        let limit = |n: Option<i64>| n.map_or("–".to_owned(), |n| n.to_string());
        let requests: Vec<String> = t.quota.requests.iter().filter_map(|(k, n)| Some(format!("{k}={}", (*n)?))).collect();
        let (cpu, memory, storage) = (limit(t.quota.cpu), limit(t.quota.memory_gb), limit(t.quota.storage_gb));
        table.row(vec![t.name.clone(), t.id.clone(), t.max_concurrent.to_string(), cpu, memory, storage, requests.join(" ")]);
    }
    table.render()
}

/// A tenant's quota.
pub(crate) fn quota(quota: &Quota) -> String {
    let mut table = Table::new(&["dimension", "used", "limit"]);
    for d in &quota.dimensions {
        table.row(vec![d.name.clone(), d.used.to_string(), d.limit.map_or("–".to_owned(), |n| n.to_string())]);
    }
    table.render()
}

/// What would become of a request.
pub(crate) fn plan(out: Out, name: &str, plan: &Plan) -> String {
    let mut text = format!("{name}: {}\n", if plan.valid { out.state("ok") } else { out.paint(Colour::Red, "would be refused") });
    let mut line = |line: String| put(&mut text, format_args!("  {}\n", clean(&line)));
    for e in &plan.errors {
        line(format!("{}: {} (rule: {})", e.pointer, e.message, e.rule));
    }
    for q in plan.quota.iter().filter(|q| !q.ok) {
        line(format!("quota {}: limit {}, used {}, requested {}", q.name, q.limit.unwrap_or(0), q.used, q.requested));
    }
    if let Some(cluster) = &plan.cluster {
        line(format!("cluster: {cluster}"));
    }
    for r in &plan.rejected {
        line(format!("not {}: {}", r.cluster, r.reason));
    }
    for s in &plan.steps {
        line(format!("{}: {}", s.name, s.operations.join(", ")));
    }
    text
}
