//! What the project holds of ours: by one tag, or page by page.

use provisor_core::workflow::Found;
use provisor_core::{Class, Failure};
use provisor_provider::Page;
use serde_json::Value;

use crate::classify;
use crate::client::Client;
use crate::objects::{Object, Seen, text};

/// Where an inventory begins; it goes on in the order of `Object::ALL`.
const FIRST: Object = Object::SecurityGroup;

/// Everything of a kind that carries a tag.
pub(crate) async fn find(client: &Client, kind: &str, tag: &str) -> Result<Vec<Found>, Failure> {
    let object = Object::of(kind)
        .ok_or_else(|| Failure::new(Class::Permanent, "unknown_kind", format!("OpenStack has no kind {kind:?}")))?;
    let seen = object.find(client, tag).await.map_err(|e| classify::failure(&e))?;
    Ok(seen.iter().filter_map(|seen| found(object, seen)).collect())
}

/// One page of everything whose tag begins with `prefix`. A page is a page of one kind: `KIND` or `KIND/MARKER`.
pub(crate) async fn page(client: &Client, prefix: &str, from: Option<&str>) -> Result<Page, Failure> {
    let (kind, marker) = match from.and_then(|from| from.split_once('/')) {
        Some((kind, marker)) => (kind, Some(marker)),
        None => (from.unwrap_or(FIRST.kind()), None),
    };
    let place = Object::ALL.iter().position(|object| object.kind() == kind);
    let Some((place, object)) = place.and_then(|place| Some((place, *Object::ALL.get(place)?))) else {
        return Err(Failure::new(Class::Permanent, "bad_cursor", format!("{kind:?} is no page of an inventory")));
    };
    let (seen, next) = object.page(client, &[], marker).await.map_err(|e| classify::failure(&e))?;
    let ours = |seen: &&Seen| object.tag(&seen.object).is_some_and(|tag| tag.starts_with(prefix));
    let items = seen.iter().filter(ours).filter_map(|seen| found(object, seen)).collect();
    let next = match next {
        Some(marker) => Some(format!("{kind}/{marker}")),
        None => Object::ALL.get(place + 1).map(|object| object.kind().to_owned()),
    };
    Ok(Page { items, next })
}

fn found(object: Object, seen: &Seen) -> Option<Found> {
    Some(Found {
        kind: object.kind().to_owned(),
        provider_id: text(&seen.object, "id")?.to_owned(),
        uid: None,
        tag: object.tag(&seen.object)?.to_owned(),
        age_seconds: seen.age_seconds,
        spoiled: is_spoiled(object, &seen.object),
    })
}

/// Failed or on its way out: to be released, never adopted (H10).
fn is_spoiled(object: Object, found: &Value) -> bool {
    let status = text(found, "status").unwrap_or_default();
    match object {
        Object::Server => {
            let deleting = text(found, "OS-EXT-STS:task_state").is_some_and(|task| task.contains("deleting"));
            deleting || matches!(status, "ERROR" | "DELETED" | "SOFT_DELETED")
        }
        Object::Volume => status.starts_with("error") || status == "deleting",
        Object::SecurityGroup | Object::Port | Object::Rule | Object::FloatingIp => false,
    }
}
