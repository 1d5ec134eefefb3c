//! The six kinds of object that a vps is made of here, as a table: where each lives in the APIs and where it carries
//! its ownership tag.
//!
//! Only what the creating call itself can carry counts as a mark, since a crash may follow it at once: Nova takes
//! tags and metadata, Cinder metadata, Neutron only a description on all its objects (its tags need a second call on
//! most). Each of these can also be asked for by exact value.

use std::time::Duration;

use provisor_core::Timestamp;
use serde_json::Value;

use crate::catalog::Service;
use crate::client::{Call, CallError, Client};

/// The metadata key of the ownership tag on servers and volumes.
pub(crate) const TAG_KEY: &str = "provisor_tag";
const PAGE: &str = "500";
/// Of a create; longer than of a read, since giving up on one costs a search for what it made.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
/// A project with more pages than this is not ours to read to the end in one call.
const MAX_PAGES: usize = 200;

/// A kind of object, in the order in which a request makes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Object {
    SecurityGroup,
    Port,
    Volume,
    Server,
    Rule,
    FloatingIp,
}

/// Where objects of a kind live.
struct Place {
    kind: &'static str,
    service: Service,
    path: &'static str,
    /// Where a list with all fields comes from.
    list: &'static str,
    /// The key around one object; the list's key is this and an s.
    item: &'static str,
}

impl Object {
    /// All kinds.
    pub(crate) const ALL: [Self; 6] = [Self::SecurityGroup, Self::Port, Self::Volume, Self::Server, Self::Rule, Self::FloatingIp];

    fn place(self) -> Place {
        let network = |kind, path, item| Place { kind, service: Service::Network, path, list: path, item };
        match self {
            Self::SecurityGroup => network("security_group", "/security-groups", "security_group"),
            Self::Port => network("port", "/ports", "port"),
            Self::Rule => network("rule", "/security-group-rules", "security_group_rule"),
            Self::FloatingIp => network("floating_ip", "/floatingips", "floatingip"),
            Self::Volume => {
                Place { kind: "volume", service: Service::Volume, path: "/volumes", list: "/volumes/detail", item: "volume" }
            }
            Self::Server => {
                Place { kind: "server", service: Service::Compute, path: "/servers", list: "/servers/detail", item: "server" }
            }
        }
    }

