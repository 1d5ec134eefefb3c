//! Events as CloudEvents 1.0.

use provisor_core::{Kind, State};
use provisor_store::ops::log::Entry;
use provisor_wire::event::{CloudEvent, Data, RequestRef, ResourceRef};
use provisor_wire::parts::Actor;

use super::{endpoints, failure_of, time, word};

/// The JSON form of a published event.
pub fn event(entry: &Entry, installation: &str) -> CloudEvent {
    let body = &entry.body;
    CloudEvent {
        specversion: "1.0".to_owned(),
        id: entry.id.to_string(),
        source: "/provisor".to_owned(),
        kind: entry.kind.name().to_owned(),
        subject: entry.subject.to_string(),
        time: time(entry.at),
        datacontenttype: "application/json".to_owned(),
        tenant: entry.tenant_name.clone().unwrap_or_else(|| entry.tenant.to_string()),
        sequence: format!("{:06}", entry.sequence.unwrap_or(0)),
        installation: installation.to_owned(),
        data: Data {
            request: RequestRef {
                id: entry.subject.to_string(),
                name: entry.request_name.clone().unwrap_or_default(),
                kind: entry.request_kind.map_or("", Kind::name).to_owned(),
                state: entry.state.map_or("", State::name).to_owned(),
                order_id: entry.order_id.clone(),
            },
            from_state: body.from_state.map(|s| s.name().to_owned()),
            to_state: body.to_state.map(|s| s.name().to_owned()),
            outcome: body.outcome.as_ref().map(word),
            actor: body.actor.as_ref().map(|a| Actor { kind: a.kind.clone(), id: a.id.clone() }),
            step: body.step.clone(),
            attempt: body.attempt.map(|a| a.to_string()),
            resource: body.resource.as_ref().map(|r| ResourceRef {
                kind: r.kind.clone(),
                id: r.id.to_string(),
                provider_id: r.provider_id.clone(),
            }),
            error: failure_of(body.error.as_ref()),
            refund: body.refund,
            endpoints: endpoints(&body.endpoints),
        },
    }
}
