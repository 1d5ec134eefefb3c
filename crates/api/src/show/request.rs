//! Requests, attempts, steps, the ledger.

use provisor_core::lifecycle::Step;
use provisor_core::run::{self, ActionRun, Row, Run, StepStatus};
use provisor_core::{Spec, Timestamp};
use provisor_store::ops::requests::RequestView;
use provisor_wire::request::{
    Action, Attempt, CleanupOwed, HealthDetail, Metrics, Request, Resource, Step as ShownStep, WaitingFor,
};
use serde_json::{Value, json};

use super::{endpoints, failure_of, time, time_of, word};

/// The request object.
pub fn request(view: &RequestView, now: Timestamp) -> Request {
    let run = &view.run;
    Request {
        id: run.id.to_string(),
        name: run.spec.name.clone(),
        tenant: view.tenant_name.clone(),
        kind: run.spec.kind.name().to_owned(),
        state: run.state.name().to_owned(),
        outcome: run.outcome.as_ref().map(word),
        waiting_for: run.waits_for().as_ref().map(|w| waiting(w, view.tenant_is_full)),
        spec: spec(&run.spec),
        region: run.spec.region.clone(),
        order_id: run.spec.order_id.clone(),
        depends_on: run.depends_on.iter().map(ToString::to_string).collect(),
        strategy: run.spec.strategy.kind.name().to_owned(),
        steps: run.shown().map_or_else(pending_steps, steps),
        attempts: run.attempts.iter().map(attempt).collect(),
        winner: run.winner.map(|w| w.to_string()),
        endpoints: endpoints(&run.endpoints()),
        wanted: word(&run.wanted),
        action: run.action.as_ref().map(action),
        health: run.health.as_ref().map(|h| h.state.clone()),
        health_detail: run.health.as_ref().map(|h| HealthDetail { detail: h.detail.clone(), at: time(h.at) }),
        created_at: time(run.created_at),
        provisioning_started_at: time_of(run.provisioning_started_at),
        ready_at: time_of(run.ready_at),
        termination_started_at: time_of(run.termination_started_at),
        terminated_at: time_of(run.terminated_at),
        cleanup_owed: run.owed().map(|row| owed(run, row, now)).collect(),
        retry_of: run.retry_of.map(|r| r.to_string()),
        retried_as: run.retried_as.map(|r| r.to_string()),
        error: failure_of(run.error.as_ref()),
        etag: view.version.to_string(),
    }
}

/// A specification in the manifest's form, so that it can be sent again as it is shown. Of a secret only
/// its fingerprint is shown, by which two can be compared.
pub fn spec(spec: &Spec) -> Value {
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    let Some(map) = value.as_object_mut() else { return value };
    for key in Spec::OPTIONAL {
        map.entry(key).or_insert(Value::Null);
    }
    if let Some(sealed) = &spec.user_data {
        map.insert("user_data".to_owned(), json!({"fingerprint": sealed.fingerprint}));
    }
    if let Some(http) = spec.probes.as_ref().and_then(|p| p.http.as_ref()) {
        let expect = format!("{}-{}", http.expect_from, http.expect_to);
        map.insert("probes".to_owned(), json!({"http": {"port": http.port, "path": http.path, "expect": expect}}));
    }
    value
}

/// What is next in the queue of a tenant that has as many in work as it may waits for that, not for a worker.
fn waiting(waiting: &run::Waiting, tenant_is_full: bool) -> WaitingFor {
    let limited = waiting.reason == "queue" && tenant_is_full;
    let told = "its tenant has as many requests in work as its max_concurrent";
    WaitingFor {
        reason: if limited { "tenant_limit".to_owned() } else { waiting.reason.clone() },
        since: time(waiting.since),
        detail: if limited { Some(told.to_owned()) } else { waiting.detail.clone() },
    }
}

/// Before the first attempt all steps are to come.
fn pending_steps() -> Vec<ShownStep> {
    let pending = |step: Step| ShownStep {
        name: step.name().to_owned(),
        status: word(&StepStatus::Pending),
        started_at: None,
        finished_at: None,
        duration_seconds: None,
        retries: 0,
    };
    Step::ALL.into_iter().map(pending).collect()
}

fn steps(attempt: &run::Attempt) -> Vec<ShownStep> {
    let shown = |step: &run::StepRun| ShownStep {
        name: step.step.name().to_owned(),
        status: word(&attempt.status_of(step)),
        started_at: time_of(step.started_at),
        finished_at: time_of(step.finished_at),
        duration_seconds: step.started_at.zip(step.finished_at).map(|(from, to)| to.since(from).as_seconds_f64()),
        retries: attempt.retries_of(step.step),
    };
    attempt.steps.iter().map(shown).collect()
}

/// One attempt.
pub fn attempt(attempt: &run::Attempt) -> Attempt {
    Attempt {
        id: attempt.id.to_string(),
        number: attempt.number,
        cluster: attempt.cluster_name.clone(),
        role: word(&attempt.role),
        state: word(&attempt.state),
        steps: steps(attempt),
        error: failure_of(attempt.error.as_ref()),
        replaced_by: attempt.replaced_by.map(|a| a.to_string()),
        started_at: time(attempt.started_at),
        finished_at: time_of(attempt.finished_at),
        released_at: time_of(attempt.released_at),
    }
}

fn action(action: &ActionRun) -> Action {
    Action {
        name: action.name.clone(),
        status: action.status.clone(),
        reason: action.reason.clone(),
        started_at: time(action.started_at),
        finished_at: time_of(action.finished_at),
        error: failure_of(action.error.as_ref()),
    }
}

fn cluster_of(run: &Run, row: &Row) -> String {
    let attempt = run.attempts.iter().find(|a| a.id == row.attempt);
    attempt.map_or_else(|| row.cluster.to_string(), |a| a.cluster_name.clone())
}

fn owed(run: &Run, row: &Row, now: Timestamp) -> CleanupOwed {
    let since = row.owed_since.unwrap_or(row.created_at);
    CleanupOwed {
        resource: row.id.to_string(),
        kind: row.kind.clone(),
        provider_id: row.provider_id.clone(),
        cluster: cluster_of(run, row),
        since: time(since),
        age_seconds: now.since(since).as_seconds_f64(),
        last_error: failure_of(row.last_error.as_ref()),
    }
}

/// The ledger of a request.
pub fn resources(run: &Run) -> Vec<Resource> {
    let shown = |row: &Row| Resource {
        id: row.id.to_string(),
        attempt: row.attempt.to_string(),
        cluster: cluster_of(run, row),
        kind: row.kind.clone(),
        name: row.name.clone(),
        tag: row.tag.to_string(),
        provider_id: row.provider_id.clone(),
        state: row.state.name().to_owned(),
        written_off: row.written_off,
        created_at: time(row.created_at),
        released_at: time_of(row.released_at),
    };
    run.ledger.iter().map(shown).collect()
}

/// What a service uses.
pub(crate) fn metrics(metrics: provisor_provider::Metrics, at: Timestamp) -> Metrics {
    Metrics {
        at: time(at),
        cpu_percent: metrics.cpu_percent,
        memory_used_gb: metrics.memory_used_gb,
        disk_used_gb: metrics.disk_used_gb,
        network_rx_bytes: metrics.network_rx_bytes,
        network_tx_bytes: metrics.network_tx_bytes,
        unavailable: metrics.unavailable,
    }
}
