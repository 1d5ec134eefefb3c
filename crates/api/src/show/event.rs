//! Events as CloudEvents 1.0.

use provisor_store::ops::log::{Entry, epoch_of};
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
        tenant: entry.tenant.clone(),
        sequence: format!("{:06}", entry.sequence.unwrap_or(0)),
        installation: installation.to_owned(),
        epoch: epoch_of(entry.position),
        data: Data {
            request: request(entry),
            from_state: body.from_state.map(|s| s.name().to_owned()),
            to_state: body.to_state.map(|s| s.name().to_owned()),
            outcome: body.outcome.as_ref().map(word),
            actor: body.actor.as_ref().map(|a| Actor { kind: a.kind.clone(), id: a.id.clone() }),
            step: body.step.clone(),
            attempt: body.attempt.map(|a| a.to_string()),
            replaced_by: body.detail.get("replaced_by").and_then(|id| id.as_str()).map(str::to_owned),
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

/// The same as text.
pub(crate) fn text(entry: &Entry, installation: &str) -> String {
    serde_json::to_string(&event(entry, installation)).unwrap_or_default()
}

fn request(entry: &Entry) -> RequestRef {
    let id = entry.subject.to_string();
    match &entry.request {
        Some(r) => RequestRef {
            id,
            name: r.name.clone(),
            kind: r.kind.name().to_owned(),
            state: r.state.name().to_owned(),
            order_id: r.order_id.clone(),
        },
        // Only of what is not published, which is not shown.
        None => RequestRef { id, name: String::new(), kind: String::new(), state: String::new(), order_id: None },
    }
}
