//! Kind vps on OpenStack: a thin adapter over Nova, Neutron, Cinder, Glance and Keystone.
//!
//! A vps is six kinds of object ([`objects`]), made in four [`step`]s by a [`plan`], each carrying its ledger row's tag
//! from the call that creates it. [`client`] speaks HTTP and knows what may have been done when an answer is missing;
//! [`classify`] turns that into classes; [`undo`] releases; [`inventory`] finds again. Nothing here sleeps or retries.

mod catalog;
mod classify;
mod client;
mod cluster;
mod config;
mod diagnose;
mod flight;
mod inventory;
mod objects;
mod plan;
mod ports;
mod resolve;
mod step;
mod undo;
mod user_data;
mod versions;

use std::sync::Arc;

use async_trait::async_trait;
use provisor_core::check::Flaw;
use provisor_core::cluster::{Capacity, ClusterSpec};
use provisor_core::workflow::call::{Held, Work};
use provisor_core::workflow::{Found, Plan};
use provisor_core::{Class, Failure, Span, Spec};
use provisor_provider::probe::Guard;
use provisor_provider::{Action, Binding, Check, Connector, Metrics, Open, Page, Progress, Provider, Released};
use serde_json::Value;

use crate::client::Client;
use crate::config::{Credentials, Settings};
use crate::ports::Way;

/// One OpenStack project as a backend.
pub(crate) struct Openstack {
    client: Client,
    settings: Settings,
    open: Arc<dyn Open>,
    guard: Guard,
    asked: step::activate::Asked,
    samples: cluster::Samples,
    /// Pause between two probes.
    probe_every: Span,
}

/// Makes OpenStack providers.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenstackConnector;

impl Connector for OpenstackConnector {
    fn check(&self, pointer: &str, spec: &ClusterSpec, credentials: Option<&Value>) -> Vec<Flaw> {
        config::check(pointer, spec, credentials)
    }

    fn connect(&self, binding: Binding) -> Result<Arc<dyn Provider>, Failure> {
        let wrong = |message: String| Failure::new(Class::Permanent, "bad_configuration", message);
        let endpoint = config::endpoint(&binding.spec).map_err(wrong)?;
        let settings = config::settings(&binding.spec).map_err(wrong)?;
        let credentials = Credentials::parse(binding.credentials.value()).map_err(wrong)?;
        Ok(Arc::new(Openstack {
            client: Client::new(&endpoint, credentials).map_err(wrong)?,
            settings,
            open: binding.open,
            guard: Guard { allow: binding.probe_allow, open: false },
            asked: step::activate::Asked::default(),
            samples: cluster::Samples::default(),
            probe_every: binding.spec.common().probe_every,
        }))
    }
}

#[async_trait]
impl Provider for Openstack {
    fn plan(&self, spec: &Spec) -> Result<Plan, Failure> {
        step::allocate::check(spec)?;
        Ok(plan::attempt(spec))
    }

    fn plan_action(&self, action: Action, spec: &Spec) -> Result<Plan, Failure> {
        Ok(plan::action(action, spec))
    }

    async fn identity(&self) -> Result<String, Failure> {
        let session = self.client.session(None).await.map_err(|e| classify::failure(&e))?;
        Ok(session.project_id.clone())
    }

    async fn perform(&self, work: &Work) -> Result<Progress, Failure> {
        match work.operation.as_str() {
            "create_security_group" => step::allocate::create_security_group(self, work).await,
            "create_port" => step::allocate::create_port(self, work).await,
            "create_volume" => step::allocate::create_volume(self, work).await,
            "create_server" => step::allocate::create_server(self, work).await,
            "create_rule" => step::configure::create_rule(self, work).await,
            "create_floating_ip" => step::configure::create_floating_ip(self, work).await,
            "wait_server" => step::activate::wait_server(self, work).await,
            "stop_server" => step::activate::stop_server(self, work).await,
            "start_server" => step::activate::start_server(self, work).await,
            "probe_ssh" => step::verify::probe(self, work, Way::Ssh).await,
            "probe_http" => step::verify::probe(self, work, Way::Http).await,
            "probe_https" => step::verify::probe(self, work, Way::Https).await,
            "probe_tcp" => step::verify::probe(self, work, Way::Tcp).await,
            other => Err(Failure::new(Class::Permanent, "unknown_operation", format!("OpenStack knows no operation {other:?}"))),
        }
    }

    async fn diagnose(&self, work: &Work) -> Vec<String> {
        diagnose::tell(self, work).await
    }

    async fn find(&self, kind: &str, tag: &str, _name: &str) -> Result<Vec<Found>, Failure> {
        inventory::find(&self.client, kind, tag).await
    }

    async fn release(&self, held: &Held) -> Result<Released, Failure> {
        undo::release(self, held).await
    }

    async fn list_owned(&self, prefix: &str, from: Option<String>) -> Result<Page, Failure> {
        inventory::page(&self.client, prefix, from.as_deref()).await
    }

    async fn test(&self) -> Vec<Check> {
        cluster::test(self).await
    }

    async fn capacity(&self) -> Result<Option<Capacity>, Failure> {
        cluster::capacity(self).await.map(Some)
    }

    async fn metrics(&self, work: &Work) -> Result<Metrics, Failure> {
        cluster::metrics(self, work).await
    }
}