    /// The kind's name in the ledger.
    pub(crate) fn kind(self) -> &'static str {
        self.place().kind
    }

    /// The kind of that name.
    pub(crate) fn of(kind: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|object| object.kind() == kind)
    }

    pub(crate) fn service(self) -> Service {
        self.place().service
    }

    /// The path of one object, or of an action on it.
    pub(crate) fn path(self, id: &str) -> String {
        // Ids come back out of our own ledger; whatever is in them must stay one segment.
        let id: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        format!("{}/{id}", self.place().path)
    }

    /// The ownership tag that an object carries, of any installation.
    pub(crate) fn tag(self, object: &Value) -> Option<&str> {
        match self {
            Self::Server => {
                metadata_tag(object).or_else(|| object.get("tags")?.as_array()?.iter().find_map(|tag| our_tag(tag.as_str())))
            }
            Self::Volume => metadata_tag(object),
            Self::SecurityGroup | Self::Port | Self::Rule | Self::FloatingIp => text(object, "description"),
        }
        .and_then(|tag| our_tag(Some(tag)))
    }

    /// Makes an object; answers it as the service describes it.
    pub(crate) async fn create(self, client: &Client, body: Value) -> Result<Value, CallError> {
        client.call(self.creation(body)).await.map(|answer| self.inside(answer))
    }

    /// The creating call, for those who change it before it is sent.
    pub(crate) fn creation(self, body: Value) -> Call {
        let place = self.place();
        let around = Value::Object([(place.item.to_owned(), body)].into_iter().collect());
        Call::post(place.service, place.path, around).within(CREATE_TIMEOUT)
    }

    /// The object inside an answer to its creation.
    pub(crate) fn inside(self, mut answer: Value) -> Value {
        answer.get_mut(self.place().item).map(Value::take).unwrap_or_default()
    }

    /// Reads one object; `None` when it is not there.
    pub(crate) async fn read(self, client: &Client, id: &str) -> Result<Option<Value>, CallError> {
        match client.call(Call::get(self.service(), self.path(id))).await {
            Ok(answer) => Ok(Some(self.inside(answer))),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The objects that carry a tag. More than one means that a create was carried out twice.
    pub(crate) async fn find(self, client: &Client, tag: &str) -> Result<Vec<Seen>, CallError> {
        let filters = match self {
            // Without a time Nova hides soft-deleted servers, and those are still there (H6). Really deleted ones
            // are listed too, but have lost their tags.
            Self::Server => vec![("tags", tag.to_owned()), ("changes-since", "1970-01-02T00:00:00Z".to_owned())],
            Self::Volume => vec![("metadata", format!("{{'{TAG_KEY}':'{tag}'}}"))],
            Self::SecurityGroup | Self::Port | Self::Rule | Self::FloatingIp => vec![("description", tag.to_owned())],
        };
        let mut found = Vec::new();
        let mut marker = None;
        for _ in 0..MAX_PAGES {
            let (page, next) = self.page(client, &filters, marker.as_deref()).await?;
            // A service that does not know a filter ignores it.
            found.extend(page.into_iter().filter(|seen| self.tag(&seen.object) == Some(tag)));
            marker = next;
            if marker.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// One page of the project's objects of this kind, and where the next begins.
    pub(crate) async fn page(
        self,
        client: &Client,
        filters: &[(&'static str, String)],
        marker: Option<&str>,
    ) -> Result<(Vec<Seen>, Option<String>), CallError> {
        let place = self.place();
        let mut call = Call::get(place.service, place.list).query("limit", PAGE);
        if place.service == Service::Network {
            // An administrator sees every project's objects there.
            call = call.query("project_id", &client.session(None).await?.project_id);
        }
        for (key, value) in filters {
            call = call.query(key, value);
        }
        if let Some(marker) = marker {
            call = call.query("marker", marker);
        }
        let (mut answer, now) = client.call_dated(call).await?;
        let list_key = format!("{}s", place.item);
        let more = has_next(&answer, &format!("{list_key}_links"));
        let Some(Value::Array(objects)) = answer.get_mut(&list_key).map(Value::take) else {
            return Ok((Vec::new(), None));
        };
        let last = objects.last().and_then(|object| text(object, "id")).map(str::to_owned);
        let seen = objects.into_iter().map(|object| Seen { age_seconds: age(&object, now), object }).collect();
        Ok((seen, last.filter(|_| more)))
    }
}

/// An object in a list, with its age by the service's own clock.
pub(crate) struct Seen {
    pub(crate) object: Value,
    pub(crate) age_seconds: Option<u64>,
}

fn age(object: &Value, now: Option<i64>) -> Option<u64> {
    let made = text(object, "created").or_else(|| text(object, "created_at"))?;
    // Cinder writes UTC without saying so.
    let made = Timestamp::parse(made).or_else(|| Timestamp::parse(&format!("{made}Z")))?;
    u64::try_from(now?.saturating_sub(made.0 / 1_000_000)).ok()
}

fn has_next(answer: &Value, links_key: &str) -> bool {
    let links = answer.get(links_key).and_then(Value::as_array);
    links.is_some_and(|links| links.iter().any(|link| text(link, "rel") == Some("next")))
}

fn metadata_tag(object: &Value) -> Option<&str> {
    text(object.get("metadata")?, TAG_KEY)
}

fn our_tag(text: Option<&str>) -> Option<&str> {
    text.filter(|text| text.starts_with("pvr-"))
}

/// A text field.
pub(crate) fn text<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    object.get(key).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_shows_its_tag() {
        let marks = [
            (Object::Server, json!({"metadata": {"provisor_tag": "pvr-a-1"}, "tags": []})),
            (Object::Server, json!({"metadata": {}, "tags": ["x", "pvr-a-1"]})),
            (Object::Volume, json!({"metadata": {"provisor_tag": "pvr-a-1"}})),
            (Object::Port, json!({"description": "pvr-a-1"})),
            (Object::FloatingIp, json!({"description": "pvr-a-1"})),
        ];
        for (kind, object) in marks {
            assert_eq!(kind.tag(&object), Some("pvr-a-1"), "{kind:?}");
        }
        assert_eq!(Object::Port.tag(&json!({"description": "somebody's"})), None);
        assert!(Object::ALL.into_iter().all(|kind| Object::of(kind.kind()) == Some(kind)));
    }

    #[test]
    fn age_is_told_by_the_service_s_clock() {
        let noon = Timestamp::parse("2026-11-21T12:00:00Z").unwrap().0 / 1_000_000;
        assert_eq!(age(&json!({"created": "2026-11-21T11:59:00Z"}), Some(noon)), Some(60));
        assert_eq!(age(&json!({"created_at": "2026-11-21T11:59:00.000000"}), Some(noon)), Some(60));
        assert_eq!(age(&json!({"created_at": "2026-11-21T12:00:01Z"}), Some(noon)), None);
    }

    #[test]
    fn an_id_stays_one_segment() {
        assert_eq!(Object::Port.path("a-1/../../servers?x"), "/ports/a-1serversx");
    }
}
