//! One method for each route.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Call, Client, ClientError, EventFilter, EventStream, RequestFilter};
use crate::cluster::{Cluster, Inventory, TestReport};
use crate::event::CloudEvent;
use crate::parts::{Items, Page};
use crate::plan::Plan;
use crate::request::{Attempt, CheckStatus, ManualInput, Metrics, Reason, Request, Resource, RetryOrder, WriteOff};
use crate::tenant::{Quota, Tenant};
use crate::timeline::Timeline;

/// A path segment, with what must not stand in one escaped.
fn segment(text: &str) -> String {
    let keep = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if keep(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn request_path(id: &str, rest: &str) -> String {
    format!("/api/requests/{}{rest}", segment(id))
}

fn body_of<T: serde::Serialize>(value: &T) -> Result<Value, ClientError> {
    serde_json::to_value(value).map_err(|e| ClientError::Other(e.to_string()))
}

/// Requests.
impl Client {
    /// Asks for one thing. With a key it is tried again after a broken connection.
    pub async fn create(&self, spec: &Value, key: Option<&str>) -> Result<Request, ClientError> {
        self.json(Call::post("/api/requests").body(spec).key(key)).await
    }

    /// What would become of it.
    pub async fn dry_run(&self, spec: &Value) -> Result<Plan, ClientError> {
        self.json(Call::post("/api/requests").query("dry_run", Some("true".to_owned())).body(spec)).await
    }

    /// Asks for several things, all or none.
    pub async fn create_batch(&self, specs: &[Value], key: Option<&str>) -> Result<Vec<Request>, ClientError> {
        let body = json!({ "requests": specs });
        let list: Items<Request> = self.json(Call::post("/api/requests/batch").body(&body).key(key)).await?;
        Ok(list.items)
    }

    /// What would become of each.
    pub async fn dry_run_batch(&self, specs: &[Value]) -> Result<Vec<Plan>, ClientError> {
        let body = json!({ "requests": specs });
        let call = Call::post("/api/requests/batch").query("dry_run", Some("true".to_owned())).body(&body);
        Ok(self.json::<Items<Plan>>(call).await?.items)
    }

    /// A page of requests.
    pub async fn requests(&self, filter: &RequestFilter) -> Result<Page<Request>, ClientError> {
        let f = filter.clone();
        let call = Call::get("/api/requests").query("state", f.state).query("kind", f.kind).query("tenant", f.tenant);
        let call = call.query("label", f.label).query("name", f.name).query("cursor", f.cursor);
        self.json(call.query("limit", f.limit.map(|n| n.to_string()))).await
    }

    /// One request.
    pub async fn request(&self, id: &str) -> Result<Request, ClientError> {
        self.json(Call::get(request_path(id, ""))).await
    }

    /// What happened to it.
    pub async fn timeline(&self, id: &str, operations: bool) -> Result<Timeline, ClientError> {
        let detail = operations.then(|| "operations".to_owned());
        self.json(Call::get(request_path(id, "/timeline")).query("detail", detail)).await
    }

    /// Its attempts.
    pub async fn attempts(&self, id: &str) -> Result<Vec<Attempt>, ClientError> {
        Ok(self.json::<Items<Attempt>>(Call::get(request_path(id, "/attempts"))).await?.items)
    }

    /// Its rows of the ledger.
    pub async fn resources(&self, id: &str) -> Result<Vec<Resource>, ClientError> {
        Ok(self.json::<Items<Resource>>(Call::get(request_path(id, "/resources"))).await?.items)
    }

    /// `cancel`, `suspend`, `reactivate` or `deprovision`.
    pub async fn command(&self, id: &str, name: &str, reason: &Reason) -> Result<Request, ClientError> {
        let body = body_of(reason)?;
        self.json(Call::post(request_path(id, &format!("/{}", segment(name)))).body(&body)).await
    }

    /// Asks for the same again, after it was rolled back.
    pub async fn retry(&self, id: &str, order: &RetryOrder) -> Result<Request, ClientError> {
        let body = body_of(order)?;
        self.json(Call::post(request_path(id, "/retry")).body(&body)).await
    }

    /// Probes it now.
    pub async fn check_status(&self, id: &str) -> Result<CheckStatus, ClientError> {
        self.json(Call::post(request_path(id, "/check-status"))).await
    }

    /// What it uses now.
    pub async fn metrics_of(&self, id: &str) -> Result<Metrics, ClientError> {
        self.json(Call::get(request_path(id, "/metrics"))).await
    }

    /// Gives the access details of a managed service.
    pub async fn manual_input(&self, id: &str, input: &ManualInput) -> Result<Request, ClientError> {
        let body = body_of(input)?;
        self.json(Call::post(request_path(id, "/manual-input")).body(&body)).await
    }

    /// Closes clean-up that is owed without proof.
    pub async fn write_off(&self, id: &str, order: &WriteOff) -> Result<Request, ClientError> {
        let body = body_of(order)?;
        self.json(Call::post(request_path(id, "/write-off")).body(&body)).await
    }

    /// Its events from the first on, live.
    pub fn request_events(&self, id: &str, after: Option<&str>) -> EventStream {
        EventStream::new(self.clone(), request_path(id, "/events"), Vec::new(), after)
    }
}

/// Tenants and clusters.
impl Client {
    async fn delete(&self, path: String, if_match: Option<&str>) -> Result<(), ClientError> {
        let mut call = Call::new(Method::DELETE, path);
        call.if_match = if_match;
        self.text(call).await.map(|_| ())
    }

    /// A page of tenants.
    pub async fn tenants(&self, cursor: Option<&str>) -> Result<Page<Tenant>, ClientError> {
        let call = Call::get("/api/tenants").query("limit", Some("500".to_owned()));
        self.json(call.query("cursor", cursor.map(str::to_owned))).await
    }

    /// Makes a tenant of a manifest's entry.
    pub async fn create_tenant(&self, entry: &Value) -> Result<Tenant, ClientError> {
        self.json(Call::post("/api/tenants").body(entry)).await
    }

    /// One tenant by id or name.
    pub async fn tenant(&self, id: &str) -> Result<Tenant, ClientError> {
        self.json(Call::get(format!("/api/tenants/{}", segment(id)))).await
    }

    /// Changes a tenant by a merge patch.
    pub async fn patch_tenant(&self, id: &str, patch: &Value, etag: Option<&str>) -> Result<Tenant, ClientError> {
        self.json(Call::new(Method::PATCH, format!("/api/tenants/{}", segment(id))).patch(patch, etag)).await
    }

    /// Removes a tenant that nothing uses.
    pub async fn delete_tenant(&self, id: &str, etag: Option<&str>) -> Result<(), ClientError> {
        self.delete(format!("/api/tenants/{}", segment(id)), etag).await
    }

    /// A tenant's limits and what is in use.
    pub async fn quota(&self, tenant: &str) -> Result<Quota, ClientError> {
        self.json(Call::get(format!("/api/tenants/{}/quota", segment(tenant)))).await
    }

    /// A page of clusters.
    pub async fn clusters(&self, cursor: Option<&str>) -> Result<Page<Cluster>, ClientError> {
        let call = Call::get("/api/clusters").query("limit", Some("500".to_owned()));
        self.json(call.query("cursor", cursor.map(str::to_owned))).await
    }

    /// Registers a cluster of a manifest's entry.
    pub async fn create_cluster(&self, entry: &Value) -> Result<Cluster, ClientError> {
        self.json(Call::post("/api/clusters").body(entry)).await
    }

    /// One cluster by id or name.
    pub async fn cluster(&self, id: &str) -> Result<Cluster, ClientError> {
        self.json(Call::get(format!("/api/clusters/{}", segment(id)))).await
    }

    /// Changes a cluster by a merge patch.
    pub async fn patch_cluster(&self, id: &str, patch: &Value, etag: Option<&str>) -> Result<Cluster, ClientError> {
        self.json(Call::new(Method::PATCH, format!("/api/clusters/{}", segment(id))).patch(patch, etag)).await
    }

    /// Removes a cluster that nothing uses.
    pub async fn delete_cluster(&self, id: &str, etag: Option<&str>) -> Result<(), ClientError> {
        self.delete(format!("/api/clusters/{}", segment(id)), etag).await
    }

    /// Tests a cluster's connectivity now.
    pub async fn test_cluster(&self, id: &str) -> Result<TestReport, ClientError> {
        self.json(Call::post(format!("/api/clusters/{}/test", segment(id)))).await
    }

    /// Compares a cluster's inventory with the ledger.
    pub async fn inventory(&self, id: &str) -> Result<Inventory, ClientError> {
        self.json(Call::get(format!("/api/clusters/{}/inventory", segment(id)))).await
    }

    /// The same, and releases what nobody owns, within the rules.
    pub async fn sweep(&self, id: &str, dry_run: bool) -> Result<Inventory, ClientError> {
        let call = Call::post(format!("/api/clusters/{}/sweep", segment(id)));
        self.json(call.query("dry_run", Some(dry_run.to_string()))).await
    }

    /// Releases one object that is listed as orphaned, by the backend's id.
    pub async fn release_orphan(&self, id: &str, provider_id: &str) -> Result<Inventory, ClientError> {
        let call = Call::post(format!("/api/clusters/{}/sweep", segment(id)));
        self.json(call.query("release", Some(provider_id.to_owned()))).await
    }
}

/// Events, documents and the simulated cloud.
impl Client {
    /// A page of the feed of events.
    pub async fn events(&self, filter: &EventFilter) -> Result<Page<CloudEvent>, ClientError> {
        let f = filter.clone();
        let call = Call::get("/api/events").query("after", f.after).query("type", f.kind).query("tenant", f.tenant);
        self.json(call.query("limit", f.limit.map(|n| n.to_string()))).await
    }

    /// The feed of events, live; without `after` from now on.
    pub fn event_stream(&self, filter: &EventFilter) -> EventStream {
        let mut query = Vec::new();
        query.extend(filter.kind.clone().map(|v| ("type", v)));
        query.extend(filter.tenant.clone().map(|v| ("tenant", v)));
        EventStream::new(self.clone(), "/api/events/stream".to_owned(), query, filter.after.as_deref())
    }

    /// The OpenAPI document.
    pub async fn openapi(&self) -> Result<Value, ClientError> {
        self.json(Call::get("/api/openapi.json")).await
    }

    /// The figures for Prometheus.
    pub async fn metrics(&self) -> Result<String, ClientError> {
        self.text(Call::get("/metrics")).await
    }

    /// What a simulated cluster really holds.
    pub async fn sim_inventory(&self, cluster: &str, live: bool) -> Result<Value, ClientError> {
        let call = Call::get(format!("/sim/{}/inventory", segment(cluster)));
        self.json(call.query("live", live.then(|| "true".to_owned()))).await
    }

    /// Any GET of a path of the API, as it comes.
    pub async fn get_value(&self, path: &str) -> Result<Value, ClientError> {
        self.json(Call::get(path)).await
    }
}
